"""`prepare`: converts a published data set into the files that TFDS and `open_source` read."""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.data.prepare import recipes
from resnet_jax.data.prepare.archives import Archive, Report, download, verify
from resnet_jax.data.prepare.writer import write_dataset
from resnet_jax.data.sources.files import list_files
from resnet_jax.data.sources.folders import is_folder
from resnet_jax.data.sources.listing import list_folders
from resnet_jax.data.sources.metadata import refuse_blanks
from resnet_jax.data.sources.tables import is_table
from resnet_jax.errors import DataError, did_you_mean
from resnet_jax.runtime.files import expanded, local_path


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The conversion of an official data set.

    Attributes:
      archives: the published archives.
      make: returns the splits, given the archives' paths and a progress report function.
      counts: required number of examples of each split.
    """

    archives: tuple[Archive, ...]
    make: Callable[[Mapping[str, Path], Report], recipes.Made]
    counts: Mapping[str, int]


RECIPES = {
    "cifar10": Recipe(
        recipes.CIFAR10,
        lambda files, report: recipes.cifar10(files),
        {"train": 50_000, "test": 10_000},
    ),
    "cifar100": Recipe(
        recipes.CIFAR100,
        lambda files, report: recipes.cifar100(files),
        {"train": 50_000, "test": 10_000},
    ),
    "fashion_mnist": Recipe(
        recipes.FASHION_MNIST,
        lambda files, report: recipes.fashion_mnist(files),
        {"train": 60_000, "test": 10_000},
    ),
    "imagenet2012": Recipe(
        recipes.IMAGENET2012, recipes.imagenet2012, {"train": 1_281_167, "validation": 50_000}
    ),
}
"""The official data sets that `prepare` supports."""


def prepare(
    dataset: str,
    data_dir: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    *,
    verified: bool = True,
    splits: Sequence[str] | None = None,
    report: Report = lambda what, done, total: None,
    notify: Callable[[str], None] = lambda line: None,
) -> tuple[Path, dict[str, int]]:
    """Writes a data set as TFDS does, so that TFDS and `open_source` can read it.

    Name, version, features, labels, the order of the examples and the files are those of TFDS's
    own builder; JPEG files are stored unchanged (TFDS's builder converts 23 of ImageNet's).
    TensorFlow is not needed. After an interruption, the same call resumes; the directory appears
    once it is complete.

    Args:
      dataset: one of `RECIPES`; or a folder with `train/CLASS/*.jpg` and so on, or a table of files
        and labels, after which the data set is named; or, if `source` is that, a new name.
      data_dir: the folder of data sets.
      source: an archive, or the folder of the archives or images; if None, all but ImageNet are
        downloaded.
      verified: whether digests and numbers of examples must match the published ones.
      splits: the splits of a folder or table to write; None for all whose images have classes.
      report: receives the progress.
      notify: receives lines for people about what was found.

    Returns:
      The directory written, and the number of examples in each of its splits.

    Raises:
      DataError: an archive is missing, damaged or not the published one, or the data set already
        exists.
    """
    if "://" in os.fspath(data_dir):
        raise DataError(f"cannot write to {data_dir!s}; prepare in a local folder, and copy that")
    root = local_path(data_dir).absolute()
    if dataset not in RECIPES:
        return _prepare_files(dataset, root, source, splits, report, notify)
    if splits is not None:
        raise DataError(f"{dataset!r} is prepared as a whole; omit the splits")
    return _prepare_official(dataset, root, source, verified, report)


def _prepare_official(
    dataset: str,
    root: Path,
    source: str | os.PathLike[str] | None,
    verified: bool,
    report: Report,
) -> tuple[Path, dict[str, int]]:
    recipe = RECIPES[dataset]
    directory = _new_directory(root, dataset, _official_version(dataset))
    stamp = root / dataset / ".verified"
    if folder := _unpacked(dataset, source):
        splits, names = recipes.imagenet_folder(folder)
        identity: Any = folder
    else:
        files = _find(dataset, recipe, source)
        if not files:
            paths = [download(archive, root / "downloads", report) for archive in recipe.archives]
            files = {path.name: path for path in paths}
        elif verified:
            _verify(recipe, files, stamp, report)
        splits, names = recipe.make(files, report)
        identity = [_state(path) for path in files.values()]
    for split in splits:
        expected = recipe.counts[split.name]
        if verified and len(split) != expected:
            raise DataError(
                f"split {split.name!r} of {dataset!r} would have {len(split)} images, not "
                f"{expected}; complete the source, or give --unverified to prepare it as it is"
            )
    # Only after all checks, because TFDS leaves a temporary folder behind.
    info = _official_info(dataset, root)
    for feature, labels in names.items():
        info.features[feature].names = list(labels)
    write_dataset(splits, info, directory, identity, report)
    stamp.unlink(missing_ok=True)
    return directory, {split.name: len(split) for split in splits}


def _prepare_files(
    dataset: str,
    root: Path,
    source: str | os.PathLike[str] | None,
    split_names: Sequence[str] | None,
    report: Report,
    notify: Callable[[str], None],
) -> tuple[Path, dict[str, int]]:
    given = os.fspath(dataset if source is None else source)
    if not (is_table(given) or is_folder(given) or list_folders(given)):
        raise DataError(
            f"unknown data set {dataset!r}{did_you_mean(dataset, RECIPES)}; give one of "
            f"{', '.join(RECIPES)}, a folder with train/CLASS/*.jpg or CLASS/*.jpg, or a table "
            "(.csv) of files and labels"
        )
    listing = list_files(given, split_names)
    for class_name in listing.class_names:
        refuse_blanks(class_name, given)
    name = _data_set_name(dataset)
    directory = _new_directory(root, name, "1.0.0")
    splits = recipes.image_files(listing)
    for line in listing.notices:
        notify(line)
    info = _folder_info(name, directory, listing.class_names)
    write_dataset(splits, info, directory, listing.root, report)
    return directory, {split.name: len(split) for split in splits}


def _new_directory(root: Path, name: str, version: str) -> Path:
    directory = root / name / version
    there = next(parent for parent in directory.parents if parent.exists())
    if not there.is_dir():
        raise DataError(f"{there} is not a folder; give another --data_dir")
    if directory.exists():
        raise DataError(f"{directory} already exists; delete it to prepare it again")
    return directory


def _official_version(dataset: str) -> str:
    import tensorflow_datasets as tfds

    return str(tfds.builder_cls(dataset).VERSION)


def _official_info(dataset: str, root: Path) -> Any:
    import tensorflow_datasets as tfds

    return tfds.builder(dataset, data_dir=str(root), file_format="array_record").info


def _folder_info(name: str, directory: Path, class_names: tuple[str, ...]) -> Any:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import dataset_info
    from tensorflow_datasets.core.file_adapters import FileFormat

    info = dataset_info.DatasetInfo(
        builder=dataset_info.DatasetIdentity(
            name=name,
            version=tfds.core.Version("1.0.0"),
            data_dir=str(directory),
            module_name="",
        ),
        description="A folder of images.",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=list(class_names)),
                "file_name": tfds.features.Text(),
            }
        ),
        supervised_keys=("image", "label"),
    )
    info.set_file_format(FileFormat.ARRAY_RECORD)
    return info


def _data_set_name(dataset: str) -> str:
    """Converts a folder's name to TFDS's form: lower-case letters, digits, underscores."""
    base = os.path.basename(os.path.abspath(expanded(dataset)))
    if is_table(dataset):
        base = os.path.splitext(base)[0]
    name = re.sub(r"\W+", "_", base, flags=re.ASCII).strip("_").lower()
    return name if name[:1].isalpha() else f"images_{name}".rstrip("_")


def _unpacked(dataset: str, source: str | os.PathLike[str] | None) -> str | None:
    """Returns the source if it is an unpacked ImageNet."""
    if dataset != "imagenet2012" or source is None:
        return None
    folder = expanded(source)
    there = list_folders(folder) if "://" in folder or os.path.isdir(folder) else ()
    return folder if {"train", "val", "validation"} & set(there) else None


def _find(dataset: str, recipe: Recipe, source: str | os.PathLike[str] | None) -> dict[str, Path]:
    """Returns the archives in a source; empty if they must be downloaded."""
    names = [archive.name for archive in recipe.archives]
    if source is None:
        if all(archive.url for archive in recipe.archives):
            return {}
        raise DataError(
            f"{dataset!r} cannot be downloaded without an account; get {' and '.join(names)} from "
            "image-net.org, and give --source FOLDER"
        )
    path = local_path(source)
    if path.is_file() and len(names) == 1:
        return {names[0]: path}
    if path.is_file():
        path = path.parent
    if not path.is_dir():
        raise DataError(f"{path} does not exist; give --source the archive or its folder")
    files = {name: path / name for name in names if (path / name).is_file()}
    missing = [name for name in names if name not in files]
    # For ImageNet, one of the two archives suffices: evaluation needs only the smaller one.
    if not files or (missing and dataset != "imagenet2012"):
        raise DataError(f"{path} has no file {missing[0]}; give --source the folder that has it")
    return files


def _verify(recipe: Recipe, files: Mapping[str, Path], stamp: Path, report: Report) -> None:
    """Verifies archives, each only once even after an interruption."""
    known = stamp.read_text().splitlines() if stamp.exists() else []
    for archive in recipe.archives:
        if archive.name not in files:
            continue
        state = repr((_state(files[archive.name]), archive.digest))
        if state not in known:
            verify(archive, files[archive.name], report)
            known.append(state)
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.write_text("\n".join(known) + "\n")


def _state(path: Path) -> list[Any]:
    """Returns the path, size and modification time of a file."""
    status = path.stat()
    return [str(path.absolute()), status.st_size, status.st_mtime_ns]
