"""`headwater make MINE.py` with a generator that is none, or goes wrong while it draws: told as theirs, never as an internal error."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from curate import making
from curate._foreign import check_module
from curate.drawing import Drawer
from curate.make_request import MakeRequest, resolve
from headwater import plugins
from headwater.errors import HeadwaterError, UsageError
from headwater.executor import Executor
from headwater.steps import RunOptions
from tests.faults import kit
from tests.faults.make_kit import DOTS


def named(folder: Path, *changes: tuple[str, str]) -> str:
    """The name of a generator that is `dots.py` with some changes."""
    text = DOTS.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "mine.py"
    path.write_text(text)
    return plugins.add_file("generators", path).name


def draw(name: str, output: Path) -> None:
    plan = making.plan_make(MakeRequest(name), output, sink="tar", sheet=False)
    making.run_make(plan, executor=Executor("serial"), options=RunOptions())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("VERSION = 1", "", "defines no VERSION: a whole number"),
        ("VERSION = 1", "VERSION = 'one'", "VERSION is one: it must be a whole number"),
        ("VERSION = 1", "VERSION = -1", "VERSION is -1"),
        ("PRESETS = {", "PRESETS_ = {", "defines no PRESETS"),
        ('PRESETS = {"few": {"classes": 4, "instances": 6}}', "PRESETS = {}", "PRESETS is"),
        ('STREAMS = ("indexed",)', 'STREAMS = ("indexed", "reference")', "STREAMS is"),
        ('STREAMS = ("indexed",)', "STREAMS = None", "STREAMS cannot be used: TypeError"),
        ('"shade": "double"', '"shade": "complex"', "CATEGORY is"),
        ('KIND = "grey"', 'KIND = "red"', "KIND is red"),
        ("ANNOTATED = False", "ANNOTATED = 0", "ANNOTATED is 0: it must be True or False"),
        ("@dataclass(frozen=True)", "", "Config is"),
        ("class Generator:", "class Generator_:", "defines no Generator"),
    ],
)
def test_what_a_file_must_define(tmp_path: Path, old: str, new: str, said: str) -> None:
    name = named(tmp_path, (old, new))
    with pytest.raises(HeadwaterError, match="mine.py: " + said):
        resolve(MakeRequest(name))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("self.config, self.seed = config, seed", "raise OSError('no')", "its Generator cannot be made: OSError: no"),
        ("return {\"dots\"", "raise KeyError('x')\n        return {\"dots\"", "category 0: KeyError"),
        ("return {\"dots\"", "return None\n        return {\"dots\"", "category 0 is NoneType: it must be a dict of dots"),
        ("return {\"dots\": 3", "return {\"dotz\": 3", "category 0 is dotz, shade, name: it must be"),
        ("\"dots\": 3 + index % 5", "\"dots\": 'many'", "dots of a category is no int32"),
        ("\"dots\": 3 + index % 5", "\"dots\": 3 << 40", "dots of a category is no int32"),
        ("\"shade\": (1 + index % 7) / 8", "\"shade\": float('nan')", "shade of a category is not one finite"),
        ("\"name\": f\"class {index}\"", "\"name\": index", "name of a category is no text"),
        ("return float(category[\"dots\"])", "return 0 * float('nan')", "the cost of a category is nan"),
        ("return _Painter(", "raise SystemExit(0)\n        return _Painter(", "its painter cannot be made: SystemExit"),
        ("self._pixels.fill(0)", "1 / 0", "picture 0 of category 0: ZeroDivisionError"),
        ("self._pixels.fill(0)", "return None", "picture 0 of category 0 is NoneType"),
        ("self._pixels.fill(0)", "return Picture(np.zeros((4, 4)))", r"pixels float64 \(4, 4\): they must be uint8 \(H, W\)"),
        ("self._pixels.fill(0)", "return Picture(np.zeros((4, 4, 3), np.uint8))", "they must be uint8"),
        ("self._pixels.fill(0)", "return Picture(np.zeros((0, 4), np.uint8))", "they must be uint8"),
        ("self._pixels.fill(0)", "return Picture(np.zeros((4, 8), np.uint8)[:, ::2])", "C-contiguous"),
        (
            "self._pixels.fill(0)",
            "return Picture(np.zeros((4, 4 + instance), np.uint8))",
            r"is of \(4, 5\) pixels, those before it of \(4, 4\)",
        ),
    ],
)  # fmt: skip
def test_what_goes_wrong_while_it_draws(tmp_path: Path, old: str, new: str, said: str) -> None:
    name = named(tmp_path, (old, new))
    with pytest.raises(HeadwaterError, match=said):
        draw(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_good_one_is_watched_and_draws_the_same(tmp_path: Path) -> None:
    name = named(tmp_path)
    module = plugins.load("generators", name)
    drawer = Drawer(resolve(MakeRequest(name)))
    own = module.Generator(module.Config(), 0)
    assert np.array_equal(drawer.draw(1, 2).picture.pixels, own.painter().paint(own.category(1), 1, 2).pixels)
    assert check_module("visualatom", module) is module  # ours are not asked


def test_a_perturbation_that_cannot_be_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not above 0 and at most 1"):
        resolve(MakeRequest("visualatom", perturb=1e300))
    with pytest.raises(UsageError, match="--attempts tells how often --min-lit"):
        resolve(MakeRequest("visualatom", attempts=-1))
    name = named(
        tmp_path, ('return {**category, "name"', 'raise ValueError("far"); return {**category, "name"')
    )
    with pytest.raises(HeadwaterError, match="category 0, perturbed: ValueError: far"):
        resolve(MakeRequest(name, perturb=0.1))


@pytest.mark.slow
def test_the_command_tells_it(tmp_path: Path) -> None:
    named(tmp_path, ("self._pixels.fill(0)", "1 / 0"))
    done = kit.run("make", tmp_path / "mine.py", "-o", tmp_path / "out", "--no-sheet")
    assert done.code == 1 and "mine.py: picture 0 of category 0: ZeroDivisionError" in done.err
    assert "internal error" not in done.err and "not code of Headwater" in done.err


@pytest.mark.slow
def test_a_recipe_of_a_file_is_made_again_with_that_file(tmp_path: Path) -> None:
    def run(*words: object) -> tuple[int, str]:
        # a process of its own: files named once stay known
        done = subprocess.run(kit.argv(*words, "--no-sheet"), capture_output=True, text=True, timeout=120)
        return done.returncode, done.stderr

    assert run("make", DOTS, "-o", tmp_path / "out") == (0, "")
    recipe = tmp_path / "out/recipe.json"
    code, said = run("make", recipe, "-o", tmp_path / "again")
    assert code == 2 and "--plugin dots.py" in said
    assert run("make", recipe, "--plugin", DOTS, "-o", tmp_path / "again") == (0, "")
    assert (tmp_path / "again/recipe.json").read_bytes() == recipe.read_bytes()
    (tmp_path / "dots.py").write_text(DOTS.read_text().replace("3 + index", "4 + index"))
    code, said = run("make", recipe, "--plugin", tmp_path / "dots.py", "-o", tmp_path / "other")
    assert code == 2 and "unknown generator" in said
