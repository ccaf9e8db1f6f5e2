"""Pictures from a formula as torch datasets: every picture once, the same batches for any number of processes, crops that cost a crop."""

from __future__ import annotations

import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from curate.drawing import make_picture
from curate.generation import Generation
from curate.make_request import MakeRequest, resolve
from headwater.errors import IntegrityError, UsageError
from train.synthetic import Crop, PicturesMap, PicturesStream

SIDE = 96
SMALL = {
    "image_size": SIDE,
    "vertex_num_min": 20,
    "vertex_num_max": 60,
    "line_num_min": 3,
    "line_num_max": 12,
    "oval_rate": 1.0,
    "start_pos": 24,
    "radius_min": 0,
}


def small(classes: int = 5, instances: int = 7, **more: Any) -> Generation:
    given_ = {"parameters": SMALL, "seed": 3, **more}
    return resolve(MakeRequest("visualatom", classes=classes, instances=instances, **given_))


def drawn(generation: Generation, row: int, instance: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture as the set has it."""
    return make_picture(generation, row + generation.start_class, instance).picture.pixels.copy()


def digests(stream: PicturesStream, workers: int = 0) -> list[tuple[bytes, list[int]]]:
    """The batches that a loader gives."""
    loader = DataLoader(stream, batch_size=None, num_workers=workers)
    return [(pictures.numpy().tobytes(), labels.tolist()) for pictures, labels in loader]


def test_map_gives_the_pictures_of_the_recipe_by_number() -> None:
    for order in ("class", "instance"):
        generation = small(start_class=4, order=order)
        pictures = PicturesMap(generation)
        assert len(pictures) == 35
        for number in (0, 8, 34):
            row, instance = generation.place(number)
            tensor, label = pictures[number]
            assert label == row + 4
            assert tensor.dtype == torch.uint8
            assert tuple(tensor.shape) == (1, SIDE, SIDE)
            assert np.array_equal(tensor[0].numpy(), drawn(generation, row, instance))
        assert np.array_equal(pictures[-1][0], pictures[34][0])
        with pytest.raises(IndexError, match="picture 35: there are 35"):
            pictures[35]


def test_pictures_are_copies_and_widened_on_demand() -> None:
    narrow, wide = PicturesMap(small()), PicturesMap(small(), channels=3)
    first = narrow[0][0]
    kept = first.clone()
    narrow[9]
    assert torch.equal(first, kept)
    assert torch.equal(wide[0][0], first.expand(3, -1, -1))
    assert wide[0][0].is_contiguous()


def test_transform_comes_last_and_sees_the_crop() -> None:
    pictures = PicturesMap(small(), crop=Crop(16), channels=3, transform=lambda x: x.float().mean())
    plain = PicturesMap(small(), crop=Crop(16), channels=3)
    assert torch.equal(pictures[3][0], plain[3][0].float().mean())
    assert tuple(plain[3][0].shape) == (3, 16, 16)


def test_crop_is_that_of_the_whole_picture() -> None:
    """The painter draws the box alone; pixels are those of drawing all, cutting the box out, and resizing it."""
    generation, crop = small(classes=20, instances=4), Crop(24, scale=(0.05, 0.6))
    boxes = []

    class Noted(Crop):
        def box(self, side: int, draw: random.Random) -> tuple[int, int, int, int]:
            boxes.append(super().box(side, draw))
            return boxes[-1]

    pictures = PicturesMap(generation, crop=Noted(24, scale=(0.05, 0.6)))
    for number in range(len(pictures)):
        tensor, row = pictures[number]
        top, left, height, width = boxes[-1]
        whole = drawn(generation, row, generation.place(number)[1])
        box = torch.from_numpy(whole[top : top + height, left : left + width].copy())
        assert torch.equal(tensor, crop.resize(box[None])), number
    assert len(set(boxes)) == len(boxes)


def test_only_the_box_is_drawn() -> None:
    pictures = PicturesMap(small(), crop=Crop(8))
    drawer = pictures._pictures.drawer
    assert drawer is not None
    whole = drawer.pixels(0, 0).copy()
    window = drawer.pixels(0, 0, (SIDE // 2, 0, SIDE // 2, SIDE)).copy()
    assert np.array_equal(window[SIDE // 2 :], whole[SIDE // 2 :])
    assert not window[: SIDE // 4].any()
    assert whole[: SIDE // 4].any()


def test_crops_of_a_picture_change_with_epoch_and_seed() -> None:
    pictures, other = PicturesMap(small(), crop=Crop(16)), PicturesMap(small(), crop=Crop(16), seed=1)
    first = [pictures[n][0] for n in range(35)]
    pictures.set_epoch(1)
    second = [pictures[n][0] for n in range(35)]
    pictures.set_epoch(0)
    assert all(torch.equal(pictures[n][0], first[n]) for n in range(35))
    assert sum(torch.equal(a, b) for a, b in zip(first, second, strict=True)) < 4
    assert sum(torch.equal(other[n][0], first[n]) for n in range(35)) < 4


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("batch", [None, 4])
def test_an_epoch_is_every_picture_once(ranks: int, workers: int, batch: int | None) -> None:
    """The union over ranks and loader processes, by the numbers that each would draw."""
    generation = small()
    numbers: list[int] = []
    for rank in range(ranks):
        stream = PicturesStream(generation, batch_size=batch, rank=rank, ranks=ranks)
        mine: list[int] = []
        for worker in range(workers):
            groups = list(stream._numbers(stream._places(worker, workers), epoch=2))
            mine += np.concatenate(groups).tolist() if groups else []
        assert len(mine) == stream.pictures
        numbers += mine
    assert sorted(numbers) == list(range(35))


def test_drop_last_gives_all_ranks_equally_many_whole_batches() -> None:
    streams = [PicturesStream(small(), batch_size=4, rank=rank, ranks=3, drop_last=True) for rank in range(3)]
    assert {(len(s), s.pictures) for s in streams} == {(2, 8)}
    assert {len(labels) for s in streams for _, labels in s} == {4}
    whole = PicturesStream(small(), batch_size=4, rank=2, ranks=3)
    assert (len(whole), whole.pictures) == (3, 11)
    assert [len(labels) for _, labels in whole] == [4, 4, 3]


def test_batches_hold_the_pictures_of_their_labels() -> None:
    generation = small()
    known = {drawn(generation, row, i).tobytes(): row for row in range(5) for i in range(7)}
    found = []
    for pictures, labels in PicturesStream(generation, batch_size=6):
        found += [p.numpy().tobytes() for p in pictures]
        assert [known[p.numpy().tobytes()] for p in pictures] == labels.tolist()
        assert labels.dtype == torch.int64
    assert sorted(found) == sorted(known)


def test_loader_processes_change_nothing() -> None:
    for options in ({"crop": Crop(16)}, {"channels": 3, "fresh": True}):
        stream = PicturesStream(small(), batch_size=4, **options)
        stream.set_epoch(3)
        alone = digests(stream)
        assert len(alone) == len(stream) == 9
        assert digests(stream, 1) == digests(stream, 2) == alone


def test_single_pictures_with_two_processes_are_the_same_set() -> None:
    stream = PicturesStream(small())
    alone = sorted(picture.numpy().tobytes() for picture, _ in stream)
    loader = DataLoader(stream, batch_size=5, num_workers=2)
    assert sorted(p.numpy().tobytes() for batch, _ in loader for p in batch) == alone


def test_epochs_shuffle_and_crop_anew_and_come_again() -> None:
    stream = PicturesStream(small(), batch_size=7, crop=Crop(16))
    first = digests(stream)
    stream.set_epoch(1)
    second = digests(stream)
    stream.set_epoch(0)
    assert digests(stream) == first != second
    assert [labels for _, labels in first] != [labels for _, labels in second]
    other = PicturesStream(small(), batch_size=7, seed=1)
    assert [labels for _, labels in digests(other)] != [labels for _, labels in first]


def test_without_shuffle_the_order_is_the_recipes() -> None:
    stream = PicturesStream(small(order="instance"), batch_size=5, shuffle=False)
    assert [labels.tolist() for _, labels in stream] == [[0, 1, 2, 3, 4]] * 7


def test_workers_that_stay_see_the_next_epoch() -> None:
    stream = PicturesStream(small(), batch_size=7, fresh=True)
    loader = DataLoader(stream, batch_size=None, num_workers=2, persistent_workers=True)
    for epoch in (0, 1):
        stream.set_epoch(epoch)
        found = sorted(p.numpy().tobytes() for batch, _ in loader for p in batch)
        wanted = [drawn_beyond(small(), row, epoch * 7 + i) for row in range(5) for i in range(7)]
        assert found == sorted(wanted)


def drawn_beyond(generation: Generation, row: int, instance: int) -> bytes:
    """A picture of the larger set that holds it too."""
    return drawn(generation.model_copy(update={"instances": 1000}), row, instance).tobytes()


def test_fresh_instances_are_new_every_epoch() -> None:
    stream = PicturesStream(small(), batch_size=35, fresh=True)
    seen: set[bytes] = set()
    for epoch in range(4):
        stream.set_epoch(epoch)
        ((pictures, labels),) = list(stream)
        assert sorted(labels.tolist()) == sorted(list(range(5)) * 7)
        seen |= {p.numpy().tobytes() for p in pictures}
    assert len(seen) == 4 * 35


def test_near_empty_pictures_are_drawn_again_here_too() -> None:
    """With a rejection in the recipe the whole picture decides: crops are those of the picture that was kept."""
    generation = small(classes=12, instances=6, min_lit=0.08)
    plain, crop = (
        PicturesMap(generation),
        PicturesMap(generation, crop=Crop(SIDE, scale=(1, 1), ratio=(1, 1))),
    )
    unkept = PicturesMap(small(classes=12, instances=6))
    different = 0
    for number in range(len(plain)):
        assert torch.equal(plain[number][0], crop[number][0])
        row, instance = generation.place(number)
        assert np.array_equal(plain[number][0][0].numpy(), drawn(generation, row, instance))
        different += not torch.equal(plain[number][0], unkept[number][0])
    assert different > 0


def test_datasets_travel_without_their_kernels() -> None:
    stream = PicturesStream(small(), batch_size=7)
    alone = digests(stream)
    assert stream._pictures.drawer is not None
    data = pickle.dumps(stream.generation)
    assert len(data) < 4000
    copy = PicturesStream(pickle.loads(data), batch_size=7)
    assert digests(copy) == alone
    assert stream._pictures.__getstate__()["drawer"] is None


def test_recipes_by_path_are_checked(tmp_path: Any) -> None:
    generation = small().sealed()
    file = tmp_path / "recipe.json"
    file.write_text(generation.model_dump_json())
    assert torch.equal(PicturesMap(file)[3][0], PicturesMap(str(tmp_path))[3][0])
    request = MakeRequest("visualatom", classes=5, instances=7, seed=3, parameters=SMALL)
    assert torch.equal(PicturesMap(file)[3][0], PicturesMap(request)[3][0])
    file.write_text(generation.model_dump_json().replace('"seed":3', '"seed":4'))
    with pytest.raises(IntegrityError, match="was changed"):
        PicturesMap(file)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"rank": 2, "ranks": 2}, "rank 2"),
        ({"ranks": 0}, "ranks 0"),
        ({"channels": 2}, "channels 2"),
    ],
)
def test_what_cannot_be_streamed_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        PicturesStream(small(), **wrong)
    with pytest.raises(UsageError, match="epoch -1"):
        PicturesStream(small()).set_epoch(-1)
    reference = resolve(MakeRequest("visualatom", classes=2, instances=2, stream="reference"))
    with pytest.raises(UsageError, match="reference stream follow from all before them"):
        PicturesMap(reference)


def test_targets_are_what_torchvisions_detectors_take() -> None:
    generation = resolve(MakeRequest("scenes", classes=3, instances=2, parameters={"image_size": 128}))
    pictures = PicturesMap(generation, targets=True)
    things = 0
    for number in range(6):
        row, instance = generation.place(number)
        picture = make_picture(generation, row, instance).picture
        tensor, target = pictures[number]
        assert np.array_equal(tensor.permute(1, 2, 0).numpy(), picture.pixels)
        assert target["boxes"].shape == (len(picture.things), 4)
        assert target["masks"].shape == (len(picture.things), 128, 128)
        for place, thing in enumerate(picture.things):
            mask = target["masks"][place].numpy()
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert target["boxes"][place].tolist() == box
            assert target["labels"][place] == 1 + thing.label > 0
            assert target["area"][place] == mask.sum()
            things += 1
    assert things > 5
    stream = PicturesStream(generation, batch_size=4, targets=True, fresh=True)
    found = [
        len(target["labels"]) for _, targets in DataLoader(stream, batch_size=None) for target in targets
    ]
    assert len(found) == 6
    with pytest.raises(UsageError, match="targets and crop"):
        PicturesMap(generation, targets=True, crop=Crop(8))
    with pytest.raises(UsageError, match="visualatom come without things"):
        PicturesMap(small(), targets=True)


def test_ranks_are_those_of_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (PicturesStream(small()).rank, PicturesStream(small()).ranks) == (0, 1)
    for name, value in (("is_initialized", True), ("get_rank", 2), ("get_world_size", 4)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    stream = PicturesStream(small())
    assert (stream.rank, stream.ranks, len(stream)) == (2, 4, 9)


def test_a_model_learns_from_pictures_that_were_never_stored() -> None:
    """Six classes, fresh instances each epoch, a small network: held-out instances are told apart far better than by chance (17 %)."""
    torch.manual_seed(0)
    generation = small(classes=6, instances=32)
    stream = PicturesStream(generation, batch_size=32, fresh=True)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 5, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(512, 6),
    )
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(10):
        stream.set_epoch(epoch)
        for pictures, labels in stream:
            loss = torch.nn.functional.cross_entropy(model(pictures.float() / 255), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    stream.set_epoch(1000)  # instances from 32,000 on
    right = sum(int((model(p.float() / 255).argmax(1) == labels).sum()) for p, labels in stream)
    assert right / generation.pictures > 0.6
