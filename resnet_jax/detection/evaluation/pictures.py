"""Pictures of detections: boxes with names and scores on images, and precision against recall."""

import colorsys
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from resnet_jax.data.images.decode import open_image
from resnet_jax.detection.evaluation.detections import Detections, Scores
from resnet_jax.runtime.pictures import add_legend, curve_style, new_figure, shown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = (
    *("#e6194b", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#0b8a8a", "#f032e6", "#9a6324"),
    *("#808000", "#000075", "#800000", "#ffe119"),
)
_MAX_CURVES = 10
_SMALLEST = 600
"""An image with a longer side below this is enlarged, for names to be readable."""

Box = tuple[float, float, float, float]


def draw_detections(
    image: bytes | Image.Image | UInt8[np.ndarray, "h w c"],
    found: Detections,
    class_names: Sequence[str],
    *,
    threshold: float = 0.5,
) -> Image.Image:
    """Returns an image with its detections: a box, a name and a score each.

    Each class has a colour. Small images are enlarged by a whole number. Boxes of higher scores are
    drawn over those of lower ones, and names avoid each other where there is room.

    Args:
      image: an image file, a Pillow image, or pixels.
      found: the detections, in pixels of the image.
      class_names: one name per class.
      threshold: the score above which a detection is drawn.

    Raises:
      OSError: the image cannot be decoded.
    """
    picture = open_image(image, 3)
    factor = max(1, -(-_SMALLEST // max(picture.size)))
    if factor > 1:
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    else:
        picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    longest = max(picture.size)
    line, font = max(2, round(longest / 350)), _font(max(12, round(longest / 50)))
    shown = found.above(threshold)
    order = np.argsort(shown.scores, kind="stable")
    boxes = (shown.boxes * factor).tolist()
    labels = shown.labels.tolist()
    for index in order.tolist():
        draw.rectangle(_drawable(boxes[index]), outline=_color(labels[index]), width=line)
    placed: list[Box] = []
    for index in order[::-1].tolist():
        text = f"{shown_name(class_names[labels[index]])} {shown.scores[index]:.2f}"
        plate = _place(draw, text, font, boxes[index], picture.size, placed)
        placed.append(plate)
        color = _color(labels[index])
        draw.rectangle(plate, fill=color)
        draw.text((plate[0] + 3, plate[1] + 2), text, fill=_ink(color), font=font)
    return picture


def draw_grid(pictures: Sequence[Image.Image], columns: int = 3, gap: int = 8) -> Image.Image:
    """Returns several pictures in one, row by row, on white.

    Args:
      pictures: at least one; each gets the room of the largest.
      columns: the number of pictures per row.
      gap: the room between them in pixels.
    """
    width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * (width + gap), row * (height + gap)))
    return sheet


def draw_precision_recall(
    scores: Scores, output: str | os.PathLike[str] | None = None, *, key: str = "AP50"
) -> "Figure":
    """Draws precision against recall at an IoU of 0.5.

    Up to ten classes have a curve each; of more, the mean is drawn over thin curves of all.

    Args:
      scores: the scores of a split.
      output: path to write the picture to, or None; its suffix (`.png`, `.pdf`, `.svg`) selects the
        format.
      key: the number of each class that the legend states: `"AP50"` of COCO, `"AP"` of VOC.

    Returns:
      The figure, which displays itself in a notebook.

    Raises:
      OSError: the picture cannot be written.
    """
    from matplotlib.collections import LineCollection

    figure = new_figure(figsize=(5.6, 4.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    names = []
    if len(scores.curves) > _MAX_CURVES:
        lines = [np.stack(curve, axis=1) for curve in scores.curves.values()]
        axes.add_collection(LineCollection(lines, colors="0.75", linewidths=0.6))
        grid = np.linspace(0, 1, 101)
        curves = [np.interp(grid, *curve, right=0.0) for curve in scores.curves.values()]
        mean = float(np.mean([scores.per_class[name][key] for name in scores.curves]))
        names.append(f"mean of {len(curves)} classes: {100 * mean:.1f} %")
        axes.plot(grid, np.mean(curves, axis=0), color="tab:blue", linewidth=2.2)
    else:
        for index, (name, (recall, precision)) in enumerate(scores.curves.items()):
            axes.plot(recall, precision, color=curve_style(index)["color"], linewidth=1.8)
            names.append(f"{shown_name(name)}: {100 * scores.per_class[name][key]:.1f} %")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision at an IoU of 0.5")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    add_legend(axes, names)
    if output is not None:
        figure.savefig(output)
    return figure


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Returns matplotlib's font, which has more characters than Pillow's own."""
    from matplotlib import font_manager

    path = font_manager.findfont(font_manager.FontProperties())
    return ImageFont.truetype(path, size)


def _color(label: int) -> str:
    """Returns the colour of a class; after the first ones, hues as far apart as possible."""
    if label < len(_COLORS):
        return _COLORS[label]
    hue = label * 0.618033988749895 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, 0.85)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def _ink(color: str) -> str:
    """Returns black or white, whichever reads better on a colour."""
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else "white"


def _drawable(box: Sequence[float]) -> Box:
    """Returns the corners of the box's outermost pixels."""
    x1, y1, x2, y2 = box
    return x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)


def _place(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.FreeTypeFont,
    box: Sequence[float],
    size: tuple[int, int],
    placed: Sequence[Box],
) -> Box:
    """Returns where to write a name: at a corner of its box, free of other names if possible."""
    _, _, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right + 6, bottom + 5
    x1, y1, x2, y2 = box
    choices = [
        (x1, y1 - height),
        (x1, y1),
        (x2 - width, y1 - height),
        (x1, y2),
        (x1, y2 - height),
        (x2 - width, y2),
    ]
    plates = []
    for x, y in choices:
        left = min(max(0.0, x), max(0.0, size[0] - width))
        top = min(max(0.0, y), max(0.0, size[1] - height))
        plates.append((left, top, left + width, top + height))
    free = (plate for plate in plates if not any(_touch(plate, other) for other in placed))
    return next(free, plates[0])


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
