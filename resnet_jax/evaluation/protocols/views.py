"""Views: the crops or scales of a batch of images that networks score."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """One view of each image of a batch.

    Attributes:
      images: the pixels.
      sizes: height and width of each image, in the upper left corner of its padding; None if images
        are not padded.
    """

    images: UInt8[np.ndarray, "n h w c"]
    sizes: Int32[np.ndarray, "n 2"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ViewBatch:
    """A batch of a split's images in a protocol's views; rows without `mask` are padding.

    Attributes:
      index: the images' positions in the split.
      label: the images' classes.
      mask: which rows are images.
      views: the views to score.
    """

    index: Int64[np.ndarray, " n"]
    label: Int32[np.ndarray, " n"]
    mask: Bool[np.ndarray, " n"]
    views: Sequence[View]
