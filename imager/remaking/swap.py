# SPDX-License-Identifier: GPL-3.0-or-later
"""The mkswap command that makes a swap area like another one.

References:
    mkswap(8) of util-linux 2.38.
"""

from __future__ import annotations

from typing import Final

from imager.filesystems.base import HIBERNATED
from imager.layout import Content
from imager.remaking.model import CannotRemake, Remake

LEAST_BYTES: Final = 1024**2


def plan(content: Content, sector_bytes: int, size_bytes: int) -> Remake:
    """How a swap area is made anew.

    Raises:
        CannotRemake: A system sleeps in it, or it would be too small.
    """
    if HIBERNATED in content.facts or content.type == "swsuspend":
        raise CannotRemake(
            "a hibernated system lies in the swap area, and would be lost",
            hint="Start the system and shut it down before it is imaged, or choose a larger disk.",
        )
    if size_bytes < LEAST_BYTES:
        raise CannotRemake(f"a swap area of {size_bytes} bytes is of no use")
    command = ["mkswap", "--pagesize", content.facts.get("page_size_bytes", "4096")]
    command += ["--uuid", content.uuid] if content.uuid else ["--uuid", "clear"]
    command += ["--label", content.label] if content.label else []
    return Remake(
        type="swap",
        way="volume",
        command=tuple(command),
        check=(),
        size_bytes=size_bytes,
        sector_bytes=sector_bytes,
        programs=("mkswap",),
    )
