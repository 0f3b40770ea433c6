"""Images and labels: sources, transforms and the loader.

A source (`open_source`) holds images and labels, a transform augments or crops an image, and the
loader makes batches: `train_batches` with `train_iterator`, `eval_batches`.
"""

from resnet_jax.data.loading.batches import (
    ON_BAD_IMAGE,
    Batch,
    EvalBatch,
    EvalBatches,
    eval_batches,
    pixel_mean,
    train_batches,
)
from resnet_jax.data.loading.iterator import TrainIterator, train_iterator
from resnet_jax.data.loading.resident import can_be_resident, cut, resident_arrays
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.sources.base import (
    ArraySource,
    BadImageError,
    Example,
    Source,
    image_name,
    notices,
)
from resnet_jax.data.sources.files import FolderSource
from resnet_jax.data.sources.fingerprints import fingerprint
from resnet_jax.data.sources.records import (
    BUNDLED,
    DATASETS,
    RecordSource,
    open_source,
    register_dataset,
)
from resnet_jax.data.transforms.base import Transform
from resnet_jax.data.transforms.color import pca_color, pca_shift
from resnet_jax.data.transforms.crops import RandomResizedCrop, RandomScaleCrop, ResizeCenterCrop
from resnet_jax.data.transforms.named import (
    AUGMENTATIONS,
    AsIs,
    PadCropMirror,
    eval_transform,
    register_augmentation,
    train_transform,
)
from resnet_jax.data.transforms.normalization import (
    PREPROCESSES,
    Normalization,
    make_normalization,
    needs_pixel_mean,
    register_preprocess,
)
from resnet_jax.errors import DataError

__all__ = [
    "AUGMENTATIONS",
    "ArraySource",
    "AsIs",
    "BUNDLED",
    "BadImageError",
    "Batch",
    "DataError",
    "EvalBatch",
    "EvalBatches",
    "Example",
    "FolderSource",
    "Normalization",
    "ON_BAD_IMAGE",
    "DATASETS",
    "PREPROCESSES",
    "needs_pixel_mean",
    "register_augmentation",
    "register_dataset",
    "register_preprocess",
    "PadCropMirror",
    "Preprocessing",
    "RandomResizedCrop",
    "RandomScaleCrop",
    "RecordSource",
    "ResizeCenterCrop",
    "Source",
    "TrainIterator",
    "Transform",
    "can_be_resident",
    "cut",
    "eval_batches",
    "eval_transform",
    "fingerprint",
    "image_name",
    "make_normalization",
    "notices",
    "open_source",
    "pca_color",
    "pca_shift",
    "pixel_mean",
    "resident_arrays",
    "train_batches",
    "train_iterator",
    "train_transform",
]
