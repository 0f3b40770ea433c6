"""Images scaled and cut as the paper's protocols want them, by Pillow as torchvision does it."""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from .. import data
from ..data.crops import scaled_size
from ..data.decode import open_image, to_array
from ..data.transform import NO_UNIFORMS


@dataclasses.dataclass(frozen=True, kw_only=True)
class FiveCrops(data.Transform):
    """An image's corners and centre at one scale, below each other.

    They are upper left, upper right, lower left, lower right and centre; torchvision's `Resize`
    and `FiveCrop` on Pillow images.

    Attributes:
      image_size: height and width of each crop.
      resize: the shorter side that the image is scaled to before, not less than `image_size`.
    """

    image_size: int
    resize: int

    def __post_init__(self) -> None:
        # What can be cut from the centre can be cut from the corners.
        data.ResizeCenterCrop(image_size=self.image_size, resize=self.resize)

    def output_shape(self, image_shape: tuple[int | None, int | None, int]) -> tuple[int, int, int]:
        """Returns the shape of five squares below each other."""
        return 5 * self.image_size, self.image_size, self.channels or image_shape[2]

    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "h w c"],
        uniforms: Float[np.ndarray, " d"] = NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "H W C"]:
        """Cuts the five crops from one image."""
        pixels = scaled(open_image(image, self.channels), self.resize)
        size = self.image_size
        bottom, right = pixels.shape[0] - size, pixels.shape[1] - size
        # Python's rounding to the even neighbour is torchvision's.
        centre = round(bottom / 2), round(right / 2)
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), centre]
        return np.concatenate([pixels[y : y + size, x : x + size] for y, x in corners])


def scaled(picture: Image.Image, shorter_side: int) -> UInt8[np.ndarray, "h w c"]:
    """Returns the pixels of an image scaled to a shorter side, as torchvision's `Resize`.

    Bilinear with antialiasing; an image that has the size already is left as it is.
    """
    height, width = picture.height, picture.width
    if min(height, width) != shorter_side:
        height, width = scaled_size(height, width, shorter_side)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return to_array(picture)
