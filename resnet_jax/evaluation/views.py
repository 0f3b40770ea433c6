"""What networks see of the images of a batch."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """One view of each image of a batch.

    Attributes:
      images: the pixels.
      sizes: each image's height and width, in the upper left corner of padding; None where images
        are not padded.
    """

    images: UInt8[np.ndarray, "n h w c"]
    sizes: Int32[np.ndarray, "n 2"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ViewBatch:
    """Some images of a split, as a protocol shows them; rows without `mask` are padding.

    Attributes:
      index: the images' places in the split.
      label: their classes.
      mask: which rows are images.
      views: what a network is to see of them.
    """

    index: Int64[np.ndarray, " n"]
    label: Int32[np.ndarray, " n"]
    mask: Bool[np.ndarray, " n"]
    views: Sequence[View]
