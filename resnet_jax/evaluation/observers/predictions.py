"""The scores of each image, written to a file."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.errors import EvaluationError
from resnet_jax.evaluation.scoring import ScoredBatch
from resnet_jax.runtime.files import replacing

_ROWS_PER_GROUP = 4096


class Predictions:
    """Keeps the scores of each image until they are written; an observer for `evaluate_as`.

    They take four bytes of memory per image and class: 200 MB for ImageNet's validation split.
    """

    def __init__(self, num_images: int) -> None:
        """Allocates memory.

        Args:
          num_images: number of images in the split.

        Raises:
          EvaluationError: pyarrow is not installed.
        """
        _pyarrow()
        self._labels = np.full(num_images, -1, np.int32)
        self._scores = np.empty((num_images, 0), np.float32)

    def __call__(self, batch: ScoredBatch) -> None:
        """Records a batch."""
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
        """Writes a Parquet file atomically, one row per image, in the order of the split.

        Images that could not be decoded have no row.

        Columns: `index` (int64), `label` and `prediction` (int32), `scores` (a fixed-size list of
        float32, the averaged softmax), and `file` (text) if images have names. The schema's
        metadata holds the class names under `class_names`, one per line.

        Args:
          path: the file.
          class_names: one name per class.
          describe: returns an image's name.

        Raises:
          EvaluationError: the folder does not exist.
          OSError: the file cannot be written.
        """
        arrow, parquet = _pyarrow()
        rows = np.flatnonzero(self._labels >= 0)
        labels, scores = self._labels[rows], self._scores[rows]
        path = Path(path)
        if not path.parent.is_dir():
            raise EvaluationError(f"there is no folder {path.parent}; create it first")
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
        with replacing(path) as temporary:
            parquet.write_table(table, temporary, row_group_size=_ROWS_PER_GROUP)


_softmax = jax.jit(jax.nn.softmax)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EvaluationError(
            "Parquet files need pyarrow: python -m pip install 'resnet-jax[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet
