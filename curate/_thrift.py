"""Thrift compact structs, as far as Parquet page headers need them, from bytes that nobody vouches for.

Source: the compact protocol of Apache Thrift. Only numbers, flags and nested structs are kept; strings and
lists are stepped over. Reading ends with the data: a struct that goes on beyond it is an IndexError.
"""

from __future__ import annotations

from typing import Any


class Malformed(Exception):
    """These bytes are no compact struct."""


def varint(data: Any, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise Malformed("one with a number of more than ten bytes")


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def struct(data: bytes, at: int = 0, *, depth: int = 0) -> tuple[dict[int, Any], int]:
    """A Thrift compact struct as {field number: value}; IndexError when `data` ends first."""
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return fields, at
        if head >> 4:
            number += head >> 4
        else:
            number, at = _signed(data, at)
        if head & 15 in (1, 2):
            fields[number] = head & 15 == 1
        else:
            fields[number], at = _value(data, at, head & 15, depth=depth + 1)


def _value(data: bytes, at: int, kind: int, *, depth: int) -> tuple[Any, int]:
    if depth > 8:
        raise Malformed("nested too deep")
    if kind in (1, 2, 3):
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _signed(data, at)
    if kind == 12:
        return struct(data, at, depth=depth)
    if kind == 8:
        size, at = varint(data, at)
    elif kind in (7, 13):
        size = 8 if kind == 7 else 16
    elif kind in (9, 10):
        count, at = data[at] >> 4, at + 1
        element = data[at - 1] & 15
        if count == 15:
            count, at = varint(data, at)
        for _ in range(count):  # every element takes a byte at least, so this ends
            _, at = _value(data, at, element, depth=depth)
        return None, at
    else:
        raise Malformed(f"one with a field of type {kind}")
    if at + size > len(data):
        raise IndexError
    return None, at + size
