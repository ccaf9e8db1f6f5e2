"""The reader for large JSON files: pieces of lists, whole values, and what it refuses."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.polygons import _json_scan
from curate.polygons._json_scan import Limits, Scan, opened, walk
from curate.polygons._json_strict import dump, loads
from headwater.errors import IntegrityError, MissingInput, UsageError
from tests.curate.polygons import json_kit as kit


@pytest.fixture(params=["compiled", "plain"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With numba and without."""
    if request.param == "plain":
        monkeypatch.setattr(_json_scan, "have_numba", lambda: False)
    else:
        pytest.importorskip("numba")
    return str(request.param)


def scanned(data: bytes, limits: Limits | None = None) -> tuple[dict[str, Any], list[Any]]:
    """(header, elements of "images") of a document in memory."""
    scan = Scan(Path("memory"), io.BytesIO(data), len(data), limits or Limits())
    scan.more()
    found: list[Any] = []

    def reader(scan: Scan) -> None:
        for piece in scan.pieces():
            found.extend(piece)

    return walk(scan, {"images": reader}), found


def test_every_document_is_read_as_json_reads_it(engine: str) -> None:
    objects = st.lists(st.dictionaries(st.text(max_size=3), kit.VALUES, max_size=3), max_size=6)

    @given(
        objects, st.dictionaries(st.text(max_size=3), kit.VALUES, max_size=3), kit.LAYOUT, st.integers(1, 40)
    )
    def check(images: list[Any], header: dict[str, Any], layout: dict[str, Any], window: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_json_scan, "BLOCK_BYTES", window)
            patch.setattr(_json_scan, "PIECE_BYTES", window)
            document = {**header, "images": images, "end": 1}
            rest, found = scanned(b" \n" + kit.text_of(document, layout) + b"\n\t ")
            assert kit.same(found, images)
            assert kit.same(rest, {**header, "end": 1})

    check()


BROKEN = [
    b"",
    b"{",
    b"[]",
    b"{}x",
    b"{}{}",
    b"{}\0",
    b'{"a"}',
    b'{"a":}',
    b'{"a":1,}',
    b'{"a":1 "b":2}',
    b"{a:1}",
    b"{'a':1}",
    b'{"a":01}',
    b'{"a":1.}',
    b'{"a":+1}',
    b'{"a":.5}',
    b'{"a":tru}',
    b'{"a":"\t"}',
    b'{"a":"\\x"}',
    b'{"a":[1,]}',
    b'{"a":[}',
    b'{"a":[1}}',
    b'{"images":[{}',
    b'{"images":[{} {}]}',
    b'{"images":[{},]}',
    b'{"images":[,{}]}',
    b'{"images":[{},,{}]}',
    b'{"images":[{"a":1]}',
    b'{"images":[{"a":[1}]}',
    b'{"images":[}]}',
    b'{"images":[{}]]}',
    b'{"a":1',
    b'{"a":"',
    b'{"a":"\\',
    b'{"a":1e}',
    b"{\"a\":'b'}",
    b'{"a":1/*c*/}',
    b'{"a":\xff}',
    b'{"a":"\xff"}',
    b'{"a":"\xed\xa0\x80"}',
    b'{"\xc0\xaf":1}',
    b'{"a":\x0c1}',
]


@pytest.mark.parametrize("data", BROKEN, ids=repr)
def test_what_is_no_json_is_refused(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for window in (1 << 20, 3):
        monkeypatch.setattr(_json_scan, "BLOCK_BYTES", window)
        with pytest.raises(IntegrityError, match="memory: byte"):
            scanned(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a":NaN}', "NaN is no JSON number"),
        (b'{"images":[{"a":-Infinity}]}', "-Infinity is no JSON number"),
        (b'{"a":1e999}', "1e999 is too large"),
        (b'{"a":' + b"9" * 5000 + b"}", "in the value here"),
        (b'{"a":{"b":1,"b":2}}', "'b' stands twice"),
        (b'{"images":[{"b":1,"b":2}]}', "'b' stands twice"),
        (b'{"a":1,"\\u0061":2}', "'a' stands twice"),
        (b'{"images":[],"images":[]}', "'images' stands twice"),
        (b'{"a":' + b"[" * 65 + b"]" * 65 + b"}", "nested deeper than 64"),
        (b'{"a":' + b"[" * 100_000, "nested deeper than 64"),
        (b'{"images":[' + b'{"a":' * 100_000, "nested deeper than 64"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(IntegrityError, match=words):
        scanned(data)


def test_depth_at_the_limit_is_fine() -> None:
    assert scanned(b'{"a":' + b"[" * 64 + b"]" * 64 + b"}")[0]["a"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'\xef\xbb\xbf{"a":1}', "byte order mark"),
        ('{"a":1}'.encode("utf-16"), "UTF-16"),
        ('{"a":1}'.encode("utf-16-le"), "UTF-16"),
        ('{"a":1}'.encode("utf-16-be"), "UTF-16"),
        ('{"a":1}'.encode("utf-32"), "UTF-16 or UTF-32"),
        (b"\x89PNG\r\n\x1a\n", "not JSON"),
        (b"", "the end of the file"),
    ],
    ids=repr,
)
def test_marks_of_other_encodings(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=words), opened(path) as scan:
        walk(scan, {})


def test_caps() -> None:
    long = b'{"a":"' + b"x" * (3 << 20) + b'"}'
    assert len(scanned(long)[0]["a"]) == 3 << 20
    with pytest.raises(IntegrityError, match="one value is larger than 1,048,576 bytes"):
        scanned(long, Limits(value_bytes=1 << 20))
    with pytest.raises(IntegrityError, match="larger than 1,000 bytes"):
        scanned(long, Limits(file_bytes=1000))


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_zip_files(tmp_path: Path) -> None:
    good = _zip(tmp_path / "good.zip", {"x/y.json": b'{"a":1}'})
    with opened(good) as scan:
        assert walk(scan, {}) == {"a": 1}
    two = _zip(tmp_path / "two.zip", {"a.json": b"{}", "b.json": b"{}"})
    with pytest.raises(UsageError, match="holds 2 files"), opened(two):
        pass
    bomb = _zip(tmp_path / "bomb.zip", {"a.json": b'{"a":"' + b" " * (70 << 20) + b'"}'})
    with pytest.raises(IntegrityError, match="unpacks to .* refused"), opened(bomb):
        pass
    data = bytearray(_zip(tmp_path / "flip.zip", {"a.json": b'{"a":"bcdefgh"}'}).read_bytes())
    data[40] ^= 4
    (tmp_path / "flip.zip").write_bytes(data)
    with pytest.raises(IntegrityError), opened(tmp_path / "flip.zip") as scan:
        walk(scan, {})
    (tmp_path / "cut.zip").write_bytes(good.read_bytes()[:60])
    with pytest.raises(IntegrityError, match="damaged zip"), opened(tmp_path / "cut.zip"):
        pass
    with pytest.raises(MissingInput), opened(tmp_path / "none.json"):
        pass


@given(kit.VALUES)
def test_dump_and_loads(value: Any) -> None:
    assert kit.same(loads(dump(value).encode()), value)
    assert kit.same(json.loads(dump(value)), value)
