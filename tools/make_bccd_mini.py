"""Makes the bundled data set `bccd_mini` from the blood-cell photographs of BCCD.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python tools/make_bccd_mini.py BCCD_Dataset/BCCD

The script scales the 364 photographs (640x480) to 213x160 and writes them with their boxes in
TFDS's format (ArrayRecord, one file per split) under `resnet_jax/detection/bundled/`. The splits
are those of the repository. It needs no TensorFlow.
"""

import argparse
import io
import pathlib
import shutil
import tempfile

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import dataset_info
from tensorflow_datasets.core.file_adapters import FileFormat

from resnet_jax.data.prepare.writer import Split, write_dataset
from resnet_jax.detection.data.examples import DetectionExample, DetectionSource
from resnet_jax.detection.data.opening import open_detection_source

NAME = "bccd_mini"
SPLITS = ("train", "val", "test")
SIZE = (213, 160)
"""Width and height of the scaled photographs in pixels."""

QUALITY = 90
BUNDLED = pathlib.Path(__file__).parent.parent / "resnet_jax" / "detection" / "bundled"


def scaled_jpeg(image: bytes) -> bytes:
    """Returns a photograph scaled to `SIZE`, antialiased, as a JPEG."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(image)).convert("RGB").resize(SIZE, Image.Resampling.LANCZOS)
    picture.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


def fields(example: DetectionExample) -> dict[str, bytes | int | np.ndarray]:
    """Returns the features of a photograph beside the image."""
    x1, y1, x2, y2 = (example.boxes / ([example.width, example.height] * 2)).T
    return {
        "image/filename": example.name.encode(),
        "objects/bbox": np.stack([y1, x1, y2, x2], axis=1).astype(np.float32).ravel(),
        "objects/label": example.labels.astype(np.int64),
    }


def make_split(name: str, source: DetectionSource) -> Split:
    """Returns a split with its scaled photographs."""
    examples = [source[index] for index in range(len(source))]
    files = [scaled_jpeg(bytes(example.image)) for example in examples]
    others = [fields(example) for example in examples]
    keys = [example.name for example in examples]
    return Split(name, keys, list(map(len, files)), files.__getitem__, others.__getitem__)


def make_info(directory: pathlib.Path, class_names: tuple[str, ...]) -> dataset_info.DatasetInfo:
    """Returns what TFDS's JSON files say of the data set."""
    objects = {
        "bbox": tfds.features.BBoxFeature(),
        "label": tfds.features.ClassLabel(names=list(class_names)),
    }
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "image/filename": tfds.features.Text(),
        "objects": tfds.features.Sequence(objects),
    }
    info = dataset_info.DatasetInfo(
        builder=dataset_info.DatasetIdentity(
            name=NAME,
            version=tfds.core.Version("1.0.0"),
            data_dir=str(directory),
            module_name="",
        ),
        description="364 photographs of blood cells (213x160) with 4,888 boxes: BCCD, scaled.",
        features=tfds.features.FeaturesDict(features),
        homepage="https://github.com/Shenggan/BCCD_Dataset",
    )
    info.set_file_format(FileFormat.ARRAY_RECORD)
    return info


def main() -> None:
    """Reads the folder named on the command line and replaces the bundled data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="BCCD, with JPEGImages, Annotations and ImageSets")
    parser.add_argument("--output", type=pathlib.Path, default=BUNDLED, help="a data_dir")
    arguments = parser.parse_args()

    sources = {split: open_detection_source(arguments.folder, split) for split in SPLITS}
    with tempfile.TemporaryDirectory() as scratch:
        made = pathlib.Path(scratch) / NAME / "1.0.0"
        splits = [make_split(name, source) for name, source in sources.items()]
        info = make_info(made, sources["train"].class_names)
        write_dataset(splits, info, made, arguments.folder, lambda what, done, total: None)
        target = arguments.output / NAME / made.name
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted(made.iterdir()):
            shutil.copyfile(file, target / file.name)
            print(f"{(target / file.name).stat().st_size:>9,d} {file.name}")


if __name__ == "__main__":
    main()
