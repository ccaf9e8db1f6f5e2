"""Drawing only a part of a picture, where the generator's painter can."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.drawing import Drawer

U8 = npt.NDArray[np.uint8]
Window = tuple[int, int, int, int]  # top, left, height, width


class WindowDrawer(Drawer):
    """Pixels of a picture; with a window, those outside it may be anything."""

    @cached_property
    def side(self) -> int:
        """Height and width of a picture."""
        known = self.generation.parameters.get("image_size")
        return int(known) if known is not None else len(self.draw(0, 0).picture.pixels)

    @cached_property
    def _paint(self) -> Any:
        """The painter's way to draw a window; None where it has none, or where whole pictures decide which are kept."""
        if self._painter is None:
            self._painter = self._generator.painter()
        paint = self._painter.paint
        able = self.generation.rejection is None and "window" in inspect.signature(paint).parameters
        return paint if able else None

    def pixels(self, row: int, instance: int, window: Window | None = None) -> U8:
        """(S, S) or (S, S, 3) pixels of picture `instance` of category `row`, good until the next call."""
        if window is None or self._paint is None:
            return self.draw(row, instance).picture.pixels
        drawn: U8 = self._paint(self.record(row), self.index(row), instance, window=window).pixels
        return drawn
