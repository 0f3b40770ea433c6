"""Figures that display themselves in a notebook."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**options: Any) -> Figure:
    """Returns an empty figure, without a window and without pyplot's global state.

    Args:
      **options: arguments of `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure  # Not at the top: it takes longer than most commands run.

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    return Picture(**options)
