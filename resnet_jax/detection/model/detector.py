"""Faster R-CNN: a trunk, proposals, and a head on every region."""

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from resnet_jax.detection.model.anchors import (
    base_anchors,
    grid_anchors,
    map_strides,
    own_places,
    within,
)
from resnet_jax.detection.model.boxes import decode, encode
from resnet_jax.detection.model.detections import Detections, detections
from resnet_jax.detection.model.heads import Predictor, with_context
from resnet_jax.detection.model.losses import Term, head_losses, rpn_losses
from resnet_jax.detection.model.matching import (
    IGNORED,
    POSITIVE,
    match,
    sample,
    sampled_labels,
    with_boxes,
)
from resnet_jax.detection.model.roi_align import box_levels, roi_align
from resnet_jax.detection.model.rpn import Proposals, propose
from resnet_jax.detection.model.styles import Style
from resnet_jax.models.padded import without_padding

Images = Float[Array | np.ndarray, "n h w c"]
Sizes = Int[Array | np.ndarray, "n 2"]


class Truth(NamedTuple):
    """The images' boxes, padded to a fixed number.

    Attributes:
      boxes: [n, m, 4], in pixels.
      labels: [n, m], the classes 0, 1, ...
      real: [n, m], which rows are boxes.
      crowd: [n, m], which of them are regions with many objects.
    """

    boxes: Float[Array | np.ndarray, "n m 4"]
    labels: Int[Array | np.ndarray, "n m"]
    real: Bool[Array | np.ndarray, "n m"]
    crowd: Bool[Array | np.ndarray, "n m"]


class _Outputs(NamedTuple):
    """What the network computes of whole images."""

    maps: list[Array]
    logits: list[Array]
    deltas: list[Array]


class Detector(nn.Module):
    """Faster R-CNN on one map of a trunk (the paper) or on a feature pyramid.

    Images are normalised and in the upper left corner of a canvas, whose height and width are
    multiples of the coarsest stride. Boxes are half-open, in pixels of the image, in float32.

    Variables: `params` and `batch_stats` of {"trunk", "neck", "rpn", "head", "predictor"}, without
    "neck" if there is none.

    Attributes:
      trunk: a network with `features(images, train)`, such as a `ResNet`.
      stages: the names of the trunk's maps that are used, from fine to coarse.
      strides: pixels per place of each map, the pyramid's last one with them.
      neck: the pyramid, or none.
      rpn: the head of the region proposal network.
      head: features of each region.
      num_classes: number of classes, without the background.
      style: the numbers.
      context: whether the head's features of the whole image join those of each region.
      freeze_batch_norm: whether training, too, normalises by the running statistics.
      padding: "cut", so that no image's result depends on its padding, or "visible", as in other
        implementations, for comparison alone.
    """

    trunk: nn.Module
    stages: Sequence[str]
    strides: Sequence[int]
    neck: nn.Module | None
    rpn: nn.Module
    head: nn.Module
    num_classes: int
    style: Style
    context: bool = False
    freeze_batch_norm: bool = True
    padding: str = "cut"

    def setup(self) -> None:
        """Makes the sibling layers."""
        self.predictor = Predictor(self.num_classes, self.style.background_box)

    def __call__(self, images: Images, sizes: Sizes) -> Detections:
        """Returns each image's detections.

        Args:
          images: normalised images.
          sizes: height and width of each.
        """
        sizes = jnp.asarray(sizes)
        found = self._outputs(images, sizes, train=False)
        proposals = self._proposals(found, images.shape[1:3], sizes, training=False)
        logits, deltas = self._regions(found.maps, images.shape[1:3], sizes, proposals.boxes, False)
        scores = jax.nn.softmax(logits)[..., :-1]
        boxes = decode(
            deltas[..., : self.num_classes, :], proposals.boxes[:, :, None], self.style.box_weights
        )
        choose = partial(
            detections,
            score_threshold=self.style.score_threshold,
            threshold=self.style.nms,
            number=self.style.detections,
            smallest=self.style.smallest_box,
        )
        valid = jax.vmap(lambda one: one.valid)(proposals)
        return lax.map(lambda of_image: choose(*of_image), (scores, boxes, valid, sizes))

    def features(self, images: Images, sizes: Sizes) -> list[Float[Array, "n _h _w _c"]]:
        """Returns the maps that proposals come from; the arguments are those of `__call__`."""
        return self._outputs(images, jnp.asarray(sizes), train=False).maps

    def losses(
        self,
        images: Images,
        sizes: Sizes,
        truth: Truth,
        places: Int[Array | np.ndarray, " n"] | None = None,
        train: bool = True,
    ) -> dict[str, Term]:
        """Returns the losses "objectness", "rpn_box", "class" and "box"; training adds their means.

        It draws by the random numbers "sample". Its boxes have no gradient.

        Args:
          images: normalised images.
          sizes: height and width of each.
          truth: the images' boxes.
          places: each image's place in the whole batch, of which its random numbers are a function;
            by default this is the whole batch.
          train: whether batch normalisation, unless frozen, uses the batch's statistics.
        """
        sizes = jnp.asarray(sizes)
        canvas = images.shape[1:3]
        found = self._outputs(images, sizes, train)
        places = jnp.arange(len(images)) if places is None else jnp.asarray(places)
        keys = jax.vmap(partial(jax.random.fold_in, self.make_rng("sample")))(places)
        keys = jax.vmap(jax.random.split)(keys)
        anchors = jnp.concatenate(self._anchors(found, canvas))
        labels, targets = jax.vmap(partial(_anchor_targets, self.style, anchors))(
            keys[:, 0], self._taking_part(found, anchors, sizes), truth
        )
        objectness, rpn_box = rpn_losses(
            jnp.concatenate(found.logits, 1),
            jnp.concatenate(found.deltas, 1),
            labels,
            targets,
            self.style.rpn_beta,
            self.style.anchors_per_image if self.style.fixed_rpn_count else None,
        )
        proposals = self._proposals(found, canvas, sizes, training=True)
        regions, classes, region_targets = jax.vmap(
            partial(_region_targets, self.style, self.num_classes)
        )(keys[:, 1], proposals, truth)
        logits, deltas = self._regions(found.maps, canvas, sizes, regions, train)
        of_class, box = head_losses(logits, deltas, classes, region_targets, self.style.head_beta)
        return {"objectness": objectness, "rpn_box": rpn_box, "class": of_class, "box": box}

    def _outputs(self, images: Images, sizes: Array, train: bool) -> _Outputs:
        train = train and not self.freeze_batch_norm
        cut = self.padding == "cut"
        with without_padding(sizes, *images.shape[1:3]) if cut else nullcontext():
            stages = self.trunk.features(jnp.asarray(images), train)
            maps = [stages[name] for name in self.stages]
            maps = maps if self.neck is None else self.neck(maps, train)
            logits, deltas = zip(*(self.rpn(one) for one in maps), strict=True)
        return _Outputs(maps, list(logits), list(deltas))

    def _anchors(self, found: _Outputs, canvas: tuple[int, ...]) -> list[Array]:
        style, dtype = self.style, found.deltas[0].dtype  # At least float32.
        anchors = []
        for one, stride, sizes in zip(found.maps, self.strides, style.anchor_sizes, strict=True):
            base = base_anchors(
                sizes, style.anchor_ratios, style.anchor_rounding, style.ratios_first
            )
            shape = one.shape[1:3]
            steps = map_strides(canvas, shape, stride, style.divide_strides)
            grid = grid_anchors(base, shape, steps, style.anchor_offset)
            anchors.append(jnp.asarray(grid, dtype))
        return anchors

    def _own(self, found: _Outputs, sizes: Sizes) -> list[Array]:
        """Returns which anchors [n, a] of each map are at places of the images."""
        if self.padding != "cut":
            return [jnp.ones(one.shape, bool) for one in found.logits]
        return [
            jax.vmap(
                partial(
                    own_places, one.shape[1:3], stride, of.shape[1] // (one.shape[1] * one.shape[2])
                )
            )(sizes)
            for one, of, stride in zip(found.maps, found.logits, self.strides, strict=True)
        ]

    def _taking_part(self, found: _Outputs, anchors: Array, sizes: Sizes) -> Bool[Array, "n a"]:
        """Returns which anchors take part in training."""
        own = jnp.concatenate(self._own(found, sizes), 1)
        if self.style.crossing_anchors:
            return own
        return own & jax.vmap(partial(within, anchors))(sizes)

    def _proposals(
        self, found: _Outputs, canvas: tuple[int, ...], sizes: Array, training: bool
    ) -> Proposals:
        style, column = self.style, 0 if training else 1
        call = partial(
            propose,
            pre_nms=style.pre_nms[column],
            post_nms=style.post_nms[column],
            threshold=style.rpn_nms,
            smallest=style.smallest_proposal,
            by_probability=style.by_probability,
        )
        anchors = self._anchors(found, canvas)
        own = self._own(found, sizes)
        return jax.vmap(call, (0, 0, None, 0, 0))(found.logits, found.deltas, anchors, own, sizes)

    def _regions(
        self, maps: list[Array], canvas: tuple[int, ...], sizes: Array, boxes: Array, train: bool
    ) -> tuple[Array, Array]:
        """Returns logits [n, r, k] and deltas [n, r, b, 4] of the images' regions."""
        maps = maps if self.neck is None else maps[:-1]
        strides = tuple(self.strides[: len(maps)])
        if self.context:
            whole = jnp.stack([0 * sizes[:, 0], 0 * sizes[:, 0], sizes[:, 1], sizes[:, 0]], -1)
            boxes = jnp.concatenate([boxes, whole[:, None].astype(boxes.dtype)], 1)
        lengths = jnp.asarray([one.shape[1:3] for one in maps])
        lengths = jnp.broadcast_to(lengths, (len(sizes), *lengths.shape))
        if self.padding == "cut":
            lengths = -(-sizes[:, None] // jnp.asarray(strides)[:, None])
        lowest = strides[0].bit_length() - 1
        levels = jax.vmap(
            partial(
                box_levels,
                lowest=lowest,
                highest=lowest + len(maps) - 1,
                inside=self.style.level_inside,
            )
        )(boxes)
        pool = partial(roi_align, strides=strides, pooling=self.style.pooling)
        pooled = jax.vmap(pool)(tuple(maps), boxes, levels, lengths)
        pooled = pooled.reshape(-1, *pooled.shape[2:])
        features = self.head(pooled, train and not self.freeze_batch_norm)
        features = features.reshape(len(sizes), -1, features.shape[-1])
        if self.context:
            features = jax.vmap(with_context)(features[:, :-1], features[:, -1])
        logits, deltas = self.predictor(features.reshape(-1, features.shape[-1]))
        shape = features.shape[:2]
        return logits.reshape(*shape, -1), deltas.reshape(*shape, *deltas.shape[1:])


def _anchor_targets(
    style: Style, anchors: Array, key: Array, valid: Array, truth: Truth
) -> tuple[Array, Array]:
    """Returns an image's sampled labels and regression targets of all anchors."""
    boxes, _, real, crowd = truth
    matches = match(anchors, valid, boxes, real, crowd, *style.anchor_ious, best_counts=True)
    drawn = sample(key, matches.labels, style.anchors_per_image, style.positive_anchors)
    labels = sampled_labels(drawn, len(anchors))
    return labels, encode(jnp.asarray(boxes)[matches.indices], anchors, labels == POSITIVE)


def _region_targets(
    style: Style, num_classes: int, key: Array, proposals: Proposals, truth: Truth
) -> tuple[Array, Array, Array]:
    """Returns an image's sampled regions, their classes and regression targets."""
    boxes, labels, real, crowd = truth
    joined, valid = with_boxes(proposals.boxes, proposals.valid, boxes, real, crowd)
    matches = match(joined, valid, boxes, real, crowd, *style.region_ious, best_counts=False)
    drawn = sample(key, matches.labels, style.regions_per_image, style.positive_regions)
    regions, own = joined[drawn.indices], matches.indices[drawn.indices]
    positive = drawn.labels == POSITIVE
    classes = jnp.where(positive, jnp.asarray(labels)[own], num_classes)
    targets = encode(jnp.asarray(boxes)[own], regions, positive, style.box_weights)
    return regions, jnp.where(drawn.labels == IGNORED, IGNORED, classes), targets
