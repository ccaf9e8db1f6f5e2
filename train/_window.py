"""Drawing only a part of a picture, where the generator's painter can."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.drawing import Drawer

U8 = npt.NDArray[np.uint8]
Window = tuple[int, int, int, int]  # top, left, height, width


class WindowDrawer(Drawer):
    """Pixels of a picture; with a window, those outside it may be anything."""

    _windows: bool | None = None

    @property
    def side(self) -> int:
        """Height and width of a picture."""
        return int(self.generation.parameters["image_size"])

    def pixels(self, row: int, instance: int, window: Window | None = None) -> U8:
        """(S, S) or (S, S, 3) pixels of picture `instance` of category `row`, good until the next call.

        With a rejection in the recipe the whole picture is drawn: whether it is kept is decided by all of it.
        """
        if self._painter is None:
            self._painter = self._generator.painter()
        if self._windows is None:
            self._windows = "window" in inspect.signature(self._painter.paint).parameters
        if window is None or not self._windows or self.generation.rejection is not None:
            return self.draw(row, instance).picture.pixels
        paint: Any = self._painter.paint
        drawn: U8 = paint(self.record(row), self.index(row), instance, window=window).pixels
        return drawn
