# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan as a file that a person can edit: the sizes of the partitions, as TOML. Its bytes to a rule, and back.

Pure. The format is described in docs/reference/plan-toml.md. Whatever is not understood is refused: a misspelt key that
is passed over would give another disk than the person meant.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, get_args
from uuid import UUID

import msgspec

from imager.errors import UsageError
from imager.fitting.model import AT_END, BEFORE_FIRST, FileSystem, Fitting, NewPart, NewPlace, Rule
from imager.layout import Layout, Partition
from imager.partitions.types import BIOS_BOOT
from imager.pictures.sizes import exact_size_text, size_of
from imager.text import one_line
from imager.toml import WrongToml, parse

MOST_BYTES: Final = 1 << 20
FORMAT: Final = 1
REST: Final = "rest"
KEEP: Final = "keep"

_HEAD: Final = """\
# Sizes of partitions, for: imager restore --plan FILE IMAGE TARGET
# Change a size, such as "80 GiB"; "rest" gives a partition what is left. The order stays.
# Partitions that are not listed keep their size. The places follow from the sizes.
# leave_out = true in a partition's block leaves it out; [[new]] adds one, as in:
#   [[new]]
#   size = "8 GiB"
#   filesystem = "swap"  # or ext4, vfat, none
#   place = "end"  # or after = 2, or place = "start"
"""

_Number = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Size = str | Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_TYPES: Final = {
    "linux": "0fc63daf-8483-4772-8e79-3d69d8477de4",
    "swap": "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
    "esp": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "lvm": "e6d6d379-f507-44c2-a23c-238f2a3df928",
    "raid": "a19d880f-05fc-4d3b-a006-743f0f84911e",
    "data": "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7",
    "bios-boot": BIOS_BOOT,
}
"""Words for the usual types."""
_TYPE_OF: Final = {"none": "linux", "ext4": "linux", "vfat": "data", "swap": "swap"}
_LABEL_BYTES: Final = {"none": 0, "ext4": 16, "vfat": 11, "swap": 15}
_LEAST_BYTES: Final = {"none": 1, "ext4": 16 * 1024**2, "vfat": 1024**2, "swap": 1024**2}
_TOLD: Final = 80
"""Characters of a value that a message shows."""
_NO_TYPES: Final = ("00", "05", "0f", "85", "ee", "00000000-0000-0000-0000-000000000000")
"""An entry that is not used, extended partitions, and the one that stands for a GPT."""
_NOT_IN_VFAT: Final = frozenset('*?.,;:/\\|+=<>[]"')
"""mkfs.fat(8) refuses labels with them."""
_TYPE: Final = re.compile(r"[0-9a-f]{2}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAME_UNITS: Final = 36  # of UTF-16, in an entry of a GPT


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: _Number
    size: _Size = KEEP
    leave_out: bool = False


class _New(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    size: _Size
    type: str = ""
    name: str = ""
    place: Literal["start", "end", ""] = ""
    after: _Number | None = None
    filesystem: FileSystem = "none"
    label: str = ""
    number: _Number | None = None


class _Volume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    size: _Size


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    image: str
    partition: Annotated[tuple[_Row, ...], msgspec.Meta(max_length=1024)] = ()
    new: Annotated[tuple[_New, ...], msgspec.Meta(max_length=128)] = ()
    volume: Annotated[tuple[_Volume, ...], msgspec.Meta(max_length=1024)] = ()
    leave_out: Annotated[tuple[_Number, ...], msgspec.Meta(max_length=1024)] = ()
    to_gpt: bool = False
    format: int = FORMAT


@dataclass(frozen=True)
class PlanFile:
    """What a person wrote down.

    Attributes:
        image_id: The image that the plan was made for.
        rule: The sizes.
    """

    image_id: UUID
    rule: Rule

    def check_image(self, image_id: UUID) -> None:
        """Refuse another image: numbers mean other partitions there.

        Raises:
            UsageError: It is another one.
        """
        if image_id != self.image_id:
            raise UsageError(
                f"the plan was made for the image {self.image_id}, and this is {image_id}",
                hint="imager plan IMAGE TARGET --write FILE makes one for this image.",
            )


def read_plan(content: bytes, name: str) -> PlanFile:
    """The plan in a file.

    Args:
        content: All of it.
        name: Where it comes from, for messages.

    Raises:
        UsageError: It is no TOML, or a key or value of it is not understood.
    """
    tree = _tree(content, name)
    lines = _Lines(content)
    for table, index, key, known in _unknown_keys(tree):
        near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.5)
        hint = f"Is {near[0]} meant?" if near else f"Known are: {', '.join(known)}."
        where = lines.where(table, index, key)
        raise UsageError(f"{name}: the key {key[:_TOLD]!r} is not known{where}", hint=hint, path=name, key=key)
    try:
        found = msgspec.convert(tree, _File)
        return PlanFile(_image_id(found.image, name), _rule(found))
    except msgspec.ValidationError as error:
        text = f"{name}: {error}{lines.of_path(str(error))}".replace("$.", "")
        raise UsageError(text, hint=_hint(str(error)), path=name) from error
    except _Wrong as error:
        where = lines.where(error.table, error.index, error.key)
        raise UsageError(f"{name}: {error}{where}", hint=error.hint, path=name) from error


class _Wrong(ValueError):
    """What a value of a table cannot be."""

    def __init__(self, text: str, table: str = "", index: int = 0, key: str = "", hint: str = "") -> None:
        super().__init__(text)
        self.table, self.index, self.key, self.hint = table, index, key, hint


class _Lines:
    """The lines of a plan, so that a message can show the one that it is about."""

    def __init__(self, content: bytes) -> None:
        self._lines = content.decode("utf-8-sig", errors="replace").splitlines()

    def where(self, table: str, index: int, key: str) -> str:
        """The line of a key in the table of that name and index; "" when it is not found."""
        count, is_inside = -1, not table
        for number, line in enumerate(self._lines, 1):
            text = line.strip()
            if text.startswith("["):
                count += text.replace(" ", "").startswith(f"[[{table}]]")
                is_inside = bool(table) and count == index
                if is_inside and not key:
                    return f" (line {number}: {one_line(text[:80])})"
            elif is_inside and key and re.match(rf"[\"']?{re.escape(key)}[\"']?\s*=", text):
                return f" (line {number}: {one_line(text[:80])})"
        return ""

    def of_path(self, error: str) -> str:
        """The line that msgspec's `$.table[index].key` stands for."""
        found = re.search(r"\$\.(\w+)(?:\[(\d+|\.\.\.)\](?:\.(\w+))?)?", error)
        if found is None:
            return ""
        name, index, key = found.groups()
        if index is None or not index.isdecimal():
            return self.where("", 0, name)
        return self.where(name, int(index), key or "") or self.where("", 0, name)


def _hint(error: str) -> str:
    """What is meant, where msgspec only says what was found."""
    if ".filesystem`" in error:
        return f"Known are: {', '.join(get_args(FileSystem))}."
    if ".place`" in error:
        return "Known are: start, end; or after = 2, for behind partition 2."
    table = re.search(r"Expected `array`, got `object` - at `\$\.(partition|new|volume)`", error)
    return f"Write [[{table[1]}]], in two pairs of brackets." if table else ""


def _image_id(text: str, name: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise UsageError(
            f"{name}: image = {text[:_TOLD]!r} is not the id of an image",
            hint="imager plan --write writes it; imager info shows it.",
            path=name,
        ) from error


def _tree(content: bytes, name: str) -> dict[str, Any]:
    try:
        return parse(content, MOST_BYTES)[1]
    except WrongToml as error:
        raise UsageError(
            f"{name} {error}", hint="imager plan --write makes a file that can be changed.", path=name
        ) from error


def _unknown_keys(tree: Mapping[str, Any]) -> Iterator[tuple[str, int, str, tuple[str, ...]]]:
    """Table, its index, key, and the keys that are known there."""
    yield from (("", 0, key, _File.__struct_fields__) for key in tree if key not in _File.__struct_fields__)
    for table, row_type in (("partition", _Row), ("new", _New), ("volume", _Volume)):
        rows, known = tree.get(table), row_type.__struct_fields__
        for index, row in enumerate(rows if isinstance(rows, list) else []):
            yield from (
                (table, index, key, known) for key in (row if isinstance(row, dict) else ()) if key not in known
            )


def _rule(found: _File) -> Rule:
    """What the file says, as a rule.

    Raises:
        _Wrong: It contradicts itself.
    """
    if found.format != FORMAT:
        raise _Wrong(f"format {found.format} is not known here; this program knows {FORMAT}", key="format")
    numbers = [row.number for row in found.partition]
    for index, number in enumerate(numbers):
        if number in numbers[:index]:
            raise _Wrong(f"partition {number} is listed twice", "partition", index, "number")
    out = frozenset({*found.leave_out, *(row.number for row in found.partition if row.leave_out)})
    rest = [index for index, row in enumerate(found.partition) if row.size == REST and row.number not in out]
    new_rest = [index for index, row in enumerate(found.new) if row.size == REST]
    for table, index in [*(("partition", each) for each in rest), *(("new", each) for each in new_rest)][1:]:
        raise _Wrong(f'only one partition can have the size "{REST}"', table, index, "size")
    sizes = {
        row.number: _size(row.size, "partition", index, f"partition {row.number}")
        for index, row in enumerate(found.partition)
        if row.size not in (REST, KEEP) and row.number not in out
    }
    new = tuple(_new(row, index) for index, row in enumerate(found.new))
    number = found.partition[rest[0]].number if rest else 0
    return Rule("sizes", number, sizes, out, new, found.to_gpt, _volumes(found.volume))


def _volumes(rows: Sequence[_Volume]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for index, row in enumerate(rows):
        if row.name in sizes:
            raise _Wrong(f"the volume {row.name} is listed twice", "volume", index, "name")
        sizes[row.name] = _size(row.size, "volume", index, f"volume {row.name}")
    return sizes


def _size(size: str | int, table: str, index: int, what: str) -> int:
    try:
        return size_of(size) if isinstance(size, str) else size
    except ValueError as error:
        raise _Wrong(f"{what}: {error}", table, index, "size", 'Sizes are written like "80 GiB".') from error


def _new(row: _New, index: int) -> NewPart:
    what = f"new partition {index + 1}"
    size = 0 if row.size == REST else _size(row.size, "new", index, what)
    if row.size != REST and size < _LEAST_BYTES[row.filesystem]:
        least = exact_size_text(_LEAST_BYTES[row.filesystem])
        raise _Wrong(f"{what}: {row.filesystem} needs at least {least}", "new", index, "size")
    if row.place and row.after is not None:
        raise _Wrong(f"{what}: place and after contradict each other", "new", index, "after")
    after = AT_END if row.after is None else row.after
    if row.place == "start":
        after = BEFORE_FIRST
    why = _why_no_label(row.label, row.filesystem)
    if why:
        raise _Wrong(f"{what}: {why}", "new", index, "label")
    if len(row.name.encode("utf-16-le", "replace")) // 2 > _NAME_UNITS or not row.name.isprintable():
        raise _Wrong(f"{what}: a name has at most {_NAME_UNITS} printable characters", "new", index, "name")
    type_ = _new_type(row, index, what)
    return NewPart(size, type_, after, row.name, row.filesystem, row.label, row.number or 0)


def _why_no_label(label: str, filesystem: FileSystem) -> str:
    """Why a file system cannot have a label, or ""."""
    most = _LABEL_BYTES[filesystem]
    if label and not most:
        return "a label belongs to a filesystem"
    if not label.isprintable():
        return "a label has printable characters only"
    if len(label.encode()) > most:
        return f"a label of {filesystem} has at most {most} bytes"
    if filesystem == "vfat" and (not label.isascii() or _NOT_IN_VFAT & {*label}):
        return f"a label of vfat has letters and digits of ASCII, and none of {' '.join(sorted(_NOT_IN_VFAT))}"
    return ""


def _new_type(row: _New, index: int, what: str) -> str:
    word = (row.type or _TYPE_OF[row.filesystem]).lower()
    type_ = _TYPES.get(word, word)
    if type_ in _NO_TYPES:
        raise _Wrong(f"{what}: no partition of the type {row.type!r} can be added", "new", index, "type")
    if not _TYPE.fullmatch(type_):
        words = ", ".join(_TYPES)
        raise _Wrong(
            f"{what}: {row.type!r} is no partition type",
            "new",
            index,
            "type",
            f"Known are {words}; else a GUID, or two hexadecimal digits.",
        )
    return type_


def plan_text(layout: Layout, fitting: Fitting | None, image_id: UUID) -> str:
    """A plan as the text of a file.

    Args:
        layout: The image's layout.
        fitting: The sizes that it begins with; None for those of the image.
        image_id: The image.
    """
    lines = [_HEAD, f"format = {FORMAT}", f'image = "{image_id}"', ""]
    if fitting and fitting.is_to_gpt(layout):
        lines[-1:] = ["to_gpt = true", ""]
    left_out = fitting.left_out if fitting else ()
    for entry in layout.partitions:
        if entry.number in left_out:
            lines += ["[[partition]]", f"number = {entry.number}  # {_about(entry)}", "leave_out = true", ""]
        elif entry.kind != "extended":
            size = fitting.partition(entry.number).new_size if fitting else entry.size_bytes
            lines += [
                "[[partition]]",
                f"number = {entry.number}  # {_about(entry)}",
                f'size = "{exact_size_text(size)}"',
                "",
            ]
    for place in fitting.new if fitting else ():
        lines += _new_lines(place)
    lines += _volume_lines(layout)
    return "\n".join(lines)


def _volume_lines(layout: Layout) -> list[str]:
    """Logical volumes whose sizes a person may give, as comments: they count only where a partition becomes smaller."""
    groups = (content for _, content in layout.contents() if content.type == "LVM2_member")
    found = [each for group in groups for each in group.inside if each.name and each.size_bytes]
    lines = ["# Of logical volumes, where their partition becomes smaller; without a line it is shared out:"]
    for each in found:
        name = json.dumps(each.name, ensure_ascii=False)
        lines += ["# [[volume]]", f"# name = {name}", f'# size = "{exact_size_text(each.size_bytes or 0)}"']
    return lines if found else []


def _new_lines(place: NewPlace) -> list[str]:
    part = place.part
    where = {AT_END: 'place = "end"', BEFORE_FIRST: 'place = "start"'}.get(part.after, f"after = {part.after}")
    texts = {"type": part.type, "name": part.name, "filesystem": part.filesystem, "label": part.label}
    said = [f"{key} = {json.dumps(text, ensure_ascii=False)}" for key, text in texts.items() if text]
    size = exact_size_text(place.entry.size_bytes)
    return ["[[new]]", f"number = {place.entry.number}", f'size = "{size}"', where, *said, ""]


def _about(entry: Partition) -> str:
    """What a person knows a partition by: on one line, whatever the label holds."""
    content = entry.content
    words = [entry.name, content.type if content else "", content.label if content else ""]
    text = ", ".join(word for word in (*words, f"{exact_size_text(entry.size_bytes)} in the image") if word)
    return "".join(character if character.isprintable() else "?" for character in text)
