"""generation/1: numbers of pictures, blocks, ids; and recipes that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.generation import (
    MAX_BLOCKS,
    RECIPE_LIMIT_BYTES,
    Block,
    Generation,
    Processes,
    Table,
    load_recipe,
    parse_recipe,
)
from headwater.errors import HeadwaterError, IntegrityError, MissingInput

HEX = "0" * 64


def generation(classes: int = 3, instances: int = 5, **given: Any) -> Generation:
    return Generation(
        generator="visualatom",
        version=1,
        stream="indexed",
        seed=0,
        parameters={"image_size": 24},
        classes=classes,
        instances=instances,
        encoder="headwater-png/1",
        pixels="grey8",
        **given,
    )


def finished(**given: Any) -> Generation:
    made = generation(block_size=4, **given)
    blocks = [Block(name=name, first=first, pictures=n, pixels=HEX) for name, first, n in made.cut()]
    return made.model_copy(update={"categories": Table(rows=3, sha256=HEX), "blocks": blocks}).sealed()


def document(**changes: Any) -> dict[str, Any]:
    return {**finished().model_dump(mode="json"), **changes}


def resealed(**changes: Any) -> bytes:
    """A changed recipe whose id was made to fit, as an attacker would."""
    changed = document(**changes)
    try:
        changed["id"] = Generation.model_validate(changed).content_id()
    except ValueError:
        pass
    return json.dumps(changed).encode()


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["class", "instance"]), st.data())
def test_numbers_and_places_are_one_to_one(
    classes: int, instances: int, order: str, data: st.DataObject
) -> None:
    made = generation(classes, instances, order=order)
    number = data.draw(st.integers(0, made.pictures - 1))
    row, instance = made.place(number)
    assert 0 <= row < classes and 0 <= instance < instances
    assert made.number(row, instance) == number


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 60))
def test_blocks_cover_every_picture_once(classes: int, instances: int, size: int) -> None:
    made = generation(classes, instances, block_size=size)
    at = 0
    for k, (name, first, pictures) in enumerate(made.cut()):
        assert (name, first) == (f"{k:08d}", at) and 1 <= pictures <= size
        at += pictures
    assert at == made.pictures


@given(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 20))
def test_no_block_holds_pictures_of_two_processes(
    processes: int, share: int, instances: int, size: int
) -> None:
    made = generation(
        processes * share, instances, block_size=size, reference=Processes(processes=processes, index=None)
    )
    blocks = list(made.cut())
    assert sum(n for _, _, n in blocks) == made.pictures
    for _, first, pictures in blocks:
        assert first // (share * instances) == (first + pictures - 1) // (share * instances)


def test_growing_keeps_the_numbers() -> None:
    small, large = generation(3, 5), generation(9, 5)
    assert [small.place(n) for n in range(15)] == [large.place(n) for n in range(15)]
    small, large = generation(3, 5, order="instance"), generation(3, 50, order="instance")
    assert [small.place(n) for n in range(15)] == [large.place(n) for n in range(15)]


def test_the_id_is_of_everything_else() -> None:
    made = finished()
    assert made.id == made.content_id() and len(made.id) == 64
    assert made.model_copy(update={"seed": 1}).content_id() != made.id
    assert made.model_copy(update={"id": HEX}).content_id() == made.id


def test_an_index_of_the_reference_stream_begins_at_its_share() -> None:
    made = generation(4, 5, start_class=10, reference=Processes(processes=5, index=2))
    assert made.first_category == 18


def test_a_recipe_for_21_million_pictures_stays_below_4_megabytes() -> None:
    made = generation(21_000, 1000, block_size=10_000)
    blocks = [Block(name=name, first=f, pictures=n, pixels=HEX) for name, f, n in made.cut()]
    text = json.dumps(made.model_copy(update={"blocks": blocks}).model_dump(mode="json"), indent=2)
    assert len(text) < 4_000_000 * 2100 / MAX_BLOCKS  # and so for as many blocks as there may be


def test_a_recipe_is_read_from_its_folder_or_by_name(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(document()))
    assert load_recipe(tmp_path) == load_recipe(tmp_path / "recipe.json") == finished()
    with pytest.raises(MissingInput, match="no such recipe"):
        load_recipe(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no JSON document"),
        (b"[" * 100_000, "no JSON document"),
        (b"[1]", "format"),
        (b"{}", "format is 'None'"),
        (b'{"format": "recipe/1"}', "format is 'recipe/1'"),
        (b"\xff\xfe", "no JSON document"),
        (resealed(seed=float("nan")), "seed"),
        (resealed(seed=-1), "seed"),
        (resealed(seed=2**53), "seed"),
        (resealed(seed="1"), "seed"),
        (resealed(seed=1.5), "seed"),
        (resealed(seed=True), "seed"),
        (resealed(classes=0), "classes"),
        (resealed(classes=10**400), "classes"),
        (resealed(instances=10**12), "instances"),
        (resealed(block_size=0), "block_size"),
        (resealed(stream="other"), "stream"),
        (resealed(parameters=[1]), "parameters"),
        (resealed(parameters={"image_size": None}), "parameters"),
        (resealed(parameters={"image_size": {"a": 1}}), "parameters"),
        (resealed(parameters={"line_width": float("inf")}), "line_width"),
        (resealed(rejection={"min_lit": float("nan"), "attempts": 4}), "min_lit"),
        (resealed(rejection={"min_lit": 0.1, "attempts": 10**6}), "attempts"),
        (resealed(perturb={"delta": -1.0, "base": 0}), "delta"),
        (resealed(surprise=1), "surprise"),
        (resealed(blocks=[]) .replace(b'"format"', b'"Format"'), "format"),
        (resealed(classes=4), "its blocks are not"),
        (resealed(classes=1_000_000, instances=100_000_000), "pictures are more than"),
        (resealed(classes=1000, instances=1000, blocks=[], block_size=1), "blocks"),
        (json.dumps(document(seed=1)).encode(), "its id is not"),
        (json.dumps(document(id="")).encode(), "its id is not"),
    ],
)  # fmt: skip
def test_what_is_no_sound_recipe_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse_recipe(data, "recipe.json")
    assert said in caught.value.message and len(caught.value.message) < 600


def test_a_newer_format_says_so() -> None:
    with pytest.raises(HeadwaterError, match="format is 'generation/2'") as caught:
        parse_recipe(json.dumps(document(format="generation/2")).encode(), "recipe.json")
    assert caught.value.exit_code == 1 and "newer" in str(caught.value.hint)


def test_a_recipe_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    with open(path, "wb") as handle:
        handle.truncate(1 << 30)  # a hole: takes no room
    with pytest.raises(IntegrityError, match=f"larger than {RECIPE_LIMIT_BYTES:,}"):
        load_recipe(path)
