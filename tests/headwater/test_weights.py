"""Weights: what is written is read equal, by us and by others, to the byte."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headwater import console
from headwater._safetensors import NAMES
from headwater.errors import MissingInput, UsageError
from headwater.weights import not_finite, read_weights, same_shapes, state_digest, write_weights

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

KINDS = [getattr(torch, name) for name in NAMES]


def equal(left: dict[str, Any], right: dict[str, Any]) -> bool:
    """The same names, shapes, types and bits (NaN too)."""
    return left.keys() == right.keys() and all(
        left[name].shape == right[name].shape
        and left[name].dtype == right[name].dtype
        and bits(left[name]) == bits(right[name])
        for name in left
    )


def bits(tensor: Any) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def some(seed: int = 0) -> dict[str, Any]:
    """Tensors of every type that the format has, of several ranks, empty and scalar ones among them."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for number, kind in enumerate(KINDS):
        shape = [(3, 4), (), (0, 2), (5,)][number % 4]
        found[f"block.{number}.weight"] = (torch.rand(shape, generator=generator) * 100).to(kind)
    return found


@st.composite
def states(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5, unique=True))
    found = {}
    for name in names:
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        kind = draw(st.sampled_from(KINDS))
        found[name] = torch.randint(0, 2, shape).to(kind)
    found.pop("__metadata__", None)
    return found or {"a": torch.zeros(1)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(state=states())
def test_what_is_written_is_read_and_is_what_the_package_writes(
    tmp_path: Path, state: dict[str, Any]
) -> None:
    path = tmp_path / "w.safetensors"
    write_weights(state, path, durable=False)
    back = read_weights(path)
    prefixed = all(name.startswith("module.") for name in state)
    assert equal(back, {n.removeprefix("module.") if prefixed else n: t for n, t in state.items()})
    assert equal(safetensors_torch.load_file(path), state)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == state_digest(state)
    other = tmp_path / "theirs.safetensors"
    safetensors_torch.save_file(state, other, metadata={"format": "pt"})
    assert equal(read_weights(other), back)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(state=states(), kind=st.sampled_from(KINDS))
def test_tensors_of_one_type_are_the_bytes_of_the_package(
    tmp_path: Path, state: dict[str, Any], kind: Any
) -> None:
    state = {name: torch.ones(tensor.shape).to(kind) for name, tensor in state.items()}
    write_weights(state, tmp_path / "ours.safetensors", durable=False)
    safetensors_torch.save_file(state, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_every_type_and_rank(tmp_path: Path) -> None:
    state = some()
    write_weights(state, tmp_path / "w.safetensors")
    assert equal(read_weights(tmp_path / "w.safetensors"), state)
    assert equal(safetensors_torch.load_file(tmp_path / "w.safetensors"), state)


def test_order_layout_and_sharing_change_no_byte(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    plain = {"a": base.clone(), "b": base.t().contiguous(), "c": base[1].clone()}
    odd = {"c": base[1], "b": base.t(), "a": torch.nn.Parameter(base)}
    write_weights(plain, tmp_path / "1.safetensors")
    write_weights(odd, tmp_path / "2.safetensors")
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()
    assert state_digest(odd) == state_digest(plain) != state_digest({**plain, "c": base[2]})


def test_a_training_checkpoint_gives_the_model_alone(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3,
        "name": "run",
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
    }
    path = tmp_path / "epoch_latest.pt"
    torch.save(checkpoint, path)
    assert equal(read_weights(path), dict(model.state_dict()))
    # as torch reads it, when it reads only weights
    assert equal(read_weights(path), dict(torch.load(path, weights_only=True)["state_dict"]))
    checkpoint["state_dict"] = {f"module.{name}": t for name, t in model.state_dict().items()}
    torch.save(checkpoint, path)
    assert equal(read_weights(path), dict(model.state_dict()))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.ckpt"])
def test_plain_tables_of_any_pickle_protocol(tmp_path: Path, name: str, protocol: int) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    state = {
        "view": base[1:, ::2],
        "turned": base.t(),
        "whole": base,
        "parameter": torch.nn.Parameter(base[0]),
    }
    state |= {"number": torch.tensor(7), "none": torch.empty(0), "half": base.bfloat16(), "yes": base > 3}
    torch.save(state, tmp_path / name, pickle_protocol=protocol)
    assert equal(read_weights(tmp_path / name), {key: t.detach() for key, t in state.items()})


def test_shapes_are_compared_by_name() -> None:
    state = {"a": torch.zeros(2), "b": torch.zeros(3, 4)}
    assert same_shapes(state, {"b": torch.ones(3, 4), "a": torch.ones(2)}) is None
    assert same_shapes(state, {"a": torch.zeros(2)}) == "'b' is only in the first"
    assert same_shapes({}, {"x": torch.zeros(1)}) == "'x' is only in the second"
    assert (
        same_shapes(state, {**state, "b": torch.zeros(3, 5)})
        == "'b' is [3, 4] in the first and [3, 5] in the second"
    )
    assert (
        same_shapes(state, {**state, "a": torch.zeros(2).half()})
        == "'a' is float32 in the first and float16 in the second"
    )


class Told:
    """Listens."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str]] = []

    def message(self, level: str, text: str, fields: dict[str, Any]) -> None:
        self.messages.append((level, text))

    def progress(self, task: Any) -> None:
        pass


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_values_that_are_not_finite_are_told(tmp_path: Path, suffix: str) -> None:
    state = {"good": torch.ones(3), "bad": torch.tensor([1.0, float("nan"), float("-inf")])}
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        write_weights(state, path)
    told = Told()
    token = console._sink.set(told)
    try:
        assert equal(read_weights(path), state)
    finally:
        console._sink.reset(token)
    assert told.messages == [("warning", f"{path}: 2 values are NaN or infinite, 2 of them in 'bad'")]
    assert not_finite({"count": torch.tensor([1, 2]), "small": torch.ones(2).to(torch.float8_e4m3fn)}) == {}


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    for bad in (
        torch.zeros(2, 2).to_sparse(),
        torch.zeros(2, device="meta"),
        torch.zeros(2, dtype=torch.complex128),
    ):
        with pytest.raises(UsageError, match="'odd'"):
            write_weights({"odd": bad}, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="safetensors"):
        write_weights({"a": torch.zeros(1)}, tmp_path / "w.pt")
    assert list(tmp_path.iterdir()) == []


def test_names_that_are_no_weights(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("x")
    with pytest.raises(UsageError, match="w.txt"):
        read_weights(tmp_path / "w.txt")
    with pytest.raises(MissingInput):
        read_weights(tmp_path / "w.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:timm", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_open_clip_reads_what_we_write_and_we_read_what_it_writes(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    towers = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    document = {"model_cfg": towers, "preprocess_cfg": {"size": 32}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
    model = open_clip.CLIP(**towers)
    write_weights(model.state_dict(), tmp_path / "open_clip_model.safetensors")
    loaded = open_clip.create_model(f"local-dir:{tmp_path}")
    assert equal(dict(loaded.state_dict()), dict(model.state_dict()))
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, tmp_path / "epoch_1.pt")
    safetensors_torch.save_file(model.state_dict(), tmp_path / "theirs.safetensors")
    for name in ("epoch_1.pt", "theirs.safetensors"):
        assert equal(read_weights(tmp_path / name), dict(model.state_dict()))
        assert equal(
            read_weights(tmp_path / name), dict(open_clip.factory.load_state_dict(str(tmp_path / name)))
        )
