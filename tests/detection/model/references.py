"""What the tests compare with: loops over boxes, bins and samples, and PyTorch's layers."""

import itertools
import math

import numpy as np
import torch
from torch.nn import functional as F


def transcript(image_map, box, scale, pooling):
    """What the operator computes for one box, in the dtype of the map, pixel by pixel.

    The map ends where the image does. Yields for each bin its samples' pixels and weights.
    """
    height, width = image_map.shape[:2]
    kind = image_map.dtype.type
    offset = kind(0.5 if pooling.aligned else 0)
    x1, y1, x2, y2 = (kind(value) * kind(scale) - offset for value in box)
    extent_x, extent_y = x2 - x1, y2 - y1
    if not pooling.aligned:
        extent_x, extent_y = max(extent_x, kind(1)), max(extent_y, kind(1))
    size_x, size_y = extent_x / kind(pooling.bins), extent_y / kind(pooling.bins)
    count_x = pooling.samples or math.ceil(size_x)
    count_y = pooling.samples or math.ceil(size_y)
    pooled = np.zeros((pooling.bins, pooling.bins, image_map.shape[2]), image_map.dtype)
    for row, column in np.ndindex(pooling.bins, pooling.bins):
        for i, j in itertools.product(range(count_y), range(count_x)):
            y = y1 + kind(row) * size_y + kind(i + 0.5) * size_y / kind(count_y)
            x = x1 + kind(column) * size_x + kind(j + 0.5) * size_x / kind(count_x)
            if y < -1 or y > height or x < -1 or x > width:
                continue
            x, y = max(x, kind(0)), max(y, kind(0))
            top, left = int(y), int(x)
            if top >= height - 1:
                top = bottom = height - 1
                y = kind(top)
            else:
                bottom = top + 1
            if left >= width - 1:
                left = right = width - 1
                x = kind(left)
            else:
                right = left + 1
            down, across = y - kind(top), x - kind(left)
            pooled[row, column] += (
                (1 - down) * (1 - across) * image_map[top, left]
                + (1 - down) * across * image_map[top, right]
                + down * (1 - across) * image_map[bottom, left]
                + down * across * image_map[bottom, right]
            )
    return pooled / kind(max(count_x * count_y, 1))


def nchw(x):
    return torch.tensor(np.moveaxis(np.asarray(x), -1, 1))


def layer(x, variables, name, relu=False):
    """A `Layer` by PyTorch's functions."""
    params = variables["params"][name]
    kernel = torch.tensor(params["conv"]["kernel"].transpose(3, 2, 0, 1))
    bias = params["conv"].get("bias")
    y = F.conv2d(
        x, kernel, None if bias is None else torch.tensor(bias), padding=kernel.shape[-1] // 2
    )
    assert (bias is None) == ("bn" in params)
    if "bn" in params:
        stats = variables["batch_stats"][name]["bn"]
        moments = [torch.tensor(stats[key]) for key in ("mean", "var")]
        y = F.batch_norm(y, *moments, *(torch.tensor(params["bn"][k]) for k in ("scale", "bias")))
    return F.relu(y) if relu else y


def overlap(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    common = np.prod(np.maximum(high - low, 0))
    return common / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - common)


def moved(deltas, box, weights=(1, 1, 1, 1)):
    """A box, by four numbers."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    dx, dy, dw, dh = np.divide(deltas, weights)
    x, y = x1 + width / 2 + dx * width, y1 + height / 2 + dy * height
    width *= math.exp(min(dw, math.log(1000 / 16)))
    height *= math.exp(min(dh, math.log(1000 / 16)))
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


def greedy_proposals(logits, deltas, anchors, valid, height, width, pre, post, smallest):
    found = []
    for level in range(len(logits)):
        order = [i for i in np.argsort(-logits[level], kind="stable") if valid[level][i]]
        order = [i for i in order if not np.isnan(logits[level][i])][:pre]
        kept = []
        for i in order:
            box = moved(deltas[level][i], anchors[level][i])
            box = np.clip(box, 0, [width, height, width, height])
            if min(box[2] - box[0], box[3] - box[1]) < smallest:
                continue
            for other in kept:
                if overlap(box, other) > 0.7:
                    break
            else:
                kept.append(box)
                found.append((-logits[level][i], *box))
    return np.array(sorted(found)[:post])


def looped_detections(scores, boxes, valid, height, width, threshold, number, smallest, votes):
    found = []
    for label in range(scores.shape[1]):
        rows = []
        for i in np.flatnonzero(valid):
            box = np.clip(boxes[i, label], 0, [width, height, width, height])
            large = min(box[2] - box[0], box[3] - box[1]) >= max(smallest, 1e-12)
            if scores[i, label] > 0.05 and large:
                rows.append((scores[i, label], box))
        rows.sort(key=lambda row: -row[0])
        kept = []
        for score, box in rows:
            if all(overlap(box, other) <= threshold for _, other in kept):
                kept.append((score, box))
        for score, box in kept:
            near = [(s, b) for s, b in rows if overlap(box, b) >= 0.5]
            mean = sum(s * b for s, b in near) / sum(s for s, _ in near)
            found.append((score, label, mean if votes else box))
    found.sort(key=lambda row: -row[0])
    return found[:number]
