"""The records of a run: `metrics.jsonl` and the final table."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_jax.errors import ConfigError
from resnet_jax.runtime.files import local_path, write_atomically

Record = Mapping[str, Any]
"""One line of `metrics.jsonl`: `step`, `split`, `loss`, `top1_error`, ... (errors as fractions)."""


class MetricsLog:
    """Writes a run's metrics to `metrics.jsonl`; an observer.

    Each line is a JSON object. It is flushed at once, so a killed run loses at most the line it
    was writing.

    Args:
      workdir: the run's folder; created if missing.
      resume_step: the step of the checkpoint that the run resumes from, or 0. Later lines of an
        earlier process are dropped, because those steps run again.
      evaluated: whether the evaluation at `resume_step` is complete; otherwise it runs again.
      eval_split: the evaluated split.

    Raises:
      ConfigError: the existing `metrics.jsonl` is damaged.
      OSError: the folder cannot be written.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        resume_step: int = 0,
        evaluated: bool = True,
        eval_split: str = "eval",
    ) -> None:
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        if path.exists():
            kept = (
                record
                for record in read_metrics(workdir)
                if record["step"] < resume_step + (evaluated or record["split"] == "train")
            )
            write_atomically(path, "".join(map(_to_line, kept)))
        self._file = open(path, "a", encoding="utf-8")
        self._eval_split = eval_split

    def on_train_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records the training metrics since the last line."""
        self._write(step, "train", metrics)

    def on_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records an evaluation's metrics."""
        self._write(step, self._eval_split, metrics)

    def close(self) -> None:
        """Closes the file; nothing can be written afterwards."""
        self._file.close()

    def _write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        self._file.write(_to_line({"step": step, "split": split, **metrics}))
        self._file.flush()


class RunRecords(dict[str, dict[str, Any]]):
    """The last record of each split: split → `step`, `loss` and the task's other metrics.

    Printed or shown in a notebook, it is a table.

    Attributes:
      forms: format of each metric, see `Task.forms`.
      workdir: the run's work directory.
    """

    def __init__(
        self,
        records: Mapping[str, dict[str, Any]],
        forms: Mapping[str, tuple[str, str]],
        workdir: Path,
    ) -> None:
        super().__init__(records)
        self.forms = forms
        self.workdir = workdir

    def __str__(self) -> str:
        return format_table(self, self.forms)

    def _repr_html_(self) -> str:
        header, *rows = _cells(self, self.forms)
        cells = [f"<th>{title}</th>" for title in header]
        lines = ["".join(cells)] + ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the `metrics.jsonl` of a run's folder, in the order of its lines.

    An incomplete last line is skipped; `null` becomes NaN.

    Raises:
      ConfigError: another line is not a JSON object with a step, a split and numbers.
      OSError: the file is missing or cannot be read.
    """
    path = local_path(workdir) / "metrics.jsonl"
    *lines, _cut_off = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = {key: math.nan if v is None else v for key, v in json.loads(line).items()}
            step, split, *values = record["step"], record["split"], *record.values()
            numbers = [value for value in values if value is not split]
            if type(step) is not int or not all(isinstance(n, int | float) for n in numbers):
                raise TypeError
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ConfigError(
                f"line {number} of {path} is not a line of metrics; remove the line or the file"
            ) from None
        records.append(record)
    return records


def format_table(rows: Mapping[str, Record], forms: Mapping[str, tuple[str, str]]) -> str:
    """Formats metrics as a table.

    Args:
      rows: label → metrics with `step` and some of the metrics in `forms`.
      forms: name of a metric → (title, format).

    Returns:
      The lines of the table, without a trailing newline.
    """
    cells = _cells(rows, forms)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "   ".join(
            [label.ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row, widths[1:], strict=True)]
        )
        for label, *row in cells
    )


def _cells(
    rows: Mapping[str, Record], forms: Mapping[str, tuple[str, str]]
) -> list[tuple[str, ...]]:
    cells = [("", "step", *(title for title, _ in forms.values()))]
    for label, record in rows.items():
        figures = (
            form.format(record[name]) if name in record else "" for name, (_, form) in forms.items()
        )
        cells.append((label, str(record["step"]), *figures))
    return cells


def _to_line(record: Record) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"
