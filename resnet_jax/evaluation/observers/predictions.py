"""The scores of each image, written to a file."""

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from resnet_jax.errors import EvaluationError
from resnet_jax.evaluation.scoring import ScoredBatch, softmax
from resnet_jax.runtime.files import replacing

_ROWS_PER_GROUP = 4096


class Predictions:
    """Keeps the scores of each image until they are written; an observer for `evaluate_as`.

    They take four bytes of memory per image and class: 200 MB for ImageNet's validation split.
    """

    def __init__(self, num_images: int, ending: str = ".parquet") -> None:
        """Allocates memory.

        Args:
          num_images: number of images in the split.
          ending: the ending of the file that will be written.

        Raises:
          EvaluationError: pyarrow, which writes Parquet files, is not installed.
        """
        if ending.lower() != ".csv":
            _pyarrow()
        self._labels = np.full(num_images, -1, np.int32)
        self._scores = np.empty((num_images, 0), np.float32)

    def __call__(self, batch: ScoredBatch) -> None:
        """Records a batch."""
        if not self._scores.size:
            self._scores = np.empty((len(self._labels), batch.scores.shape[1]), np.float32)
        rows = batch.index[batch.mask]
        self._labels[rows] = batch.label[batch.mask]
        self._scores[rows] = np.asarray(softmax(batch.scores))[batch.mask]

    def write(
        self,
        path: str | os.PathLike[str],
        class_names: Sequence[str] = (),
        describe: Callable[[int], str] | None = None,
    ) -> None:
        """Writes a CSV or Parquet file atomically, one row per image, in the order of the split.

        Images that could not be decoded have no row.

        Columns of a Parquet file: `index` (int64), `label` and `prediction` (int32), `scores` (a
        fixed-size list of float32, the averaged softmax), and `file` (text) with `describe`. The
        schema's metadata holds the class names under `class_names`, one per line.

        Columns of a CSV file: `index`, `file` with `describe`, `label`, `prediction`, and a column
        of scores per class with the class's name; `score_0` and so on if these are not unique.

        Args:
          path: the file; a CSV file if it ends in `.csv`.
          class_names: one name per class.
          describe: returns an image's name.

        Raises:
          EvaluationError: the folder does not exist.
          OSError: the file cannot be written.
        """
        rows = np.flatnonzero(self._labels >= 0)
        names = None if describe is None else [_text(describe(row)) for row in rows.tolist()]
        path = Path(path)
        if not path.parent.is_dir():
            raise EvaluationError(f"there is no folder {path.parent}; create it first")
        write = self._write_csv if path.suffix.lower() == ".csv" else self._write_parquet
        with replacing(path) as temporary:
            write(temporary, rows, names, [_text(name) for name in class_names])

    def _write_parquet(
        self,
        path: Path,
        rows: Int64[np.ndarray, " n"],
        names: list[str] | None,
        class_names: list[str],
    ) -> None:
        arrow, parquet = _pyarrow()
        scores = self._scores[rows]
        columns = {
            "index": arrow.array(rows),
            "label": arrow.array(self._labels[rows]),
            "prediction": arrow.array(scores.argmax(axis=1).astype(np.int32)),
            "scores": arrow.FixedSizeListArray.from_arrays(
                arrow.array(scores.reshape(-1)), scores.shape[1]
            ),
        }
        if names is not None:
            columns["file"] = arrow.array(names)
        metadata = {"class_names": "\n".join(class_names)}
        table = arrow.table(columns).replace_schema_metadata(metadata)
        parquet.write_table(table, path, row_group_size=_ROWS_PER_GROUP)

    def _write_csv(
        self,
        path: Path,
        rows: Int64[np.ndarray, " n"],
        names: list[str] | None,
        class_names: list[str],
    ) -> None:
        header = ["index", *([] if names is None else ["file"]), "label", "prediction"]
        num_classes = self._scores.shape[1]
        if len(set(class_names) - set(header)) != num_classes or len(class_names) != num_classes:
            class_names = [f"score_{index}" for index in range(num_classes)]
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*header, *class_names])
            for position, row in enumerate(rows.tolist()):
                scores = self._scores[row]
                name = [] if names is None else [names[position]]
                numbers = [f"{score:.9g}" for score in scores.tolist()]
                writer.writerow([row, *name, self._labels[row], scores.argmax(), *numbers])


def _text(name: str) -> str:
    """Returns a name as valid text: what is none, such as bytes of another encoding, is escaped."""
    return name.encode(errors="backslashreplace").decode()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EvaluationError(
            "Parquet files need pyarrow: python -m pip install 'resnet-jax[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet
