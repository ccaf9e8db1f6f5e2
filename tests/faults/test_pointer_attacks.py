"""Attacks on the signed pointer to the latest release (rows 91 and 92 of the catalogue; after TUF's conformance tests)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute import trust
from distribute.pointer import (
    LastSeen,
    add_signature,
    key_id,
    next_body,
    parse_pointer,
    public_key,
    sign,
    verify_pointer,
)
from headwater.errors import HeadwaterError, IntegrityError, SignatureFailure
from headwater.manifest import canonical
from headwater.release import Pointer, PointerBody

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
M1, M2, M3 = "1" * 64, "2" * 64, "3" * 64


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def key_from(number: int) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


A, B, C, EVE = (key_from(number) for number in (1, 2, 3, 66))
PA, PB, PC, PE = (public_key(key) for key in (A, B, C, EVE))
BODY = next_body(None, "cats", M1, days=30, now=NOW)
SIGNED = sign(BODY, A)


def edited(**changes: Any) -> Pointer:
    """The signed pointer with another body under the old signature."""
    return Pointer(body=BODY.model_copy(update=changes), signatures=SIGNED.signatures)


def with_signature(signature: str, key: str | None = None, *more: Any) -> Pointer:
    old = SIGNED.signatures[0]
    made = old.model_copy(update={"signature": signature, "key_id": key or old.key_id})
    return Pointer(body=BODY, signatures=[made, *more])


def flipped(text: str, bit: int) -> str:
    raw = bytearray.fromhex(text)
    raw[bit // 8] ^= 1 << bit % 8
    return raw.hex()


# row 91: signatures

ATTACKS: dict[str, tuple[Pointer, Sequence[bytes], int, str]] = {
    "unsigned": (Pointer(body=BODY, signatures=[]), [PA], 1, "not signed"),
    "another key": (sign(BODY, EVE), [PA], 1, "no such key is trusted"),
    "another key under our key's name": (
        with_signature(sign(BODY, EVE).signatures[0].signature),
        [PA],
        1,
        "does not fit",
    ),
    "our signature under another name": (
        with_signature(SIGNED.signatures[0].signature, key_id(PB)),
        [PA, PB],
        1,
        "does not fit",
    ),
    "body: manifest": (edited(manifest_id=M2), [PA], 1, "does not fit"),
    "body: version": (edited(version=2, previous=M2), [PA], 1, "does not fit"),
    "body: dataset": (edited(dataset="dogs"), [PA], 1, "does not fit"),
    "body: a longer life": (edited(expires_at="2099-01-01T00:00:00Z"), [PA], 1, "does not fit"),
    "body: look-alike": (edited(dataset="c\u0430ts"), [PA], 1, "does not fit"),
    "nothing but zeros": (with_signature("0" * 128), [PA], 1, "does not fit"),
    "one of two": (SIGNED, [PA, PB], 2, "1 of 2 needed"),
    "the same key twice": (
        Pointer(body=BODY, signatures=SIGNED.signatures * 2),
        [PA, PB],
        2,
        "1 of 2 needed",
    ),
    "two signatures, one of a stranger": (add_signature(SIGNED, EVE), [PA, PB], 2, "1 of 2 needed"),
    "two signatures, one wrong": (
        Pointer(
            body=BODY,
            signatures=[*SIGNED.signatures, *sign(BODY.model_copy(update={"version": 9}), B).signatures],
        ),
        [PA, PB],
        2,
        "1 of 2 needed",
    ),
    "signatures of another version": (
        Pointer(body=BODY, signatures=sign(next_body(BODY, "cats", M2, now=NOW), A).signatures),
        [PA],
        1,
        "does not fit",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_row_91_signatures(attack: str) -> None:
    pointer, keys, threshold, why = ATTACKS[attack]
    with pytest.raises(SignatureFailure, match=why) as caught:
        trust.accept(pointer, keys, threshold=threshold, now=NOW)
    assert caught.value.exit_code == 12
    assert trust.last_seen(pointer.body.dataset, keys) is None


def test_row_91_a_key_named_twice_is_one_key() -> None:
    with pytest.raises(HeadwaterError, match="2 signatures cannot come from 1 keys"):
        verify_pointer(SIGNED, [PA, PA], threshold=2, now=NOW)


def test_row_91_every_bit_of_the_signature_counts() -> None:
    signature = SIGNED.signatures[0].signature
    for bit in range(512):
        with pytest.raises(SignatureFailure):
            verify_pointer(with_signature(flipped(signature, bit)), [PA], now=NOW)


@given(st.integers(0), st.integers(0, 7))
def test_row_91_every_bit_of_the_document_counts(position: int, bit: int) -> None:
    raw = bytearray(canonical(SIGNED))
    raw[position % len(raw)] ^= 1 << bit
    try:
        found = verify_pointer(parse_pointer(bytes(raw), "x"), [PA], now=NOW)
    except HeadwaterError as error:
        assert error.exit_code in (12, 13)
    else:
        assert found == BODY  # such as the case of a letter that JSON does not tell apart


def test_row_91_a_signature_plus_the_order_of_the_group_is_another_one() -> None:
    # malleability: S + L verifies where S is not checked to be below L (RFC 8032, 5.1.7)
    order = 2**252 + 27742317777372353535851937790883648493
    raw = bytes.fromhex(SIGNED.signatures[0].signature)
    forged = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    with pytest.raises(SignatureFailure, match="does not fit"):
        verify_pointer(with_signature(forged.hex()), [PA], now=NOW)


def test_row_91_two_of_three_and_a_stranger_is_enough() -> None:
    pointer = add_signature(add_signature(sign(BODY, EVE), C), A)
    assert verify_pointer(pointer, [PA, PB, PC], threshold=2, now=NOW) == BODY


def test_row_91_one_wrong_of_three_does_not_stop_two_good_ones() -> None:
    wrong = sign(BODY.model_copy(update={"version": 9}), B).signatures
    pointer = add_signature(SIGNED, C)
    pointer = Pointer(body=BODY, signatures=[*wrong, *pointer.signatures])
    assert verify_pointer(pointer, [PA, PB, PC], threshold=2, now=NOW) == BODY


def document(change: Callable[[dict[str, Any]], object]) -> bytes:
    whole = json.loads(canonical(SIGNED))
    change(whole)
    return json.dumps(whole).encode()


ALGORITHMS = ["none", "None", "", "ed448", "hs256", "rsa", "ED25519", "ed25519ph", None, 0, ["ed25519"]]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=repr)
def test_row_91_the_algorithm_cannot_be_swapped(algorithm: Any) -> None:
    raw = document(lambda whole: whole["signatures"][0].update(algorithm=algorithm))
    with pytest.raises(SignatureFailure, match="only ed25519") as caught:
        parse_pointer(raw, "latest.json")
    assert caught.value.exit_code == 12


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"<html>not found</html>",
    "list": b"[]",
    "no signatures": document(lambda whole: whole.pop("signatures")),
    "no body": document(lambda whole: whole.pop("body")),
    "more in the body": document(lambda whole: whole["body"].update(also="this")),
    "more outside": document(lambda whole: whole.update(also="this")),
    "another format": document(lambda whole: whole.update(format="pointer/2")),
    "a short signature": document(lambda whole: whole["signatures"][0].update(signature="00")),
    "capitals": document(lambda whole: whole["signatures"][0].update(signature="A" * 128)),
    "version 0": document(lambda whole: whole["body"].update(version=0)),
    "version -1": document(lambda whole: whole["body"].update(version=-1)),
    "version 2^53": document(lambda whole: whole["body"].update(version=1 << 53)),
    "version 2^63": document(lambda whole: whole["body"].update(version=1 << 63)),
    "version 1e400": canonical(SIGNED).replace(b'"version":1', b'"version":1e400'),
    "version 1.5": document(lambda whole: whole["body"].update(version=1.5)),
    "version NaN": canonical(SIGNED).replace(b'"version":1', b'"version":NaN'),
    "deep": b"[" * 60_000,
    "huge": b" " * 65_537,
    "very many signatures": document(lambda whole: whole.update(signatures=whole["signatures"] * 65)),
    "not UTF-8": canonical(SIGNED).replace(b"cats", b"c\xffts"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_row_91_documents_that_are_none(case: str) -> None:
    with pytest.raises(IntegrityError, match=r"latest\.json") as caught:
        parse_pointer(BROKEN[case], "latest.json")
    assert caught.value.exit_code == 13


def test_row_91_expired() -> None:
    for late in (timedelta(days=30), timedelta(days=400)):
        with pytest.raises(SignatureFailure, match="over at 2026-05-31T12:00:00Z"):
            verify_pointer(SIGNED, [PA], now=NOW + late)
    assert verify_pointer(SIGNED, [PA], now=NOW + timedelta(days=30, seconds=-1)) == BODY
    assert verify_pointer(SIGNED, [PA], now=NOW + timedelta(days=400), allow_expired=True) == BODY


def test_row_91_an_expired_and_forged_one_is_forged_first() -> None:
    with pytest.raises(SignatureFailure, match="does not fit"):
        verify_pointer(edited(manifest_id=M2), [PA], now=NOW + timedelta(days=400), allow_expired=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "never",
        "2099-01-01",
        "2099-01-01T00:00:00",
        "2099-01-01T00:00:00+02:00",
        "2099-13-01T00:00:00Z",
        "9" * 50,
    ],
)
def test_row_91_times_that_are_none(text: str) -> None:
    for field in ("expires_at", "signed_at"):
        with pytest.raises(SignatureFailure, match=f"{field} of the pointer"):
            verify_pointer(sign(BODY.model_copy(update={field: text}), A), [PA], now=NOW)


# row 92: old ones, contradictions, mixtures


def chain() -> list[PointerBody]:
    one = BODY
    two = next_body(one, "cats", M2, days=30, now=NOW)
    return [one, two, next_body(two, "cats", M3, days=30, now=NOW)]


def test_row_92_rollback() -> None:
    one, two, three = chain()
    for body in (one, two, three):
        trust.accept(sign(body, A), [PA], now=NOW)
    for body in (one, two):
        with pytest.raises(SignatureFailure, match=r"version 3 was seen before \(rollback\)") as caught:
            trust.accept(sign(body, A), [PA], now=NOW)
        assert caught.value.exit_code == 12
    assert trust.accept(sign(three, A), [PA], now=NOW) == three


def test_row_92_two_answers_under_one_number() -> None:
    trust.accept(SIGNED, [PA], now=NOW)
    with pytest.raises(SignatureFailure, match="two answers under one number"):
        trust.accept(sign(BODY.model_copy(update={"manifest_id": M2}), A), [PA], now=NOW)


def test_row_92_a_new_life_for_the_same_manifest_is_no_contradiction() -> None:
    trust.accept(SIGNED, [PA], now=NOW)
    longer = BODY.model_copy(update={"expires_at": "2027-01-01T00:00:00Z"})
    assert trust.accept(sign(longer, A), [PA], now=NOW + timedelta(days=60)) == longer


def test_row_92_a_branch_that_does_not_follow_what_was_seen() -> None:
    trust.accept(SIGNED, [PA], now=NOW)
    branch = PointerBody.model_validate({**chain()[1].model_dump(), "previous": M3})
    with pytest.raises(SignatureFailure, match="follows the manifest 333333333333"):
        trust.accept(sign(branch, A), [PA], now=NOW)
    jumped = chain()[2]  # version 2 was missed: nothing to compare with
    assert trust.accept(sign(jumped, A), [PA], now=NOW) == jumped


@pytest.mark.parametrize(("version", "previous"), [(1, M2), (2, None)])
def test_row_92_only_the_first_has_none_before_it(version: int, previous: str | None) -> None:
    body = BODY.model_copy(update={"version": version, "previous": previous})
    with pytest.raises(SignatureFailure, match="only the first"):
        verify_pointer(sign(body, A), [PA], now=NOW)


def test_row_92_freeze() -> None:
    trust.accept(SIGNED, [PA], now=NOW)
    with pytest.raises(SignatureFailure, match="played back"):  # an attacker goes on giving the last one
        trust.accept(SIGNED, [PA], now=NOW + timedelta(days=31))


def test_row_92_a_clock_that_goes_back_breaks_nothing() -> None:
    for body in chain():
        assert trust.accept(sign(body, A), [PA], now=NOW - timedelta(days=1)) == body


def test_row_92_the_largest_version_is_not_passed() -> None:
    last = BODY.model_copy(update={"version": (1 << 53) - 1, "previous": M2})
    assert trust.accept(sign(last, A), [PA], now=NOW) == last
    with pytest.raises(SignatureFailure, match="rollback"):
        trust.accept(sign(chain()[2], A), [PA], now=NOW)


def test_row_92_another_dataset_of_the_same_key() -> None:
    other = sign(next_body(None, "dogs", M1, days=30, now=NOW), A)
    with pytest.raises(SignatureFailure, match="'dogs', wanted is 'cats'"):
        trust.accept(other, [PA], now=NOW, dataset="cats")
    assert trust.last_seen("dogs", [PA]) is None


@given(st.lists(st.integers(0, 4), max_size=8))
def test_row_92_whatever_comes_in_whatever_order_never_goes_back(order: list[int]) -> None:
    bodies = [
        *chain(),
        BODY.model_copy(update={"manifest_id": M3}),
        chain()[1].model_copy(update={"manifest_id": M1}),
    ]
    seen: LastSeen | None = None
    for index in order:
        try:
            body = verify_pointer(sign(bodies[index], A), [PA], now=NOW, last_seen=seen)
        except SignatureFailure:
            continue
        assert seen is None or body.version >= seen.version
        if seen is not None and body.version == seen.version:
            assert body.manifest_id == seen.manifest_id
        seen = LastSeen(body.version, body.manifest_id)
