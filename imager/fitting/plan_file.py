# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan as a file that a person can edit: the sizes of the partitions, as TOML. Its bytes to a rule, and back.

Pure. The format is described in docs/reference/plan-toml.md. Whatever is not understood is refused: a misspelt key that
is passed over would give another disk than the person meant.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec

from imager.errors import UsageError
from imager.fitting.model import Fitting, Rule
from imager.layout import Layout, Partition
from imager.pictures.sizes import exact_size_text, size_of

MOST_BYTES: Final = 1 << 20
FORMAT: Final = 1
REST: Final = "rest"

_HEAD: Final = """\
# Sizes of partitions, for: imager restore --plan FILE IMAGE TARGET
# Change a size, such as "80 GiB"; "rest" gives a partition what is left. The order stays.
# Partitions that are not listed keep their size. The places follow from the sizes.
"""


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    number: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    size: str | Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    image: str
    partition: Annotated[tuple[_Row, ...], msgspec.Meta(max_length=1024)] = ()
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
    for key, known in _unknown_keys(tree):
        near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.5)
        hint = f"Is {near[0]} meant?" if near else f"Known are: {', '.join(known)}."
        raise UsageError(f"{name}: the key {key!r} is not known", hint=hint, path=name, key=key)
    try:
        found = msgspec.convert(tree, _File)
        return PlanFile(_image_id(found.image, name), _rule(found))
    except msgspec.ValidationError as error:
        raise UsageError(f"{name}: {error}".replace("$.", ""), path=name) from error
    except ValueError as error:
        raise UsageError(f"{name}: {error}", hint='Sizes are written like "80 GiB".', path=name) from error


def _image_id(text: str, name: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise UsageError(
            f"{name}: image = {text!r} is not the id of an image",
            hint="imager plan --write writes it; imager info shows it.",
            path=name,
        ) from error


def _tree(content: bytes, name: str) -> dict[str, Any]:
    if len(content) > MOST_BYTES:
        raise UsageError(f"{name} has more than the {MOST_BYTES} bytes of the longest plan", path=name)
    try:
        return tomllib.loads(content.decode("utf-8-sig").replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:  # not only what TOML forbids: also numbers of 5000 digits
        raise UsageError(f"{name} is not TOML: {error}", path=name) from error


def _unknown_keys(tree: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from ((key, _File.__struct_fields__) for key in tree if key not in _File.__struct_fields__)
    rows = tree.get("partition")
    for row in rows if isinstance(rows, list) else []:
        known = _Row.__struct_fields__
        yield from ((key, known) for key in (row if isinstance(row, dict) else ()) if key not in known)


def _rule(found: _File) -> Rule:
    """The sizes as a rule.

    Raises:
        ValueError: They contradict each other.
    """
    if found.format != FORMAT:
        raise ValueError(f"format {found.format} is not known here; this program knows {FORMAT}")
    numbers = [row.number for row in found.partition]
    if len(set(numbers)) < len(numbers):
        raise ValueError("a partition is listed twice")
    rest = [row.number for row in found.partition if row.size == REST]
    if len(rest) > 1:
        raise ValueError(f'only one partition can have the size "{REST}"')
    sizes = {row.number: _size(row) for row in found.partition if row.size != REST}
    return Rule("sizes", rest[0] if rest else 0, sizes)


def _size(row: _Row) -> int:
    try:
        return size_of(row.size) if isinstance(row.size, str) else row.size
    except ValueError as error:
        raise ValueError(f"partition {row.number}: {error}") from error


def plan_text(layout: Layout, fitting: Fitting | None, image_id: UUID) -> str:
    """A plan as the text of a file.

    Args:
        layout: The image's layout.
        fitting: The sizes that it begins with; None for those of the image.
        image_id: The image.
    """
    lines = [_HEAD, f"format = {FORMAT}", f'image = "{image_id}"', ""]
    for entry in layout.partitions:
        if entry.kind != "extended":
            size = fitting.partition(entry.number).new_size if fitting else entry.size_bytes
            lines += [
                "[[partition]]",
                f"number = {entry.number}  # {_about(entry)}",
                f'size = "{exact_size_text(size)}"',
                "",
            ]
    return "\n".join(lines)


def _about(entry: Partition) -> str:
    """What a person knows a partition by: on one line, whatever the label holds."""
    content = entry.content
    words = [entry.name, content.type if content else "", content.label if content else ""]
    text = ", ".join(word for word in (*words, f"{exact_size_text(entry.size_bytes)} in the image") if word)
    return "".join(character if character.isprintable() else "?" for character in text)
