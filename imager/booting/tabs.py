# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts that name devices: fstab, crypttab, and the kernel's command line wherever a system keeps it.

Pure: text in, text out. Only the names change; blanks, comments and everything else stay as they are.

References:
    fstab(5), crypttab(5), kernel-parameters.txt (root=, resume=), dracut.cmdline(7), initramfs-tools(7) (RESUME=).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from imager.booting.old_names import Candidate, OldName, old_name

_ON_COMMAND_LINE: Final = re.compile(r"(?<![\w.-])(root|resume|cryptdevice|RESUME)=(\"?)(/dev/[^\s:\"']+)")
_COMMENT: Final = "# before the repair: "


def fstab_names(text: str) -> Iterator[OldName]:
    """The old device names in an fstab."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and not words[0].startswith("#"):
            found = old_name(words[0], words[2], is_root=words[1] == "/")
            if found:
                yield found


def crypttab_names(text: str) -> Iterator[OldName]:
    """The old device names in a crypttab; only of volumes with a LUKS header, as others are made anew at each start."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and not words[0].startswith("#") and not _is_made_anew(words):
            found = old_name(words[1], "crypto_LUKS")
            if found:
                yield found


def _is_made_anew(words: list[str]) -> bool:
    options = words[3].split(",") if len(words) > 3 else []
    return "plain" in options or "swap" in options or "tmp" in options


def command_line_names(text: str, *, root_type: str = "") -> Iterator[OldName]:
    """The old device names in a kernel command line, or in a file that holds one."""
    for line in text.splitlines():
        if not line.lstrip().startswith("#"):
            for match in _ON_COMMAND_LINE.finditer(line):
                kind = {"root": root_type, "cryptdevice": "crypto_LUKS"}.get(match[1], "")
                found = old_name(match[3], kind, is_root=match[1] == "root")
                if found:
                    yield found


def with_uuids_in_fstab(text: str, meant: Mapping[str, Candidate]) -> str:
    """An fstab whose old names are UUIDs; each old line stays above as a comment."""
    return _lines(text, 0, meant)


def with_uuids_in_crypttab(text: str, meant: Mapping[str, Candidate]) -> str:
    """The same for a crypttab."""
    return _lines(text, 1, meant)


def _lines(text: str, column: int, meant: Mapping[str, Candidate]) -> str:
    done: list[str] = []
    for line in text.splitlines(keepends=True):
        words = line.split()
        if len(words) > column and not words[0].startswith("#") and words[column] in meant:
            done.append(f"{_COMMENT}{line.strip()}\n")
            start = _start_of_word(line, column)
            line = line[:start] + _uuid(meant[words[column]]) + line[start + len(words[column]) :]
        done.append(line)
    return "".join(done)


def _start_of_word(line: str, column: int) -> int:
    return [match.start() for match in re.finditer(r"\S+", line)][column]


def with_uuids_in_command_line(text: str, meant: Mapping[str, Candidate]) -> str:
    """A kernel command line, or a file that holds one, whose old names are UUIDs."""

    def named(match: re.Match[str]) -> str:
        candidate = meant.get(match[3])
        return match[0] if candidate is None else f"{match[1]}={match[2]}{_uuid(candidate)}"

    return "".join(
        line if line.lstrip().startswith("#") else _ON_COMMAND_LINE.sub(named, line)
        for line in text.splitlines(keepends=True)
    )


def _uuid(candidate: Candidate) -> str:
    return f"UUID={candidate.uuid}"


Entry = tuple[str, str, tuple[str, ...]]
"""Of an fstab: device as it stands there, type, options."""


def mount_points(text: str) -> dict[str, Entry]:
    """What an fstab mounts, by mount point."""
    found: dict[str, Entry] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and not words[0].startswith("#"):
            options = tuple(words[3].split(",")) if len(words) > 3 else ()
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[1])
            found[point if point == "/" else point.rstrip("/")] = (words[0], words[2], options)
    return found
