# SPDX-License-Identifier: GPL-3.0-or-later
"""Words for files whose content a capture was told to leave out."""

from __future__ import annotations

from collections.abc import Iterator

from imager.layout import Content
from imager.pictures.sizes import size_text


def left_out_lines(content: Content) -> Iterator[str]:
    """What became of each file that was named, one line for all that have the same reason."""
    copied: dict[str, list[str]] = {}
    for file in content.left_out:
        if file.left_out_bytes:
            but = f"; {file.reason}" if file.reason else ""
            yield f"{file.name}: {size_text(file.left_out_bytes)} of its content are left out{but}"
        else:
            copied.setdefault(file.reason, []).append(file.name)
    for reason, names in copied.items():
        yield f"{', '.join(names)}: nothing is left out: {reason}"
