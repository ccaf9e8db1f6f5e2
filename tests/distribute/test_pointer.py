"""Keys, signatures and the chain of versions; and the state that remembers what was seen."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute import pointer as pointers
from distribute import trust
from distribute.pointer import (
    LastSeen,
    add_signature,
    key_id,
    load_private,
    load_public,
    new_key,
    next_body,
    parse_pointer,
    public_key,
    public_text,
    sign,
    verify_pointer,
)
from headwater.errors import HeadwaterError, IntegrityError, MissingInput, SignatureFailure, UsageError
from headwater.manifest import canonical
from headwater.release import PointerBody

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
M1, M2, M3 = ("1" * 64, "2" * 64, "3" * 64)
# RFC 8032, 7.1, test 1: the secret and public key
RFC_SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
RFC_PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def rfc_key() -> pointers.Ed25519PrivateKey:  # type: ignore[name-defined]
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(RFC_SECRET)


def first(days: float = 30) -> PointerBody:
    return next_body(None, "cats", M1, days=days, now=NOW)


# keys


def test_a_new_key_is_private_and_known_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    old = os.umask(0)
    try:
        public = new_key(path)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN " + b"PRIVATE KEY-----\n")
    assert len(public) == 32 and key_id(public) == hashlib.sha256(public).hexdigest()
    assert public_key(load_private(path)) == public
    assert new_key(tmp_path / "other.pem") != public


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    new_key(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"key\.pem: is already there"):
        new_key(path)
    assert path.read_bytes() == before
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="already there"):
        new_key(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(MissingInput):
        new_key(tmp_path / "no" / "key.pem")


def test_public_keys_in_every_form(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    private = rfc_key()
    assert public_key(private) == RFC_PUBLIC
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "pub.pem").write_bytes(pem)
    (tmp_path / "pub.hex").write_text(f"{public_text(RFC_PUBLIC)}\n")
    forms: list[Path | str] = [
        RFC_PUBLIC.hex(),
        RFC_PUBLIC.hex().upper(),
        tmp_path / "pub.pem",
        str(tmp_path / "pub.pem"),
    ]
    for source in [*forms, tmp_path / "pub.hex"]:
        assert load_public(source) == RFC_PUBLIC


def test_keys_that_are_none(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed448
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    pem, pkcs8 = Encoding.PEM, PrivateFormat.PKCS8
    curve, other = ec.generate_private_key(ec.SECP256R1()), ed448.Ed448PrivateKey.generate()
    cases = {
        "curve": curve.private_bytes(pem, pkcs8, NoEncryption()),
        "ed448": other.private_bytes(pem, pkcs8, NoEncryption()),
        "locked": rfc_key().private_bytes(pem, pkcs8, BestAvailableEncryption(b"secretword")),
        "public": rfc_key().public_key().public_bytes(pem, PublicFormat.SubjectPublicKeyInfo),
        "hex": RFC_SECRET.hex().encode(),
        "empty": b"",
        "noise": bytes(range(256)),
        "huge": b"x" * 100_000,
    }
    for name, raw in cases.items():
        (tmp_path / name).write_bytes(raw)
        (tmp_path / name).chmod(0o600)
        with pytest.raises(SignatureFailure, match=name) as caught:
            load_private(tmp_path / name)
        assert caught.value.exit_code == 12 and RFC_SECRET.hex() not in str(caught.value)
    cases["curve"] = curve.public_key().public_bytes(pem, PublicFormat.SubjectPublicKeyInfo)
    cases["private"] = rfc_key().private_bytes(pem, pkcs8, NoEncryption())
    for name in ("curve", "private", "empty", "noise", "huge"):
        (tmp_path / name).write_bytes(cases[name])
        with pytest.raises(SignatureFailure, match=name) as caught:
            load_public(tmp_path / name)
        assert ("a private key where a public one is wanted" in str(caught.value)) == (name == "private")
    for load in (load_private, load_public):
        with pytest.raises(MissingInput, match="gone"):
            load(tmp_path / "gone")
        with pytest.raises(MissingInput):
            load(tmp_path)


# signatures


def test_what_is_signed_is_the_canonical_body() -> None:
    body = first()
    made = sign(body, rfc_key())
    assert made.signatures[0].key_id == key_id(RFC_PUBLIC)
    rfc_key().public_key().verify(bytes.fromhex(made.signatures[0].signature), canonical(body))
    assert sign(body, rfc_key()) == made  # Ed25519 needs no random number
    assert verify_pointer(made, [RFC_PUBLIC], now=NOW) == body
    assert parse_pointer(canonical(made), "x") == made


def test_the_bytes_of_a_pointer_are_pinned() -> None:
    # a change here makes every pointer signed before a wrong one
    made = sign(first(), rfc_key())
    assert canonical(made.body) == (
        b'{"dataset":"cats","expires_at":"2026-05-31T12:00:00Z","manifest_id":"' + M1.encode() + b'",'
        b'"previous":null,"signed_at":"2026-05-01T12:00:00Z","version":1}'
    )
    assert (
        hashlib.sha256(bytes.fromhex(made.signatures[0].signature)).hexdigest()
        == "50b4172c5624748c2d9947267c57f6decc7cbc6b600dc8405b207ae3306e866a"
    )


def test_bodies_follow_each_other() -> None:
    one = first()
    two = next_body(
        one, "cats", M2, days=7, now=NOW - timedelta(days=1)
    )  # a clock that went back breaks nothing
    assert (one.version, one.previous, two.version, two.previous) == (1, None, 2, M1)
    assert two.signed_at == "2026-04-30T12:00:00Z" and two.expires_at == "2026-05-07T12:00:00Z"
    zone = datetime.fromisoformat("2026-05-01T14:00:00+02:00")
    assert next_body(None, "cats", M1, days=30, now=zone) == one


@pytest.mark.parametrize("days", [0, -1, 1e9, float("nan"), float("inf")])
def test_impossible_days(days: float) -> None:
    with pytest.raises(UsageError, match="days"):
        first(days)


def test_a_pointer_follows_only_its_own_dataset() -> None:
    with pytest.raises(UsageError, match="'cats', not of 'dogs'"):
        next_body(first(), "dogs", M2, days=1, now=NOW)
    last = first().model_copy(update={"version": (1 << 53) - 1})
    with pytest.raises(UsageError, match="no successor"):
        next_body(last, "cats", M2, days=1, now=NOW)


def test_the_same_key_signs_once(tmp_path: Path) -> None:
    made = add_signature(sign(first(), rfc_key()), rfc_key())
    assert len(made.signatures) == 1
    new_key(tmp_path / "b")
    both = add_signature(made, load_private(tmp_path / "b"))
    assert len(both.signatures) == 2
    keys = [RFC_PUBLIC, public_key(load_private(tmp_path / "b"))]
    assert verify_pointer(both, keys, threshold=2, now=NOW) == first()


def test_a_clock_behind_the_signing_is_no_fault() -> None:
    made = sign(first(), rfc_key())
    assert verify_pointer(made, [RFC_PUBLIC], now=NOW - timedelta(days=1)).version == 1


@given(
    st.text(max_size=30).filter(lambda t: t.isprintable()),
    st.integers(1, (1 << 53) - 1),
    st.sampled_from([None, M2]),
)
def test_any_body_is_signed_and_verified(dataset: str, version: int, previous: str | None) -> None:
    body = first().model_copy(update={"dataset": dataset, "version": version, "previous": previous})
    made = parse_pointer(canonical(sign(body, rfc_key())), "x")
    if (version == 1) == (previous is None):
        assert verify_pointer(made, [RFC_PUBLIC], now=NOW, dataset=dataset) == body
    else:
        with pytest.raises(SignatureFailure, match="only the first version"):
            verify_pointer(made, [RFC_PUBLIC], now=NOW)


def test_thresholds_that_cannot_be_reached_are_usage_errors() -> None:
    made = sign(first(), rfc_key())
    for threshold in (0, -1, 2):
        with pytest.raises(UsageError, match="signatures cannot come from"):
            verify_pointer(made, [RFC_PUBLIC], threshold=threshold, now=NOW)
    with pytest.raises(SignatureFailure, match="no key"):
        verify_pointer(made, [], now=NOW)


# the state


def chain(length: int) -> list[PointerBody]:
    bodies = [first()]
    while len(bodies) < length:
        bodies.append(next_body(bodies[-1], "cats", f"{len(bodies) + 1:064x}", days=30, now=NOW))
    return bodies


def test_what_was_accepted_is_remembered(tmp_path: Path) -> None:
    keys = [RFC_PUBLIC]
    assert trust.last_seen("cats", keys) is None
    for body in chain(3):
        assert trust.accept(sign(body, rfc_key()), keys, now=NOW, dataset="cats") == body
        assert trust.last_seen("cats", keys) == LastSeen(body.version, body.manifest_id)
    file = trust.state_file("cats")
    assert file.parent == tmp_path / "state" / "headwater" / "pointers"
    assert file.name == f"{hashlib.sha256(b'cats').hexdigest()}.json"
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    with pytest.raises(SignatureFailure, match="rollback"):
        trust.accept(sign(chain(2)[1], rfc_key()), keys, now=NOW)
    assert trust.last_seen("cats", keys) == LastSeen(3, chain(3)[2].manifest_id)


def test_the_same_pointer_again_changes_nothing() -> None:
    made = sign(first(), rfc_key())
    trust.accept(made, [RFC_PUBLIC], now=NOW)
    before = trust.state_file("cats").stat()
    trust.accept(made, [RFC_PUBLIC], now=NOW)
    assert trust.state_file("cats").stat().st_mtime_ns == before.st_mtime_ns


def test_each_set_of_keys_has_its_own_memory(tmp_path: Path) -> None:
    other = new_key(tmp_path / "b")
    trust.accept(sign(chain(2)[1], rfc_key()), [RFC_PUBLIC], now=NOW)
    assert trust.last_seen("cats", [RFC_PUBLIC, RFC_PUBLIC]) == LastSeen(2, chain(2)[1].manifest_id)
    assert trust.last_seen("cats", [RFC_PUBLIC, other]) is None
    assert trust.last_seen("cats", [other, RFC_PUBLIC]) is None
    assert trust.last_seen("dogs", [RFC_PUBLIC]) is None
    trust.accept(sign(first(), rfc_key()), [other, RFC_PUBLIC], now=NOW)
    assert trust.last_seen("cats", [RFC_PUBLIC, other]) == LastSeen(1, M1)
    assert trust.last_seen("cats", [RFC_PUBLIC]) == LastSeen(2, chain(2)[1].manifest_id)


def test_what_is_refused_is_not_remembered() -> None:
    late = NOW + timedelta(days=31)
    with pytest.raises(SignatureFailure, match="2026-05-31T12:00:00Z"):
        trust.accept(sign(first(), rfc_key()), [RFC_PUBLIC], now=late)
    assert trust.last_seen("cats", [RFC_PUBLIC]) is None
    trust.accept(sign(first(), rfc_key()), [RFC_PUBLIC], now=late, allow_expired=True)
    assert trust.last_seen("cats", [RFC_PUBLIC]) == LastSeen(1, M1)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "", "x" * 5000, "\n"])
def test_names_of_datasets_are_no_paths(tmp_path: Path, name: str) -> None:
    body = first().model_copy(update={"dataset": name})
    trust.accept(sign(body, rfc_key()), [RFC_PUBLIC], now=NOW)
    assert trust.last_seen(name, [RFC_PUBLIC]) == LastSeen(1, M1)
    folder = tmp_path / "state" / "headwater" / "pointers"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".lock"}


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"{", b"\xff", b'{"format": "last-seen/1", "dataset": "dogs", "seen": {}}']
)
def test_a_damaged_state_refuses_instead_of_forgetting(damage: bytes) -> None:
    trust.accept(sign(first(), rfc_key()), [RFC_PUBLIC], now=NOW)
    trust.state_file("cats").write_bytes(damage)
    with pytest.raises(IntegrityError) as caught:
        trust.accept(sign(first(), rfc_key()), [RFC_PUBLIC], now=NOW)
    assert "remove this file" in (caught.value.hint or "")
    assert trust.state_file("cats").read_bytes() == damage


def test_a_state_that_cannot_be_written_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(trust, "say", lambda level, text, **fields: said.append(f"{level}: {text}"))
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    assert trust.accept(sign(first(), rfc_key()), [RFC_PUBLIC], now=NOW).version == 1
    assert len(said) == 1 and "an older pointer will not be noticed" in said[0]


def test_a_relative_state_home_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "relative/state")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert trust.state_folder() == tmp_path / ".local" / "state" / "headwater" / "pointers"


def test_a_version_never_goes_down_between_processes() -> None:
    bodies = chain(3)
    trust.remember(bodies[2], [RFC_PUBLIC])
    with pytest.raises(SignatureFailure, match="rollback"):  # another process was faster
        trust.remember(bodies[1], [RFC_PUBLIC])
    assert trust.last_seen("cats", [RFC_PUBLIC]) == LastSeen(3, bodies[2].manifest_id)


@pytest.mark.slow
def test_many_processes_at_once_end_at_the_newest(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from distribute import trust\n"
        "from headwater.errors import SignatureFailure\n"
        "from headwater.release import PointerBody\n"
        "key, *bodies = [line.strip() for line in sys.stdin]\n"
        "for body in bodies:\n"
        "    try:\n"
        "        trust.remember(PointerBody.model_validate_json(body), [bytes.fromhex(key)])\n"
        "    except SignatureFailure:\n"
        "        pass\n"
    )
    bodies = chain(30)
    running = []
    for part in range(3):
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", script],
            stdin=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        running.append(process)
        assert process.stdin is not None
        process.stdin.write(
            "\n".join([RFC_PUBLIC.hex(), *(body.model_dump_json() for body in bodies[part::3])])
        )
        process.stdin.close()
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert trust.last_seen("cats", [RFC_PUBLIC]) == LastSeen(30, bodies[-1].manifest_id)
    json.loads(trust.state_file("cats").read_bytes())


def test_errors_are_of_our_tree() -> None:
    assert issubclass(SignatureFailure, HeadwaterError)
