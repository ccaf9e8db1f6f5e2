"""The method girder: uploaded once, then fetched through the link; with a double that may be down, and with a real Girder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distribute.study import LinkSpec, StudyOptions, study
from tests.distribute.girder_double import girder_double
from tests.distribute.partners_girder.serve import real_girder

pytestmark = pytest.mark.slow


def options(girder: str, **changed: Any) -> StudyOptions:
    values: dict[str, Any] = {
        "payloads": ("many-small",),
        "methods": ("http", "girder"),
        "seeders": (1, 2),
        "links": (LinkSpec(None, 0.0), LinkSpec(100e6, 0.01)),
        "trials": 1,
        "size_bytes": 300_000,
        "cap_seconds": 40.0,
        "girder": girder,
    }
    return StudyOptions(**{**values, **changed})


def test_through_the_link_from_a_double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with girder_double() as double:
        monkeypatch.setenv("GIRDER_API_KEY", double.key)
        told = study(tmp_path / "out", options(double.place("collection/sets/study")))
        # asked through the link, so never by the address that the client was not told
        assert any("/download" in address for address in double.addresses)
    cells = [cell for cell in told["cells"] if cell["method"] == "girder"]
    assert [(cell["seeders"], cell["finished"], cell["verified"]) for cell in cells] == [(1, 1, 1)] * 2
    assert all(cell["of_finished"]["seeders_cpu_seconds"] is None for cell in cells)  # not ours to see
    document = json.loads((tmp_path / "out" / "study.json").read_bytes())
    upload = document["uploads"]["many-small"]
    assert upload["sent_bytes"] >= 300_000 and upload["seconds"] > 0
    everything = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert double.key.encode() not in everything


def test_a_girder_that_is_not_there_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIRDER_API_KEY", "canary-key-0123456789")
    with girder_double() as double:
        place = double.place("collection/sets/study")
    told = study(tmp_path / "out", options(place, links=(LinkSpec(None, 0.0),), seeders=(1,)))
    http, girder = told["cells"]
    assert (http["finished"], girder["finished"]) == (1, 0)
    assert "upload failed" in next(iter(girder["reasons"]))


def test_through_the_link_from_a_real_girder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with real_girder(tmp_path / "girder") as server:
        monkeypatch.setenv("GIRDER_API_KEY", server.key)
        place = f"girder+{server.api}#collection/study/release"
        told = study(tmp_path / "out", options(place, seeders=(1,), size_bytes=1_000_000))
    cells = [cell for cell in told["cells"] if cell["method"] == "girder"]
    assert [(cell["finished"], cell["verified"]) for cell in cells] == [(1, 1)] * 2
    assert all(cell["of_finished"]["overhead_share"] > 0 for cell in cells)
