"""From a recipe to the arguments of `open_clip_train.main`: first the list as DataComp's code writes it, then everything it leaves out.

open_clip would take betas and eps from the model's name, mean, std and interpolation from its own tables, and precision and
device from its defaults; here each of them is stated. For DataComp's scales the second half therefore repeats what the first half
means already (a test compares the two).
"""

from __future__ import annotations

from dataclasses import dataclass

from headwater.errors import UsageError
from train.recipe import Recipe

LOG_EVERY_STEPS = 100


@dataclass(frozen=True)
class Placement:
    """How a recipe is laid on a machine; processes x micro_batch x accumulation is the global batch."""

    device: str
    processes: int
    micro_batch: int
    accumulation: int
    threads: int

    def document(self) -> dict[str, int | str]:
        """For records: rounding differs between placements, so they are part of what decides the bytes."""
        return {
            "device": self.device,
            "processes": self.processes,
            "micro_batch": self.micro_batch,
            "accumulation": self.accumulation,
            "threads": self.threads,
        }


def place(
    recipe: Recipe,
    *,
    device: str,
    processes: int,
    micro_batch: int | None,
    accumulation: int,
    threads: int,
) -> Placement:
    """Check that a recipe fits a placement. Raises UsageError with the figures: nothing is rounded in silence."""
    batch = recipe.budget.global_batch
    for name, value in (("--processes", processes), ("--accumulation", accumulation), ("--threads", threads)):
        if value < 1:
            raise UsageError(f"{name} {value}: must be 1 or more")
    if micro_batch is None:
        if batch % (processes * accumulation):
            raise UsageError(
                f"a global batch of {batch:,} cannot be divided over {processes} processes x {accumulation} accumulation steps",
                hint=f"{processes} x {accumulation} must divide {batch:,}",
            )
        micro_batch = batch // (processes * accumulation)
    if micro_batch < 1 or micro_batch * processes * accumulation != batch:
        raise UsageError(
            f"micro batch {micro_batch:,} x {processes} processes x {accumulation} accumulation steps = "
            f"{micro_batch * processes * accumulation:,}, and the recipe's global batch is {batch:,}",
            hint="change --micro-batch, --processes or --accumulation so that the product is the global batch",
        )
    if device == "cpu" and recipe.numerics.precision == "amp":
        raise UsageError(
            "precision amp is float16 with loss scaling, for GPUs; this training would run on the CPU",
            hint="--override numerics.precision=amp_bf16 (the result is then marked as not conforming)",
        )
    return Placement(device, processes, micro_batch, accumulation, threads)


def batches_per_part(recipe: Recipe, placement: Placement) -> int:
    """Micro batches that each process takes in one part.

    With rounding `up` as open_clip counts: samples over the batch of all processes, rounded up, and up again to a multiple of the
    loader's streams. What does not fill a last accumulation step is not drawn at all.
    """
    budget = recipe.budget
    samples = budget.samples_seen // budget.checkpoints
    across = placement.micro_batch * placement.processes
    if budget.rounding == "exact":
        return samples // across
    batches = -(-samples // across)
    batches = -(-batches // recipe.sampling.streams) * recipe.sampling.streams
    return batches // placement.accumulation * placement.accumulation


def steps_per_part(recipe: Recipe, placement: Placement) -> int:
    """Optimizer steps in one part."""
    return batches_per_part(recipe, placement) // placement.accumulation


def published_arguments(
    recipe: Recipe, placement: Placement, *, train_data: str, model: str, logs: str, name: str, seed: int
) -> list[str]:
    """The list that DataComp's training script passes to open_clip, in its order (spec: its fixed training, table of scales)."""
    budget, loss, numerics = recipe.budget, recipe.loss, recipe.numerics
    found = ["--save-frequency", "0"]
    found += ["--ddp-static-graph"] if numerics.static_graph else []
    found += ["--local-loss"] if loss.local_loss else []
    found += ["--gather-with-grad"] if loss.gather_with_grad else []
    found += ["--grad-checkpointing"] if numerics.grad_checkpointing else []
    found += ["--train-data", train_data]
    found += ["--train-num-samples", str(budget.samples_seen // budget.checkpoints)]
    found += ["--warmup", str(recipe.schedule.warmup_steps)]
    found += ["--dataset-type", "webdataset"]
    found += ["--precision", numerics.precision]
    found += ["--workers", str(recipe.sampling.streams)]
    found += ["--model", model]
    found += ["--batch-size", str(placement.micro_batch)]
    found += ["--epochs", str(budget.checkpoints)]
    found += ["--lr", _number(recipe.optim.lr)]
    found += ["--logs", logs, "--name", name]
    found += ["--seed", str(seed)]
    found += ["--accum-freq", str(placement.accumulation)]
    found += ["--log-every-n-steps", str(LOG_EVERY_STEPS)]
    found += ["--save-most-recent", "--resume", "latest"]
    found += ["--dataset-resampled"] if recipe.sampling.mode == "resampled" else []
    if recipe.optim.beta2 != 0.98:  # DataComp passes it where its scale table names one
        found += ["--beta2", _number(recipe.optim.beta2)]
    if recipe.optim.grad_clip_norm is not None:
        found += ["--grad-clip-norm", _number(recipe.optim.grad_clip_norm)]
    return found


def stated_arguments(recipe: Recipe, placement: Placement) -> list[str]:
    """What the published list leaves to open_clip, written out."""
    optim, preprocess = recipe.optim, recipe.preprocess
    low, high = preprocess.crop_scale
    found = ["--opt", optim.name, "--beta1", _number(optim.beta1), "--beta2", _number(optim.beta2)]
    found += ["--eps", _number(optim.eps), "--wd", _number(optim.weight_decay)]
    found += ["--lr-scheduler", recipe.schedule.kind]
    found += ["--image-mean", *map(_number, preprocess.mean), "--image-std", *map(_number, preprocess.std)]
    found += [
        "--image-interpolation",
        preprocess.interpolation,
        "--image-resize-mode",
        preprocess.resize_mode,
    ]
    found += ["--aug-cfg", f"scale=({_number(low)},{_number(high)})"]
    found += ["--device", placement.device]
    if recipe.loss.kind == "sigmoid":
        found += ["--siglip"]
    return found


def argument_list(
    recipe: Recipe, placement: Placement, *, train_data: str, model: str, logs: str, name: str, seed: int
) -> list[str]:
    """The whole list for `open_clip_train.main.main`."""
    published = published_arguments(
        recipe, placement, train_data=train_data, model=model, logs=logs, name=name, seed=seed
    )
    return [*published, *stated_arguments(recipe, placement)]


def _number(value: float) -> str:
    return repr(value)
