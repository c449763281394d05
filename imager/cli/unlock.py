# SPDX-License-Identifier: GPL-3.0-or-later
"""--unlock: passphrases of encrypted partitions, asked for or from key files.

A passphrase lives in memory until the volume key is derived. It is never an argument of a command line, where every
user of the machine could see it.
"""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imager.blocks import BlockReader, Slice
from imager.cli.options import shortened
from imager.errors import NotConfirmed, UsageError
from imager.filesystems.signatures import find_signatures
from imager.partitions.read import read_table
from imager.volumes import luks

_MOST_KEY_FILE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Request:
    """A partition to unlock: its number, 0 for a disk without a table, and a key file instead of a question."""

    number: int
    key_file: str = ""


def parse_requests(texts: Sequence[str] | None) -> tuple[Request, ...]:
    """Words such as 3, disk, or 3:/path/of/keyfile.

    Raises:
        UsageError: One of them names no partition.
    """
    requests = []
    for text in texts or ():
        place, _, key_file = text.partition(":")
        if place != "disk" and (not place.isdecimal() or len(place) > 9):
            raise UsageError(
                f"--unlock {shortened(text)}: it is a partition number, or disk, and may go on with :KEYFILE"
            )
        requests.append(Request(0 if place == "disk" else int(place), key_file))
    return tuple(requests)


def unlock(
    requests: Sequence[Request],
    names: Sequence[str],
    readers: Sequence[BlockReader],
    keep: dict[str, bytes] | None = None,
) -> list[luks.VolumeKey]:
    """The volume keys of all containers that were asked for, on all disks that have one at that place.

    Args:
        requests: What is unlocked.
        names: What each disk is called in questions.
        readers: The disks.
        keep: Takes the passphrases, by the UUIDs of the containers, for who has to open them once more.

    Raises:
        UsageError: There is no container, or the passphrase does not open it.
        NotConfirmed: There is no terminal to ask on.
    """
    keys = []
    if requests:
        luks.forbid_core_files()  # before the first passphrase is in memory
    for request in requests:
        found = [(name, part) for name, disk in zip(names, readers, strict=True) if (part := _container(disk, request))]
        if not found:
            where = f"partition {request.number}" if request.number else "the disk itself"
            raise UsageError(f"--unlock: {where} is no LUKS container", hint="imager survey shows what is where.")
        for name, part in found:
            passphrase = _passphrase(request, name)
            try:
                keys.append(luks.unlock(part, passphrase))
                if keep is not None:
                    keep[keys[-1].uuid] = bytes(passphrase)
            finally:
                passphrase[:] = bytes(len(passphrase))
    return keys


def _container(disk: BlockReader, request: Request) -> BlockReader | None:
    """What lies at the place, if it is a LUKS container."""
    part: BlockReader = disk
    if request.number:
        entry = next((each for each in read_table(disk).partitions if each.number == request.number), None)
        if entry is None:
            return None
        part = Slice(disk, entry.start, entry.size_bytes)
    return part if any(mark.name in luks.TYPES for mark in find_signatures(part)) else None


def _passphrase(request: Request, name: str) -> bytearray:
    if request.key_file:
        try:
            with Path(request.key_file).open("rb") as file:
                content = bytearray(file.read(_MOST_KEY_FILE_BYTES + 1))
        except OSError as error:
            raise UsageError(f"the key file {request.key_file} cannot be read: {error.strerror}") from error
        if len(content) > _MOST_KEY_FILE_BYTES:
            raise UsageError(f"{request.key_file} is larger than {_MOST_KEY_FILE_BYTES} bytes: no key file")
        return content
    where = f"partition {request.number} of {name}" if request.number else name
    try:
        with Path("/dev/tty").open("r+b", buffering=0):
            return bytearray(getpass.getpass(f"Passphrase of {where}: ").encode())
    except (OSError, EOFError) as error:
        raise NotConfirmed(
            "the passphrase cannot be asked for: there is no terminal", hint="Name a key file: --unlock 3:/path/of/it"
        ) from error
