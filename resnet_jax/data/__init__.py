"""Images and labels: sources, transforms and the loader.

A source (`open_source`) holds images and labels, a transform makes an image ready, and the loader
cuts batches: `train_batches` with `train_iterator`, `eval_batches`.
"""

from .base import ArraySource as ArraySource
from .base import BadImageError as BadImageError
from .base import Example as Example
from .base import Source as Source
from .color import pca_color as pca_color
from .color import pca_shift as pca_shift
from .crops import RandomResizedCrop as RandomResizedCrop
from .crops import RandomScaleCrop as RandomScaleCrop
from .crops import ResizeCenterCrop as ResizeCenterCrop
from .errors import DataError as DataError
from .fingerprints import fingerprint as fingerprint
from .folders import FolderSource as FolderSource
from .iterator import TrainIterator as TrainIterator
from .iterator import train_iterator as train_iterator
from .loader import ON_BAD_IMAGE as ON_BAD_IMAGE
from .loader import Batch as Batch
from .loader import EvalBatch as EvalBatch
from .loader import EvalBatches as EvalBatches
from .loader import eval_batches as eval_batches
from .loader import pixel_mean as pixel_mean
from .loader import train_batches as train_batches
from .normalization import PREPROCESSES as PREPROCESSES
from .normalization import Normalization as Normalization
from .normalization import make_normalization as make_normalization
from .resident import can_be_resident as can_be_resident
from .resident import cut as cut
from .resident import resident_arrays as resident_arrays
from .sources import BUNDLED as BUNDLED
from .sources import RecordSource as RecordSource
from .sources import open_source as open_source
from .transform import Transform as Transform
from .transforms import AUGMENTATIONS as AUGMENTATIONS
from .transforms import AsIs as AsIs
from .transforms import PadCropMirror as PadCropMirror
from .transforms import eval_transform as eval_transform
from .transforms import train_transform as train_transform
