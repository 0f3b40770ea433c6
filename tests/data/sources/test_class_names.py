import unicodedata

import numpy as np
import pytest

from resnet_jax.data.sources.base import ArraySource
from resnet_jax.data.sources.class_names import (
    imagenet_class_names,
    match_classes,
    readable_class_names,
)
from resnet_jax.data.sources.relabelled import relabelled
from resnet_jax.errors import DataError

IDS = tuple(imagenet_class_names())
WORDS = tuple(imagenet_class_names().values())
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_the_thousand_classes_in_the_order_of_their_labels():
    names = imagenet_class_names()
    assert len(names) == len(set(names.values())) == 1000
    assert list(names) == sorted(names)
    # As any list of ImageNet's labels has them.
    labels = list(names.values())
    assert labels[0] == "tench"
    assert labels[207] == "golden retriever"
    assert labels[281] == "tabby"
    assert labels[999] == "toilet tissue"
    assert names["n02124075"] == "Egyptian cat"


def test_ids_become_names_and_names_stay():
    assert readable_class_names(["n01443537", "cat", "n99999999"]) == (
        "goldfish",
        "cat",
        "n99999999",
    )


@pytest.mark.parametrize(
    ("of_images", "of_network", "num_outputs", "outputs"),
    [
        (["cat", "dog"], ["cat", "dog"], 2, (0, 1)),
        (["cat", "dog"], ["dog", "cat"], 2, (1, 0)),
        (["dog"], ["cat", "dog"], 2, (1,)),
        (["dog"], ["cat", "dog"], 16, (1,)),
        ([NFD, "x"], ["x", NFC], 2, (1, 0)),
        (["10", "2"], ["0", "1", "2", "10"], 4, (3, 2)),
        (["a", "a"], ["a", "a"], 2, (0, 1)),
        (["a", "b"], [], 2, (0, 1)),
        (["n01443537", "n01440764"], [], 1000, (1, 0)),
        (["goldfish"], [], 1000, (1,)),
        (["goldfish"], IDS, 1000, (1,)),
        (["n01443537"], WORDS, 1000, (1,)),
        (["n02124075", "dog"], ["dog", "Egyptian cat"], 2, (1, 0)),
    ],
)
def test_classes_match_by_name(of_images, of_network, num_outputs, outputs):
    assert match_classes(of_images, of_network, num_outputs, "data", "net") == outputs


@pytest.mark.parametrize(
    ("of_images", "of_network", "num_outputs", "message"),
    [
        (["cat", "dgo"], ["cat", "dog"], 2, r"1 of the 2 .* './f': 'dgo' \(did you mean 'dog'"),
        (list("abcdefg"), ["x"], 1, "7 of the 7 .* 'a', 'b', 'c', ...; it knows x"),
        (["a"], ["a", "a", "b"], 3, "does not know 1"),
        (["a"], [], 2, "'./f' has 1 classes, net has 2 and does not name them"),
        (["n01443537", "cat"], [], 1000, "has 2 classes, net has 1000"),
    ],
)
def test_classes_that_cannot_be_matched(of_images, of_network, num_outputs, message):
    with pytest.raises(DataError, match=message):
        match_classes(of_images, of_network, num_outputs, "'./f'", "net")


class Listed:
    """A source of encoded images, one per label."""

    name, split, image_shape, class_names, num_classes = "list", "all", (None, None, 3), "ab", 2

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"image": bytes([index]), "label": index}

    def describe(self, index):
        return f"{index}.jpg"


def test_labels_become_the_networks():
    """Of arrays and of encoded images; all else stays."""
    images = np.arange(2 * 4, dtype=np.uint8).reshape(2, 2, 2, 1)
    arrays = ArraySource(images, np.array([0, 1], np.int32), ("a", "b"))
    for source in (arrays, Listed()):
        other = relabelled(source, (2, 0), ("b", "x", "a"))
        assert [other[index]["label"] for index in range(len(other))] == [2, 0]
        assert other.class_names == ("b", "x", "a") and other.num_classes == 3
        for name in ("name", "split", "image_shape"):
            assert getattr(other, name) == getattr(source, name)
    assert other.describe(1) == "1.jpg" and other[1]["image"] == b"\1"
    assert relabelled(arrays, (0, 1), ("a", "b")) is arrays
