"""The evaluation transforms of timm and torchvision, from their formulas, with Pillow and NumPy.

The tests depend on neither library. These functions were compared with
`timm.data.transforms_factory.transforms_imagenet_eval` of timm 1.0.31 and with
`torchvision.transforms._presets.ImageClassification` of torchvision 0.28.0 on the images and
settings of `test_preprocessing.py`: all pixels are equal.
"""

import math
from fractions import Fraction

import numpy as np
from PIL import Image

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def torchvision(picture, size, resize, interpolation):
    """`Resize(resize)` of the shorter side, then `CenterCrop(size)`."""
    width, height = picture.size
    if width < height:
        width, height = resize, int(resize * height / width)
    else:
        width, height = int(resize * width / height), resize
    return middle(np.asarray(picture.resize((width, height), FILTERS[interpolation])), (size, size))


def timm(picture, size, share, mode, interpolation, mean):
    """`transforms_imagenet_eval` for a (height, width), up to the normalisation."""
    # The share is a decimal number.
    whole = [math.floor(side / Fraction(str(share))) for side in size]
    width, height = picture.size
    if mode == "squash":
        scaled = whole
    elif mode == "border":
        ratio = max(height / whole[0], width / whole[1])
        scaled = [round(height / ratio), round(width / ratio)]
    elif size[0] == size[1]:
        return torchvision(picture, size[0], whole[0], interpolation)
    else:
        ratio = min(height / whole[0], width / whole[1])
        scaled = [round(height / ratio), round(width / ratio)]
    pixels = np.asarray(picture.resize((scaled[1], scaled[0]), FILTERS[interpolation]))
    missing = [max(0, side - length) for side, length in zip(size, scaled, strict=True)]
    padded = np.empty((scaled[0] + missing[0], scaled[1] + missing[1], 3), np.uint8)
    padded[:] = [round(255 * value) for value in mean]
    top, left = missing[0] // 2, missing[1] // 2
    padded[top : top + scaled[0], left : left + scaled[1]] = pixels
    return middle(padded, size)


def middle(pixels, size):
    """The centre as `CenterCrop` takes it: half a pixel is rounded to an even number."""
    top, left = (int(round((pixels.shape[axis] - size[axis]) / 2.0)) for axis in (0, 1))
    return pixels[top : top + size[0], left : left + size[1]]
