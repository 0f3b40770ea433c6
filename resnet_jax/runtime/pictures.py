"""Figures that display themselves in a notebook and show names as they are."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from resnet_jax.errors import missing_package, one_line
from resnet_jax.runtime.files import local_path, replacing

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

MAX_NAME = 40
"""Largest number of characters of a name in a picture; a longer one loses its middle."""

_MARKERS = "os^DvPX*"
_MAX_INSIDE, _MAX_LENGTH_INSIDE = 4, 55
_INSIDE: dict[str, Any] = {"framealpha": 0.85, "edgecolor": "none", "handlelength": 2.6}
_BELOW: dict[str, Any] = {
    "loc": "outside lower center",
    "edgecolor": "none",
    "fontsize": "small",
    "handlelength": 2.6,
}

_logger = logging.getLogger(__name__)


class NotDrawn(OSError):
    """A picture that could not be drawn or written; the message names it and the reason."""


@contextlib.contextmanager
def drawing(output: str | os.PathLike[str]) -> Iterator[None]:
    """Converts whatever goes wrong with a picture into a `NotDrawn`.

    Args:
      output: the picture's path.

    Raises:
      NotDrawn: matplotlib is missing or fails, or the picture cannot be written.
    """
    try:
        yield
    except Exception as error:
        reason = missing_package(error) or getattr(error, "strerror", None) or str(error)
        reason = one_line(reason or type(error).__name__, 200)
        raise NotDrawn(f"{os.fspath(output)} was not drawn: {reason}") from error


def new_figure(**options: Any) -> Figure:
    """Returns an empty figure, without a window and without pyplot's global state.

    It writes files atomically. Characters that its font lacks are named once, in the log.

    Args:
      **options: arguments of `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure  # Not at the top: it takes longer than most commands run.

    class Picture(Figure):
        def savefig(self, fname: Any, **options: Any) -> None:
            if not isinstance(fname, str | os.PathLike):
                with _glyphs_named("a picture"):
                    super().savefig(fname, **options)
                return
            path = local_path(fname)
            path = path if path.suffix else path.with_suffix(".png")
            # Not the suffix of the temporary file.
            options.setdefault("format", path.suffix[1:].lower())
            with _glyphs_named(path.name), replacing(path) as temporary:
                super().savefig(temporary, **options)

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    return Picture(**options)


def shown_name(name: str) -> str:
    """Returns a name for a picture, of at most `MAX_NAME` characters."""
    return name if len(name) <= MAX_NAME else one_line(name, MAX_NAME)


def curve_style(index: int) -> dict[str, Any]:
    """Returns the `color` and `marker` of a picture's curve; ten colours, times eight markers."""
    from matplotlib import colormaps

    return {"color": colormaps["tab10"](index % 10), "marker": _MARKERS[index // 10 % 8]}


def add_legend(axes: Axes, names: Sequence[str]) -> None:
    """Names the lines of a picture, literally: `$` starts no formula and `_` hides no name.

    A legend that would hide the curves is put below them, and the figure grows by it.

    Args:
      axes: the axes with the lines.
      names: one name per line.
    """
    if not names:
        return
    figure: Any = axes.figure
    # matplotlib leaves out names that begin with "_" unless they are set afterwards.
    entries = {"handles": axes.lines, "labels": [""] * len(names)}
    if len(names) <= _MAX_INSIDE and max(map(len, names)) <= _MAX_LENGTH_INSIDE:
        _name_entries(axes.legend(**entries, **_INSIDE), names)
        return
    for columns in (2, 1):
        legend = figure.legend(**entries, ncols=columns, **_BELOW)
        _name_entries(legend, names)
        wide, high = size_in_inches(legend)
        width, height = figure.get_size_inches()
        if wide < width or columns == 1:
            break
        legend.remove()
    figure.set_size_inches(max(width, wide + 0.2), height + max(0, high - 0.7))


def size_in_inches(artist: Artist) -> tuple[float, float]:
    """Returns the width and height of a part of a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of missing characters: `savefig` names them.
        box = artist.get_window_extent()
    figure: Any = artist.figure
    return float(box.width / figure.dpi), float(box.height / figure.dpi)


def _name_entries(legend: Legend, names: Sequence[str]) -> None:
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


@contextlib.contextmanager
def _glyphs_named(picture: str) -> Iterator[None]:
    """Replaces matplotlib's warning for each missing character by one line for all."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    missing: dict[str, None] = {}
    fonts = ""
    for warning in caught:
        found = re.match(
            r"Glyph (\d+) .* missing from (?:font\(s\) )?(.*?)\.?$", str(warning.message)
        )
        if found:
            missing[chr(int(found[1]))], fonts = None, found[2]
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if missing:
        shown = "".join(list(missing)[:20]) + ("..." if len(missing) > 20 else "")
        _logger.warning(
            "%s: the font %s lacks %s; set font.family in matplotlibrc to one that has them",
            picture,
            fonts,
            shown,
        )
