# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of a registry file as data, and hivexsh, which makes them in a copy of it.

hivexsh knows how to make room in a hive, and is what others change the registry of a Windows with that does not run. It
replaces all values of a key at once, so what stays is given to it again. It runs as a program of its own: a hive that
was made to harm it ends that program, and not the restore. What it wrote is read again and compared.

References: hivexsh(1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imager.booting.windows.registry import REG_DWORD, Hive, HiveDamaged, Value
from imager.errors import VolumeFailed
from imager.process import ProgramFailed, run

_SECONDS: Final = 600
_LINE_BYTES: Final = 8190
"""hivexsh reads no longer lines."""
_MOST_VALUES: Final = 1000


@dataclass(frozen=True)
class SetValue:
    """A value gets a type and data; its key is made when it is not there."""

    key: str
    value: Value


@dataclass(frozen=True)
class RemoveValue:
    """A value is taken away, if it is there."""

    key: str
    name: str


@dataclass(frozen=True)
class RemoveKey:
    """A key is taken away with all that is in it, if it is there."""

    key: str


Edit = SetValue | RemoveValue | RemoveKey


def number(name: str, content: int) -> Value:
    """A REG_DWORD."""
    return Value(name, REG_DWORD, content.to_bytes(4, "little"))


def text(name: str, kind: int, content: str) -> Value:
    """A string, or one that names variables."""
    return Value(name, kind, f"{content}\0".encode("utf-16-le"))


def texts(name: str, kind: int, content: Iterable[str]) -> Value:
    """Several strings."""
    return Value(name, kind, "".join(f"{each}\0" for each in (*content, "")).encode("utf-16-le"))


def changed_values(hive: Hive, edits: Sequence[Edit]) -> dict[str, tuple[Value, ...]]:
    """What the keys that get other values have afterwards, by their paths, in the order of the edits.

    Raises:
        HiveDamaged: A key cannot be read.
    """
    found: dict[str, dict[str, Value]] = {}
    for edit in edits:
        if isinstance(edit, RemoveKey):
            continue
        if edit.key not in found:
            key = hive.key(edit.key)
            if key is None and isinstance(edit, RemoveValue):
                continue
            found[edit.key] = {value.name.upper(): value for value in key.values()} if key else {}
        if isinstance(edit, SetValue):
            found[edit.key][edit.value.name.upper()] = edit.value
        else:
            found[edit.key].pop(edit.name.upper(), None)
    return {path: tuple(values.values()) for path, values in found.items()}


def removed_keys(hive: Hive, edits: Sequence[Edit]) -> tuple[str, ...]:
    """The keys that are there and are taken away."""
    wanted = dict.fromkeys(edit.key for edit in edits if isinstance(edit, RemoveKey))
    return tuple(path for path in wanted if hive.key(path) is not None)


def script(hive: Hive, edits: Sequence[Edit]) -> str:
    """The same for hivexsh.

    Raises:
        VolumeFailed: A name or a value cannot be given to it.
    """
    lines: list[str] = []
    for path in removed_keys(hive, edits):
        lines += [f"cd \\{_plain(path)}", "del"]
    made: set[str] = set()
    for path, values in changed_values(hive, edits).items():
        lines += [*_entered(hive, path, made), f"setval {len(values)}"]
        if len(values) > _MOST_VALUES:
            raise VolumeFailed(f"the key {path} has {len(values)} values, and hivexsh takes {_MOST_VALUES}")
        for value in values:
            lines += [_plain(value.name) or "@", f"hex:{value.type}:{value.data.hex()}"]
    if any(len(line.encode()) > _LINE_BYTES for line in lines):
        raise VolumeFailed(f"a value of {max(map(len, lines)) // 2} bytes is too long for hivexsh")
    return "\n".join([*lines, "commit", ""])


def _entered(hive: Hive, path: str, made: set[str]) -> Iterator[str]:
    """The commands that lead to a key, and make what is not there."""
    yield "cd \\"
    so_far = ""
    for name in path.split("\\"):
        so_far = f"{so_far}\\{name}"
        if so_far.upper() not in made and hive.key(so_far) is None:
            made.add(so_far.upper())
            yield f"add {_plain(name)}"
        yield f"cd {_plain(name)}"


def _plain(name: str) -> str:
    """A name that means for hivexsh what it says.

    Raises:
        VolumeFailed: It would mean something else.
    """
    if not name.isprintable() or name != name.strip() or name == "@":
        raise VolumeFailed(f"the name {name!r} in the registry cannot be given to hivexsh")
    return name


def edit_hive(path: Path, edits: Sequence[Edit], name: str) -> None:
    """Change a registry file in place; it must be a copy, which is thrown away when this fails.

    Args:
        path: The copy.
        edits: In order.
        name: What people call it.

    Raises:
        VolumeFailed: hivexsh did not do it; or what it wrote is not what was wanted.
    """
    before = Hive(path.read_bytes(), name)
    changed, removed = changed_values(before, edits), removed_keys(before, edits)
    try:
        run(["hivexsh", "-w", str(path)], input_bytes=script(before, edits).encode(), timeout_seconds=_SECONDS)
    except ProgramFailed as error:
        raise VolumeFailed(f"{name} could not be changed: {error.message}", path=name) from error
    after = Hive(path.read_bytes(), name)
    for key, values in changed.items():
        found = after.key(key)
        if found is None or _comparable(found.values()) != _comparable(values):
            raise HiveDamaged(f"hivexsh changed {name}, but its key {key} does not have the values that it was given")
    left = [key for key in removed if key not in changed and after.key(key) is not None]
    if left or not after.is_clean or _names(after) != _names(before) | _tops(changed):
        raise HiveDamaged(f"hivexsh changed {name}, and it is not what it should be: {', '.join(left) or 'its top'}")


def _comparable(values: Iterable[Value]) -> list[tuple[str, int, bytes]]:
    return sorted((value.name.upper(), value.type, value.data) for value in values)


def _names(hive: Hive) -> set[str]:
    return {key.name.upper() for key in hive.root.subkeys()}


def _tops(changed: Iterable[str]) -> set[str]:
    return {path.strip("\\").split("\\", 1)[0].upper() for path in changed}
