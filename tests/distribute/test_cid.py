"""CIDs: vectors of the specifications, and everything that must be refused."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distribute.cid import DAG_PB, IDENTITY, RAW, Cid, raw_cid_of_sha256, read_varint, same, varint
from headwater.errors import IntegrityError

HELLO = "bafkreicysg23kiwv34eg2d7qweipxwosdo2py4ldv42nbauguluen5v6am"  # "hello\n", a vector of Kubo's tests
EMPTY_V0 = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"  # the empty folder
EMPTY_V1 = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"

cids = st.builds(Cid, st.just(1), st.sampled_from([RAW, DAG_PB, 0x0129]), st.binary(min_size=32, max_size=32))
cids_v0 = st.builds(Cid, st.just(0), st.just(DAG_PB), st.binary(min_size=32, max_size=32))


def text_of(raw: bytes) -> str:
    return "f" + raw.hex()


def test_vectors() -> None:
    assert Cid.of(RAW, b"hello\n").text == HELLO
    assert Cid.of(DAG_PB, b"\x0a\x02\x08\x01", version=0).text == EMPTY_V0
    assert Cid.of(DAG_PB, b"\x0a\x02\x08\x01").text == EMPTY_V1
    assert raw_cid_of_sha256(hashlib.sha256(b"hello\n").digest()) == Cid.parse(HELLO)


def test_the_two_versions_of_one_block_are_the_same() -> None:
    old, new = Cid.parse(EMPTY_V0), Cid.parse(EMPTY_V1)
    assert old != new and same(old, new) and old.key == new.key
    assert old.with_version(1) == new and new.with_version(0) == old
    assert not same(new, Cid(1, RAW, new.digest))  # the codec is part of the name
    with pytest.raises(IntegrityError, match="only dag-pb"):
        Cid.parse(HELLO).with_version(0)


@given(cids | cids_v0)
def test_text_and_bytes_lead_back(cid: Cid) -> None:
    assert Cid.parse(cid.text) == cid
    assert Cid.from_bytes(b"xx" + cid.bytes + b"rest", 2) == (cid, 2 + len(cid.bytes))


def test_every_base_names_the_same_block() -> None:
    """Forms of HELLO by the multibase definitions; base58 and base36 computed independently here."""
    raw = Cid.parse(HELLO).bytes
    number = int.from_bytes(raw, "big")

    def digits(alphabet: str) -> str:
        left, out = number, ""
        while left:
            left, digit = divmod(left, len(alphabet))
            out = alphabet[digit] + out
        return out

    base58 = "z" + digits("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")
    base36 = "k" + digits("0123456789abcdefghijklmnopqrstuvwxyz")
    assert base58.startswith("zb2rh") and base36.startswith(
        "k"
    )  # what base58 and base36 of raw CIDs look like
    forms = [HELLO, HELLO.upper(), "b" + HELLO[1:].upper(), base58, base36, base36.upper()]
    forms += ["f" + raw.hex(), "F" + raw.hex().upper()]
    assert {Cid.parse(form) for form in forms} == {Cid.parse(HELLO)}


HASH32 = bytes(32)
REFUSED = {
    "sha-1": (text_of(b"\x01\x55\x11\x14" + bytes(20)), "sha1, which proves nothing"),
    "md5": (text_of(b"\x01\x55\xd5\x01\x10" + bytes(16)), "md5, which proves nothing"),
    "unknown hash": (text_of(b"\x01\x55\xb2\x40" + HASH32), "hash .* not known"),
    "blake3": (text_of(b"\x01\x55\x1e\x20" + HASH32), "hash 0x1e, which is not known"),
    "unknown codec": (text_of(b"\x01\x93\x22\x12\x20" + HASH32), "codec 0x1113"),
    "version 2": (text_of(b"\x02\x55\x12\x20" + HASH32), "version 2"),
    "version 0 written out": (text_of(b"\x00\x70\x12\x20" + HASH32), "version 0"),
    "digest of 31 bytes": (text_of(b"\x01\x55\x12\x1f" + bytes(31)), "31 bytes"),
    "digest of 33 bytes": (text_of(b"\x01\x55\x12\x21" + bytes(33)), "33 bytes"),
    "cut": (text_of(b"\x01\x55\x12\x20" + bytes(31)), "cut short"),
    "cut varint": (text_of(b"\x01\x55\x92"), "cut short"),
    "bytes behind": (text_of(b"\x01\x55\x12\x20" + bytes(33)), "1 bytes follow"),
    "long varint": (text_of(b"\x81\x00\x55\x12\x20" + HASH32), "shortest"),
    "endless varint": (text_of(b"\x01" + b"\xff" * 20), "too many"),
    "identity": (text_of(b"\x01\x55\x00\x03abc"), "carries 3 bytes"),
    "identity of 1 MB": (
        "b" + base64.b32encode(b"\x01\x55\x00\xc0\x84\x3d" + bytes(10**6)).decode(),
        "too long",
    ),
    "CIDv0 with multibase": ("z" + EMPTY_V0, "no multibase prefix"),
    "CIDv0 in base16": (text_of(b"\x12\x20" + HASH32), "no multibase prefix"),
    "CIDv0 with a letter that base58 has not": (EMPTY_V0[:-1] + "0", "not a letter"),
    "unknown base": ("m" + "AVUSIA", "base is not known"),
    "empty": ("", "base is not known"),
    "not ASCII": ("bаfkreicysg23kiwv", "base32"),
    "padded": (HELLO + "======", "base32"),
    "mixed case": ("b" + HELLO[1:].title(), "base32"),
    "spare bits": (HELLO[:-1] + "n", "only form"),
    "odd base16": ("f0", "base16"),
    "base16 with space": ("f01 5", "base16"),
    "path": (HELLO + "/a", "base32"),
    "newline": (HELLO + "\n", "base32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    text, reason = REFUSED[name]
    with pytest.raises(IntegrityError, match=reason) as caught:
        Cid.parse(text)
    assert len(str(caught.value)) < 1000


def test_identity_only_when_asked_and_small() -> None:
    raw = b"\x01\x55\x00\x03abc"
    cid, end = Cid.from_bytes(raw, identity=True)
    assert (cid.hash_code, cid.digest, end) == (IDENTITY, b"abc", 7) and cid.bytes == raw
    cid.check(b"abc")
    with pytest.raises(IntegrityError, match=cid.text):
        cid.check(b"abd")
    assert Cid.from_bytes(b"\x01\x55\x00\x80\x01" + bytes(128), identity=True)[0].digest == bytes(128)
    with pytest.raises(IntegrityError, match="carries 129 bytes"):
        Cid.from_bytes(b"\x01\x55\x00\x81\x01" + bytes(129), identity=True)


def test_a_block_is_checked_against_its_name() -> None:
    Cid.parse(HELLO).check(b"hello\n")
    with pytest.raises(IntegrityError, match=HELLO):
        Cid.parse(HELLO).check(b"hellO\n")


@given(st.integers(0, (1 << 64) - 1))
def test_varints(number: int) -> None:
    raw = varint(number)
    assert read_varint(b"\0" + raw + b"\x80", 1, limit_bytes=10) == (number, 1 + len(raw))
    with pytest.raises(IntegrityError):
        read_varint(raw[:-1], limit_bytes=10)


def test_varints_have_one_form_and_a_limit() -> None:
    assert varint(300) == b"\xac\x02"
    for raw in (b"\x80\x00", b"\xff\x80\x00", b"\xff" * 9 + b"\x02", b"\xff" * 11, b"", b"\x80"):
        with pytest.raises(IntegrityError):
            read_varint(raw, limit_bytes=10)
    assert read_varint(b"\xff" * 9 + b"\x01", limit_bytes=10) == ((1 << 64) - 1, 10)
    with pytest.raises(IntegrityError):
        read_varint(b"\xff" * 9 + b"\x01")


@given(st.binary(max_size=80))
def test_no_bytes_lead_to_another_error(raw: bytes) -> None:
    try:
        cid, end = Cid.from_bytes(raw)
    except IntegrityError:
        return
    assert cid.bytes == raw[:end]


@given(st.text(max_size=60) | st.text("bzkfBKFQm0123456789abcdefghij", max_size=60))
def test_no_text_leads_to_another_error(text: str) -> None:
    try:
        cid = Cid.parse(text)
    except IntegrityError:
        return
    assert same(Cid.parse(cid.text), cid)
