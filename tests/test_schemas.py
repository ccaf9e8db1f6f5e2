"""The schemas are those of the models, the examples are valid, and the specification's worked example is true."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema import FormatChecker

from headwater import errors, schema
from headwater.errors import UsageError
from headwater.manifest import Step, canonical, identity_id, step_key

FOLDER = Path(__file__).resolve().parent.parent / "schemas"
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def example(name: str) -> Any:
    return json.loads((FOLDER / "examples" / f"{name}.json").read_bytes())


def validator(name: str) -> jsonschema.Draft202012Validator:
    document = json.loads((FOLDER / f"{name}.schema.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document, format_checker=FormatChecker())


def test_the_folder_holds_every_format_and_nothing_else() -> None:
    assert sorted(p.name.removesuffix(".schema.json") for p in FOLDER.glob("*.schema.json")) == schema.names()
    assert sorted(p.stem for p in (FOLDER / "examples").iterdir()) == schema.names()
    for name in schema.names():
        assert f"`{name}.schema.json`" in README


@pytest.mark.parametrize("name", schema.names())
def test_the_schema_is_that_of_the_model(name: str) -> None:
    found = (FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")
    assert found == schema.schema_text(name), f"run: headwater schema {name} > schemas/{name}.schema.json"


@pytest.mark.parametrize("name", schema.names())
def test_the_example_is_valid_for_the_schema_and_the_model(name: str) -> None:
    document = example(name)
    validator(name).validate(document)
    model = schema.model(name).model_validate(document)
    if "format" in document:
        assert schema.identifier(name) == f"headwater:{document['format']}"
    assert schema.model(name).model_validate_json(model.model_dump_json(by_alias=True)) == model


@pytest.mark.parametrize("name", schema.names())
def test_an_unknown_key_is_not_valid(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match="Additional properties"):
        validator(name).validate({**example(name), "unheard-of": 1})


def test_schema_ids_name_no_host() -> None:
    for name in schema.names():
        assert re.fullmatch(r"headwater:[a-z-]+/\d+", json.loads(schema.schema_text(name))["$id"])


def test_an_unknown_format_offers_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'manifest'"):
        schema.schema_text("manifst")


def test_the_ids_of_the_example_step_are_true() -> None:
    step = Step.model_validate(example("step"))
    assert identity_id(step.identity) == step.id
    identity = step.identity
    assert step.key == step_key(
        step=identity.step,
        version=identity.version,
        config=identity.config,
        inputs=identity.inputs,
        seed=identity.seed,
    )
    identity.counts.check()


def test_the_worked_example_is_true() -> None:
    documents = re.findall(r"^```json\n(.+)\n```$", README, re.MULTILINE)
    stated = re.findall(r"^    (?:id|key) +([0-9a-f]{64})$", README, re.MULTILINE)
    assert len(documents) == len(stated) == 2
    for document, digest in zip(documents, stated, strict=True):
        assert hashlib.sha256(document.encode()).hexdigest() == digest
        assert canonical(json.loads(document)).decode() == document
    identity = json.loads(documents[0])
    assert json.loads(documents[1]) == {k: v for k, v in identity.items() if k not in ("outputs", "counts")}


def test_the_command_that_checks_an_id_without_us_works() -> None:
    [line] = re.findall(r"^python3 -c '(.+)' schemas/examples/step\.json$", README, re.MULTILINE)
    command = [sys.executable, "-I", "-c", line, str(FOLDER / "examples" / "step.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == example("step")["id"]


def test_the_bytes_of_a_subset_file_are_as_specified(tmp_path: Path) -> None:
    import numpy as np

    uid = "31d15cc319a9c50e3df54515ce0901fb"
    assert "`31d15cc3 19a9c50e 3df54515 ce0901fb`" in README
    array = np.array([(int(uid[:16], 16), int(uid[16:], 16))], dtype=np.dtype("u8,u8"))
    np.save(tmp_path / "s.npy", array)
    data = (tmp_path / "s.npy").read_bytes()
    length = int.from_bytes(data[8:10], "little")
    assert data[:8] == bytes.fromhex("934E554D50590100") and (length + 10) % 64 == 0
    header = data[10 : 10 + length]
    assert (
        header.rstrip()
        == b"{'descr': [('f0', '<u8'), ('f1', '<u8')], 'fortran_order': False, 'shape': (1,), }"
    )
    stated = re.search(r"is the bytes `([0-9A-F ]+)`", README)
    assert stated is not None and data[10 + length :] == bytes.fromhex(stated.group(1))


def test_the_exit_codes_are_those_of_the_errors() -> None:
    stated = {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    codes = {value.exit_code for value in vars(errors).values() if hasattr(value, "exit_code")}
    assert stated == {0, *codes}
