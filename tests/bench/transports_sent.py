"""Sending a release to other people's servers and fetching it back: families of the benchmark of transports."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from distribute.car import read_car
from tests.bench.transports_servers import OURS, cpu_of, headwater, seaweed
from tests.bench.transports_ways import (
    Bench,
    Spent,
    bare,
    clients,
    faces,
    fetch,
    mirror,
    process,
    publish,
)
from tests.distribute.partners_girder.serve import real_girder
from tests.distribute.test_ipfs_partners import flatfs, kubo_node


def kubo(bench: Bench) -> None:
    """Kubo 0.22 to Kubo 0.22 by bitswap, of our DAG: its blocks are written into the first one's store."""
    first, second = bench.work / "kubo-1", bench.work / "kubo-2"
    with kubo_node(first):
        pass
    car = bench.work / "all.car"
    command = ["publish", bench.source, "-o", bench.work / "again", "--car", car]
    headwater(*command)
    begun = time.perf_counter()
    with open(car, "rb") as handle:
        reader = read_car(handle)
        (root,) = reader.roots
        for cid, block in reader:
            flatfs(first, {cid.digest: (cid, block)})
    bench.found.notes.append(
        f"{bench.tree}: writing our blocks into Kubo's store took {time.perf_counter() - begun:.1f} s"
    )
    car.unlink()
    way = bench.way("fetch", "Kubo 0.22 from Kubo 0.22, bitswap", "CIDs")
    with kubo_node(first) as giver, kubo_node(second) as taker:
        assert giver.ask("pin", cid=root.text) == 0
        assert taker.ask("connect", address=giver.address) == 0

        def run(out: Path) -> Spent:
            begun, was = time.perf_counter(), cpu_of(taker.process.pid)
            assert taker.ask("download", cid=root.text, path=str(out)) == 0
            return time.perf_counter() - begun, cpu_of(taker.process.pid) - was, None

        bench.measure(way, run, [giver.process.pid])
    for folder in (first, second, bench.work / "again"):
        shutil.rmtree(folder)


def s3(bench: Bench) -> None:
    """SeaweedFS: ours beside s3fs' own put and get."""
    bench.wire = False  # SeaweedFS and Girder talk to themselves and to a database over the same interface
    with seaweed(bench.work / "weed") as bucket:
        where, keys = f"releases/{bench.tree}", bucket.environment
        send = [*OURS, "publish", bench.source, "-o", bench.release, "--via", "http", "--quiet"]
        command = [*send, "--http-target", f"s3://{where}"]
        way = bench.way("send", "ours, S3", "", "s3fs put")
        bench.measure(way, lambda _: process(command, **keys), [bucket.pid])
        files = str(bench.release / bench.name)
        way = bench.way("send", "s3fs put", "")
        bench.measure(way, bare("s3-put", f"{where}-bare", files, **keys), [bucket.pid])
        bench.turns(
            {
                bench.way("fetch", "ours, S3", "BLAKE3 or pieces", "s3fs get"): fetch(
                    bench, f"s3://{where}", **keys
                ),
                bench.way("fetch", "s3fs get", "SHA-256 afterwards"): bare(
                    "s3", f"{where}/{bench.name}", bench.manifest, "{out}", **keys
                ),
            },
            [bucket.pid],
        )
    shutil.rmtree(bench.work / "weed")


def girder(bench: Bench) -> None:
    """A real Girder 5 on a database in memory: ours beside girder-client."""
    bench.wire = False
    with real_girder(bench.work / "girder") as server:
        keys = {"GIRDER_API_KEY": server.key, "GIRDER_API_URL": server.api}
        assert server.process is not None
        pids = [server.process.pid]
        target, python = f"girder+{server.api}#collection/ours/release", str(server.python)
        send = [*OURS, "publish", bench.source, "-o", bench.release, "--via", "girder", "--quiet"]
        way = bench.way("send", "ours, Girder", "", "girder-client")
        bench.measure(way, lambda _: process([*send, "--girder", target], **keys), pids)
        way = bench.way("send", "girder-client", "")
        files = str(bench.release / bench.name)
        bench.measure(way, bare("girder-put", server.api, "theirs", files, python=python, **keys), pids)
        bench.turns(
            {
                bench.way("fetch", "ours, Girder", "BLAKE3 or pieces", "girder-client"): fetch(
                    bench, target, **keys
                ),
                bench.way("fetch", "girder-client", "SHA-256 afterwards"): bare(
                    "girder", server.api, "theirs", bench.manifest, "{out}", python=python, **keys
                ),
            },
            pids,
        )
    shutil.rmtree(bench.work / "girder")


FAMILIES: dict[str, Callable[[Bench], None]] = {
    "publish": publish,
    "faces": faces,
    "clients": clients,
    "mirror": mirror,
    "kubo": kubo,
    "s3": s3,
    "girder": girder,
}
