"""Shapes of the things in scenes: one outline formula, and by number the ranges that make a class of it.

An outline has V corners at the angles 2 pi (v + 1/2) / V and the radii 1 + a cos(2 pi n v / V) + b cos(2 pi m v / V), as fractions of
the thing's own; then it is stretched along x and turned. So a polygon is V corners without waves, a star one wave over 2 n corners,
a flower a wave over many, and an atom two waves. Everything is an integer (percent), and a class is its number alone: the same
shapes for every seed, so that pictures of another seed are test data for these.

The first ones are chosen by hand to be told apart most easily; after them come the pairs of waves, wide and slim, the
more alike the more waves they have.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST = 254  # a class's number + 1 is a byte of the picture of labels
SMOOTH = 60  # corners of an outline without corners


@dataclass(frozen=True)
class Shape:
    """One class of things. Amplitudes and the range of stretching (both ends included) in percent."""

    name: str
    vertices: int
    n: int = 0
    a: int = 0
    m: int = 0
    b: int = 0
    stretch: tuple[int, int] = (100, 125)

    @property
    def reach(self) -> int:
        """Percent of the radius that the outline's furthest point may have before it is stretched."""
        return 100 + self.a + self.b


_CHOSEN = (
    Shape("disc", SMOOTH, stretch=(100, 120)),
    Shape("star-5", 10, 5, 42),
    Shape("triangle", 3),
    Shape("bar", 4, stretch=(280, 420)),
    Shape("flower-3", SMOOTH, 3, 38),
    Shape("square", 4, stretch=(100, 120)),
    Shape("star-4", 8, 4, 50),
    Shape("needle", SMOOTH, stretch=(330, 480)),
    Shape("flower-8", 96, 8, 22),
    Shape("drop", SMOOTH, 1, 50, 2, 30),
    Shape("star-3", 6, 3, 52),
    Shape("peanut", SMOOTH, 2, 46, stretch=(100, 110)),
    Shape("atom-4-6", SMOOTH, 4, 30, 6, 26),
    Shape("star-12", 24, 12, 30),
    Shape("flower-5", 80, 5, 34),
    Shape("oval", SMOOTH, stretch=(180, 220)),
    Shape("star-7", 14, 7, 45),
    Shape("dart", 3, stretch=(220, 280)),
    Shape("atom-1-4", 72, 1, 34, 4, 30),
    Shape("atom-2-6", 84, 2, 30, 6, 24),
    Shape("atom-2-5", SMOOTH, 2, 28, 5, 26),
)


def shapes(count: int) -> list[Shape]:
    """Shapes 0 to count - 1, at most MOST of them."""
    return _ALL[:count]


def _all() -> list[Shape]:
    found = list(_CHOSEN)
    taken = {shape.name for shape in found}
    taken.add("atom-1-2")  # a drop
    for kind, stretch in (("", (100, 120)), ("-slim", (190, 230))):
        for total in range(3, 2 * 17):
            for n in range(1, (total + 1) // 2):
                m = total - n
                name = f"atom-{n}-{m}{kind}"
                if m <= 16 and name not in taken:
                    found.append(Shape(name, max(SMOOTH, 8 * m), n, 28, m, 26, stretch))
    return found[:MOST]


_ALL = _all()
