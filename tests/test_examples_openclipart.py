"""The clip-art pool that ships with the repository, and the script that builds it."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "openclipart"
POOL = EXAMPLE / "pool"
SIZE_BYTES_MAX = 14_000_000
DATACOMP_COLUMNS = ["uid", "url", "text", "original_width", "original_height", "sha256"]
PUBLIC_DOMAIN = "http://web.resource.org/cc/PublicDomain"


# ---- the pool as shipped -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    tables = [pq.read_table(p) for p in sorted(POOL.glob("*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


@pytest.fixture(scope="module")
def samples() -> list[tuple[str, bytes, bytes, bytes]]:
    """(key, json, txt, webp) of every sample, in tar order."""
    found = []
    for path in sorted(POOL.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for three in zip(members[::3], members[1::3], members[2::3], strict=True):
                key = three[0].name.partition(".")[0]
                assert [m.name for m in three] == [f"{key}.json", f"{key}.txt", f"{key}.webp"]
                assert all((m.mtime, m.uid, m.gid, m.mode, m.uname) == (0, 0, 0, 0o644, "") for m in three)
                data = [file.read() for m in three if (file := tar.extractfile(m))]
                found.append((key, *data))
    return found  # type: ignore[return-value]


def test_pool_is_small_enough_for_git() -> None:
    assert sum(p.stat().st_size for p in EXAMPLE.rglob("*") if p.is_file()) <= SIZE_BYTES_MAX


def test_every_tar_has_a_table_and_statistics(rows: list[dict[str, Any]]) -> None:
    stems = [p.stem for p in sorted(POOL.glob("*.tar"))]
    assert stems == [f"{i:08d}" for i in range(len(stems))]
    total = 0
    for stem in stems:
        counts = json.loads((POOL / f"{stem}_stats.json").read_bytes())
        n = pq.read_metadata(POOL / f"{stem}.parquet").num_rows
        assert counts["count"] == counts["successes"] == n
        total += n
    assert total == len(rows) >= 3_000


def test_tars_and_tables_agree(rows: list[dict[str, Any]], samples: list[Any]) -> None:
    assert [r["key"] for r in rows] == [key for key, *_ in samples]
    for row, (_key, document, text, _picture) in zip(rows, samples, strict=True):
        sample = json.loads(document)
        assert {k: sample[k] for k in row if k != "text"} == {k: v for k, v in row.items() if k != "text"}
        assert sample["caption"] == text.decode() == row["text"]
        assert sample["status"] == "success"


def test_uids_follow_the_stated_recipe(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["uid"] == hashlib.sha256(f"{row['url']}\0{row['text']}".encode()).hexdigest()[:32]
        assert len(row["sha256"]) == 64
    assert len({r["uid"] for r in rows}) == len(rows)


def test_columns_are_datacomps_first_and_no_score_is_invented() -> None:
    schema = pq.read_schema(POOL / "00000000.parquet")
    assert schema.names[: len(DATACOMP_COLUMNS)] == DATACOMP_COLUMNS
    assert {str(schema.field(n).type) for n in ("original_width", "original_height")} == {"int64"}
    assert not [n for n in schema.names if n.startswith("clip_")]


def test_every_row_states_the_public_domain(rows: list[dict[str, Any]]) -> None:
    assert {r["license"] for r in rows} == {PUBLIC_DOMAIN}
    assert not [r["key"] for r in rows if "@" in json.dumps([r["text"], r["author"], r["description"]])]


def test_pictures_decode_at_the_stated_size(samples: list[Any]) -> None:
    for key, document, _text, picture in samples:
        sample = json.loads(document)
        with Image.open(io.BytesIO(picture)) as image:
            image.load()
            assert (image.format, image.mode) == ("WEBP", "RGB"), key
            assert image.size == (sample["width"], sample["height"]), key
        assert max(sample["width"], sample["height"]) <= 96
        assert sample["width"] <= sample["original_width"]


def test_same_picture_means_same_bytes(rows: list[dict[str, Any]], samples: list[Any]) -> None:
    stored: dict[str, set[bytes]] = {}
    for row, (*_, picture) in zip(rows, samples, strict=True):
        stored.setdefault(row["sha256"], set()).add(hashlib.sha256(picture).digest())
    assert {len(v) for v in stored.values()} == {1}
    assert len(stored) < len(rows)  # real exact duplicates are there


def test_provenance_closes_and_the_documents_quote_it(rows: list[dict[str, Any]], build: ModuleType) -> None:
    told = json.loads((POOL / "provenance.json").read_bytes())
    assert told["png_files"] == told["rows"] + told["not_drawn"] + sum(told["skipped"].values())
    assert told["rows"] == len(rows)
    again = [{**r, "caption": r["text"]} for r in rows]
    assert told["statistics"] == build.statistics(again, told["statistics"]["near_blank"])
    text = (EXAMPLE / "PROVENANCE.md").read_text()
    numbers = [told["rows"], told["eligible"], told["statistics"]["short_side_below_200"]]
    for quoted in [f"{n:,}" for n in numbers] + [p["deb_sha256"] for p in told["packages"]]:
        assert quoted in text


# ---- the script, on a tree made here -----------------------------------------------------------------------

SVG = """<?xml version="1.0"?>{doctype}
<svg xmlns="http://www.w3.org/2000/svg"><metadata>
<rdf:RDF xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><cc:Work rdf:about="">
<dc:title>{title}</dc:title><dc:description>{description}</dc:description>
<dc:subject><rdf:Bag><rdf:li></rdf:li><rdf:li>one</rdf:li><rdf:li>two</rdf:li></rdf:Bag></dc:subject>
<dc:creator><cc:Agent><dc:title>{author}</dc:title></cc:Agent></dc:creator>
<dc:rights><cc:Agent><dc:title>{rights}</dc:title></cc:Agent></dc:rights>
<cc:license rdf:resource="{license}"/></cc:Work></rdf:RDF></metadata></svg>
"""
BOMB = '<!DOCTYPE svg [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'
EXTERNAL = '<!DOCTYPE svg [<!ENTITY c SYSTEM "file:///etc/hostname">]>'


def svg(**fields: str) -> bytes:
    values = {"doctype": "", "title": "A red square", "description": "", "author": "Ann", "rights": ""}
    return SVG.format(**{**values, "license": PUBLIC_DOMAIN, **fields}).encode()


def picture(path: Path, colour: tuple[int, ...], size: tuple[int, int] = (40, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(path)


@pytest.fixture(scope="module")
def build() -> Iterator[ModuleType]:
    sys.path.insert(0, str(EXAMPLE))
    try:
        spec = importlib.util.spec_from_file_location("openclipart_build", EXAMPLE / "build.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(EXAMPLE))
        sys.modules.pop("clipart", None)


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    png, svg_root = tmp_path / "png", tmp_path / "svg"
    texts = {
        "a/square": svg(),
        "a/clear": svg(title="  "),
        "a/wide": svg(title="Écrire à ann@example.org", author="Ann &lt;ann@example.org&gt;"),
        "a/gpl": svg(license="http://creativecommons.org/licenses/GPL/2.0/"),
        "a/silent": svg(license=""),
        "a/denied": svg(rights="Licence art libre - copyleft"),
        "a/bomb": svg(doctype=BOMB, title="&c;"),
        "a/reach": svg(doctype=EXTERNAL, title="&c;"),
        "a/broken": b"<svg><title>",
    }
    for i, (name, text) in enumerate(texts.items()):
        picture(png / f"{name}.png", (200, 10 * i, 0))
        (svg_root / name).parent.mkdir(parents=True, exist_ok=True)
        (svg_root / f"{name}.svg").write_bytes(text)
    picture(png / "a/clear.png", (0, 0, 0, 0))
    picture(png / "a/wide.png", (0, 0, 255), size=(400, 1))
    picture(png / "a/lonely.png", (1, 2, 3))
    (png / "b").mkdir()
    (svg_root / "b").mkdir()
    os.symlink("../a/square.png", png / "b/again.png")
    (svg_root / "b/again.svg").write_bytes(svg(title="The same square"))
    secret = tmp_path / "secret.png"
    picture(secret, (9, 9, 9))
    os.symlink(secret, png / "b/escape.png")
    (svg_root / "b/escape.svg").write_bytes(svg())
    return png, svg_root


def make(build: ModuleType, out: Path, trees: tuple[Path, Path], *options: str) -> dict[str, Any]:
    png, svg_root = trees
    assert build.main([str(out), "--png", str(png), "--svg", str(svg_root), *options]) == 0
    return json.loads((out / "provenance.json").read_bytes())  # type: ignore[no-any-return]


def test_build_keeps_the_good_and_counts_the_rest(
    build: ModuleType, trees: tuple[Path, Path], tmp_path: Path
) -> None:
    told = make(build, tmp_path / "out", trees, "--all")
    assert told["skipped"] == {
        "link leaves the tree": 1,
        "no svg of that name": 1,
        "rights field contradicts the licence": 1,
        "says GPL": 1,
        "states no licence": 1,
        "svg declares entities": 2,
        "svg not well formed": 1,
    }
    assert told["packages"] == []  # unpacked trees: no package was checked
    table = {r["source_path"]: r for r in pq.read_table(tmp_path / "out/00000000.parquet").to_pylist()}
    assert sorted(table) == ["a/clear.png", "a/square.png", "a/wide.png", "b/again.png"]

    first, second = table["a/square.png"], table["b/again.png"]
    assert first["sha256"] == second["sha256"]
    assert first["uid"] != second["uid"]
    assert (first["keywords"], first["description"], first["author"]) == (["one", "two"], None, "Ann")

    assert (table["a/clear.png"]["text"], table["a/clear.png"]["title"]) == ("", None)
    assert told["statistics"]["near_blank"] == 4  # plain colours, and transparency on white
    wide = table["a/wide.png"]
    assert (wide["text"], wide["author"]) == ("Écrire à [e-mail]", "Ann <[e-mail]>")
    assert (wide["original_width"], wide["original_height"]) == (400, 1)


def test_pictures_are_never_enlarged_and_transparency_becomes_white(
    build: ModuleType, trees: tuple[Path, Path]
) -> None:
    assert build.fit(400, 1, 96) == (96, 1)
    assert build.fit(40, 20, 96) == (40, 20)
    assert build.fit(10_562, 16_000, 96) == (63, 96)
    clear = build.render(trees[0] / "a/clear.png", 96)
    assert clear.size == (40, 20)
    assert clear.getextrema() == ((255, 255), (255, 255), (255, 255))


def test_strips_give_the_same_picture_as_one_piece(build: ModuleType, tmp_path: Path) -> None:
    big = Image.linear_gradient("L").resize((3_000, 4_001))
    big.save(tmp_path / "big.png")
    whole = big.convert("RGB").reduce(13).resize((72, 96), Image.Resampling.LANCZOS)
    assert build.fit(3_000, 4_001, 96) == (72, 96)
    assert build.render(tmp_path / "big.png", 96).tobytes() == whole.tobytes()


def test_two_runs_give_the_same_bytes(build: ModuleType, trees: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        make(build, tmp_path / name, trees, "--all", "--side", "16")
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == ["00000000.parquet", "00000000.tar", "00000000_stats.json", "provenance.json"]
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_draw_keeps_duplicates_together_and_nests(build: ModuleType) -> None:
    def candidate(path: str, picture: int) -> Any:
        return build.Candidate(path, Path(path), f"{picture:064x}", 1, 1, None)

    many = [candidate(f"p/{i}.png", i // 2) for i in range(200)] + [
        candidate(f"q/{i}.png", 999) for i in range(build.CLUSTER_MAX + 20)
    ]
    small, large = build.choose(many, 51), build.choose(many, 120)
    assert 49 <= len(small) <= 51
    assert {c.path for c in small} < {c.path for c in large}
    pairs = [c.sha256 for c in large if c.path.startswith("p/")]
    assert all(pairs.count(p) == 2 for p in pairs)
    assert 0 < sum(c.path.startswith("q/") for c in large) < build.CLUSTER_MAX + 20
    assert len(build.choose(many, None)) == len(many)


def test_hostile_svg_is_refused_by_size_and_depth(build: ModuleType) -> None:
    reader = sys.modules["clipart"]
    for data, reason in (
        (b"<g>" * 300 + b"</g>" * 300, "nested too deep"),
        (b" " * (reader.SVG_BYTES_MAX + 1), "over the size limit"),
        (svg(title="x" * 5_000), "text over the size limit"),
    ):
        with pytest.raises(build.Skip, match=reason):
            reader.read_metadata(data)


def test_huge_png_is_refused_before_decoding(
    build: ModuleType, trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = sys.modules["clipart"]
    monkeypatch.setattr(reader, "PNG_PIXELS_MAX", 799)
    monkeypatch.setattr(reader.Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(build.Skip, match="pixel limit"):
        reader.read_candidate(*trees, "a/square.png")


def test_a_changed_package_is_refused(build: ModuleType, tmp_path: Path) -> None:
    name = f"openclipart-png_{build.VERSION.replace(':', '%3a')}_all.deb"
    (tmp_path / name).write_bytes(b"not the package")
    with pytest.raises(build.BuildError, match="sha256"):
        build.fetch(tmp_path, "openclipart-png")


def test_an_occupied_folder_is_refused(
    build: ModuleType, trees: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/00000007.tar").touch()
    assert build.main([str(tmp_path / "out"), "--png", str(trees[0]), "--svg", str(trees[1])]) == 1
    assert "not empty" in capsys.readouterr().err
