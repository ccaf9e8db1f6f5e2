"""The state that a training goes on from: damaged, of another run, or with code in it; told, never run, and never worth more than a part."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headwater.errors import IntegrityError
from tests.faults.train_kit import Payload
from train._checkpoint import LATEST, PREVIOUS, Needed, choose, finished_parts, keep_previous
from train.ledger import PartLedger, part_name, write_part

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip_train")
KEY = "b" * 64


def state(folder: Path, part: object, name: str = LATEST, **more: Any) -> Path:
    """A state as open_clip writes it after a part."""
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    document = {
        "epoch": part,
        "name": "run",
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    folder.mkdir(exist_ok=True)
    torch.save({**document, **more}, folder / name)
    return folder / name


def account(folder: Path, part: int, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    names: dict[str, Any] = {"run_key": KEY, "part": part, "rank": 0, "world": 1, **changes}
    empty32, empty16 = np.zeros(0, np.int32), np.zeros(0, np.int16)
    figures = np.ones(1, np.float32)
    one = np.zeros(4, np.int32)
    ledger = PartLedger(
        **names,
        shard=one,
        sample=one,
        step=np.array([part], np.int64),
        loss=figures,
        lr=figures,
        logit_scale=figures,
        skipped_reason=empty16,
        skipped_count=np.zeros(0, np.int64),
        skipped_shard=empty32,
        skipped_sample=empty32,
        skipped_code=empty16,
        wait_seconds=0.0,
        part_seconds=1.0,
        worker_cpu_seconds=0.0,
        cpu_seconds=1.0,
    )
    write_part(folder, ledger)


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, Needed]:
    """Two states of a training of 3 parts, and their accounts."""
    state(tmp_path / "states", 1, PREVIOUS)
    state(tmp_path / "states", 2)
    for part in (1, 2):
        account(tmp_path / "ledger", part)
    return tmp_path / "states", Needed(tmp_path / "ledger", KEY, 3, 1, None, None, None)


def test_the_newest_whole_state_is_taken(kept: tuple[Path, Needed]) -> None:
    folder, needed = kept
    assert choose(folder, needed) == []
    assert finished_parts(folder / LATEST) == 2 and (folder / PREVIOUS).exists()


def test_a_state_with_loss_scaling_is_read(kept: tuple[Path, Needed]) -> None:
    """Of precision amp, which only GPUs train with."""
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(1))  # it has no state before
    state(kept[0], 2, scaler=scaler.state_dict())
    assert choose(*kept) == []


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def empty(path: Path) -> None:
    os.truncate(path, 0)  # what a power failure leaves on some file systems


def flipped(path: Path) -> None:
    """One bit of the optimizer's moments."""
    with zipfile.ZipFile(path) as archive:
        info = next(one for one in archive.infolist() if one.filename.endswith("data/3"))
    data = bytearray(path.read_bytes())
    name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
    data[info.header_offset + 30 + name + extra] ^= 16
    path.write_bytes(bytes(data))


def text(path: Path) -> None:
    path.write_text("not found")


def code(path: Path) -> None:
    """Code where the optimizer's state belongs, in an archive like torch's."""
    state(path.parent, 2, path.name, optimizer=Payload(path.parent / "ran"))


def bare(path: Path) -> None:
    path.write_bytes(pickle.dumps({"epoch": 2, "state_dict": Payload(path.parent / "ran")}))


def later(path: Path) -> None:
    state(path.parent, 4, path.name)


def weights_only(path: Path) -> None:
    torch.save({"a": torch.ones(2)}, path)


def no_number(path: Path) -> None:
    state(path.parent, True, path.name)


DAMAGES: list[Callable[[Path], None]] = [
    cut,
    empty,
    flipped,
    text,
    code,
    bare,
    later,
    weights_only,
    no_number,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda function: function.__name__)
def test_a_state_that_is_none_costs_one_part(
    damage: Callable[[Path], None], kept: tuple[Path, Needed]
) -> None:
    folder, needed = kept
    damage(folder / LATEST)
    first, second = choose(folder, needed)
    assert (
        first.startswith("a state that was kept cannot be used (")
        and second == "going on from the state one part earlier"
    )
    assert finished_parts(folder / LATEST) == 1 and not (folder / PREVIOUS).exists()
    assert not (folder / "ran").exists(), "code of the state was run"
    if damage in (code, bare):
        assert "mkdir" in first


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda function: function.__name__)
def test_without_any_state_the_training_begins_again(
    damage: Callable[[Path], None], kept: tuple[Path, Needed]
) -> None:
    folder, needed = kept
    for name in (LATEST, PREVIOUS):
        damage(folder / name)
    told = choose(folder, needed)
    assert len(told) == 3 and told[-1] == "training from the start again"
    assert list(folder.iterdir()) == []


def test_a_list_that_holds_itself_is_read_to_its_end(kept: tuple[Path, Needed]) -> None:
    circle: list[Any] = [torch.ones(2)]
    circle.append(circle)
    state(kept[0], 2, optimizer=circle)
    assert choose(*kept) == []


@pytest.mark.parametrize("what", ["missing", "damaged", "of another run"])
def test_a_state_whose_account_is_lost_is_not_used(what: str, kept: tuple[Path, Needed]) -> None:
    """The training would go on to its end, and only there find that its samples cannot be counted."""
    folder, needed = kept
    path = needed.ledger / part_name(2, 0)
    if what == "missing":
        path.unlink()
    elif what == "damaged":
        cut(path)
    else:
        account(needed.ledger, 2, run_key="c" * 64)
    told = choose(folder, needed)
    assert "part_002_rank_000" in told[0] and finished_parts(folder / LATEST) == 1


def test_a_state_whose_average_or_weights_are_lost_is_not_used(
    kept: tuple[Path, Needed], tmp_path: Path
) -> None:
    from dataclasses import replace

    from headwater.weights import write_weights

    folder, needed = kept
    for part in (1, 2):
        write_weights({"a": torch.ones(3)}, tmp_path / f"part_{part}.safetensors")
    assert choose(folder, replace(needed, average=tmp_path, kept=tmp_path)) == []
    cut(tmp_path / "part_2.safetensors")
    # weights of the last part count when nothing is left to train, and only then
    assert choose(folder, replace(needed, weights=tmp_path)) == []
    shutil.copytree(folder, tmp_path / "copy")
    assert "part_2.safetensors" in choose(tmp_path / "copy", replace(needed, weights=tmp_path, parts=2))[0]
    assert "part_2.safetensors" in choose(folder, replace(needed, average=tmp_path))[0]
    assert finished_parts(folder / LATEST) == 1


def test_the_state_before_keeps_a_second_name(tmp_path: Path) -> None:
    keep_previous(tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing before the first part"
    for part in (1, 2, 3):
        keep_previous(tmp_path)
        state(tmp_path, part, "tmp.pt").replace(tmp_path / LATEST)
    assert (finished_parts(tmp_path / LATEST), finished_parts(tmp_path / PREVIOUS)) == (3, 2)


def test_a_file_system_without_links_keeps_one_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    state(tmp_path, 1)
    keep_previous(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LATEST]


def test_a_state_with_code_is_named_for_what_it_would_do(kept: tuple[Path, Needed]) -> None:
    code(kept[0] / LATEST)
    with pytest.raises(
        IntegrityError, match=r"epoch_latest\.pt: .* would call posix\.mkdir; nothing was run"
    ):
        finished_parts(kept[0] / LATEST)
