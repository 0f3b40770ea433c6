"""Scores against a plain loop over single images, views and networks."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from resnet_jax import data
from resnet_jax.evaluation import EvaluationError, Network, evaluate_as, make_protocol
from resnet_jax.evaluation.protocols.named import PAPER_SIDES
from resnet_jax.evaluation.protocols.pyramids import padded_shapes
from resnet_jax.models import BottleneckBlock
from resnet_jax.runtime.devices import data_mesh
from tests.evaluation.networks import apply_quickly, random_variables, small_model

SIDES = (24, 35)
NUM_CLASSES = 7


class Photographs:
    """A source of JPEG files of many sizes, as ImageNet is one."""

    name, split, class_names = "photographs", "test", tuple("abcdefg")
    num_classes, image_shape = NUM_CLASSES, (None, None, 3)

    def __init__(self, sizes):
        rng = np.random.default_rng(0)
        self.labels = rng.integers(0, NUM_CLASSES, len(sizes)).tolist()
        self.files = []
        for height, width in sizes:
            coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            file = io.BytesIO()
            picture.save(file, "jpeg")
            self.files.append(file.getvalue())

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return {"image": self.files[index], "label": self.labels[index]}


PHOTOGRAPHS = Photographs([(50, 67), (67, 50), (24, 24), (50, 67), (24, 64), (50, 67), (40, 43)])


def resize(file, side, resample=Image.Resampling.BILINEAR):
    """torchvision.transforms.Resize(side, resample) on a Pillow image."""
    picture = Image.open(io.BytesIO(file)).convert("RGB")
    short, long = sorted(picture.size)
    new = (side, int(side * long / short))
    width, height = new if picture.width <= picture.height else new[::-1]
    if short != side:
        picture = picture.resize((width, height), resample)
    return np.asarray(picture)


def ten_crops(file, size, side):
    image = resize(file, side)
    height, width = image.shape[:2]
    top, left = int(round((height - size) / 2.0)), int(round((width - size) / 2.0))
    corners = [(0, 0), (0, width - size), (height - size, 0), (height - size, width - size)]
    crops = [image[y : y + size, x : x + size] for y, x in [*corners, (top, left)]]
    return crops + [crop[:, ::-1] for crop in crops]


def all_scales(file, sides):
    images = [resize(file, side) for side in sides]
    return images + [image[:, ::-1] for image in images]


def slow_scores(networks, views_of, source):
    """The average softmax of each image, one network and view at a time."""
    programs = [apply_quickly(network.model, network.variables) for network in networks]
    scores = np.zeros((len(source), NUM_CLASSES))
    for index, file in enumerate(source.files):
        views = views_of(file)
        for view in views:
            for network, program in zip(networks, programs, strict=True):
                images = network.normalization(jnp.asarray(view[None]))
                logits = np.asarray(program(images)[0], np.float64)
                softmax = np.exp(logits - logits.max())
                scores[index] += softmax / softmax.sum() / len(views) / len(networks)
    return scores


def network(seed=0, preprocess="torchvision", mean=None, **options):
    model = small_model(**options)
    normalization = data.make_normalization(preprocess, 3, mean)
    return Network(model, random_variables(model, seed=seed), normalization)


def fast(protocol, networks, source, batch_size, devices=1):
    """What `evaluate_as` returns, and every image's softmax scores."""
    scores = np.full((len(source), NUM_CLASSES), np.nan)

    def keep(batch):
        rows = batch.mask
        assert np.isnan(scores[batch.index[rows]]).all()  # No image comes twice.
        scores[batch.index[rows]] = jax.nn.softmax(batch.scores)[rows]
        labels = np.asarray(source.labels)[batch.index[rows]]
        np.testing.assert_array_equal(batch.label[rows], labels)

    mesh = data_mesh(jax.devices()[:devices])
    result = evaluate_as(protocol, networks, source, mesh, batch_size=batch_size, observers=[keep])
    return result, scores


def check(result, scores, expected, source):
    # The loop and the batches round differently; nothing else is between them.
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-6)
    labels = np.asarray(source.labels)
    own = expected[np.arange(len(labels)), labels]
    ranks = (expected > own[:, None]).sum(1)
    assert result == {
        "num_examples": len(labels),
        "loss": pytest.approx(-np.log(own).mean(), rel=1e-5),
        "top1_error": np.mean(ranks >= 1),
        "top5_error": np.mean(ranks >= 5),
    }


@pytest.fixture(scope="module")
def one_network():
    return [network()]


@pytest.fixture(scope="module")
def slow_ten_crop(one_network):
    return slow_scores(one_network, lambda file: ten_crops(file, 24, 30), PHOTOGRAPHS)


@pytest.fixture(scope="module")
def slow_multi_scale(one_network):
    return slow_scores(one_network, lambda file: all_scales(file, SIDES), PHOTOGRAPHS)


@pytest.mark.parametrize(("batch_size", "devices"), [(4, 1), (9, 2)])
def test_ten_crop_equals_a_loop_over_images(one_network, slow_ten_crop, batch_size, devices):
    protocol = make_protocol("ten_crop", data.eval_transform("imagenet", 24, 30))
    result, scores = fast(protocol, one_network, PHOTOGRAPHS, batch_size, devices)
    check(result, scores, slow_ten_crop, PHOTOGRAPHS)


@pytest.mark.parametrize(("batch_size", "devices"), [(2, 1), (3, 2)])
def test_multi_scale_equals_a_loop_over_images(one_network, slow_multi_scale, batch_size, devices):
    protocol = make_protocol("multi_scale", data.eval_transform("imagenet", 24), SIDES)
    result, scores = fast(protocol, one_network, PHOTOGRAPHS, batch_size, devices)
    check(result, scores, slow_multi_scale, PHOTOGRAPHS)


@pytest.mark.parametrize(("name", "view"), [("ten_crop", 4), ("multi_scale", 0)])
def test_views_are_scaled_by_the_transforms_filter(name, view):
    options = {"interpolation": "bicubic", "channels": 3}
    transform = data.ResizeCenterCrop(image_size=24, resize=30, **options)
    for batch in make_protocol(name, transform, (30,)).batches(PHOTOGRAPHS, 2):
        images, sizes = batch.views[view].images, batch.views[view].sizes
        for row in np.flatnonzero(batch.mask):
            expected = resize(PHOTOGRAPHS.files[batch.index[row]], 30, Image.Resampling.BICUBIC)
            if name == "ten_crop":
                top, left = (round((side - 24) / 2) for side in expected.shape[:2])
                expected = expected[top : top + 24, left : left + 24]
                np.testing.assert_array_equal(images[row], expected)
            else:
                height, width = sizes[row]
                np.testing.assert_array_equal(images[row, :height, :width], expected)


@pytest.mark.parametrize(
    "options", [{"image_size": (24, 32), "resize": (30, 40)}, {"crop_mode": "squash"}]
)
def test_ten_crops_are_squares_of_images_of_their_own_proportions(options):
    transform = data.ResizeCenterCrop(**{"image_size": 24, "resize": 30, **options})
    with pytest.raises(EvaluationError, match="ten_crop takes squares from images of their own"):
        make_protocol("ten_crop", transform)


def test_an_ensemble_averages_softmax_scores():
    networks = [network(0), network(1, "caffe", block=BottleneckBlock)]
    transform = data.eval_transform("imagenet", 24, 30)
    for name, views_of in [
        ("center", lambda file: ten_crops(file, 24, 30)[4:5]),
        ("ten_crop", lambda file: ten_crops(file, 24, 30)),
    ]:
        expected = slow_scores(networks, views_of, PHOTOGRAPHS)
        result, scores = fast(make_protocol(name, transform), networks, PHOTOGRAPHS, 4)
        check(result, scores, expected, PHOTOGRAPHS)


def test_many_networks_and_views_do_not_block_several_devices():
    """XLA's CPU devices wait for each other for ever when 32 programs are left to one of them."""
    protocol = make_protocol("ten_crop", data.eval_transform("imagenet", 24, 30))
    one, _ = fast(protocol, [network()], PHOTOGRAPHS, 8, devices=8)
    many, _ = fast(protocol, [network()] * 20, PHOTOGRAPHS, 8, devices=8)
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_a_mean_image_is_subtracted_where_it_fits_and_its_channel_means_elsewhere():
    rng = np.random.default_rng(0)
    mean = rng.uniform(size=(24, 24, 3)).astype(np.float32)
    per_pixel = network(preprocess="per_pixel_mean", mean=mean)
    per_channel = network(preprocess="per_pixel_mean", mean=mean.mean((0, 1), keepdims=True))
    for name, size, views_of, reference in [
        ("center", 24, lambda file: ten_crops(file, 24, 30)[4:5], per_pixel),
        ("center", 28, lambda file: ten_crops(file, 28, 30)[4:5], per_channel),
        ("multi_scale", 24, lambda file: all_scales(file, SIDES[:1]), per_channel),
    ]:
        protocol = make_protocol(name, data.eval_transform("imagenet", size, 30), SIDES[:1])
        expected = slow_scores([reference], views_of, PHOTOGRAPHS)
        result, scores = fast(protocol, [per_pixel], PHOTOGRAPHS, 4)
        check(result, scores, expected, PHOTOGRAPHS)


def test_most_photographs_are_hardly_padded():
    # ImageNet's commonest: 500x375, 500x333, their upright forms, and squares.
    for size in [(375, 500), (333, 500), (500, 375), (500, 333), (500, 500)]:
        sizes = [tuple(int(side * length / min(size)) for length in size) for side in PAPER_SIDES]
        shapes = padded_shapes(sizes)
        assert all(length % 32 == 0 for shape in shapes for length in shape)
        own, padded = (sum(h * w for h, w in all_scales) for all_scales in (sizes, shapes))
        assert own <= padded < 1.03 * own


@pytest.mark.parametrize("size", [(20, 500), (500, 20), (224, 225), (10, 4000)])
def test_every_photograph_fits(size):
    sizes = [tuple(int(side * length / min(size)) for length in size) for side in PAPER_SIDES]
    for (height, width), (below, right) in zip(sizes, padded_shapes(sizes), strict=True):
        assert height <= below and width <= right


class Gone(Photographs):
    """The second file is a link that leads nowhere."""

    def __getitem__(self, index):
        if index == 1:
            raise FileNotFoundError(2, "No such file or directory")
        return super().__getitem__(index)


@pytest.mark.parametrize("kind", [Photographs, Gone])
@pytest.mark.parametrize("name", ["center", "ten_crop", "multi_scale"])
def test_bad_images_are_named_or_left_out(name, kind):
    broken = kind([(30, 30), (30, 40), (30, 30)])
    broken.files[1] = broken.files[1][:100]
    transform = data.eval_transform("imagenet", 24)
    with pytest.raises(data.DataError, match="image 1 of split 'test' of 'photographs'"):
        list(make_protocol(name, transform, SIDES).batches(broken, 2))
    protocol = make_protocol(name, transform, SIDES, on_bad_image="skip")
    batches = list(protocol.batches(broken, 2))
    assert [index for batch in batches for index in batch.index[batch.mask]] == [0, 2]


def test_bad_protocols():
    crop, whole = data.eval_transform("imagenet", 24), data.eval_transform("none")
    with pytest.raises(EvaluationError, match="unknown protocol 'ten-crop' .*'ten_crop'"):
        make_protocol("ten-crop", crop)
    with pytest.raises(EvaluationError, match="ten_crop needs images larger than"):
        make_protocol("ten_crop", whole)
    with pytest.raises(EvaluationError, match="multi_scale would enlarge images"):
        make_protocol("multi_scale", whole)
    assert make_protocol("multi_scale", whole, [40]).sides == (40,)
    assert make_protocol("multi_scale", crop).sides == (224, 256, 384, 480, 640)
    with pytest.raises(EvaluationError, match="not positive numbers"):
        make_protocol("multi_scale", crop, (0,))
    with pytest.raises(EvaluationError, match="no network"):
        evaluate_as(make_protocol("center", crop), [], PHOTOGRAPHS, data_mesh(), batch_size=1)
    with pytest.raises(data.DataError, match="the batch size is 0"):
        list(make_protocol("multi_scale", crop).batches(PHOTOGRAPHS, 0))
