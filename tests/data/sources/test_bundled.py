import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from resnet_jax import data
from resnet_jax.data.sources.records import BUNDLED_DIR

TOOL = Path(__file__).parents[3] / "tools" / "make_fashion_mnist_mini.py"

DIGESTS = {
    "train": "dd3a6f6e84b026874573561471b43722d5eb257cf43b82e19766ee9b9a37dc4b",
    "test": "36761c851a1327ecf612f1a229477eca73f066483965468acd134774703d5c63",
}


@pytest.fixture(scope="module")
def splits():
    return {split: data.open_source("fashion_mnist_mini", split) for split in ("train", "test")}


def test_splits_are_balanced(splits):
    for split, per_class in (("train", 600), ("test", 100)):
        source = splits[split]
        assert source.images.shape == (10 * per_class, 28, 28, 1)
        np.testing.assert_array_equal(np.bincount(source.labels), [per_class] * 10)
    assert splits["train"].class_names == (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )


def test_no_image_comes_twice(splits):
    images = [image.tobytes() for source in splits.values() for image in source.images]
    assert len(set(images)) == 7000
    assert all(any(image) for image in images)


def test_classes_are_mixed(splits):
    """A run of one class would make a split such as `train[:1000]` useless."""
    for source in splits.values():
        assert np.bincount(source.labels[:200], minlength=10).min() > 5


def test_labels_belong_to_the_images(splits):
    train, test = (
        (source.images.reshape(len(source), -1).astype(np.float32), source.labels)
        for source in splits.values()
    )
    means = np.stack([train[0][train[1] == label].mean(axis=0) for label in range(10)])
    distance = ((test[0][:, None] - means) ** 2).sum(axis=-1)
    # Fashion-MNIST's nearest class mean errs in about a third; chance is 0.9.
    assert (distance.argmin(axis=1) != test[1]).mean() < 0.36


def test_images_are_the_ones_that_the_tool_makes(splits):
    digests = {
        split: hashlib.sha256(
            b"".join(sorted(bytes([label]) + image.tobytes() for image, label in pairs))
        ).hexdigest()
        for split, source in splits.items()
        for pairs in [zip(source.images, source.labels, strict=True)]
    }
    assert digests == DIGESTS


def test_size_origin_and_licence():
    files = [path for path in BUNDLED_DIR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6e6
    folder = BUNDLED_DIR / "fashion_mnist_mini"
    readme, licence = ((folder / name).read_text() for name in ("README.md", "LICENSE"))
    assert "fashion-mnist` 1.1.0" in readme and "Zalando" in readme and "MIT" in readme
    assert "MIT License" in licence and "Zalando SE" in licence and "Juan Cazala" in licence


def test_data_dir_has_no_effect_on_bundled_images(tmp_path):
    assert len(data.open_source("fashion_mnist_mini", "test", tmp_path / "none")) == 1000


def test_tool_leaves_out_what_comes_twice():
    spec = importlib.util.spec_from_file_location("make_fashion_mnist_mini", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    pictures = [bytes([label, 0, i % 256, i // 256]) for label in range(10) for i in range(705)]
    classes = [pictures[start : start + 705] for start in range(0, 7050, 705)]
    within, across = classes[2][0], classes[3][5]
    classes[2].append(within)
    classes[7].append(across)
    chosen = tool.choose(classes)
    taken = [pixels for split in chosen.values() for _, pixels, _ in split]
    assert {split: len(images) for split, images in chosen.items()} == {
        "train": 6000,
        "test": 1000,
    }
    assert len(set(taken)) == 7000
    assert not {within, across} & set(taken)
    assert all(pixels[0] == label for split in chosen.values() for _, pixels, label in split)
    # The order in the archive does not matter.
    assert tool.choose([images[::-1] for images in classes]) == chosen
