"""`headwater make` of sets of dots, and the records of one rewritten so that every digest fits again."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curate.generation import Generation
from headwater.manifest import StepIdentity, describe_file, identity_id
from tests.curate.made_kit import contents
from tests.faults import kit

DOTS = Path(__file__).with_name("dots.py")


def line(output: Path, *more: object, sink: str = "tar") -> list[object]:
    """24 pictures in 4 blocks."""
    return ["make", DOTS, "-o", output, "--sink", sink, "--no-sheet", "--block-size", 6, *more]


def made(output: Path, *more: object, sink: str = "tar") -> Path:
    done = kit.run(*line(output, *more, sink=sink))
    assert done.code == 0, done
    return output


def equal(mine: Path, theirs: Path) -> None:
    """The same set, by every byte and by the id of its record; nothing left beside it."""
    one, other = contents(mine), contents(theirs)
    assert [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)] == []
    assert kit.record(mine).id == kit.record(theirs).id
    assert kit.temporaries(mine.parent) == []


def rewrite_records(output: Path, **recipe: Any) -> None:
    """Make recipe and record fit what lies there, as an attacker would who knows the formats."""
    path = output / "recipe.json"
    document = {**json.loads(path.read_text()), **recipe}
    document["id"] = Generation.model_validate(document).content_id()
    path.write_text(json.dumps(document))
    record = json.loads((output / "step.json").read_text())
    entries = [describe_file(output / e["path"], e["path"]) for e in record["identity"]["outputs"]]
    record["identity"]["outputs"] = [entry.model_dump(mode="json") for entry in entries]
    record["id"] = identity_id(StepIdentity.model_validate(record["identity"]))
    (output / "step.json").write_text(json.dumps(record))


def rewrite_tar(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """The tar with `change` applied to every member; None leaves it out."""
    members = []
    with tarfile.open(path) as tar:
        for info in tar:
            handle = tar.extractfile(info)
            assert handle is not None
            members.append((info, handle.read()))
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in members:
            new = change(info.name, data)
            if new is not None:
                info.size = len(new)
                tar.addfile(info, io.BytesIO(new))


def inverted(png: bytes) -> bytes:
    """A sound PNG of the same kind whose first pixel is another."""
    from PIL import Image

    image = Image.open(io.BytesIO(png))
    pixel: Any = image.getpixel((0, 0))
    image.putpixel((0, 0), 255 - pixel)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target
