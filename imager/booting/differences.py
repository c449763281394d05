# SPDX-License-Identifier: GPL-3.0-or-later
"""What of this machine differs from the one that an image is of, so that its system may not start here. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Literal

from imager.booting.firmware import Firmware
from imager.booting.system_partition import is_bios_system, is_system_partition
from imager.layout import Identity, Layout

_UNTOLD: Final = ("", "file", "loop", "usb")
"""Nobody knows where a disk in a USB case will be put into."""
_OFFER: Final = "--repair-boot makes it start here"


def differences(layout: Layout, target: Identity, firmware: Firmware) -> Iterator[str]:
    """Reasons why the system in an image may not start from the target, each with what helps; none for a data disk.

    Args:
        layout: The image's.
        target: The disk that it is restored to.
        firmware: What started this machine.
    """
    has_esp, is_for_bios = _kinds(layout)
    if not has_esp and not is_for_bios:
        return
    source = layout.identity
    if source.transport != target.transport and not {source.transport, target.transport} & set(_UNTOLD):
        yield (
            f"the imaged disk was on {source.transport}, this one is on {target.transport}: the system's initramfs may "
            f"lack the driver for it, and names such as {source.path or '/dev/sda'} mean nothing here; {_OFFER}"
        )
    wanted = other_firmware(layout, firmware)
    if wanted:
        old, here = ("BIOS", "UEFI") if wanted == "uefi" else ("UEFI", "BIOS")
        yield f"the system starts with {old}, and {here} started this machine: --to-{wanted} makes it start here"


def other_firmware(layout: Layout, firmware: Firmware) -> Literal["", "uefi", "bios"]:
    """The kind of firmware that a system must be made for to start on this machine; "" when it is, or there is none."""
    has_esp, is_for_bios = _kinds(layout)
    if firmware.is_uefi:
        return "uefi" if is_for_bios and not has_esp else ""
    return "bios" if has_esp and not is_for_bios else ""


def started_from(layouts: Sequence[Layout]) -> tuple[bool, ...]:
    """Which of a machine's disks it is started from; each of them where none of them tells."""
    found = tuple(any(_kinds(layout)) for layout in layouts)
    return found if any(found) else (True,) * len(found)


def _kinds(layout: Layout) -> tuple[bool, bool]:
    """Whether UEFI can start a system on the disk, and whether BIOS can."""
    return any(is_system_partition(layout, entry) for entry in layout.partitions), is_bios_system(layout)
