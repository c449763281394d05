# SPDX-License-Identifier: GPL-3.0-or-later
"""Says what lies in a device that has just been opened and that no layout knew."""

from __future__ import annotations

from imager.devices.opening import open_source
from imager.errors import ImagerError, Interrupted
from imager.layout import Content, Layout


def layout_of(path: str) -> Layout:
    """What lies on a disk or in a volume, as far as it can be read.

    Raises:
        ImagerError: It cannot be read.
    """
    from imager.survey import Disk, survey  # not on top: all parsers, which a restore without stages does not need

    with open_source(path, exclusive_check=False, write_back=False) as reader:
        return survey([Disk(reader, path)])[0].layout


def content_of(path: str) -> Content:
    """What lies directly in a volume; unknown when that cannot be told."""
    try:
        return layout_of(path).content or Content("unknown", "unknown")
    except Interrupted:
        raise
    except ImagerError as error:
        return Content("unknown", "unknown", warnings=(error.message,))
