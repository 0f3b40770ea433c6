"""What a run leaves behind to be read: `metrics.jsonl`, TensorBoard events, curves, a table."""

import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .config import ConfigError
from .events import EventWriter
from .workdir import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Metrics = Mapping[str, Any]
"""One line of `metrics.jsonl`: `step`, `split`, `loss`, `top1_error`, ... (errors as fractions)."""


class MetricsLog:
    """Writes a run's metrics to `metrics.jsonl` and, for TensorBoard, below `tensorboard/`.

    Each line of `metrics.jsonl` is a JSON object and is flushed as it is written, so that a killed
    run loses at most the line it was writing. A context manager: leaving it closes the files.

    Args:
      workdir: the run's folder; made if it is missing.
      resume_step: the step of the checkpoint that the run continues from, 0 for none. What an
        earlier process wrote beyond it is dropped, for those steps come again.
      evaluated: whether the evaluation at `resume_step` was done by then; if not, it comes again.

    Raises:
      ConfigError: the `metrics.jsonl` to be continued is damaged.
      OSError: the folder cannot be written.
    """

    def __init__(
        self, workdir: str | os.PathLike[str], resume_step: int = 0, evaluated: bool = True
    ) -> None:
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        if path.exists():
            kept = (
                metrics
                for metrics in read_metrics(workdir)
                if metrics["step"] < resume_step + (evaluated or metrics["split"] == "train")
            )
            write_atomically(path, "".join(map(_to_line, kept)))
        self._file = open(path, "a", encoding="utf-8")
        self._events = EventWriter(workdir / "tensorboard", purge_step=resume_step + 1)

    def write(self, step: int, split: str, **values: float) -> None:
        """Records a split's metrics at a step.

        Args:
          step: the number of optimiser steps done.
          split: `"train"`, or the name of the split evaluated.
          **values: Python floats: `loss`, `top1_error` and `top5_error` (fractions), and for
            `"train"` also `learning_rate` and `images_per_second`. One that is not finite
            becomes `null`, which JSON can hold.

        Raises:
          OSError: the records cannot be written, as on a full disk.
        """
        self._file.write(_to_line({"step": step, "split": split, **values}))
        self._file.flush()
        self._events.scalars(step, {f"{split}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Closes the files; nothing may be written after."""
        self._file.close()
        self._events.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the `metrics.jsonl` of a run's folder, in the order in which it was written.

    A last line that was cut off while it was written is left out; `null` becomes NaN.

    Raises:
      ConfigError: a line other than the last is no JSON object of a step, a split and numbers.
      OSError: there is no such file, or it cannot be read.
    """
    path = Path(workdir) / "metrics.jsonl"
    *lines, _cut_off = path.read_bytes().split(b"\n")
    metrics = []
    for number, line in enumerate(lines, start=1):
        try:
            record = {key: math.nan if v is None else v for key, v in json.loads(line).items()}
            step, split, *values = record["step"], record["split"], *record.values()
            numbers = [value for value in values if value is not split]
            if type(step) is not int or not all(isinstance(n, int | float) for n in numbers):
                raise TypeError
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ConfigError(
                f"line {number} of {path} is no line of metrics; remove the line or the file"
            ) from None
        metrics.append(record)
    return metrics


def plot_curves(
    runs: Mapping[str, Iterable[Metrics]],
    output: str | os.PathLike[str],
    *,
    bins: int = 200,
    smooth_over: int | None = None,
    log_scale: bool = False,
) -> None:
    """Draws error against iterations as the paper's Figures 4 and 6 do.

    A colour for each run, its training error dashed, its evaluation error solid. The upper limit is
    set by what the curves settle at, so that the first steps' errors run off the top; on a
    logarithmic scale all is shown but errors of zero.

    Args:
      runs: name → metrics as `read_metrics` returns them.
      output: the picture's path; its ending (`.png`, `.pdf`, `.svg`) names the format.
      bins: training errors, which come from a few batches each, are averaged over up to this many
        equal spans of iterations. The legend says how long the spans are.
      smooth_over: the length of the spans in iterations, instead.
      log_scale: whether the errors' axis is logarithmic.

    Raises:
      OSError: the picture cannot be written.
      ValueError: its ending names no format that matplotlib writes.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    last_step, settled = 1, 0.0
    for index, (name, metrics) in enumerate(runs.items()):
        color = colormaps["tab10"](index % 10)
        for split, curve in _curves(metrics).items():
            label = f"{name}, {split}: {curve[-1][1]:.1f} %"
            if split == "train":
                span = smooth_over or curve[-1][0] / bins
                label = f"{name}, training ({_smoothing(curve, span)})"
                curve = _average(curve, span)
            steps, errors = zip(*curve, strict=True)
            last_step = max(last_step, steps[-1])
            settled = max(settled, sorted(errors)[len(errors) // 2])
            _draw(axes, label, split, steps, errors, color)

    power = 4 if last_step >= 20_000 else 3 if last_step >= 2_000 else 0
    axes.set_xlim(0, 1.01 * last_step)
    if log_scale:
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}" if _spans_little(axes) else "")
    else:
        axes.set_ylim(0, min(100.0, _round_up(1.8 * settled)))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / 10**power:g}")
    axes.set_xlabel(f"iterations (1e{power})" if power else "iterations")
    axes.set_ylabel("error (%)")
    axes.grid(color="0.9", which="both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.lines) > 4:  # It would hide what it explains.
        figure.legend(loc="outside lower center", ncols=2, edgecolor="none", fontsize="small")
    elif axes.lines:
        axes.legend(framealpha=0.85, edgecolor="none", handlelength=2.6)
    figure.savefig(output)


def format_table(rows: Mapping[str, Metrics]) -> str:
    """Lays out metrics as a table, for a run's end.

    Args:
      rows: label → metrics with `step`, `loss`, and `top1_error` and `top5_error` as fractions.

    Returns:
      The lines of the table, errors in per cent; no line end after the last.
    """
    cells = [("", "step", "loss", "top-1 error", "top-5 error")]
    for label, metrics in rows.items():
        cells.append(
            (
                label,
                str(metrics["step"]),
                f"{metrics['loss']:.4f}",
                f"{metrics['top1_error']:.2%}",
                f"{metrics['top5_error']:.2%}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "   ".join(
            [label.ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row, widths[1:], strict=True)]
        )
        for label, *row in cells
    )


def _to_line(metrics: Metrics) -> str:
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in metrics.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def _curves(metrics: Iterable[Metrics]) -> dict[str, list[tuple[float, float]]]:
    """Split → [(step, error in per cent)], in the order of steps; evaluations come first."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for record in metrics:
        error = 100 * record.get("top1_error", math.nan)
        if math.isfinite(error):
            curves.setdefault(record["split"], []).append((record["step"], error))
    curves = {split: sorted(curve) for split, curve in curves.items()}
    if "train" in curves:
        curves["train"] = curves.pop("train")
    return curves


def _average(curve: Sequence[tuple[float, float]], span: float) -> list[tuple[float, float]]:
    """Averages the points of a curve within each of the equal spans of its first coordinate."""
    parts: dict[int, list[tuple[float, float]]] = {}
    for step, error in curve:
        parts.setdefault(math.ceil(step / max(span, 1)), []).append((step, error))
    return [
        (sum(step for step, _ in part) / len(part), sum(error for _, error in part) / len(part))
        for part in parts.values()
    ]


def _smoothing(curve: Sequence[tuple[float, float]], span: float) -> str:
    """Over how many steps each point of the averaged curve is a mean, for the legend.

    A line of the log is a mean over the steps since the line before.
    """
    steps = [0.0, *(step for step, _ in curve)]
    interval = sorted(after - before for before, after in itertools.pairwise(steps))[
        len(curve) // 2
    ]
    return f"mean over {max(span, interval):.0f} steps"


def _draw(
    axes: "Axes",
    label: str,
    split: str,
    steps: Sequence[float],
    errors: Sequence[float],
    color: Any,
) -> None:
    if split == "train":
        axes.plot(steps, errors, "--", color=color, linewidth=1.2, label=label)
    else:
        marker = "o" if len(steps) <= 30 else None  # one evaluation alone would draw no line
        axes.plot(
            steps, errors, "-", color=color, linewidth=2.0, marker=marker, markersize=4, label=label
        )


def _spans_little(axes: "Axes") -> bool:
    """Whether there is room for numbers between the powers of ten."""
    low, high = axes.get_ylim()
    return high / low < 200


def _round_up(value: float) -> float:
    """Rounds up to a multiple of half the power of ten below."""
    if value <= 0:
        return 1.0
    step = 10 ** math.floor(math.log10(value)) / 2
    return step * math.ceil(value / step)
