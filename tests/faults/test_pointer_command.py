"""The same attacks on the command line: fetch --key follows the newest pointer and never goes back (rows 91 and 92)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from distribute.pointer import check_release, load_private, new_key, next_body, sign
from headwater.errors import IntegrityError
from headwater.release import open_release
from tests.faults import kit

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def published(folder: Path, name: str, data: bytes, *options: object) -> Path:
    source = folder / f"{name}-src" / "set"
    source.mkdir(parents=True, exist_ok=True)
    (source / "a.txt").write_bytes(data)
    done = kit.run("publish", source, "-o", folder / name, "--name", "set", *options)
    assert done.code == 0, done
    return folder / name


def signed(release: Path, key: Path, *options: object) -> None:
    done = kit.run("sign", release, "--key", key, "--dataset", "cats", *options)
    assert done.code == 0, done


def fetched(tmp_path: Path, release: Path, key: bytes, name: str = "got", *options: object) -> kit.Done:
    return kit.run("fetch", release, "-o", tmp_path / name, "--key", key.hex(), "--dataset", "cats", *options)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path, bytes, Path]:
    """Two signed releases of one dataset, the public key, and the private key's file."""
    public = new_key(tmp_path / "key.pem")
    one = published(tmp_path, "one", b"version one")
    signed(one, tmp_path / "key.pem")
    second = published(tmp_path, "second", b"version two", "--parent", one)
    signed(second, tmp_path / "key.pem", "--after", one)
    return one, second, public, tmp_path / "key.pem"


def test_rows_91_92_the_command_follows_and_never_goes_back(
    tmp_path: Path, two: tuple[Path, Path, bytes, Path]
) -> None:
    one, second, public, _ = two
    assert fetched(tmp_path, one, public).code == 0
    assert fetched(tmp_path, second, public).code == 0
    assert (tmp_path / "got" / "a.txt").read_bytes() == b"version two"
    back = fetched(tmp_path, one, public, "elsewhere")
    assert back.code == 12 and "rollback" in back.said, back
    assert not (tmp_path / "elsewhere" / "a.txt").exists()
    assert (tmp_path / "got" / "a.txt").read_bytes() == b"version two"


def test_rows_91_92_the_command_refuses_what_is_not_signed_by_the_key(
    tmp_path: Path, two: tuple[Path, Path, bytes, Path]
) -> None:
    one, second, public, _ = two
    done = fetched(tmp_path, one, new_key(tmp_path / "eve.pem"))
    assert done.code == 12 and "no such key is trusted" in done.said, done
    # the pointer of the second release laid beside the first: two releases mixed
    (one / "latest.json").write_bytes((second / "latest.json").read_bytes())
    done = fetched(tmp_path, one, public)
    assert done.code in (12, 13, 1), done
    raw = (second / "latest.json").read_bytes()
    (second / "latest.json").write_bytes(raw.replace(b'"version":2', b'"version":3'))
    done = fetched(tmp_path, second, public)
    assert done.code == 12 and "does not fit" in done.said, done
    (second / "latest.json").unlink()
    done = fetched(tmp_path, second, public)
    assert done.code in (10, 12), done
    assert not (tmp_path / "got" / "a.txt").exists()


def test_row_92_two_releases_mixed_are_told(two: tuple[Path, Path, bytes, Path]) -> None:
    one, second, _, key = two
    body = sign(
        next_body(None, "cats", open_release(one).release.manifest_id, now=NOW), load_private(key)
    ).body
    check_release(body, open_release(one))
    with pytest.raises(IntegrityError, match="two releases were mixed|holds the manifest"):
        check_release(body, open_release(second))
