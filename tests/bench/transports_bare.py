"""Clients that do no more than their library: what `headwater fetch` is compared with. Each downloads, then checks SHA-256.

    python tests/bench/transports_bare.py http BASE MANIFEST OUT
    python tests/bench/transports_bare.py torrent FILE.torrent HOST:PORT MANIFEST OUT
    python tests/bench/transports_bare.py s3 PREFIX MANIFEST OUT | s3-put PREFIX FOLDER
    python tests/bench/transports_bare.py girder API COLLECTION MANIFEST OUT | girder-put API COLLECTION FOLDER

HTTP and the check run in as many threads as `headwater fetch` has connections. The Girder ones need girder-client in the
Python that runs this, so imports are inside.
"""

import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

THREADS = 4


def digests(manifest: str) -> dict[str, str]:
    """SHA-256 by path."""
    return {entry["path"]: entry["sha256"] for entry in json.loads(Path(manifest).read_bytes())["entries"]}


def check(folder: Path, wanted: dict[str, str]) -> None:
    """Read and hash every file once more."""

    def right(item: tuple[str, str]) -> bool:
        with open(folder / item[0], "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest() == item[1]

    with ThreadPoolExecutor(THREADS) as pool:
        wrong = [path for path, fine in zip(wanted, pool.map(right, wanted.items()), strict=True) if not fine]
    if wrong:
        sys.exit(f"wrong: {wrong[:5]}")


def make_folders(folder: Path, paths: list[str]) -> None:
    for parent in sorted({(folder / path).parent for path in paths}):
        parent.mkdir(parents=True, exist_ok=True)


def http(base: str, manifest: str, out: str) -> None:
    """One httpx2 client, streams straight to files."""
    import httpx2

    wanted, folder = digests(manifest), Path(out)
    make_folders(folder, list(wanted))
    with httpx2.Client(trust_env=False, headers={"Accept-Encoding": "identity"}) as client:

        def get(path: str) -> None:
            with client.stream("GET", base + quote(path)) as answer, open(folder / path, "wb") as handle:
                answer.raise_for_status()
                for block in answer.iter_raw():
                    handle.write(block)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(get, wanted))
    check(folder, wanted)


def torrent(file: str, peer: str, manifest: str, out: str) -> None:
    """libtorrent with the settings that matter on a fast network: no uTP either way, no discovery."""
    import libtorrent as lt

    session = lt.session(
        {
            "listen_interfaces": "127.0.0.1:0",
            "enable_outgoing_utp": False,
            "enable_incoming_utp": False,
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "allow_multiple_connections_per_ip": True,
            "tick_interval": 100,
            "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.storage_notification,
        },
        0,
    )
    parameters = lt.load_torrent_file(file)
    parameters.save_path, parameters.url_seeds, parameters.trackers = out, [], []
    parameters.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    handle = session.add_torrent(parameters)
    host, _, port = peer.rpartition(":")
    handle.connect_peer((host, int(port)))

    def wait_for(kind: type) -> None:
        while True:
            session.wait_for_alert(100)
            if any(isinstance(alert, kind) for alert in session.pop_alerts()):
                return

    wait_for(lt.torrent_finished_alert)
    handle.flush_cache()
    wait_for(lt.cache_flushed_alert)
    assert parameters.ti is not None
    check(Path(out, parameters.ti.name()), digests(manifest))


def s3(prefix: str, manifest: str, out: str) -> None:
    """s3fs' own recursive get."""
    import s3fs

    s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"]).get(prefix + "/", out, recursive=True)
    check(Path(out), digests(manifest))


def s3_put(prefix: str, folder: str) -> None:
    """s3fs' own recursive put."""
    import s3fs

    files = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    files.put(folder + "/", prefix, recursive=True)


def girder(api: str, collection: str, manifest: str, out: str) -> None:
    """girder-client's own recursive download."""
    client, parent = _girder(api, collection)
    (folder,) = client.listFolder(parent, "collection")
    client.downloadFolderRecursive(folder["_id"], out)
    check(Path(out), digests(manifest))


def girder_put(api: str, collection: str, folder: str) -> None:
    """girder-client's own recursive upload."""
    client, parent = _girder(api, collection)
    client.upload(folder, parent, "collection", reuseExisting=True)


def _girder(api: str, collection: str):  # type: ignore[no-untyped-def]
    from girder_client import GirderClient

    client = GirderClient(apiUrl=api)
    client.authenticate(apiKey=os.environ["GIRDER_API_KEY"])
    found = [one for one in client.listCollection() if one["name"] == collection]
    return client, (found[0] if found else client.createCollection(collection))["_id"]


if __name__ == "__main__":
    {
        "http": http,
        "torrent": torrent,
        "s3": s3,
        "s3-put": s3_put,
        "girder": girder,
        "girder-put": girder_put,
    }[sys.argv[1]](*sys.argv[2:])
