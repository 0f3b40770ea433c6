"""Errors class by class, and which class is taken for which."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int64

from .scoring import ScoredBatch

MAX_WITH_NUMBERS = 20
"""Number of classes up to which a picture of confusions has a number in each cell."""

MAX_WITH_NAMES = 60
"""Number of classes up to which it has their names."""


class ClassErrors:
    """Counts of errors and confusions for each class; an observer for `evaluate_as`.

    Attributes:
      class_names: one name a class.
      confusion: images of the class of the row whose best score is that of the column's class.
      top1_wrong: images of each class that has not their best score.
      top5_wrong: images of each class that is not among their five best scores.
    """

    confusion: Int64[np.ndarray, "classes classes"]
    top1_wrong: Int64[np.ndarray, " classes"]
    top5_wrong: Int64[np.ndarray, " classes"]

    def __init__(self, class_names: Sequence[str]) -> None:
        """Starts from zero.

        Args:
          class_names: one name a class; where the scores have more classes, those are numbered.
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
        # By the rank, as in `error_sums`: a score that is not a number makes an error.
        ranks = np.asarray(batch.ranks)[batch.mask]
        np.add.at(self.top1_wrong, labels, ranks >= 1)
        np.add.at(self.top5_wrong, labels, ranks >= 5)

    def format(self) -> str:
        """Lays out a table: a line for each class that has images, and no line end after it."""
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

    def plot(self, output: str | Path) -> None:
        """Draws the confusions, each row in per cent of its class's images.

        Small percentages are set off by a colour scale that rises steeply at first. Up to
        `MAX_WITH_NUMBERS` classes have their numbers written in, up to `MAX_WITH_NAMES` their
        names beside.

        Args:
          output: the picture's path; its ending (`.png`, `.pdf`, `.svg`) names the format.

        Raises:
          OSError: the picture cannot be written.
          ValueError: its ending names no format that matplotlib writes.
        """
        from matplotlib.colors import PowerNorm
        from matplotlib.figure import Figure

        size = len(self.class_names)
        rows = self.confusion.sum(axis=1, keepdims=True)
        shares = 100 * self.confusion / np.maximum(rows, 1)
        side = 6.4 if size <= MAX_WITH_NUMBERS else 9.6
        # At least two pixels a cell.
        dpi = max(150, 3 * size / side)
        figure = Figure(figsize=(side, 0.88 * side), dpi=dpi, layout="constrained")
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
        figure.savefig(output)

    def _widen(self, num_classes: int) -> None:
        missing = num_classes - len(self.class_names)
        if missing > 0:
            self.class_names += tuple(map(str, range(len(self.class_names), num_classes)))
            self.confusion = np.pad(self.confusion, (0, missing))
            self.top1_wrong = np.pad(self.top1_wrong, (0, missing))
            self.top5_wrong = np.pad(self.top5_wrong, (0, missing))
