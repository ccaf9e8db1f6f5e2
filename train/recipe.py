"""A recipe: everything about a training but the data and the seed, written out in full and known by its hash.

Nothing is inferred at run time: what open_clip would take from a model's name (betas, mean and std, interpolation) stands in the
recipe. The id is the SHA-256 of the canonical JSON (RFC 8785) of all fields but the labels, so that a change of a default in some
later version cannot alter it. Where a training runs (device, processes, micro batch) is not part of a recipe.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError, model_validator

from headwater.config import load_yaml
from headwater.errors import MissingInput, UsageError
from headwater.manifest import Record, identity_id

LABELS = ("format", "name", "summary", "source", "verified")  # what does not decide a result
MAX_SAMPLES = 10**12

Positive = Annotated[int, Field(ge=1, le=MAX_SAMPLES)]
Share = Annotated[float, Field(gt=0, lt=1)]
Triple = Annotated[list[float], Field(min_length=3, max_length=3)]


class Strict(Record):
    """Numbers stay numbers: `yes` is no truth value and "5" no count."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Model(Strict):
    """The two towers. `open_clip_config` is open_clip's `model_cfg`, whole."""

    open_clip_config: dict[str, Any]
    builtin: str | None = Field(
        None,
        description="label: open_clip's name of the same configuration, checked when the training starts",
    )


class Preprocess(Strict):
    """What becomes of a picture before it enters the tower."""

    size: Annotated[int, Field(ge=8, le=2048, description="pixels, both sides")]
    mean: Triple
    std: Triple
    interpolation: Literal["bicubic", "bilinear"]
    resize_mode: Literal["shortest", "longest", "squash"]
    crop_scale: Annotated[
        list[float], Field(min_length=2, max_length=2, description="random resized crop, share of the area")
    ]


class DataContract(Strict):
    """What the shards must be."""

    kind: Literal["webdataset"]
    min_shards: Positive


class Budget(Strict):
    """Counted in samples, never in epochs."""

    samples_seen: Positive
    global_batch: Positive
    checkpoints: Annotated[
        int, Field(ge=1, le=1000, description="parts of equal size; a checkpoint after each")
    ]
    rounding: Literal["exact", "up"] = Field(
        description="exact: parts are whole batches; up: batches a part are rounded up to a multiple of the streams, as open_clip does"
    )


class Loss(Strict):
    """Softmax (CLIP) or sigmoid (SigLIP) over all pairs of the global batch."""

    kind: Literal["softmax", "sigmoid"]
    local_loss: bool
    gather_with_grad: bool


class Optim(Strict):
    """AdamW; gains and biases are not decayed."""

    name: Literal["adamw"]
    lr: Annotated[float, Field(gt=0, le=10)]
    beta1: Share
    beta2: Share
    eps: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, le=10)]
    grad_clip_norm: Annotated[float, Field(gt=0)] | None


class Schedule(Strict):
    """Linear warm-up, then a cosine to 0 (or constant)."""

    kind: Literal["cosine", "const"]
    warmup_steps: Annotated[int, Field(ge=0, le=MAX_SAMPLES)]


class Numerics(Strict):
    """Precision of the arithmetic."""

    precision: Literal["fp32", "amp", "amp_bf16"] = Field(
        description="amp is float16 autocast with loss scaling"
    )
    grad_checkpointing: bool
    static_graph: bool


class Sampling(Strict):
    """In which order samples come.

    `streams` sequences are drawn side by side and batch i comes from stream i mod `streams`; they are spread over as many loader
    processes as there are, so that the number of processes changes nothing.
    """

    mode: Literal["resampled", "shuffled"] = Field(
        description="resampled: shards drawn uniformly with replacement; shuffled: every shard once a pass"
    )
    shuffle_buffer: Positive
    shuffle_initial: Positive
    streams: Annotated[int, Field(ge=1, le=64)]


class Ema(Strict):
    """Exponential moving average of the weights; with `warmup` the decay is min(decay, (1 + step) / (10 + step))."""

    decay: Share
    warmup: bool


class Recipe(Strict):
    """`recipe/1`."""

    format: Literal["recipe/1"]
    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9._-]{0,63}$", description="label")]
    summary: str = ""
    source: str = Field("", description="label: where the figures come from")
    verified: str = Field("never", description="label: when and on what hardware it was run to its end")
    task: Literal["clip"]
    model: Model
    preprocess: Preprocess
    data_contract: DataContract
    budget: Budget
    loss: Loss
    optim: Optim
    schedule: Schedule
    numerics: Numerics
    sampling: Sampling
    ema: Ema | None
    keep_checkpoints: bool = Field(description="keep the weights after each part in the run")
    allowed_overrides: list[str] = Field(
        description="fields (dotted) that may be changed for a machine without losing conformity"
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> Recipe:
        vision = self.model.open_clip_config.get("vision_cfg")
        if not isinstance(vision, dict) or "text_cfg" not in self.model.open_clip_config:
            raise ValueError("model.open_clip_config needs vision_cfg and text_cfg")
        if vision.get("image_size") != self.preprocess.size:
            raise ValueError(
                f"preprocess.size {self.preprocess.size} is not the model's image_size {vision.get('image_size')}"
            )
        low, high = self.preprocess.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError("preprocess.crop_scale must be 0 < low <= high <= 1")
        if self.budget.rounding == "exact" and self.budget.samples_seen % (
            self.budget.global_batch * self.budget.checkpoints
        ):
            raise ValueError(
                f"budget: {self.budget.samples_seen:,} samples are not {self.budget.checkpoints} parts of whole batches of "
                f"{self.budget.global_batch:,} (rounding: exact)"
            )
        return self

    @property
    def content(self) -> dict[str, Any]:
        """Everything that decides a result."""
        document = self.model_dump(mode="json", exclude=set(LABELS))
        del document["model"]["builtin"]
        return document

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON of `content`, in hex."""
        return identity_id(self.content)

    @property
    def context_length(self) -> int:
        """Tokens of a caption; longer ones are cut."""
        return int(self.model.open_clip_config["text_cfg"].get("context_length", 77))


def load_recipe(name: str | Path) -> Recipe:
    """A recipe of the package by its name, or a file. Raises UsageError, naming the field, or MissingInput."""
    from headwater import plugins

    text = str(name)
    looks_like_file = text.endswith((".yaml", ".yml", ".json")) or "/" in text
    path = Path(text) if looks_like_file else plugins.find("recipes", text).path
    if looks_like_file and not path.is_file():
        raise MissingInput(
            f"{path}: no such recipe file", hint="headwater plugins recipes lists those by name"
        )
    return parse_recipe(load_yaml(path), str(path))


def parse_recipe(document: dict[str, Any], where: str) -> Recipe:
    """The recipe in a document; `where` names it in errors."""
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the recipe"
        raise UsageError(
            f"{where}: {field}: {first['msg'].removeprefix('Value error, ')}",
            hint="headwater schema recipe describes the format",
        ) from error


def override(recipe: Recipe, assignments: Sequence[str]) -> tuple[Recipe, dict[str, Any], bool]:
    """The recipe with `field=value` changes, what was changed, and whether the result still conforms.

    A change conforms when the recipe allows that field, or when the value is the recipe's own.
    """
    document = recipe.model_dump(mode="json")
    changed: dict[str, Any] = {}
    for assignment in assignments:
        key, sign, value_text = assignment.partition("=")
        parts = key.strip().split(".")
        target: Any = document
        for part in parts[:-1]:
            target = target.get(part) if isinstance(target, dict) else None
        if not sign or not isinstance(target, dict) or parts[-1] not in target or parts[0] in LABELS:
            raise UsageError(
                f"--override {assignment}: the recipe has no field {key.strip()!r}",
                hint="like --override budget.global_batch=64; headwater schema recipe lists the fields",
            )
        value = _value(assignment, value_text)
        if target[parts[-1]] != value:
            target[parts[-1]] = value
            changed[key.strip()] = value
    conforming = all(
        any(key == allowed or key.startswith(allowed + ".") for allowed in recipe.allowed_overrides)
        for key in changed
    )
    return parse_recipe(copy.deepcopy(document), "--override"), changed, conforming


def _value(assignment: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--override {assignment}: the value is not YAML") from error
    if isinstance(value, str):
        try:
            return float(text)  # YAML 1.1 takes 1e-3 for text
        except ValueError:
            return value
    return value


def recipe_text(recipe: Recipe) -> str:
    """The recipe as YAML that loads to the same recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def differences(first: Recipe, second: Recipe) -> list[str]:
    """Dotted names of the fields in which two recipes differ, labels left out."""

    def walk(a: Any, b: Any, path: str) -> list[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            return [
                name
                for key in sorted(a.keys() | b.keys())
                for name in walk(a.get(key), b.get(key), f"{path}.{key}" if path else key)
            ]
        return [] if a == b else [path]

    return walk(first.content, second.content, "")
