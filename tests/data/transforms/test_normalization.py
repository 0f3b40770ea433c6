import jax
import numpy as np
import pytest

from resnet_jax import data

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def test_that_of_the_weights_is_for_training():
    with pytest.raises(data.DataError, match="'weights' is that of config.init_from"):
        data.make_normalization("weights", 3)


def random_images(channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (3, 5, 4, channels), np.uint8)


def reference(preprocess, images, pixel_mean):
    """What each name stands for, in float64."""
    images = images.astype(np.float64)
    return {
        "torchvision": lambda: (images / 255 - MEAN) / DEVIATION,
        "caffe": lambda: images[..., ::-1] - [103.939, 116.779, 123.68],
        "cifar": lambda: images / 255 - pixel_mean,
        "per_pixel_mean": lambda: images / 255 - pixel_mean,
        "none": lambda: images / 255,
    }[preprocess]()


@pytest.mark.parametrize("preprocess", [name for name in data.PREPROCESSES if name != "weights"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_name_is_what_it_stands_for(preprocess, channels):
    if channels == 1 and preprocess in ("torchvision", "caffe"):
        with pytest.raises(data.DataError, match="needs images of 3 channels, not 1; set channels"):
            data.make_normalization(preprocess, channels)
        return
    images = random_images(channels)
    pixel_mean = np.random.default_rng(1).random((5, 4, channels)).astype(np.float32)
    normalization = data.make_normalization(preprocess, channels, pixel_mean)
    expected = reference(preprocess, images, pixel_mean)
    out = jax.jit(lambda normalization, images: normalization(images))(normalization, images)
    assert out.dtype == np.float32
    # Three roundings at the size of the largest term, which "caffe" then multiplies by 255.
    scale = 255 if preprocess == "caffe" else 1 / DEVIATION.min()
    np.testing.assert_allclose(out, expected, rtol=0, atol=3 * scale * 2**-24)
    with jax.enable_x64(True):
        wide = data.make_normalization(preprocess, channels, pixel_mean)(images)
        assert wide.dtype == np.float64
        np.testing.assert_allclose(wide, expected, rtol=0, atol=3 * scale * 2**-53)


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        ("torchvison", r"'torchvison' \(did you mean 'torchvision'\?\); choose from"),
        ("cifar", "needs the mean training image; pass pixel_mean"),
    ],
)
def test_errors_name_the_remedy(preprocess, message):
    with pytest.raises(data.DataError, match=message):
        data.make_normalization(preprocess, 3)
