"""Hostile and damaged ONNX models: named, with the right exit code, before onnxruntime sees a byte; and nothing is lost."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate import _onnx
from curate._onnx import open_session, read_model
from curate.scores import nsfw
from headwater.errors import HeadwaterError, IntegrityError, MissingInput
from tests.curate import onnx_kit as kit
from tests.curate import picture_kit
from tests.faults.kit import age, run, temporaries

pytest.importorskip("onnxruntime")

GOOD = kit.classifier(size=8)
WEIGHTS = np.ones((3, 2), np.float32)


class Calls:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def refused(tmp_path: Path, body: bytes, said: str) -> None:
    path = kit.write(tmp_path / "hostile.onnx", body)
    with pytest.raises(IntegrityError, match=said) as error:
        read_model(path)
    assert error.value.exit_code == 13 and str(path) in str(error.value)


def with_node(*parts: Any, **options: Any) -> bytes:
    return kit.classifier(WEIGHTS, size=8, nodes=[kit.node(*parts)], **options)


def test_a_good_model_is_read_and_built(tmp_path: Path) -> None:
    model = read_model(kit.write(tmp_path / "m.onnx", GOOD))
    assert (model.inputs, model.outputs) == (
        [_onnx.Value("x", 1, (1, 3, 8, 8))],
        [_onnx.Value("y", 1, (1, 2))],
    )
    assert model.opsets == {"": 17} and model.nodes == 2
    assert open_session(model).get_outputs()[0].name == "y"


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    for protocol in (2, 3, 4, 5):
        refused(tmp_path, pickle.dumps(Calls(tmp_path / "called"), protocol), "is a pickle, which could run")
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Calls(tmp_path / "called")))
    refused(tmp_path, (tmp_path / "x.pt").read_bytes(), r"is a zip archive \(torch.save")
    assert not (tmp_path / "called").exists()
    refused(
        tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"
    )
    refused(tmp_path, b"\x1c\0\0\0ORTM" + bytes(40), "onnxruntime's own format")
    refused(tmp_path, b"\x89HDF\r\n\x1a\n", "is an HDF5 file")
    refused(tmp_path, b"", "is empty")
    refused(tmp_path, b"<html><body>404</body></html>", "is not an ONNX model")
    refused(tmp_path, pickle.dumps(Calls(tmp_path / "called"), 0), "is not an ONNX model")
    refused(tmp_path, kit.number(1, 8), "it has no graph")
    refused(tmp_path, kit.block(7, b""), "no graph or no opset_import")
    with pytest.raises(MissingInput, match=r"none\.onnx: no such file"):
        read_model(tmp_path / "none.onnx")
    with pytest.raises(IntegrityError, match="is not a regular file"):
        read_model(tmp_path)
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(IntegrityError, match="is not a regular file"):
        read_model(tmp_path / "pipe.onnx")


def test_a_model_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as handle:
        handle.truncate(_onnx.LIMIT_BYTES + 1)
    with pytest.raises(IntegrityError, match="more than 1,073,741,824 are not read"):
        read_model(path)
    with pytest.raises(IntegrityError, match="more than 10 are not read"):
        read_model(kit.write(tmp_path / "m.onnx", GOOD), limit_bytes=10)


def test_a_model_that_is_cut_anywhere_never_gets_through_as_another(tmp_path: Path) -> None:
    body = kit.classifier(size=8, classes=3)
    for end in range(len(body)):
        path = kit.write(tmp_path / "cut.onnx", body[:end])
        with pytest.raises(IntegrityError):
            read_model(path)


def test_sizes_that_lie(tmp_path: Path) -> None:
    huge = kit.varint((1 << 63) - 1)
    refused(tmp_path, kit.varint(7 << 3 | 2) + huge + GOOD, "wants 9,223,372,036,854,775,807 bytes")
    refused(tmp_path, kit.varint(7 << 3 | 2) + b"\xff" * 11 + GOOD, "more than 64 bits")
    refused(tmp_path, kit.varint(1 << 40 | 2) + GOOD, "has a field")
    refused(tmp_path, b"\x0b" + GOOD, "wire type 3")
    for dims in ([1 << 40, 1 << 40], [-1], [3, 1 << 62], [1] * 80):
        body = b"".join(kit.number(1, size) for size in dims) + kit.number(2, 1) + kit.block(8, "w")
        whole = kit.graph([], [], [], [body])
        if len(dims) < 80:
            refused(tmp_path, kit.model(whole), "tensor 'w' says it is")
    packed = kit.block(1, b"".join(kit.varint(1) for _ in range(80))) + kit.block(8, "w")
    refused(tmp_path, kit.model(kit.graph([], [], [], [packed])), "more than 64 dimensions")


@pytest.mark.parametrize("location", ["../../x", "/etc/passwd", "beside.bin", "*/_ORT_MEM_ADDR_/*"])
def test_data_in_another_file_are_never_read(tmp_path: Path, location: str) -> None:
    (tmp_path / "beside.bin").write_bytes(bytes(16))
    tensor = kit.outside("c", location)
    escaped = location.replace("*", r"\*")
    said = f"the data of a tensor lie in another file .'{escaped}'"
    refused(tmp_path, kit.classifier(WEIGHTS, size=8, constants=[tensor]), said)
    in_node = kit.node("Constant", [], ["k"], [kit.constant("value", tensor)])
    refused(tmp_path, kit.classifier(WEIGHTS, size=8, nodes=[in_node]), said)
    inner = kit.graph([in_node], [], [kit.value("k", [4])])
    branch = kit.node("If", ["b"], ["r"], [kit.graph_attribute("then_branch", inner)])
    refused(tmp_path, kit.classifier(WEIGHTS, size=8, nodes=[branch]), said)
    # said by the flag alone, which onnxruntime cuts to 32 bits
    flag = kit.tensor("c", WEIGHTS, extra=kit.number(14, (1 << 32) + 1))
    refused(tmp_path, kit.classifier(WEIGHTS, size=8, constants=[flag]), "lie in another file")


def test_operators_that_are_not_run(tmp_path: Path) -> None:
    refused(
        tmp_path, with_node("Evil", ["y"], ["e"], [], "my.ops"), "operator 'Evil' of domain 'my.ops'.*none is"
    )
    for name in ("Loop", "Scan", "SequenceMap"):
        refused(tmp_path, with_node(name, ["y"], ["e"]), f"uses {name}, which no classifier")
    refused(tmp_path, with_node("EPContext", ["y"], ["e"], [], "com.microsoft"), "uses EPContext")
    refused(tmp_path, with_node("RandomNormalLike", ["y"], ["e"]), "differ from run to run")
    refused(tmp_path, kit.classifier(WEIGHTS, extra=kit.block(25, kit.block(1, "f"))), "functions of its own")
    refused(tmp_path, kit.classifier(WEIGHTS, extra=kit.block(20, b"")), "a training graph")
    refused(tmp_path, kit.classifier(WEIGHTS, extra=kit.block(7, b"")), "more than one graph")
    sparse = kit.graph([], [], []) + kit.block(15, b"")
    refused(tmp_path, kit.model(sparse), "sparse tensors")
    nested = kit.graph([], [], [])
    for _ in range(20):
        nested = kit.graph(
            [kit.node("If", ["b"], ["r"], [kit.graph_attribute("then_branch", nested)])], [], []
        )
    refused(tmp_path, kit.model(nested), "graphs within graphs deeper than 8")


def test_the_work_of_looking_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_onnx, "MAX_NODES", 100)
    refused(tmp_path, kit.model(kit.graph([b""] * 101, [], [])), "more than 100 nodes")
    monkeypatch.setattr(_onnx, "MAX_FIELDS", 1000)
    refused(tmp_path, kit.number(1, 8) * 1001, "more than 1,000 fields")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_end_in_a_named_refusal_or_a_model(data: st.DataObject) -> None:
    """Random bytes, and good models with bytes changed: never another exception."""
    body = bytearray(data.draw(st.one_of(st.binary(max_size=200), st.just(GOOD))))
    for _ in range(data.draw(st.integers(0, 6)) if body else 0):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    model = _onnx.Model(Path("m.onnx"), bytes(body), "")
    try:
        _onnx._Walk(model).model(memoryview(model.data))
    except HeadwaterError as error:
        assert isinstance(error, IntegrityError) and "m.onnx" in str(error)


def test_what_onnxruntime_refuses_is_named(tmp_path: Path) -> None:
    unknown = read_model(kit.write(tmp_path / "m.onnx", with_node("NoSuchOperator", ["y"], ["e"])))
    with pytest.raises(
        IntegrityError, match=r"m\.onnx: onnxruntime cannot build this model: .*NoSuchOperator"
    ):
        open_session(unknown)
    wrong = kit.node("Reshape", ["x"], ["r"]), kit.node("MatMul", ["x", "w"], ["q"])
    for extra in wrong:
        body = kit.classifier(WEIGHTS, size=8, nodes=[extra])
        path = kit.write(tmp_path / "wrong.onnx", body)
        scorer = nsfw.Scorer(nsfw.Config(model=path, preset="custom"))
        with pytest.raises(IntegrityError, match=r"wrong\.onnx: (onnxruntime cannot|the model fails)"):
            scorer.score_pictures(
                [nsfw_picture(picture_kit.plain()), nsfw_picture(picture_kit.plain(10, (8, 9)))]
            )


def nsfw_picture(data: bytes) -> Any:
    from curate.pictures import Picture

    return Picture(uid="0" * 32, key="0", data=data)


def test_a_model_that_changes_under_way_is_not_used(tmp_path: Path) -> None:
    path = kit.write(tmp_path / "m.onnx", GOOD)
    scorer = nsfw.Scorer(nsfw.Config(model=path, preset="custom"))
    kit.write(path, kit.classifier(WEIGHTS, size=8))
    with pytest.raises(IntegrityError, match="changed since it was checked"):
        scorer.score_pictures([nsfw_picture(picture_kit.plain())])


def test_the_command_refuses_and_loses_nothing(tmp_path: Path) -> None:
    rows = picture_kit.samples(range(4))
    rows[1] = picture_kit.Sample(rows[1].uid, b"no picture")
    pool, tars = picture_kit.make(tmp_path, {"a.tar": rows})
    good, bad = kit.write(tmp_path / "good.onnx", GOOD), tmp_path / "bad.onnx"
    options = ["score", "nsfw", pool, "--shards", tars, "--preset", "custom", "--workers", "1"]
    done = run(*options, "--model", good)
    assert done.code == 3 and "not a picture" in done.said
    stored = {p: p.read_bytes() for p in (pool / ".headwater").rglob("*.parquet")}
    assert stored
    bad.write_bytes(pickle.dumps(Calls(tmp_path / "called")))
    age(bad)
    done = run(*options, "--model", bad)
    assert done.code == 13 and "is a pickle" in done.err and not (tmp_path / "called").exists()
    done = run(*options, "--model", tmp_path / "none.onnx")
    assert done.code == 10 and "none.onnx: no such file" in done.err
    kit.write(bad, with_node("Evil", ["y"], ["e"], [], "my.ops"))
    done = run(*options, "--model", bad)
    assert done.code == 13 and "'my.ops'" in done.err
    assert {p: p.read_bytes() for p in (pool / ".headwater").rglob("*.parquet")} == stored
    assert temporaries(tmp_path) == []
