"""The two sides of train_overhead.py, each in a process of its own; one line of JSON at the end of standard output.

Run: python train_sides.py prepare RECIPE SHARDS FOLDER CACHE     a job, and the same arguments for plain open_clip
     python train_sides.py ours|plain FOLDER                      a whole training
     python train_sides.py steps FOLDER                           what that training did, by the state it left
     python train_sides.py loader ours|plain FOLDER SAMPLES WARM  the loader alone, in this process, without a model
     python train_sides.py watching BATCH STEPS                   our hooks around a step alone, without a model
"""

from __future__ import annotations

import gc
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

JOB, PLAIN = "job.json", "plain.json"
THREADS = 1


def prepare(recipe_file: str, shards: str, folder: str, cache: str) -> dict[str, Any]:
    """The job as `headwater train` hands it to its training process. Plain open_clip gets its arguments word by word, but for
    --train-data, which its loader wants as a list of tars."""
    from train import training
    from train.arguments import place
    from train.recipe import load_recipe

    recipe = load_recipe(recipe_file)
    placement = place(recipe, device="cpu", processes=1, micro_batch=None, accumulation=1, threads=THREADS)
    data = [Path(shards)]
    identity = training.data_id(data, Path(cache))
    job = training.Job(recipe, recipe, {}, True, data, identity, 0, placement, loader_processes=1)
    scan = training.check_shards(job)
    training._prepare(Path(folder), "0" * 64, job, scan)
    words = json.loads(Path(folder, JOB).read_bytes())["arguments"]
    words[words.index("--train-data") + 1] = "::".join(str(one.path.absolute()) for one in scan.shards)
    Path(folder, PLAIN).write_text(json.dumps(words))
    return {"samples": recipe.budget.samples_seen}


def side(who: str, folder: str) -> dict[str, Any]:
    """One training; what this process spent (the loop), and what its loader did, which ends before."""
    os.chdir(folder)
    if who == "ours":
        from train import _engine

        read, _ = os.pipe()  # it ends when its input does: here, with this process
        os.dup2(read, 0)
        code = _engine.main(JOB)
    else:
        import torch

        torch.set_num_threads(THREADS)
        from open_clip_train.main import main as plain

        code = plain(json.loads(Path(PLAIN).read_bytes()))
    if code:
        raise SystemExit(f"the training ended with {code}")
    gc.collect()
    own, loader = (resource.getrusage(one) for one in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"loop": own.ru_utime + own.ru_stime, "loader": loader.ru_utime + loader.ru_stime}


def steps(folder: str) -> dict[str, Any]:
    """Parts and optimizer steps in the state that open_clip left."""
    import torch

    path = Path(folder, "logs", "run", "checkpoints", "epoch_latest.pt")
    state = torch.load(path, map_location="cpu", weights_only=True)
    found = {int(one["step"]) for one in state["optimizer"]["state"].values()}
    return {"parts": int(state["epoch"]), "steps": sorted(found)}


def loader(who: str, folder: str, samples: str, warm: str) -> dict[str, Any]:
    """CPU seconds a sample, median over batches; `warm` samples go before, in which files are opened and buffers filled."""
    import torch
    from open_clip import create_model_and_transforms, get_tokenizer
    from open_clip_train.params import parse_args

    os.chdir(folder)
    torch.set_num_threads(THREADS)
    args = parse_args(json.loads(Path(PLAIN).read_bytes()))
    names = ("image_mean", "image_std", "image_interpolation", "image_resize_mode", "aug_cfg")
    stated = {name: getattr(args, name) for name in names}
    _, transform, _ = create_model_and_transforms(args.model, **stated)
    tokenizer = get_tokenizer(args.model)
    first = -(-int(warm) // args.batch_size)
    args.train_num_samples, args.rank, args.world_size = int(samples) + first * args.batch_size, 0, 1
    flow = (
        _our_batches(transform, tokenizer, args)
        if who == "ours"
        else _their_batches(transform, tokenizer, args)
    )
    spent = []
    while True:
        before = time.process_time()
        batch = next(flow, None)
        if batch is None:
            break
        spent.append((time.process_time() - before) / len(batch[0]))
    return {"batches": len(spent) - first, "seconds_a_sample": statistics.median(spent[first:])}


def _our_batches(transform: Any, tokenizer: Any, args: Any) -> Iterator[Any]:
    from types import SimpleNamespace

    from train.loader import Batches, Source

    job = json.loads(Path(JOB).read_bytes())
    return iter(
        Batches(
            Source(**job["source"]),
            batches=args.train_num_samples // args.batch_size,
            batch_size=args.batch_size,
            rank=0,
            processes=1,
            part=SimpleNamespace(value=0),
            transform=transform,
            tokenize=tokenizer,
        )
    )


def _their_batches(transform: Any, tokenizer: Any, args: Any) -> Iterator[Any]:
    from open_clip_train.data import get_wds_dataset

    args.workers = 0  # in this process
    return iter(get_wds_dataset(args, transform, True, tokenizer=tokenizer).dataloader)


def watching(batch: str, steps: str) -> dict[str, Any]:
    """CPU seconds a step: batches passed on, losses looked at, learning rate and scale noted, events told."""
    import numpy as np
    import torch

    from train._engine import Engine
    from train._record import Recorder
    from train.loader import Seen

    torch.set_num_threads(THREADS)
    model = torch.nn.Module()
    model.logit_scale = torch.nn.Parameter(torch.tensor(2.6))
    optimizer = torch.optim.SGD([model.logit_scale], lr=0.1)
    rows = np.zeros(int(batch), np.int32)
    with tempfile.TemporaryDirectory() as folder:
        names = {"run_key": "", "part": 1, "rank": 0, "world": 1, "accumulation": 1, "first_step": 0}
        engine = Engine({}, None)
        engine._recorder = Recorder(**names, events=Path(folder, "events"))
        engine._after_loss = (optimizer, model, 1)
        loss = engine.watched(lambda value: {"loss": value})
        flow = engine.batches((None, None, Seen(rows, rows, [], 0, 0.0)) for _ in range(int(steps)))
        value = torch.tensor(1.0)
        before = time.process_time()
        for _ in flow:
            loss(value)
        spent = time.process_time() - before
    return {"seconds_a_step": spent / int(steps)}


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file: nothing beside it is meant
    what, *words = sys.argv[1:]
    roles: dict[str, Any] = {"prepare": prepare, "steps": steps, "loader": loader, "watching": watching}
    found = side(what, *words) if what in ("ours", "plain") else roles[what](*words)
    sys.stdout.write("\n" + json.dumps(found) + "\n")
