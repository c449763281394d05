# SPDX-License-Identifier: GPL-3.0-or-later
"""Strings of UEFI: UTF-16, little-endian, with a zero at the end (UEFI Specification 2.10, 2.3.1, CHAR16)."""

from __future__ import annotations


class Malformed(ValueError):
    """Bytes of the firmware that are not what their specification says."""


def decoded(raw: bytes) -> str:
    """A string that fills the bytes, up to its zero.

    Raises:
        Malformed: It is no UTF-16.
    """
    if len(raw) % 2:
        raise Malformed(f"a UTF-16 string has {len(raw)} bytes")
    try:
        return raw.decode("utf-16-le").split("\0", 1)[0]
    except UnicodeDecodeError as error:
        raise Malformed(f"a string is no UTF-16: {error.reason}") from error


def encoded(text: str) -> bytes:
    """A string with its zero."""
    return f"{text}\0".encode("utf-16-le")


def end_of_string(raw: bytes, offset: int) -> int:
    """The offset behind the zero of the string that starts at an offset.

    Raises:
        Malformed: It has none.
    """
    for at in range(offset, len(raw) - 1, 2):
        if raw[at] == 0 and raw[at + 1] == 0:
            return at + 2
    raise Malformed(f"a string at byte {offset} of {len(raw)} has no end")
