# SPDX-License-Identifier: GPL-3.0-or-later
"""What a recovery.toml can say. The format is described in docs/reference/recovery-toml.md."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

FORMAT: Final = 1
SELF: Final = "self"
"""The image that carries the answers."""

Words = str | tuple[str, ...]
Number = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Unlock = Annotated[str, msgspec.Meta(pattern=r"^(disk|[1-9][0-9]{0,3}):.")]


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which machines the file is for: every key that is given must be right, by any of its values."""

    serial: Words = ()
    mac: Words = ()
    model: Words = ()
    any: bool = False


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is told how it went.

    Attributes:
        url: Gets an HTTP POST of JSON.
        certificate: SHA-256 of the certificate that the server of url must show.
        log: Folder for logs, on the stick's data partition unless it is absolute; None for logs if there is such one.
    """

    url: str = ""
    certificate: str = ""
    log: str | None = None


class Restore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One image and where it goes.

    Attributes:
        image: A path, label=NAME/PATH, a URL, ssh://USER@HOST/PATH, or self.
        target: A rule that one disk fits.
        partition: Only this one of the image, onto the partition of that number.
        grow: Who gets the room of a larger disk; nobody when it is empty.
        grow_volume: The logical volume that gets the room of its group, such as vg0/root.
        fit: Move partitions together and make file systems smaller, as far as the disk needs it.
        unlock: Encrypted partitions that are opened when all is written: N:KEYFILE, a path like image.
        repair_boot: Change the restored system so that it starts on this machine.
        firmware: Make it start with this kind of firmware, whatever it had; repairs too.
        windows_drivers: A folder with drivers that a Windows does not bring along, a path like image; "" for none.
        new_ids: What is restored gets new identifiers.
        boot_entries: The UEFI firmware of this machine gets entries for it.
        verify: Read everything back.
        accept_damage: Also restore an image that lacks content.
        host_key: Fingerprint of the SSH server's key.
        key: Private SSH key to log in with; a path like image.
        certificate: SHA-256 of the certificate that the web server must show, in place of one that an authority signed.
    """

    target: str
    image: str = SELF
    partition: Number | None = None
    onto: Number | None = None
    grow: str = ""
    grow_volume: str = ""
    fit: bool = False
    unlock: Annotated[tuple[Unlock, ...], msgspec.Meta(max_length=64)] = ()
    repair_boot: bool = False
    firmware: Literal["", "uefi", "bios"] = ""
    windows_drivers: str = ""
    new_ids: bool = False
    boot_entries: bool = True
    verify: bool = False
    accept_damage: bool = False
    host_key: str = ""
    key: str = ""
    certificate: str = ""


class Answers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    match: Match
    restore: Annotated[tuple[Restore, ...], msgspec.Meta(min_length=1, max_length=64)]
    format: int = FORMAT
    after: Literal["reboot", "poweroff", "shell"] = "shell"
    wait_seconds: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 10
    report: Report = Report()


def words(value: Words) -> tuple[str, ...]:
    """One or several values as several."""
    return (value,) if isinstance(value, str) else value
