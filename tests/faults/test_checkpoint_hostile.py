"""Checkpoints from outside: pickles that run code, headers and archives that lie; each refused, named, and without effect."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater._torch_pickle import _ACTIONS, _CONSTANTS, _LITERALS, NamesCode, Unreadable, read_pickle
from headwater.errors import IntegrityError
from headwater.weights import read_weights
from tests.faults.weights_kit import EDITS, mutated

torch = pytest.importorskip("torch")

PLAIN = "import pickle, sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); pickle.loads(z.read([n for n in z.namelist() if n.endswith('data.pkl')][0]))"
BARE = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"


class Payload:
    """Makes a folder when a pickle of it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def by_instance(marker: Path) -> bytes:
    """Protocol 0's INST: no GLOBAL, no REDUCE."""
    return b"(S'" + str(marker).encode() + b"'\niposix\nmkdir\n."


def by_object(marker: Path) -> bytes:
    """OBJ, the class on the stack."""
    return b"(cposix\nmkdir\nS'" + str(marker).encode() + b"'\no."


def by_memo(marker: Path) -> bytes:
    """STACK_GLOBAL whose two names come out of the memo, behind values that are popped again."""
    text = str(marker).encode()
    name = lambda word: b"\x8c" + bytes([len(word)]) + word  # noqa: E731
    words = name(b"mkdir") + b"\x94" + b"0" + name(b"posix") + b"\x94" + b"0" + name(b"collections") + b"0"
    return b"\x80\x04" + words + b"h\x01h\x00\x93" + name(text) + b"\x85R."


def in_the_optimizer(marker: Path) -> bytes:
    """Where the model's weights are not."""
    return pickle.dumps({"state_dict": {}, "optimizer": [1, {"betas": Payload(marker)}]}, 2)


def as_a_key(marker: Path) -> bytes:
    """Behind an innocent OrderedDict."""
    return pickle.dumps([{}, Payload(marker)], 2)


PICKLES: list[Callable[[Path], bytes]] = [
    *((lambda protocol: lambda marker: pickle.dumps(Payload(marker), protocol))(p) for p in range(6)),
    by_instance,
    by_object,
    by_memo,
    in_the_optimizer,
    as_a_key,
]


def archive(path: Path, data: bytes, records: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A zip like torch.save's around a pickle."""
    with zipfile.ZipFile(path, "w", **options) as made:
        made.writestr("archive/data.pkl", data)
        made.writestr("archive/byteorder", b"little")
        made.writestr("archive/version", b"3\n")
        for name, content in (records or {}).items():
            made.writestr(f"archive/{name}", content)
    return path


def run(code: str, path: Path) -> int:
    return subprocess.run(
        [sys.executable, "-P", "-c", code, path], capture_output=True, check=False
    ).returncode


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("make", PICKLES)
def test_a_payload_that_pickle_would_run_is_named_and_not_run(
    tmp_path: Path, make: Callable[[Path], bytes], zipped: bool
) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "w.pt"
    if zipped:
        archive(path, make(marker))
    else:
        path.write_bytes(make(marker))
    for name in ("w.pt", "w.bin", "w.pth", "w.ckpt"):
        link = tmp_path / name
        if name != "w.pt":
            link.symlink_to(path)
        with pytest.raises(IntegrityError, match=r"posix\.mkdir; nothing was run") as caught:
            read_weights(link)
        assert caught.value.exit_code == 13
        assert str(link) in caught.value.message
    assert not marker.exists()
    run(PLAIN if zipped else BARE, path)
    assert marker.is_dir(), "the payload would not have run anyway: this test proves nothing"


@pytest.mark.slow
def test_what_torch_itself_would_run_is_named_and_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "epoch_latest.pt"
    torch.save({"epoch": 1, "state_dict": {"a": torch.zeros(2)}, "optimizer": Payload(marker)}, path)
    with pytest.raises(IntegrityError, match=r"posix\.mkdir"):
        read_weights(path)
    assert not marker.exists()
    run("import sys, torch; torch.load(sys.argv[1], weights_only=False)", path)
    assert marker.is_dir()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "bytearray"),  # memory: bytearray(10**12)
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch.jit", "load"),
        ("torch._utils", "_rebuild_wrapper_subclass"),
        ("torch._tensor", "_rebuild_from_type_v2"),
        ("torch.storage", "_load_from_bytes"),  # a pickle in the pickle
        ("collections", "OrderedDict.fromkeys"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("headwater.weights", "read_weights"),
        ("torch.FloatStorage", "from_file"),
    ],
)
def test_names_outside_plain_tensors(tmp_path: Path, module: str, name: str) -> None:
    data = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b")R."
    with pytest.raises(IntegrityError, match=f"would call {module}.{name}"):
        read_weights(archive(tmp_path / "w.pt", data))


def whole(value: int) -> bytes:
    """LONG1."""
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def one_tensor(
    *,
    count: int = 4,
    offset: int = 0,
    shape: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    kind: str = "FloatStorage",
    key: str = "0",
    name: bytes | None = None,
) -> bytes:
    """{"a": tensor} as torch.save would pickle it, with figures of any kind."""
    sides = [b"(" + b"".join(map(whole, side)) + b"t" for side in (shape, stride)]
    storage = (
        b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + whole(count) + b"tQ"
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + whole(offset) + sides[0] + sides[1]
    return b"\x80\x02}" + (name or text("a")) + tensor + b"\x89)tRs."


def test_the_hand_made_archive_is_read(tmp_path: Path) -> None:
    values = struct.pack("<4f", 1, 2, 3, 4)
    path = archive(tmp_path / "w.pt", one_tensor(shape=(2,), stride=(2,), offset=1), {"data/0": values})
    assert read_weights(path)["a"].tolist() == [2.0, 4.0]
    assert torch.load(path, weights_only=True)["a"].tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    ("data", "records", "said"),
    [
        (one_tensor(shape=(5,)), {"data/0": b"\0" * 16}, "reaches beyond"),
        (one_tensor(shape=(1 << 40,)), {"data/0": b"\0" * 16}, "reaches beyond"),
        (one_tensor(shape=(1 << 40,), stride=(0,)), {"data/0": b"\0" * 16}, "reaches beyond"),
        (one_tensor(offset=1), {"data/0": b"\0" * 16}, "reaches beyond"),
        (one_tensor(offset=-1, shape=(1,)), {"data/0": b"\0" * 16}, "no whole numbers"),
        (one_tensor(shape=(-4,)), {"data/0": b"\0" * 16}, "no whole numbers"),
        (one_tensor(stride=(-1,)), {"data/0": b"\0" * 16}, "no whole numbers"),
        (one_tensor(shape=(1,) * 65, stride=(1,) * 65), {"data/0": b"\0" * 16}, "odd rank"),
        (one_tensor(shape=(2, 2)), {"data/0": b"\0" * 16}, "odd rank"),
        (one_tensor(), {"data/0": b"\0" * 12}, "has 12 bytes"),
        (one_tensor(), {"data/0": b"\0" * 20}, "has 20 bytes"),
        (one_tensor(), {}, "is missing"),
        (one_tensor(key="../../x"), {}, "oddly"),
        (one_tensor(count=-4), {}, "wrongly"),
        (one_tensor(kind="BoolStorage"), {"data/0": b"\0\1\2\1"}, "truth values"),
        (one_tensor(name=whole(3)), {"data/0": b"\0" * 16}, "'3' is no tensor"),
        (b"\x80\x02}" + text("state_dict") + b"K\x01s.", {}, "no table"),
        (b"\x80\x02}" + text("a") + b"K\x01s.", {}, "'a' is no tensor"),
        (b"\x80\x02}.", {}, "no table"),
        (b"\x80\x02K\x01.", {}, "no table"),
        (b"\x80\x02", {}, "damaged"),
        (b"", {}, "damaged"),
        (b"\x80\x02R.", {}, "damaged"),
        (b"\x80\x02h\x05.", {}, "damaged"),
        (b"\x80\x02(.", {}, "damaged"),
        (b"\x80\x02t.", {}, "damaged|no mark"),
        (b"\x80\x02}(K\x01u.", {}, "sets items"),
        (
            b"\x80\x02}" + b")" + b"\x85" * 300_000 + b"K\x01s.",
            {},
            "key of type tuple",
        ),  # its hash would overflow
        (b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".", {}, "no table"),
        (b"\x80\x02\x82\x01.", {}, "copyreg extension 1"),
        (b"\x80\x02]}b.", {}, "attributes"),
        (b"\x80\x02" + b"N0" * (5 << 20) + b".", {}, "larger than"),
    ],
)
def test_archives_whose_pickle_lies(
    tmp_path: Path, data: bytes, records: dict[str, bytes], said: str
) -> None:
    with pytest.raises(IntegrityError, match=said):
        read_weights(archive(tmp_path / "w.pt", data, records))


def test_zip_bombs(tmp_path: Path) -> None:
    data = one_tensor(count=1 << 26, shape=(1 << 26,))
    path = archive(tmp_path / "w.pt", data, {"data/0": bytes(1 << 28)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(IntegrityError, match="compressed"):
        read_weights(path)
    # the same claim by a record that says it is stored
    path = archive(tmp_path / "v.pt", data, {"data/0": b"\0" * 16})
    content = path.read_bytes()
    at = content.rindex(b"PK\x01\x02", 0, content.rindex(b"archive/data/0"))
    lied = content[: at + 20] + struct.pack("<LL", 1 << 28, 1 << 28) + content[at + 28 :]
    path.write_bytes(lied)
    with pytest.raises(IntegrityError, match="claim"):
        read_weights(path)


def test_archives_that_are_not_whole_or_not_ours(tmp_path: Path) -> None:
    good = tmp_path / "good.pt"
    torch.save({"a": torch.arange(1000.0)}, good)
    content = good.read_bytes()
    for cut in (0, 3, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.pt").write_bytes(content[:cut])
        with pytest.raises(IntegrityError):
            read_weights(tmp_path / "cut.pt")
    place = content.index(struct.pack("<f", 500.0))
    (tmp_path / "flip.pt").write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    with pytest.raises(IntegrityError, match="CRC"):
        read_weights(tmp_path / "flip.pt")
    for name, said in (("code/__torch__/model.py", "TorchScript"), ("constants.pkl", "TorchScript")):
        with pytest.raises(IntegrityError, match=said):
            read_weights(archive(tmp_path / "w.pt", one_tensor(), {name: b"x"}))
    with pytest.raises(IntegrityError, match="big-endian"):
        with zipfile.ZipFile(tmp_path / "w.pt", "w") as made:
            made.writestr("a/data.pkl", one_tensor())
            made.writestr("a/byteorder", b"big")
        read_weights(tmp_path / "w.pt")
    with pytest.raises(IntegrityError, match="twice"), pytest.warns(UserWarning, match="Duplicate"):
        with zipfile.ZipFile(tmp_path / "w.pt", "w") as made:
            made.writestr("a/data.pkl", one_tensor())
            made.writestr("a/data.pkl", pickle.dumps(1))
        read_weights(tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as made:
        made.writestr("readme.txt", b"x")
    with pytest.raises(IntegrityError, match="none that torch.save wrote"):
        read_weights(tmp_path / "w.pt")


def test_a_list_of_records_that_would_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with open(path, "r+b") as handle:
        handle.seek(1 << 30)  # a hole: nothing on the disk
        handle.write(b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 9, 9, 1 << 30, 4, 0))
    with pytest.raises(IntegrityError, match="list of records of 1,073,741,824 bytes"):
        read_weights(path)


def test_old_formats_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(IntegrityError, match="bare pickle"):
        read_weights(tmp_path / "old.pt")
    torch.save(
        {"a": torch.zeros(3), "b": Payload(tmp_path / "ran")},
        tmp_path / "evil.pt",
        _use_new_zipfile_serialization=False,
    )
    with pytest.raises(IntegrityError, match=r"posix\.mkdir"):
        read_weights(tmp_path / "evil.pt")
    with tarfile.open(tmp_path / "tar.pt", "w") as made:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            member = tarfile.TarInfo(name)
            content = pickle.dumps(Payload(tmp_path / "ran"))
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    with pytest.raises(IntegrityError, match="tar archive"):
        read_weights(tmp_path / "tar.pt")
    assert not (tmp_path / "ran").exists()


@settings(max_examples=300)
@given(edits=EDITS, protocol=st.sampled_from([0, 2, 4]))
def test_the_machine_ends_in_an_answer_whatever_it_reads(edits: list[tuple[int, int]], protocol: int) -> None:
    document = {"state_dict": {"x": 1.5, "y": [1, 2, (3, "z")]}, "name": "run", 3: None, "big": 1 << 70}
    try:
        read_pickle(mutated(pickle.dumps(document, protocol), edits))
    except (NamesCode, Unreadable):
        pass


def test_instructions_that_call_are_not_among_those_that_are_done() -> None:
    known = {opcode.name for opcode in pickletools.opcodes}
    done = {*_ACTIONS, *_LITERALS, *_CONSTANTS}
    assert done <= known
    calling = {"OBJ", "NEWOBJ", "NEWOBJ_EX", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"}
    assert not done & calling
    for opcode in pickletools.opcodes:
        if opcode.name in calling and opcode.arg is None:
            with pytest.raises(Unreadable, match=opcode.name):
                read_pickle(b"\x80\x02NN" + opcode.code.encode("latin-1") + b".")
