"""The uid of a json: the fast way against the strict parser."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from curate._jsonuid import OK, locate, parse

UID = "0123456789abcdef0123456789abcdef"


JSON_CASES: list[tuple[bytes, str | int]] = [
    (b'{"uid": "%s"}' % UID.encode(), UID),
    (b'{"uid":"%s"}' % UID.upper().encode(), UID.upper()),
    (b' {"a": {"b": []}, "uid" : "%s"} \n' % UID.encode(), UID),
    (b'{"a": {"uid": "%s"}}' % UID.encode(), 3),
    (b'{"a": {"uid": "%s"}, "uid": "%s"}' % (b"f" * 32, UID.encode()), UID),
    (b'{"caption": "\\"uid\\": \\"%s\\""}' % UID.encode(), 3),
    (b'{"caption": "uid", "uid": "%s"}' % UID.encode(), UID),
    (b'{"a\\"uid": "%s"}' % UID.encode(), 3),
    (b'{"uid": "%s", "uid": "%s"}' % (UID.encode(), b"f" * 32), 4),
    (b'{"uid": "%s"' % UID.encode(), 2),
    (b'{"uid": "%s0"}' % UID.encode(), 4),
    (b'{"uid": "%s"}' % UID[:31].encode(), 4),
    (b'{"uid": "%sg"}' % UID[:31].encode(), 4),
    (b'{"uid": 5}', 4),
    (b'{"uid": null}', 4),
    (b'["uid"]', 3),
    (b"", 2),
    (b"\xff\xfe", 2),
    (b'{"uid": "x", "n": NaN}', 2),
    (b"[" * 100_000, 2),
]


def test_uid_of_a_json_by_the_fast_way_and_the_strict_one() -> None:
    texts = [text for text, _ in JSON_CASES]
    found = locate(texts)
    for row, (text, expected) in enumerate(JSON_CASES):
        assert parse(text) == expected, text[:60]
        if isinstance(expected, int):
            assert found.state[row] == expected, text[:60]
        else:
            assert found.state[row] == OK
            assert f"{int(found.hi[row]):016x}{int(found.lo[row]):016x}" == expected.lower()
            assert found.spelled.get(row, expected.lower()) == expected
    assert locate([]).state.shape == (0,)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.one_of(st.text(alphabet='uid":{}\\ a', max_size=12), st.just(UID), st.none(), st.integers()),
        lambda inner: st.dictionaries(st.sampled_from(["uid", "a", 'x"uid', "{"]), inner, max_size=4),
        max_leaves=8,
    ).filter(lambda value: isinstance(value, dict)),
    st.sampled_from([None, 4]),
)
def test_the_fast_way_agrees_with_the_strict_one(document: object, indent: int | None) -> None:
    text = json.dumps(document, indent=indent).encode()
    found, strict = locate([text]), parse(text)
    if isinstance(strict, int):
        assert found.state[0] == strict
    else:
        assert found.state[0] == OK and int(found.lo[0]) == int(strict[16:], 16)
