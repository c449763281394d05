# SPDX-License-Identifier: GPL-3.0-or-later
"""What a way of making something smaller is; `imager.fitting.ways` lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from imager.extents import Extents
from imager.layout import Content

MIB: Final = 1024**2
GIB: Final = 1024**3
TOOL_MEMORY: Final = 160 * MIB
BYTES_A_SECOND: Final = 60 * MIB
"""Reading and writing through a view, on two cores."""


@dataclass(frozen=True)
class Outlay:
    """What a way costs.

    Attributes:
        scratch_bytes: Room for what is written, if it is not written to the target at once.
        memory_bytes: Of all programs together.
        seconds: How long it takes, before the rest of the restore.
    """

    scratch_bytes: int
    memory_bytes: int
    seconds: float


@dataclass(frozen=True)
class Way:
    """A way of making something smaller.

    Attributes:
        kind: tool: on a view of the image's partition; anew: on a blank file; group: each volume in it for itself;
            container: what is in it.
        text: How, as in "resize2fs makes it smaller".
        programs: What must be installed.
        least: The smallest size, from the content and its used bytes.
        outlay: From the used bytes (offsets in the partition), the old and the new size.
        differs: What will not be as it was, as sentences.
        as_root: It needs root and loop devices.
        mounts: The kernel's name of the file system, when it is mounted.
    """

    kind: Literal["tool", "anew", "group", "container"]
    text: str
    programs: tuple[str, ...]
    least: Callable[[Content, int], int]
    outlay: Callable[[Extents, int, int], Outlay]
    differs: tuple[str, ...] = ()
    as_root: bool = False
    mounts: str = ""
