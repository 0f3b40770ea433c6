"""Errors per class, and the confusion matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int64

from resnet_jax.evaluation.scoring import ScoredBatch, softmax
from resnet_jax.runtime.pictures import new_figure, shown_name, size_in_inches

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_WITH_NUMBERS = 20
"""Largest number of classes for which a plot of confusions has a number in each cell."""

MAX_WITH_AUC = 60
"""Largest number of classes for which the scores are kept, to measure the area under the curve."""

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
        self._scored: list[tuple[np.ndarray, np.ndarray]] = []

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
        if len(self.class_names) <= MAX_WITH_AUC:
            self._scored.append((labels, np.asarray(softmax(batch.scores))[batch.mask]))

    def rows(self) -> list[dict[str, Any]]:
        """Returns one record per class that has images or predictions.

        Each has `label`, `name`, `images`, `top1_error`, `top5_error` (from six classes on),
        `precision` (None if the class is never predicted), `recall` and, up to `MAX_WITH_AUC`
        classes, `auc`: the probability that an image of the class has a higher softmax for it than
        another image, ties counted as a half (one against the rest; None without either kind of
        images). The errors, `recall` and `auc` are None for a class without images.
        """
        images, predicted = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        labels = np.concatenate([labels for labels, _ in self._scored] or [np.zeros(0, int)])
        scores = np.concatenate([scores for _, scores in self._scored]) if self._scored else None
        rows = []
        for label, name in enumerate(self.class_names):
            if not images[label] and not predicted[label]:
                continue
            right = self.confusion[label, label]
            row = {
                "label": label,
                "name": name,
                "images": int(images[label]),
                "top1_error": _ratio(self.top1_wrong[label], images[label]),
                "top5_error": _ratio(self.top5_wrong[label], images[label]),
                "precision": _ratio(right, predicted[label]),
                "recall": _ratio(right, images[label]),
                "auc": None
                if scores is None
                else area_under_curve(scores[:, label], labels == label),
            }
            if len(self.class_names) <= 5:
                del row["top5_error"]
            if scores is None:
                del row["auc"]
            rows.append(row)
        return rows

    def format(self) -> str:
        """Returns a table of `rows`, one line per class, without a trailing newline.

        The last column has the class that its images are most often taken for.
        """
        rows = self.rows()
        titles = {
            "top1_error": "top-1 error",
            "top5_error": "top-5 error",
            "precision": "precision",
            "recall": "recall",
            "auc": "AUC",
        }
        titles = {key: title for key, title in titles.items() if rows and key in rows[0]}
        width = max([5, *(len(row["name"]) for row in rows)])
        widths = {key: max(7, len(title)) for key, title in titles.items()}
        head = [f"{title:>{widths[key]}}" for key, title in titles.items()]
        lines = ["   ".join([f"{'class':{width}}   images", *head, "most often taken for"])]
        for row in rows:
            others = self.confusion[row["label"]].copy()
            others[row["label"]] = 0
            rival = int(others.argmax())
            cells = [f"{row['name']:{width}}   {row['images']:6}"]
            for key in titles:
                form = "" if row[key] is None else f"{row[key]:{'.4f' if key == 'auc' else '.2%'}}"
                cells.append(f"{form:>{widths[key]}}")
            cells.append(f"{self.class_names[rival]} ({others[rival]})" if others[rival] else "")
            lines.append("   ".join(cells).rstrip())
        return "\n".join(lines)

    def plot(self, output: str | Path | None = None) -> "Figure":
        """Draws the confusion matrix, each row in per cent of its class's images.

        A colour scale that rises steeply at first makes small percentages visible. The plot has
        numbers for up to `MAX_WITH_NUMBERS` classes and class names for up to `MAX_WITH_NAMES`; it
        grows with their number and length.

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
        # In inches: the sides of a cell and of the matrix.
        cell = 0.34 if size <= MAX_WITH_NUMBERS else 0.16 if size <= MAX_WITH_NAMES else 0.0
        side = max(3.8 if size <= MAX_WITH_NUMBERS else 7.6, cell * size)
        # At least two pixels per cell.
        figure = new_figure(dpi=max(150, 3 * size / side), layout="constrained")
        axes = figure.add_subplot()
        picture = axes.imshow(
            shares, cmap="Blues", norm=PowerNorm(0.4, 0, 100), interpolation="nearest"
        )
        figure.colorbar(picture, label="% of the class's images", ticks=(0, 1, 5, 20, 50, 100))
        length = _name_classes(axes, self.class_names) if size <= MAX_WITH_NAMES else 0.3
        figure.set_size_inches(side + length + 1.5, side + length + 0.7)
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


def _name_classes(axes: "Axes", class_names: Sequence[str]) -> float:
    """Writes names at the rows and, turned, at the columns; returns the longest in inches."""
    names = list(map(shown_name, class_names))
    are_few = len(names) <= MAX_WITH_NUMBERS
    style: dict[str, Any] = {"parse_math": False, "fontsize": 10 if are_few else 7}
    turned: dict[str, Any] = {
        "ha": "right",
        "rotation_mode": "anchor",
        "rotation": 45 if are_few else 90,
    }
    turned["va"] = "top" if are_few else "center"
    axes.set_xticks(range(len(names)), names, **style, **turned)
    axes.set_yticks(range(len(names)), names, **style)
    return max(size_in_inches(label)[0] for label in axes.get_yticklabels())


def area_under_curve(
    scores: Float32[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]
) -> float | None:
    """Returns the area under the receiver operating characteristic, by the rank-sum statistic.

    Args:
      scores: one score per image.
      positive: which images belong to the class.

    Returns:
      The area; None if all images or none belong to the class, or a score is NaN.
    """
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others or np.isnan(scores).any():
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # Equal scores share their mean rank.
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))


def _ratio(part: Any, whole: Any) -> float | None:
    return float(part / whole) if whole else None
