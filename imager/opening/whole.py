# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows files with disks in them as disks of this machine, for programs that know nothing else, such as grub-install.

References:
    losetup(8), --partscan; partx(8): kernels that look for no partitions in loop devices take them when told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imager.errors import ImagerError
from imager.opening.nodes import loop_device, settle
from imager.process import ProgramFailed, run


@dataclass(frozen=True)
class Shown:
    """Which device shows which disk.

    Attributes:
        devices: By the paths of disks; a block device shows itself.
    """

    devices: Mapping[str, str] = field(default_factory=dict)

    def named(self, text: str) -> str:
        """The same sentence about files, which a person knows, in place of loop devices."""
        for path, device in self.devices.items():
            if path != device:
                text = re.sub(rf"{re.escape(device)}p(\d+)\b", rf"partition \1 of {_quoted(path)}", text)
                text = re.sub(rf"{re.escape(device)}(?!\d)", _quoted(path), text)
        return text

    def facts(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The same for all sentences in values for JSON."""
        return {key: self._named_in(value) for key, value in facts.items()}

    def _named_in(self, value: object) -> object:
        if isinstance(value, str):
            return self.named(value)
        if isinstance(value, dict):
            return self.facts(value)
        return [self._named_in(each) for each in value] if isinstance(value, (list, tuple)) else value


def _quoted(path: str) -> str:
    """For use in place of a match."""
    return path.replace("\\", "\\\\")


@contextmanager
def shown_as_disks(disks: Sequence[tuple[str, int]], *, writable: bool = True) -> Iterator[Shown]:
    """Every file among the disks is a loop device with partitions, until the block is left.

    Args:
        disks: Path of each, and the length of its sectors in bytes, which a file does not know.
        writable: Else nothing is written.

    Raises:
        VolumeFailed: There is no loop device, or it cannot be attached or given back.
    """
    with ExitStack() as stack:
        shown = Shown({path: _shown(path, sector, stack, writable=writable) for path, sector in disks})
        try:
            yield shown
        except ImagerError as error:
            error.message = shown.named(error.message)
            raise


def _shown(path: str, sector_bytes: int, stack: ExitStack, *, writable: bool) -> str:
    if Path(path).is_block_device():
        return path
    size = Path(path).stat().st_size
    device = loop_device(stack, path, 0, size, writable=writable, sector_size=sector_bytes, parts=True)
    with suppress(ProgramFailed):
        run(["partx", "--update", device], allowed=range(256))
    stack.callback(_without_partitions, device)
    settle()
    return device


def _without_partitions(device: str) -> None:
    with suppress(ProgramFailed):
        run(["partx", "--delete", device], allowed=range(256))
