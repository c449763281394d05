# SPDX-License-Identifier: GPL-3.0-or-later
"""What other programs say of all files of a folder: find, getfattr, getfacl, lsattr, filefrag, sha256sum."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

FIND = "%P\\t%y\\t%m\\t%U\\t%G\\t%s\\t%n\\t%T@\\t%A@\\t%l\\0"


def _said(top: Path, *command: str) -> bytes:
    return subprocess.run(command, cwd=top, capture_output=True, check=True).stdout


def _entries(top: Path, *, is_size_of_folders_known: bool) -> list[bytes]:
    found = sorted(_said(top, "find", ".", "-printf", FIND).split(b"\0"))
    if is_size_of_folders_known:
        return found
    return [re.sub(rb"\td\t(\d+\t\d+\t\d+)\t\d+", rb"\td\t\1\t-", each) for each in found]


def _devices(top: Path) -> bytes:
    return b"".join(
        sorted(_said(top, "find", ".", "-type", "b,c", "-exec", "stat", "-c", "%n %t %T", "{}", "+").splitlines())
    )


def _records(top: Path, *command: str) -> list[bytes]:
    """getfattr and getfacl end what they say of a file with an empty line; the names in it are not sorted."""
    return sorted(b"\n".join(sorted(each.splitlines())) for each in _said(top, *command).split(b"\n\n"))


def _flags(top: Path) -> list[bytes]:
    find = ("find", ".", "(", "-type", "f", "-o", "-type", "d", ")", "-exec", "lsattr", "-d", "-p", "{}", "+")
    return sorted(_said(top, *find).splitlines())


def _holes(top: Path) -> dict[bytes, list[tuple[int, int, str]]]:
    """Where each file has blocks, and which of them are shared or reserved; not how they are cut into pieces."""
    pieces: dict[bytes, list[tuple[int, int, str]]] = {}
    for path in _said(top, "find", ".", "-type", "f", "-print0").split(b"\0")[:-1]:
        said = subprocess.run(["filefrag", "-v", path], cwd=top, capture_output=True, check=True).stdout.decode(
            errors="replace"
        )
        joined: list[tuple[int, int, str]] = []
        for first, last, flags in re.findall(r"^ *\d+: +(\d+)\.\. +(\d+): .*: +(?:\d+: +)?(\S*)$", said, re.MULTILINE):
            kind = ",".join(flag for flag in ("unwritten", "shared") if flag in flags)
            if joined and joined[-1][1] + 1 == int(first) and joined[-1][2] == kind:
                joined[-1] = (joined[-1][0], int(last), kind)
            else:
                joined.append((int(first), int(last), kind))
        pieces[path] = joined
    return pieces


def _contents(top: Path) -> list[bytes]:
    return sorted(_said(top, "find", ".", "-type", "f", "-exec", "sha256sum", "--zero", "{}", "+").split(b"\0"))


def everything(top: Path, *, is_size_of_folders_known: bool = True, with_holes: bool = True) -> dict[str, object]:
    """All that can be said of a folder and what is in it."""
    return {
        "entries": _entries(top, is_size_of_folders_known=is_size_of_folders_known),
        "devices": _devices(top),
        "attributes": _records(top, "getfattr", "-h", "-R", "-d", "-m", "-", "-e", "hex", "."),
        "access": _records(top, "getfacl", "-P", "-R", "-n", "-p", "-E", "."),
        "flags": _flags(top),
        "holes": _holes(top) if with_holes else {},
        "contents": _contents(top),
    }


def rsync_would_do(source: Path, target: Path) -> str:
    """What rsync finds to do to make the second folder like the first, all contents compared."""
    words = ("-aHAXXSn", "--numeric-ids", "--checksum", "--itemize-changes", "--delete", "--modify-window=-1")
    return subprocess.run(
        ["rsync", *words, f"{source}/", f"{target}/"], capture_output=True, check=True, text=True
    ).stdout
