# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines of lists that several steps show."""

from __future__ import annotations

from rich.text import Text

from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.targets import Target
from imager.pictures.sizes import size_text
from imager.text import one_line


def disk_row(row: Target) -> Text:
    """A disk by model, serial number and size; and why it is not offered."""
    disk = row.disk
    model = one_line(disk.model) or {"virtio": "virtual disk", "loop": "loop device"}.get(disk.transport, "no model")
    about = f"{model[:24]:<24}  serial {one_line(disk.serial)[:18] or 'none':<18}  {size_text(disk.size_bytes):>9}"
    style = "strong" if row.may_be_written else "quiet"
    text = styled((f"{about}  {disk.path}", style))
    if row.refusal:
        text.append_text(styled((f"\n    not offered: it {row.refusal}", "quiet")))
    return text


def choice_row(title: str, about: str, *, on: bool, single: bool = False) -> Text:
    """A line with a mark: one of several, or on and off."""
    mark = ("(*)" if on else "( )") if single else ("[x]" if on else "[ ]")
    return styled((f"{mark} {title:<28}", "strong" if on else "plain"), (f" {about}", "quiet"))
