"""Writes the splits of a data set as TFDS does: the same files, the same order of examples."""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.data.prepare.archives import Report
from resnet_jax.data.sources.files import shuffle_hash
from resnet_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Split:
    """The examples of a split, in any order.

    Attributes:
      name: the split's name.
      keys: TFDS's shuffling key of each example: its number or its name.
      image_sizes: bytes of each image file.
      read_image: returns the image file of an example.
      fields: returns the other features of an example; numbers of a sequence are an array, of
        float32 or int64.
    """

    name: str
    keys: Sequence[int | str]
    image_sizes: Sequence[int]
    read_image: Callable[[int], bytes]
    fields: Callable[[int], Mapping[str, bytes | int | np.ndarray]]

    def __len__(self) -> int:
        return len(self.keys)


def write_dataset(
    splits: Sequence[Split], info: Any, directory: Path, identity: Any, report: Report
) -> None:
    """Writes a data set to a directory, which appears once it is complete.

    Until then its files are in `directory` + `.incomplete`, each renamed once complete. The next
    call resumes from them if it has the same examples; otherwise, it starts over.

    Args:
      splits: the splits to write.
      info: a `tfds.core.DatasetInfo`, whose splits are filled in.
      directory: `DATA_DIR/NAME/VERSION`.
      identity: JSON value that must be equal for a call to resume from another call's files.
      report: receives the progress, in images.
    """
    from tensorflow_datasets.core import file_adapters, naming
    from tensorflow_datasets.core import splits as tfds_splits

    sizes = {split.name: [record_size(split, i) for i in range(len(split))] for split in splits}
    plan = {
        "identity": identity,
        "splits": [[split.name, len(split), _fingerprint(split)] for split in splits],
    }
    incomplete = directory.with_name(directory.name + ".incomplete")
    plan_file = incomplete / "plan.json"
    plan = json.loads(json.dumps(plan))
    if not _holds(plan_file, plan):
        shutil.rmtree(incomplete, ignore_errors=True)
        incomplete.mkdir(parents=True)
        _write_text(plan_file, json.dumps(plan))

    infos = []
    total, done = sum(map(len, splits)), 0
    for split in splits:
        lengths = _shard_lengths(len(split), sum(sizes[split.name]))
        hashes = [shuffle_hash(split.name, key) for key in split.keys]
        order = sorted(range(len(split)), key=hashes.__getitem__)
        start = 0
        for shard, length in enumerate(lengths):
            name = f"{info.name}-{split.name}.array_record-{shard:05d}-of-{len(lengths):05d}"
            path = incomplete / name
            if not path.exists():
                _write_shard(split, order[start : start + length], path, report, done, total)
            start += length
            done += length
            report(f"writing {info.name}", done, total)
        infos.append(
            tfds_splits.SplitInfo(
                name=split.name,
                shard_lengths=lengths,
                num_bytes=sum(sizes[split.name]),
                filename_template=naming.ShardedFileTemplate(
                    dataset_name=info.name,
                    data_dir=str(directory),
                    split=split.name,
                    filetype_suffix=file_adapters.FileFormat.ARRAY_RECORD.file_suffix,
                ),
            )
        )
    info.set_splits(tfds_splits.SplitDict(infos))
    info.write_to_directory(str(incomplete))
    plan_file.unlink()
    _sync(incomplete)
    incomplete.rename(directory)


def record_size(split: Split, index: int) -> int:
    """Returns the size in bytes of a serialised `tf.train.Example` without reading its image."""
    features = sum(
        _field(_field(len(key)) + _field(_field(_list_size(value))))
        for key, value in split.fields(index).items()
    )
    image = _field(_field(_field(split.image_sizes[index])))
    return _field(features + _field(_field(len("image")) + image))


def make_record(split: Split, index: int) -> bytes:
    """Returns an example as a serialised `tf.train.Example`."""
    from tensorflow_datasets.proto import tf_example_pb2

    image = split.read_image(index)
    if len(image) != split.image_sizes[index]:
        raise DataError(f"image {split.keys[index]!r} changed while it was read; run it again")
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(image)
    for key, value in split.fields(index).items():
        feature = example.features.feature[key]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif not isinstance(value, np.ndarray):
            feature.int64_list.value.append(value)
        else:
            numbers = feature.float_list if value.dtype == np.float32 else feature.int64_list
            numbers.SetInParent()  # An empty list keeps its type.
            numbers.value.extend(value.tolist())
    return example.SerializeToString()


def _write_shard(
    split: Split, order: list[int], path: Path, report: Report, done: int, total: int
) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    part = path.with_name(path.name + ".part")
    writer = ArrayRecordWriter(str(part), "group_size:1")  # As TFDS writes them.
    try:
        for index in order:
            writer.write(make_record(split, index))
            done += 1
            if done % 256 == 0:
                report(f"writing {path.name.partition('-')[0]}", done, total)
    finally:
        writer.close()
    _sync(part)
    part.replace(path)


def _shard_lengths(num_examples: int, num_bytes: int) -> list[int]:
    from tensorflow_datasets.core.utils import shard_utils

    count = shard_utils.ShardConfig().get_number_shards(num_bytes, num_examples)
    ends = shard_utils.get_shard_boundaries(num_examples, count)
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _list_size(value: bytes | int | np.ndarray) -> int:
    """Returns the size in bytes of a feature's list of values."""
    if not isinstance(value, np.ndarray):
        return _field(len(value) if isinstance(value, bytes) else _varint_size(value))
    floats = value.dtype == np.float32
    size = 4 * value.size if floats else sum(map(_varint_size, value.tolist()))
    return _field(size) if value.size else 0


def _field(size: int) -> int:
    """Returns the size in bytes of a protobuf field: its tag, its size, its content."""
    return 1 + _varint_size(size) + size


def _varint_size(value: int) -> int:
    return max(1, -(-value.bit_length() // 7)) if value >= 0 else 10


def _fingerprint(split: Split) -> str:
    """Returns a digest of a split's examples."""
    digest = hashlib.sha256()
    for index in range(len(split)):
        fields = sorted(
            (key, value.tolist() if isinstance(value, np.ndarray) else value)
            for key, value in split.fields(index).items()
        )
        digest.update(repr((split.keys[index], split.image_sizes[index], fields)).encode())
    return digest.hexdigest()


def _holds(path: Path, plan: Any) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == plan)
    except (OSError, ValueError):
        return False


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _sync(path: Path) -> None:
    """Waits until a file's content, or a directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
