"""Errors per class, and the confusion matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int64

from resnet_jax.evaluation.scoring import ScoredBatch
from resnet_jax.runtime.pictures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_WITH_NUMBERS = 20
"""Largest number of classes for which a plot of confusions has a number in each cell."""

MAX_WITH_NAMES = 60
"""Largest number of classes for which it has the classes' names."""


class ClassErrors:
    """Counts of errors and confusions for each class; an observer for `evaluate_as`.

    Attributes:
      class_names: one name per class.
      confusion: number of images of the row's class that are predicted as the column's class.
      top1_wrong: number of images per class whose label does not have the highest score.
      top5_wrong: number of images per class whose label is not among the five highest scores.
    """

    confusion: Int64[np.ndarray, "classes classes"]
    top1_wrong: Int64[np.ndarray, " classes"]
    top5_wrong: Int64[np.ndarray, " classes"]

    def __init__(self, class_names: Sequence[str]) -> None:
        """Starts from zero.

        Args:
          class_names: one name per class; further classes of the scores are numbered.
        """
        self.class_names = tuple(class_names)
        self.confusion = np.zeros((len(class_names),) * 2, np.int64)
        self.top1_wrong = np.zeros(len(class_names), np.int64)
        self.top5_wrong = np.zeros(len(class_names), np.int64)

    def __call__(self, batch: ScoredBatch) -> None:
        """Counts a batch."""
        self._widen(batch.scores.shape[1])
        labels = batch.label[batch.mask]
        best = np.asarray(jnp.argmax(batch.scores, axis=1))[batch.mask]
        np.add.at(self.confusion, (labels, best), 1)
        # By the rank, as in `error_sums`: a NaN score counts as an error.
        ranks = np.asarray(batch.ranks)[batch.mask]
        np.add.at(self.top1_wrong, labels, ranks >= 1)
        np.add.at(self.top5_wrong, labels, ranks >= 5)

    def format(self) -> str:
        """Returns a table, one line per class with images, without a trailing newline."""
        images = self.confusion.sum(axis=1)
        width = max([5, *map(len, self.class_names)])
        lines = [f"{'class':{width}}   images   top-1 error   top-5 error   most often taken for"]
        for label, name in enumerate(self.class_names):
            count = images[label]
            if not count:
                continue
            others = self.confusion[label].copy()
            others[label] = 0
            rival = int(others.argmax())
            taken = f"{self.class_names[rival]} ({others[rival]})" if others[rival] else ""
            lines.append(
                f"{name:{width}}   {count:6}   {self.top1_wrong[label] / count:11.2%}"
                f"   {self.top5_wrong[label] / count:11.2%}   {taken}".rstrip()
            )
        return "\n".join(lines)

    def plot(self, output: str | Path | None = None) -> "Figure":
        """Draws the confusion matrix, each row in per cent of its class's images.

        A colour scale that rises steeply at first makes small percentages visible. The plot has
        numbers for up to `MAX_WITH_NUMBERS` classes and class names for up to `MAX_WITH_NAMES`.

        Args:
          output: path to write the picture to, or None; its suffix (`.png`, `.pdf`, `.svg`) selects
            the format.

        Returns:
          The figure, which displays itself in a notebook.

        Raises:
          OSError: the picture cannot be written.
          ValueError: matplotlib does not write this format.
        """
        from matplotlib.colors import PowerNorm

        size = len(self.class_names)
        rows = self.confusion.sum(axis=1, keepdims=True)
        shares = 100 * self.confusion / np.maximum(rows, 1)
        side = 6.4 if size <= MAX_WITH_NUMBERS else 9.6
        # At least two pixels per cell.
        dpi = max(150, 3 * size / side)
        figure = new_figure(figsize=(side, 0.88 * side), dpi=dpi, layout="constrained")
        axes = figure.add_subplot()
        picture = axes.imshow(
            shares, cmap="Blues", norm=PowerNorm(0.4, 0, 100), interpolation="nearest"
        )
        figure.colorbar(picture, label="% of the class's images", ticks=(0, 1, 5, 20, 50, 100))
        if size <= MAX_WITH_NAMES:
            ticks = range(size)
            axes.set_xticks(
                ticks, self.class_names, rotation=45, ha="right", rotation_mode="anchor"
            )
            axes.set_yticks(ticks, self.class_names)
            if size > MAX_WITH_NUMBERS:
                axes.tick_params(labelsize=6)
        if size <= MAX_WITH_NUMBERS:
            for (row, column), share in np.ndenumerate(shares):
                if self.confusion[row, column]:
                    color = "white" if share > 25 else "black"
                    text = f"{share:.0f}" if share >= 1 else f"{share:.1f}"
                    axes.text(column, row, text, color=color, ha="center", va="center", fontsize=8)
        images = int(rows.sum())
        error = self.top1_wrong.sum() / max(images, 1)
        axes.set_title(f"{images:,} images, top-1 error {error:.2%}")
        axes.set_xlabel("class with the best score")
        axes.set_ylabel("class of the image")
        if output is not None:
            figure.savefig(output)
        return figure

    def _widen(self, num_classes: int) -> None:
        missing = num_classes - len(self.class_names)
        if missing > 0:
            self.class_names += tuple(map(str, range(len(self.class_names), num_classes)))
            self.confusion = np.pad(self.confusion, (0, missing))
            self.top1_wrong = np.pad(self.top1_wrong, (0, missing))
            self.top5_wrong = np.pad(self.top5_wrong, (0, missing))
