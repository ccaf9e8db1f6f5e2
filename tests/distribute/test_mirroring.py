"""`headwater mirror`: alive and right, wrong, incomplete and dead are told apart, by an answer each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from distribute import mirroring
from distribute.transports._base import Context, Limits
from headwater.errors import BadInputs, IntegrityError, MissingInput
from headwater.release import open_release
from tests.conftest import Cli
from tests.distribute.partners import free_port
from tests.distribute.publish_kit import make_release, some_tree, write_tree


@pytest.fixture
def release(tmp_path: Path) -> Path:
    make_release(some_tree(tmp_path / "d"), tmp_path / "rel", data="copy")
    return tmp_path / "rel"


def context(tmp_path: Path) -> Context:
    limits = Limits(attempts=1, connect_seconds=2, stall_seconds=3)
    return Context(work=tmp_path / "work", limits=limits, allow_private=True, local_only=True)


def ask(release: Path, tmp_path: Path, *locations: str, pieces: int = 4) -> dict[str, Any]:
    opened = open_release(release)
    return mirroring.report(
        opened, mirroring.ask_all(opened, locations, context(tmp_path), pieces=pieces, seed=1)
    )


def test_a_copy_is_right(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / "copy")
    [answer] = ask(release, tmp_path, str(tmp_path / "copy"))["locations"]
    assert (answer["state"], answer["manifest"], answer["pieces_right"]) == ("right", "this", 4)


def test_wrong_bytes_are_named_with_their_piece(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / "copy")
    for path in (tmp_path / "copy" / "d").rglob("*.bin"):
        path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(
        IntegrityError, match=r"(?s)gives wrong bytes.*wrong +file.*copy: .*not the bytes of the manifest"
    ) as told:
        ask(release, tmp_path, str(release), str(tmp_path / "copy"))
    assert told.value.exit_code == 13 and "right" in told.value.message


def test_missing_files_another_version_and_silence(release: Path, tmp_path: Path) -> None:
    shutil.copytree(release, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "d")
    write_tree(tmp_path / "d2", {"other": b"other"})
    make_release(tmp_path / "d2", tmp_path / "other")
    silent = f"http://127.0.0.1:{free_port()}/"
    with pytest.raises(BadInputs) as told:
        ask(release, tmp_path, str(tmp_path / "copy"), str(tmp_path / "other"), silent)
    message = told.value.message
    assert told.value.exit_code == 3 and message.startswith("0 of 3 locations are alive and right")
    assert message.count("incomplete") == 2 and "it has another manifest" in message and "dead" in message


def test_ipfs_without_a_gateway_is_not_asked(release: Path, tmp_path: Path) -> None:
    cid = open_release(release).release.cids["unixfs-v1-2025"]
    [answer] = ask(release, tmp_path, f"ipfs://{cid}")["locations"]
    assert answer["state"] == "not asked" and "--gateway" in answer["detail"]


def test_probes_are_fixed_by_the_seed_and_drawn_by_size(release: Path) -> None:
    opened = open_release(release)
    probes = mirroring.choose_probes(opened, 200, 5)
    assert probes == mirroring.choose_probes(opened, 200, 5) != mirroring.choose_probes(opened, 200, 6)
    big = sum(probe.wanted.path == "sub/big.bin" for probe in probes)
    share = 2_500_000 / opened.release.size_bytes
    assert abs(big / 200 - share) < 0.15
    assert all(probe.length <= 1 << 18 for probe in probes if probe.piece is not None)


def test_a_large_file_without_a_piece_layer_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirroring, "WHOLE_BYTES", 400_000)
    make_release(some_tree(tmp_path / "d"), tmp_path / "rel", torrents=("v1",))
    probes = mirroring.choose_probes(open_release(tmp_path / "rel"), 50, 5)
    assert len(probes) == 50 and max(probe.length for probe in probes) <= 400_000
    monkeypatch.setattr(mirroring, "WHOLE_BYTES", 1)
    [probe] = mirroring.choose_probes(open_release(tmp_path / "rel"), 1, 5)
    assert probe.wanted.path == "a.txt"  # the smallest that is not empty


def test_a_damaged_torrent_of_our_own_is_named(release: Path, tmp_path: Path) -> None:
    (release / "v2.torrent").write_bytes(b"d")
    with pytest.raises(IntegrityError, match=r"rel/v2\.torrent: "):
        ask(release, tmp_path, str(release))


def test_nothing_to_ask(release: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no location is known"):
        ask(release, tmp_path)


def test_the_command(release: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("mirror", release, release, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["locations"][0]["state"] == "right"
    assert "would ask magnet:" in cli("mirror", release, "--dry-run").stdout
    done = cli("mirror", release, f"http://127.0.0.1:{free_port()}/", "--stall", "2", "--json")
    assert done.returncode == 3 and "--allow-private" in done.stderr  # refused before anybody is asked
    document = json.loads(done.stdout)
    assert document["locations"][0]["state"] == "dead" and document["problem"]["exit_code"] == 3
