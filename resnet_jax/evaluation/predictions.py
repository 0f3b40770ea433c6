"""The scores of every image, as a file."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .errors import EvaluationError
from .scoring import ScoredBatch

_ROWS_PER_GROUP = 4096


class Predictions:
    """Keeps the scores of every image until they are written; an observer for `evaluate_as`.

    They take four bytes an image and class of memory: 200 MB for ImageNet's validation split.
    """

    def __init__(self, num_images: int) -> None:
        """Makes room.

        Args:
          num_images: length of the split.

        Raises:
          EvaluationError: pyarrow is not installed.
        """
        _pyarrow()
        self._labels = np.full(num_images, -1, np.int32)
        self._scores = np.empty((num_images, 0), np.float32)

    def __call__(self, batch: ScoredBatch) -> None:
        """Takes down a batch."""
        if not self._scores.size:
            self._scores = np.empty((len(self._labels), batch.scores.shape[1]), np.float32)
        rows = batch.index[batch.mask]
        self._labels[rows] = batch.label[batch.mask]
        self._scores[rows] = np.asarray(_softmax(batch.scores))[batch.mask]

    def write(
        self,
        path: str | os.PathLike[str],
        class_names: Sequence[str] = (),
        describe: Callable[[int], str] | None = None,
    ) -> None:
        """Writes a Parquet file, whole or not at all, a row an image in the order of the split.

        Images that were not scored, for they could not be decoded, have no row.

        Columns: `index` (int64), `label` and `prediction` (int32), `scores` (a list of float32 of
        fixed size, averaged softmax), and `file` (text) if images have names. The classes' names
        are in the schema's metadata under `class_names`, a name a line.

        Args:
          path: the file.
          class_names: one name a class.
          describe: returns an image's name.

        Raises:
          EvaluationError: there is no such folder.
          OSError: the file cannot be written.
        """
        arrow, parquet = _pyarrow()
        rows = np.flatnonzero(self._labels >= 0)
        labels, scores = self._labels[rows], self._scores[rows]
        path = Path(path)
        if not path.parent.is_dir():
            raise EvaluationError(f"there is no folder {path.parent}; make it first")
        columns = {
            "index": arrow.array(rows),
            "label": arrow.array(labels),
            "prediction": arrow.array(scores.argmax(axis=1).astype(np.int32)),
            "scores": arrow.FixedSizeListArray.from_arrays(
                arrow.array(scores.reshape(-1)), scores.shape[1]
            ),
        }
        if describe is not None:
            columns["file"] = arrow.array([describe(row) for row in rows.tolist()])
        metadata = {"class_names": "\n".join(class_names)}
        table = arrow.table(columns).replace_schema_metadata(metadata)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            parquet.write_table(table, temporary, row_group_size=_ROWS_PER_GROUP)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


_softmax = jax.jit(jax.nn.softmax)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EvaluationError(
            "Parquet files take pyarrow: python -m pip install 'resnet-jax[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet
