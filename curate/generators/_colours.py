"""Colours of scenes in integers: a hue, a saturation and a brightness make an RGB triple; tones between them make a palette."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from curate.generators import Category
    from curate.generators._thing import Numbers

Rgb = tuple[int, int, int]
Palette = npt.NDArray[np.uint8]  # (256, 3)

SIDE = 256  # steps of one side of the hexagon of hues
HUES = 6 * SIDE
RIM = 255  # the tone that is the line around a thing; the fill has 0..254


def luma(colour: Rgb) -> int:
    """Brightness 0..255, by the weights of ITU-R BT.601 in 256ths."""
    return (77 * colour[0] + 150 * colour[1] + 29 * colour[2]) >> 8


def tint(hue: int, saturation: int, brightness: int) -> Rgb:
    """The colour of a hue (modulo HUES) at a saturation 0..255 with about that brightness: darkened, or mixed with white."""
    side, step = divmod(hue % HUES, SIDE)
    pure = (
        (255, step, 0),
        (255 - step, 255, 0),
        (0, 255, step),
        (0, 255 - step, 255),
        (step, 0, 255),
        (255, 0, 255 - step),
    )[side]
    pale = [255 - (255 - part) * saturation // 255 for part in pure]
    here = luma((pale[0], pale[1], pale[2]))
    brightness = min(max(brightness, 0), 255)
    if brightness <= here:
        mixed = [part * brightness // here for part in pale]
    else:
        mixed = [part + (255 - part) * (brightness - here) // (255 - here) for part in pale]
    return mixed[0], mixed[1], mixed[2]


def stops(style: Category) -> tuple[Rgb, Rgb, Rgb]:
    """Darkest, middle and brightest colour of a style's ground."""
    light, spread = style["ground_luma"], style["ground_spread"]
    hue, shift, saturation = style["ground_hue"], style["ground_shift"], style["ground_saturation"]
    return (
        tint(hue - shift, saturation, light - spread),
        tint(hue, saturation, light),
        tint(hue + shift, saturation, light + spread),
    )


def ground_palette(style: Category) -> Palette:
    """Tones 0..255 of the ground: three colours and what lies between, in `bands` steps."""
    colours = np.array(stops(style), dtype=np.int64)
    bands = style["bands"]
    at = np.arange(256, dtype=np.int64) * bands // 256 * 512 // max(bands - 1, 1)  # 0..512
    first = np.minimum(at // 256, 1)
    share = (at - 256 * first)[:, None]
    palette: Palette = ((colours[first] * (256 - share) + colours[first + 1] * share) >> 8).astype(np.uint8)
    return palette


def thing_palette(low: Rgb, high: Rgb, rim: Rgb) -> Palette:
    """Tones 0..254 of a thing's fill from one colour to the other, and its line."""
    share = np.arange(256, dtype=np.int64)[:, None]
    palette = (np.array(low) * (254 - share) + np.array(high) * share) // 254
    palette[RIM] = rim
    return palette.astype(np.uint8)


def rooms(style: Category, contrast: int) -> list[tuple[int, int]]:
    """Ranges of brightness (both ends included) a thing may have: darker or brighter than all of the ground by `contrast`.

    Where neither side has 24 steps of room, the end that lies further from the ground.
    """
    lights = [luma(stop) for stop in stops(style)]
    dark, bright = (16, min(lights) - contrast), (max(lights) + contrast, 243)
    found = [room for room in (dark, bright) if room[1] - room[0] >= 24]
    return found or [(0, 24) if min(lights) > 255 - max(lights) else (231, 255)]


def thing_colours(style: Category, contrast: int, numbers: Numbers) -> Palette:
    """A thing's palette: its fill on one side of the ground's brightness, the line around it on the other."""
    sides = rooms(style, contrast)
    widths = [high - low + 1 for low, high in sides]
    low, high = sides[0] if numbers.upto(0, sum(widths) - 1) < widths[0] else sides[-1]
    third = (high - low) // 3
    lights = [numbers.upto(low, low + third), numbers.upto(high - third, high)]
    if numbers.upto(0, 1):
        lights.reverse()
    hue = style["hue"] + numbers.upto(-style["hue_spread"], style["hue_spread"])
    other = hue + numbers.upto(-HUES // 6, HUES // 6)
    rim = numbers.upto(4, 28) if low + high > 255 else numbers.upto(215, 245)
    return thing_palette(
        tint(hue, numbers.upto(120, 255), lights[0]),
        tint(other, numbers.upto(90, 255), lights[1]),
        tint(hue, numbers.upto(40, 200), rim),
    )
