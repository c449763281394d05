# SPDX-License-Identifier: GPL-3.0-or-later
"""Registry files of Windows, made from a tree of keys as the format is published, and what other programs read in them.

    hive = make_hive({"ControlSet001": {"Services": {"storahci": {"Start": dword(3)}}}})
    assert read_by_hivex(path)["ControlSet001\\Services\\storahci"]["Start"] == (4, b"\3\0\0\0")

A dict is a key; what is in it is a key (dict) or a value (type, data). "" is the default value.
"""

from __future__ import annotations

import re
import struct
import subprocess
import xml.etree.ElementTree as ET
from base64 import b64decode
from pathlib import Path

from tests.harness.programs import call

Value = tuple[int, bytes]
Tree = dict[str, "Tree | Value"]
NONE = 0xFFFFFFFF
TYPES = {"string": 1, "expand": 2, "binary": 3, "int32": 4, "string-list": 7, "int64": 11, "none": 0}


def dword(number: int) -> Value:
    """A REG_DWORD."""
    return 4, number.to_bytes(4, "little")


def string(text: str, kind: int = 1) -> Value:
    """A REG_SZ, or a REG_EXPAND_SZ."""
    return kind, f"{text}\0".encode("utf-16-le")


def binary(data: bytes) -> Value:
    """A REG_BINARY."""
    return 3, data


class _Cells:
    """Cells, one after the other from the first bin's header on."""

    def __init__(self) -> None:
        self.raw = bytearray(32)
        self.places: list[int] = []

    def add(self, content: bytes) -> int:
        offset = len(self.raw)
        self.places.append(offset)
        size = (len(content) + 4 + 7) // 8 * 8
        self.raw += (-size).to_bytes(4, "little", signed=True) + content.ljust(size - 4, b"\0")
        return offset

    def finish(self) -> bytes:
        free = -len(self.raw) % 4096
        if free:
            self.raw += free.to_bytes(4, "little", signed=True) + bytes(free - 4)
        self.raw[:32] = b"hbin" + struct.pack("<IIQQI", 0, len(self.raw), 0, 0, 0)
        return bytes(self.raw)


def make_hive(tree: Tree, *, list_kind: str = "lh", minor: int = 5, sequences: tuple[int, int] = (1, 1)) -> bytes:
    """A hive.

    Args:
        tree: Its keys and values.
        list_kind: How subkeys are listed: lh, lf, li, or ri (two lists in a list).
        minor: Of the version 1.x.
        sequences: Two numbers that are equal in a hive that was closed.
    """
    cells = _Cells()
    security = _security(cells)
    root = _key(cells, "CsiTool-CreateHive-{00000000-0000-0000-0000-000000000000}", tree, NONE, security, list_kind)
    count = sum(cells.raw[at + 4 : at + 6] == b"nk" for at in cells.places)
    cells.raw[security + 16 : security + 20] = count.to_bytes(4, "little")  # keys that use it
    bins = cells.finish()
    head = b"regf" + struct.pack("<IIQIIIIIII", *sequences, 0, 1, minor, 0, 1, root, len(bins), 1)
    head = head.ljust(508, b"\0")
    total = 0
    for word in struct.unpack("<127I", head):
        total ^= word
    return (head + total.to_bytes(4, "little")).ljust(4096, b"\0") + bins


def _security(cells: _Cells) -> int:
    # Self-relative, DACL and SACL absent, owner and group: SYSTEM (MS-DTYP 2.4.6).
    sid = bytes.fromhex("010100000000000512000000")
    descriptor = struct.pack("<BBHIIII", 1, 0, 0x8000, 20, 32, 0, 0) + sid + sid
    offset = len(cells.raw)
    content = b"sk" + struct.pack("<HIIII", 0, offset, offset, 1, len(descriptor)) + descriptor
    return cells.add(content)


def _key(cells: _Cells, name: str, tree: Tree, parent: int, security: int, list_kind: str) -> int:
    raw = name.encode("latin-1")
    place = cells.add(bytes(76) + raw)
    values = [_value(cells, each, content) for each, content in tree.items() if isinstance(content, tuple)]
    inner = {each: content for each, content in tree.items() if isinstance(content, dict)}
    ordered = sorted(inner, key=str.upper)
    subkeys = [(each, _key(cells, each, inner[each], place, security, list_kind)) for each in ordered]
    listed = _list(cells, subkeys, list_kind) if subkeys else NONE
    listed_values = cells.add(b"".join(each.to_bytes(4, "little") for each in values)) if values else NONE
    flags = 0x20 | (0x0C if parent == NONE else 0)
    node = struct.pack(
        "<2sHQIIIIIIIIIIIIIIIHH",
        b"nk",
        flags,
        0,
        0,
        0 if parent == NONE else parent,
        len(subkeys),
        0,
        listed,
        NONE,
        len(values),
        listed_values,
        security,
        NONE,
        2 * max((len(each) for each in ordered), default=0),
        0,
        2 * max((len(each) for each in tree), default=0),
        max((len(each[1]) for each in tree.values() if isinstance(each, tuple)), default=0),
        0,
        len(raw),
        0,
    )
    cells.raw[place + 4 : place + 4 + len(node)] = node
    return place


def _list(cells: _Cells, subkeys: list[tuple[str, int]], kind: str) -> int:
    if kind == "ri":
        half = (len(subkeys) + 1) // 2
        parts = [part for part in (subkeys[:half], subkeys[half:]) if part]
        inner = [_list(cells, part, "lh") for part in parts]
        return cells.add(b"ri" + struct.pack("<H", len(inner)) + b"".join(each.to_bytes(4, "little") for each in inner))
    rows = b"".join(struct.pack("<I", place) + _hint(name, kind) for name, place in subkeys)
    return cells.add(kind.encode() + struct.pack("<H", len(subkeys)) + rows)


def _hint(name: str, kind: str) -> bytes:
    if kind == "li":
        return b""
    if kind == "lf":
        return name.encode("latin-1")[:4].ljust(4, b"\0")
    total = 0
    for char in name.upper():
        total = (total * 37 + ord(char)) & 0xFFFFFFFF
    return total.to_bytes(4, "little")


def _value(cells: _Cells, name: str, value: Value) -> int:
    kind, data = value
    raw = name.encode("latin-1")
    if len(data) <= 4:
        size, offset = len(data) | 0x80000000, int.from_bytes(data.ljust(4, b"\0"), "little")
    elif len(data) > 16344:
        size, offset = len(data), _segments(cells, data)
    else:
        size, offset = len(data), cells.add(data)
    return cells.add(struct.pack("<2sHIIIHH", b"vk", len(raw), size, offset, kind, 1, 0) + raw)


def _segments(cells: _Cells, data: bytes) -> int:
    pieces = [cells.add(data[at : at + 16344] + bytes(4)) for at in range(0, len(data), 16344)]
    listed = cells.add(b"".join(each.to_bytes(4, "little") for each in pieces))
    return cells.add(b"db" + struct.pack("<HI", len(pieces), listed))


def read_by_hivex(path: Path) -> dict[str, dict[str, Value]]:
    """All keys and their values, as hivexml reads them."""
    root = ET.fromstring(call("hivexml", path)).find("node")  # noqa: S314  hivexml made it
    found: dict[str, dict[str, Value]] = {}

    def walk(node: ET.Element, where: str) -> None:
        found[where] = {
            "" if each.get("default") else each.get("key", ""): _of_xml(each) for each in node.findall("value")
        }
        for child in node.findall("node"):
            walk(child, f"{where}\\{child.get('name')}".strip("\\"))

    assert root is not None
    walk(root, "")
    return found


def _of_xml(element: ET.Element) -> Value:
    kind = TYPES[element.get("type", "")]
    if kind == 7:
        texts = [each.text for each in element.findall("string") if each.text]  # it shows the end as one more
        return kind, "".join(f"{each}\0" for each in (*texts, "")).encode("utf-16-le")
    text = element.get("value") or element.text or ""
    if element.get("encoding") == "base64":
        data = b64decode(text)
        return kind, (data.decode("utf-8") + "\0").encode("utf-16-le") if kind in (1, 2) else data
    if kind in (1, 2):
        return string(text, kind)
    if kind in (4, 11):
        return kind, (int(text) & (2**64 - 1)).to_bytes(8, "little")[: 4 if kind == 4 else 8]
    return kind, b64decode(text)


def read_by_reged(path: Path, folder: Path) -> dict[str, dict[str, str]]:
    """All keys and their values, as chntpw's reged exports them."""
    out = folder / "exported.reg"
    subprocess.run(["reged", "-x", path, "TOP", "\\", out], check=False, capture_output=True)  # 2: read only
    found: dict[str, dict[str, str]] = {}
    here = ""
    text = re.sub(r",?\\\r?\n\s*", ",", out.read_text(encoding="latin-1"))
    for line in text.splitlines():
        if line.startswith("["):
            here = line.strip("[]").removeprefix("TOP").strip("\\")
            found[here] = {}
        elif "=" in line and here in found:
            name, _, content = line.partition("=")
            found[here][name.strip('"').replace("\\\\", "\\")] = content
    return found
