"""Reading YAML that people write: safe, small, with duplicate keys and unknown keys refused by name.

Only plain data loads (no tags that build objects), aliases are refused (they allow a small file to grow without bound),
and YAML 1.1's surprises are kept out: `no`, `on` and the like stay strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from headwater.errors import MissingInput, UsageError, nearest
from headwater.files import named_io

MAX_BYTES = 4 << 20

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases, duplicate keys and word booleans other than true/false."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} occurs twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in `path`. Raises MissingInput, or UsageError naming file and line."""
    if not path.exists() or path.is_dir():
        raise MissingInput(f"{path}: no such file")
    with named_io(path), open(path, "rb") as handle:
        data = handle.read(MAX_BYTES + 1)
    return parse_yaml(data, str(path))


def parse_yaml(data: bytes | str, name: str) -> dict[str, Any]:
    """The mapping in `data`; `name` is how messages call it."""
    if len(data) > MAX_BYTES:
        raise UsageError(f"{name}: larger than {MAX_BYTES:,} bytes, which no configuration needs")
    try:
        loader = _Loader(data)
        try:
            document = loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{name}: must be a mapping of keys to values")
    return document


def validate(model: type[Model], data: Mapping[str, Any], name: str) -> Model:
    """`data` as `model`; the first problem is told with its place and, for unknown keys, the nearest known one."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{name}: {_first_problem(model, error)}") from error


def _first_problem(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "document"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        keys = [
            field.alias or name for name, field in _model_at(model, first["loc"][:-1]).model_fields.items()
        ]
        return f"unknown key {place!r}: {nearest(str(first['loc'][-1]), keys)}{more}"
    return (
        f"{place}: {first['msg'].removeprefix('Value error, ')}{more}"  # pydantic's word for our own checks
    )


def _model_at(model: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that describes what stands at `place`; the nearest one around it that is known."""
    for part in place:
        fields = {key: f for name, f in model.model_fields.items() for key in (name, f.alias) if key}
        if part in fields:
            model = next(_models_in(fields[part].annotation), model)
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def apply_settings(data: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """`data` with `key.sub=value` assignments applied; values are read as YAML."""
    result = dict(data)
    for text in settings:
        key, sep, value = text.partition("=")
        if not sep or not key:
            raise UsageError(f"--set {text!r}: write it as key=value")
        target = result
        *parents, last = key.split(".")
        for part in parents:
            child = target.get(part)
            target[part] = dict(child) if isinstance(child, dict) else {}
            target = target[part]
        try:
            target[last] = _Loader(value).get_single_data()
        except yaml.YAMLError as error:
            raise UsageError(f"--set {text!r}: the value is not valid YAML") from error
    return result
