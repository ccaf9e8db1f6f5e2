"""A seed over damaged files, damaged documents and bad clients: nothing wrong goes out unsaid, and the rest goes on."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import random
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distribute.car import read_car
from distribute.cid import Cid
from distribute.faces import server
from distribute.seeding import Seeding, SeedOptions
from headwater.errors import IntegrityError
from headwater.release import OpenRelease
from tests.distribute.partners import until
from tests.distribute.seed_kit import (
    NAME,
    Heard,
    ask,
    car_bytes,
    flip,
    hearing,
    make_release,
    no_threads,
    raw_exchange,
    some_files,
)

OPTIONS = SeedOptions(bittorrent=False)
BIG = "many chunks.bin"
CHUNK = 1 << 20


@pytest.fixture
def release(tmp_path: Path) -> OpenRelease:
    return make_release(tmp_path / "r")


@pytest.fixture
def heard() -> Iterator[Heard]:
    with hearing() as heard:
        yield heard


def keep_times(path: Path, offset: int) -> None:
    """Damage as a disk does it: nobody wrote, no time changed."""
    found = path.stat()
    flip(path, offset)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def cid_of(release: OpenRelease, path: str) -> str:
    return next(entry.cid or "" for entry in release.manifest.entries if entry.path == path)


def address(path: str) -> str:
    return "/" + quote(f"{NAME}/{path}")


# -- damaged data ------------------------------------------------------------------------------------------


def test_a_damaged_chunk_is_named_and_never_sent_as_a_block(release: OpenRelease, heard: Heard) -> None:
    data = (release.data / BIG).read_bytes()
    leaves = [Cid.of(0x55, data[at : at + CHUNK]).text for at in range(0, len(data), CHUNK)]
    keep_times(release.data / BIG, 2 * CHUNK + 77)
    with Seeding(release, OPTIONS) as seeding:
        found = [ask(seeding.port, f"/ipfs/{leaf}?format=raw") for leaf in leaves]
        assert [answer.status for answer in found] == [200, 200, 500, 200]
        assert data[2 * CHUNK : 2 * CHUNK + 50] not in found[2].body
        assert heard.said(BIG, f"bytes {2 * CHUNK:,} to {3 * CHUNK:,}")
        event = next(fields for fields in heard.fields if "offset" in fields)
        assert (event["level"], event["file"], event["offset"]) == ("error", f"{NAME}/{BIG}", 2 * CHUNK)
        # what is known to be wrong does not go out by the mirror either, whatever its time says
        assert ask(seeding.port, address(BIG)).status == 410
        assert ask(seeding.port, address("a.txt")).status == 200


def test_a_stream_breaks_at_a_damaged_chunk(release: OpenRelease, heard: Heard) -> None:
    keep_times(release.data / BIG, 2 * CHUNK + 77)
    root = release.release.cids["unixfs-v1-2025"]
    with Seeding(release, OPTIONS) as seeding:
        connection = http.client.HTTPConnection("127.0.0.1", seeding.port, timeout=20)
        connection.request("GET", f"/ipfs/{root}?format=car")
        response = connection.getresponse()
        assert response.status == 200
        with pytest.raises((http.client.IncompleteRead, ConnectionError)) as caught:
            response.read()
        connection.close()
        got = caught.value.partial if isinstance(caught.value, http.client.IncompleteRead) else b""
        sent = []
        with contextlib.suppress(IntegrityError):  # cut inside of a block, or between two
            for cid, _ in read_car(io.BytesIO(got)):  # each is checked
                sent.append(cid.text)
        assert cid_of(release, "a.txt") in sent
        assert cid_of(release, "zzz/one chunk.bin") not in sent
        assert heard.said("stream", root)
        # a part that does not touch it is whole
        part = ask(seeding.port, f"/ipfs/{cid_of(release, BIG)}?format=car&entity-bytes=0:{2 * CHUNK - 1}")
        assert len(list(read_car(io.BytesIO(part.body)))) == 3
        # and one that does begin with it never says 200
        part = ask(seeding.port, f"/ipfs/{cid_of(release, BIG)}?format=car&entity-bytes={2 * CHUNK}:*")
        assert part.status == 500


def test_damage_found_by_one_face_ends_a_transfer_of_another(release: OpenRelease, heard: Heard) -> None:
    data = (release.data / BIG).read_bytes()
    keep_times(release.data / BIG, 3 * CHUNK + 5)
    slow = SeedOptions(bittorrent=False, upload_limit=1_000_000)
    with Seeding(release, slow) as seeding, socket.create_connection(("127.0.0.1", seeding.port), 20) as link:
        link.sendall(f"GET {address(BIG)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        got = len(link.recv(1000))
        leaf = Cid.of(0x55, data[3 * CHUNK :]).text
        assert ask(seeding.port, f"/ipfs/{leaf}?format=raw").status == 500
        with contextlib.suppress(ConnectionResetError):
            while part := link.recv(1 << 16):
                got += len(part)
        assert got < len(data)
        assert heard.said(BIG, "found damaged")


def test_a_healthy_twin_gives_the_block(release: OpenRelease) -> None:
    keep_times(release.data / "deep/same.bin", 5)
    with Seeding(release, OPTIONS) as seeding:
        got = ask(seeding.port, f"/ipfs/{cid_of(release, 'deep/same.bin')}?format=raw")
        assert got.body == (release.data / "deep/twin.bin").read_bytes()
        keep_times(release.data / "deep/twin.bin", 7)
        assert ask(seeding.port, f"/ipfs/{cid_of(release, 'deep/same.bin')}?format=raw").status == 500
        (release.data / "deep/same.bin").unlink()
        (release.data / "deep/twin.bin").unlink()
        assert ask(seeding.port, f"/ipfs/{cid_of(release, 'deep/same.bin')}?format=raw").status == 404


def test_a_file_cut_short_while_seeding(release: OpenRelease, heard: Heard) -> None:
    with Seeding(release, OPTIONS) as seeding:
        os.truncate(release.data / BIG, 2 * CHUNK + 5)
        data = (release.data / BIG).read_bytes()
        assert ask(seeding.port, f"/ipfs/{Cid.of(0x55, data[:CHUNK]).text}?format=raw").status == 200
        assert ask(seeding.port, f"/ipfs/{cid_of(release, BIG)}?format=car&entity-bytes=-1:*").status == 500
        assert heard.said(BIG, "ends before byte")
        assert ask(seeding.port, address(BIG)).status == 410


def test_every_wrong_byte_of_a_file_is_caught(tmp_path: Path) -> None:
    data = random.Random(5).randbytes(3000)
    release = make_release(tmp_path / "r", {"f": data}, name="n", torrents=False)
    cid = cid_of(release, "f")
    with Seeding(release, OPTIONS) as seeding:
        for offset in (0, 1, 1500, 2999):
            keep_times(release.data / "f", offset)
            assert ask(seeding.port, f"/ipfs/{cid}?format=raw").status == 500
            keep_times(release.data / "f", offset)
            assert ask(seeding.port, f"/ipfs/{cid}?format=raw").body == data


# -- damaged documents -------------------------------------------------------------------------------------


def test_without_nodes_what_is_one_block_is_still_given(release: OpenRelease, heard: Heard) -> None:
    (release.meta / "nodes.car").unlink()
    with Seeding(release, OPTIONS) as seeding:
        assert heard.said("nodes.car", "only files of one chunk")
        root = release.release.cids["unixfs-v1-2025"]
        assert ask(seeding.port, f"/ipfs/{root}?format=car").status == 404
        assert ask(seeding.port, f"/ipfs/{cid_of(release, 'a.txt')}?format=raw").body == b"hello\n"
        assert ask(seeding.port, address(BIG)).status == 200


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    where=st.floats(0, 0.999), what=st.sampled_from(["flip", "cut", "noise", "huge"]), seed=st.integers(0, 99)
)
def test_a_damaged_nodes_car_never_gives_a_wrong_block(
    tmp_path: Path, where: float, what: str, seed: int
) -> None:
    from distribute.faces.blocks import BlockMap, Damaged
    from distribute.faces.shelf import NotHere, Shelf

    made = tmp_path / "made"
    release = make_release(made, {"a": b"a", "b": bytes(range(256)) * 5000}, name="n", torrents=False)
    car = made / "nodes.car"
    good = car.read_bytes()
    at = int(where * len(good))
    noise = random.Random(seed).randbytes(40)
    car.write_bytes(
        {
            "flip": good[:at] + bytes([good[at] ^ 1 << seed % 8]) + good[at + 1 :],
            "cut": good[:at],
            "noise": good[:at] + noise + good[at:],
            "huge": good[:at] + b"\xff" * 9 + b"\x01" + good[at:],
        }[what]
    )
    blocks = BlockMap(Shelf(release))
    for cid, _ in read_car(io.BytesIO(good)):
        try:
            cid.check(blocks.read(cid.digest))
        except (NotHere, Damaged):
            continue
    assert blocks.read(Cid.of(0x55, b"a").digest) == b"a"
    shutil.rmtree(made)


def test_nodes_changed_while_seeding(release: OpenRelease) -> None:
    with Seeding(release, OPTIONS) as seeding:
        root = release.release.cids["unixfs-v1-2025"]
        assert ask(seeding.port, f"/ipfs/{root}?format=raw").status == 200
        car = release.meta / "nodes.car"
        car.write_bytes(bytes(car.stat().st_size))
        assert ask(seeding.port, f"/ipfs/{root}?format=raw").status == 500
        assert ask(seeding.port, f"/ipfs/{root}?format=car").status == 500
        car.unlink()
        assert ask(seeding.port, f"/ipfs/{root}?format=raw").status == 404


def test_cids_of_the_release_that_lie(release: OpenRelease, heard: Heard) -> None:
    import json

    path = release.meta / "release.json"
    document = json.loads(path.read_bytes())
    document["cids"] = {
        "unixfs-v1-2025": cid_of(release, BIG),  # a file as the root
        "kubo-v1-raw": "nonsense",
        "unixfs-v0-2015": "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn",
        "of another planet": cid_of(release, "a.txt"),
    }
    path.write_text(json.dumps(document))
    from headwater.release import open_release

    with Seeding(open_release(release.meta), OPTIONS) as seeding:
        for name in ("kubo-v1-raw", "unixfs-v0-2015", "of another planet"):
            assert heard.said("CIDs of " + name)
        assert ask(seeding.port, f"/ipfs/{cid_of(release, 'a.txt')}?format=raw").status == 200


def test_torrent_names_that_leave_the_folder(release: OpenRelease, tmp_path: Path) -> None:
    import json

    from headwater.release import open_release

    (tmp_path / "outside.torrent").write_bytes(b"secret")
    path = release.meta / "release.json"
    whole = path.read_text()
    for name in ("../outside.torrent", "release.json", "/etc/x.torrent", ".torrent", "v1.torrent\n"):
        document = json.loads(whole)
        document["torrents"]["v1"]["file"] = name
        path.write_text(json.dumps(document))
        with pytest.raises(IntegrityError, match="not a release document"):
            open_release(release.meta)
    path.write_text(whole)
    with Seeding(open_release(release.meta), OPTIONS) as seeding:
        for target in ("/../outside.torrent", "/%2e%2e/outside.torrent", "/..%2foutside.torrent"):
            assert ask(seeding.port, target).status == 404


# -- bad clients -------------------------------------------------------------------------------------------


def test_clients_that_vanish_do_not_end_it(release: OpenRelease) -> None:
    with Seeding(release, OPTIONS) as seeding:
        root = release.release.cids["kubo-v1-raw"]
        for target in (address(BIG), f"/ipfs/{root}?format=car"):
            for read in (0, 1000):
                with socket.create_connection(("127.0.0.1", seeding.port), 10) as link:
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    link.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    if read:
                        link.recv(read)
        assert ask(seeding.port, address(BIG)).body == (release.data / BIG).read_bytes()
        until(lambda: seeding.open_connections == 0, seconds=10, what="no connection is left")


def test_many_at_once_get_right_bytes(release: OpenRelease) -> None:
    wanted = some_files()
    wrong: list[str] = []

    def work(number: int) -> None:
        make = random.Random(number)
        for path in make.sample(sorted(wanted), len(wanted)):
            if ask(seeding.port, address(path)).body != wanted[path]:
                wrong.append(path)
            cid = cid_of(release, path)
            if path != BIG and ask(seeding.port, f"/ipfs/{cid}?format=raw").body != wanted[path]:
                wrong.append(cid)

    with Seeding(release, OPTIONS) as seeding:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert wrong == []
        http_bytes = sum(len(data) for data in wanted.values())
        assert seeding.totals().faces["http"]["sent_bytes"] == 8 * http_bytes


def test_a_stop_does_not_wait_for_slow_clients(release: OpenRelease, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(server, "IDLE_SECONDS", 600.0)
    links = []
    with Seeding(release, OPTIONS) as seeding:
        for opening in (b"", b"GET / HT", f"GET {address(BIG)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()):
            link = socket.create_connection(("127.0.0.1", seeding.port), 10)
            link.sendall(opening)
            links.append(link)
        start = time.monotonic()
    assert time.monotonic() - start < 5
    until(no_threads, seconds=5, what="its threads have ended")
    for link in links:
        link.close()


def test_pipelined_requests_and_a_keep_alive(release: OpenRelease) -> None:
    with Seeding(release, OPTIONS) as seeding:
        one = f"GET {address('a.txt')} HTTP/1.1\r\nHost: x\r\n\r\n"
        last = f"HEAD {address('a.txt')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        got = raw_exchange(seeding.port, (one * 3 + last).encode())
        assert got.count(b"HTTP/1.1 200 OK") == 4
        assert got.count(b"\r\n\r\nhello\n") == 3


# -- a stranger's nodes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["wide and empty", "too many", "self-similar"])
def test_nodes_made_to_take_for_ever(tmp_path: Path, heard: Heard, what: str) -> None:
    import json

    from distribute.dagpb import FILE, Link, UnixFs, encode_node
    from headwater.release import open_release

    data = bytes(3 * CHUNK)
    release = make_release(tmp_path / "r", {"f": data}, name="n", torrents=False)
    leaf = Link("", Cid.of(0x55, bytes(CHUNK)), CHUNK)
    nodes: dict[Cid, bytes] = {}

    def node(links: list[Link]) -> Link:
        sizes = (
            (0,) * (len(links) - 1) + (len(data),) if links else ()
        )  # they add up, so that is not what stops it
        block = encode_node(links, UnixFs(FILE, filesize=sum(sizes), blocksizes=sizes).encode())
        nodes[cid := Cid.of(0x70, block)] = block
        return Link("", cid, 1)

    top = node([] if what == "wide and empty" else [leaf] * (3000 if what == "too many" else 2))
    for _ in range(9):
        top = node([top] * 500)
    folder = encode_node([Link("f", top.cid, 1)], UnixFs(1).encode())
    nodes[root := Cid.of(0x70, folder)] = folder
    (release.meta / "nodes.car").write_bytes(car_bytes([root], list(nodes.items())))
    document = json.loads((release.meta / "release.json").read_bytes())
    document["cids"] = {"unixfs-v1-2025": root.text}
    (release.meta / "release.json").write_text(json.dumps(document))
    with Seeding(open_release(release.meta), OPTIONS) as seeding:
        assert heard.said("CIDs of unixfs-v1-2025", "leaves"), heard.messages
        assert ask(seeding.port, "/n/f").body == data
        assert ask(seeding.port, f"/ipfs/{root.text}?format=raw").body == folder
        for query in ("", "&entity-bytes=0:*", "&entity-bytes=5:2000000"):
            got = ask(seeding.port, f"/ipfs/{root.text}/f?format=car{query}")
            assert got.status in (200, 400, 404)  # and it ends
            assert len(got.body) < 100 * CHUNK
