"""Scaling and five crops for the paper's test protocols, by Pillow as in torchvision."""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from resnet_jax.data.images.decode import open_image, to_array
from resnet_jax.data.transforms.base import NO_UNIFORMS, Transform
from resnet_jax.data.transforms.crops import ResizeCenterCrop, scaled_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class FiveCrops(Transform):
    """An image's corners and centre at one scale, stacked vertically.

    The order is upper left, upper right, lower left, lower right, centre. The crops equal
    torchvision's `Resize` and `FiveCrop` on Pillow images.

    Attributes:
      image_size: height and width of each crop.
      resize: the shorter side before cropping, at least `image_size`.
      interpolation: a filter, one of `INTERPOLATIONS`.
    """

    image_size: int
    resize: int
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        # The same sizes are valid as for a centre crop.
        ResizeCenterCrop(image_size=self.image_size, resize=self.resize)

    def output_shape(self, image_shape: tuple[int | None, int | None, int]) -> tuple[int, int, int]:
        """Returns the shape of five squares stacked vertically."""
        return 5 * self.image_size, self.image_size, self.channels or image_shape[2]

    def __call__(
        self,
        image: bytes | UInt8[np.ndarray, "h w c"],
        uniforms: Float[np.ndarray, " d"] = NO_UNIFORMS,
    ) -> UInt8[np.ndarray, "H W C"]:
        """Cuts the five crops from one image."""
        pixels = scaled(open_image(image, self.channels), self.resize, self.interpolation)
        size = self.image_size
        bottom, right = pixels.shape[0] - size, pixels.shape[1] - size
        # Python rounds half to even, as torchvision does.
        centre = round(bottom / 2), round(right / 2)
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), centre]
        return np.concatenate([pixels[y : y + size, x : x + size] for y, x in corners])


def scaled(
    picture: Image.Image, shorter_side: int, interpolation: str = "bilinear"
) -> UInt8[np.ndarray, "h w c"]:
    """Returns the pixels of an image scaled to a shorter side, as in torchvision's `Resize`.

    Scaling is antialiased; an image of that size stays unchanged.
    """
    height, width = picture.height, picture.width
    if min(height, width) != shorter_side:
        height, width = scaled_size(height, width, shorter_side)
        picture = picture.resize((width, height), Image.Resampling[interpolation.upper()])
    return to_array(picture)
