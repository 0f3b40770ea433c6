"""Plots of a run's errors against iterations, as in the paper's Figures 4 and 6."""

import itertools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resnet_jax.runtime.files import local_path
from resnet_jax.runtime.pictures import add_legend, curve_style, new_figure, shown_name
from resnet_jax.training.records import Record, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_curves(
    workdirs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    **options: Any,
) -> "Figure":
    """Draws the error curves of one or more runs; see `draw_curves`.

    Args:
      workdirs: the runs' work directories.
      output: see `draw_curves`.
      **options: further arguments of `draw_curves`.

    Raises:
      ConfigError: a run's `metrics.jsonl` is damaged.
      OSError: a work directory has no `metrics.jsonl`, or the picture cannot be written.
    """
    folders = [workdirs] if isinstance(workdirs, (str, os.PathLike)) else workdirs
    runs = {
        name: read_metrics(folder) for name, folder in zip(run_names(folders), folders, strict=True)
    }
    return draw_curves(runs, output, **options)


def run_names(workdirs: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Returns the runs' names: their folders' names, or the full paths if two names are equal."""
    names = [local_path(workdir).resolve().name for workdir in workdirs]
    return names if len(set(names)) == len(names) else [str(workdir) for workdir in workdirs]


def draw_curves(
    runs: Mapping[str, Iterable[Record]],
    output: str | os.PathLike[str] | None = None,
    *,
    headline: str = "top1_error",
    bins: int = 200,
    smooth_over: int | None = None,
    log_scale: bool = False,
) -> "Figure":
    """Draws error against iterations, as in the paper's Figures 4 and 6.

    Each run has a colour, and from the eleventh on also a marker; its training error is dashed, its
    evaluation error solid. The curves' medians set the upper limit, so the first steps' errors may
    run off the top; a logarithmic scale shows all errors except zero.

    Args:
      runs: name → records as `read_metrics` returns them.
      output: path to write the picture to, or None; its suffix (`.png`, `.pdf`, `.svg`) selects the
        format.
      headline: the error to draw, a fraction.
      bins: training errors, each from a few batches, are averaged over up to this many equal spans
        of iterations. The legend states the length of a span.
      smooth_over: length of a span in iterations; replaces `bins`.
      log_scale: whether the error axis is logarithmic.

    Returns:
      The figure, which displays itself in a notebook.

    Raises:
      OSError: the picture cannot be written.
      ValueError: matplotlib does not write this format.
    """
    figure = new_figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    last_step, settled = 1, 0.0
    for index, (name, records) in enumerate(runs.items()):
        name = shown_name(name)
        for split, curve in _curves(records, headline).items():
            label = f"{name}, {split}: {curve[-1][1]:.1f} %"
            if split == "train":
                span = smooth_over or curve[-1][0] / bins
                label = f"{name}, training ({_smoothing(curve, span)})"
                curve = _average(curve, span)
            steps, errors = zip(*curve, strict=True)
            last_step = max(last_step, steps[-1])
            settled = max(settled, sorted(errors)[len(errors) // 2])
            _draw(axes, label, split, steps, errors, index)

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
    add_legend(axes, [str(line.get_label()) for line in axes.lines])
    if output is not None:
        figure.savefig(output)
    return figure


def _curves(records: Iterable[Record], headline: str) -> dict[str, list[tuple[float, float]]]:
    """Returns split → [(step, error in per cent)], sorted by step; evaluations come first."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        error = 100 * record.get(headline, math.nan)
        if math.isfinite(error):
            curves.setdefault(record["split"], []).append((record["step"], error))
    curves = {split: sorted(curve) for split, curve in curves.items()}
    if "train" in curves:
        curves["train"] = curves.pop("train")
    return curves


def _average(curve: Sequence[tuple[float, float]], span: float) -> list[tuple[float, float]]:
    """Averages the points of a curve over equal spans of steps."""
    parts: dict[int, list[tuple[float, float]]] = {}
    for step, error in curve:
        parts.setdefault(math.ceil(step / max(span, 1)), []).append((step, error))
    return [
        (sum(step for step, _ in part) / len(part), sum(error for _, error in part) / len(part))
        for part in parts.values()
    ]


def _smoothing(curve: Sequence[tuple[float, float]], span: float) -> str:
    """Returns the legend's text: the number of steps that each averaged point spans.

    Each line of the log is itself a mean over the steps since the previous line.
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
    index: int,
) -> None:
    style = curve_style(index) | {"markersize": 4}
    if index >= 10:
        style["markevery"] = max(1, len(steps) // 10)
    elif split == "train" or len(steps) > 30:
        style["marker"] = None  # The colour is enough; but a single evaluation draws no line.
    line, width = ("--", 1.2) if split == "train" else ("-", 2.0)
    axes.plot(steps, errors, line, linewidth=width, label=label, **style)


def _spans_little(axes: "Axes") -> bool:
    """Whether the axis has room for numbers between the powers of ten."""
    low, high = axes.get_ylim()
    return bool(high / low < 200)


def _round_up(value: float) -> float:
    """Rounds up to a multiple of half the largest power of ten that is not above."""
    if value <= 0:
        return 1.0
    step = 10 ** math.floor(math.log10(value)) / 2
    return step * math.ceil(value / step)
