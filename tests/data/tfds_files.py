"""Writes data sets as TFDS prepares them: ArrayRecord shards beside two JSON files.

By hand, so that what reads them is held to the layout and not to TFDS's own writer.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

TFDS = "tensorflow_datasets.core.features"


def encode(image: np.ndarray, encoding: str = "png") -> bytes:
    """An image (uint8 [h, w, 1 or 3]) as a PNG or JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, encoding)
    return buffer.getvalue()


def make_tfds_dataset(
    data_dir: Path,
    name: str,
    images: Sequence[np.ndarray | bytes],
    labels: Sequence[int],
    encoding: str = "png",
    *,
    splits: Mapping[str, int] | None = None,
    class_names: Sequence[str] | None = None,
    num_shards: int = 1,
    features: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a data set that `open_source(name, split, data_dir)` opens.

    Args:
      data_dir: where; the files go to `data_dir/name/1.0.0`.
      name: the data set's name, in lower case.
      images: uint8 arrays [h, w, c], or files as they are to be stored.
      labels: one a image.
      encoding: "png" or "jpeg".
      splits: how many of the images each split takes, in order; by default all are "train".
      class_names: written beside the data; "0", "1", ... if not given.
      num_shards: over how many files each split is spread.
      features: replaces what `features.json` says of each feature.
    """
    directory = Path(data_dir) / name / "1.0.0"
    directory.mkdir(parents=True)
    splits = splits or {"train": len(images)}
    num_classes = len(class_names) if class_names else max(labels) + 1
    if class_names:
        (directory / "label.labels.txt").write_text("\n".join(class_names) + "\n")
    shapes = {image.shape for image in images if not isinstance(image, bytes)}
    shape = shapes.pop() if len(shapes) == 1 else (-1, -1, max((s[2] for s in shapes), default=3))
    described = features or {
        "image": image_feature(shape, encoding),
        "label": label_feature(num_classes),
    }
    (directory / "features.json").write_text(
        json.dumps(
            {
                "pythonClassName": f"{TFDS}.features_dict.FeaturesDict",
                "featuresDict": {"features": described},
            }
        )
    )
    split_infos = []
    start = 0
    for split, length in splits.items():
        parts = np.array_split(np.arange(start, start + length), num_shards)
        for shard, part in enumerate(parts):
            path = directory / f"{name}-{split}.array_record-{shard:05d}-of-{num_shards:05d}"
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for index in part:
                image = images[index]
                file = image if isinstance(image, bytes) else encode(image, encoding)
                example = tf_example_pb2.Example()
                example.features.feature["image"].bytes_list.value.append(file)
                example.features.feature["label"].int64_list.value.append(int(labels[index]))
                writer.write(example.SerializeToString())
            writer.close()
        split_infos.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(len(part)) for part in parts],
            }
        )
        start += length
    (directory / "dataset_info.json").write_text(
        json.dumps(
            {
                "fileFormat": "array_record",
                "name": name,
                "version": "1.0.0",
                "splits": split_infos,
            }
        )
    )
    return directory


def image_feature(shape: Sequence[int], encoding: str = "png", dtype: str = "uint8") -> Any:
    """What `features.json` says of an image; -1 where a size varies."""
    return {
        "pythonClassName": f"{TFDS}.image_feature.Image",
        "image": {
            "dtype": dtype,
            "encodingFormat": encoding,
            "shape": {"dimensions": [str(size) for size in shape]},
        },
    }


def label_feature(num_classes: int) -> Any:
    """What `features.json` says of a label."""
    return {
        "pythonClassName": f"{TFDS}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": str(num_classes)},
    }
