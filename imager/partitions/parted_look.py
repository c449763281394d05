# SPDX-License-Identifier: GPL-3.0-or-later
"""What libparted reads from a file, as JSON on standard output: `python -m imager.partitions.parted_look FILE`.

A program of its own, because a failed assertion in libparted ends the process that it is in. It imports nothing of
the project, so that it starts fast, and answers every question of libparted so that nothing is written or asked.

References:
    libparted 3.5, libparted/labels/gpt.c and dos.c; pyparted 3.13, src/_pedmodule.c.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

_said: list[str] = []

# PedExceptionOption of <parted/exception.h>.
_NO: Final = 4
_OK: Final = 8
_IGNORE: Final = 32
_CANCEL: Final = 64


def _answer(_kind: int, options: int, message: str) -> int:
    """What libparted asks is answered here; a function of the module, because pyparted keeps no reference to it.

    Never FIX or YES: those make it write.
    """
    _said.append(message.strip())
    return next((choice for choice in (_IGNORE, _OK, _NO) if options & choice), _CANCEL)


def _look(path: str) -> dict[str, Any]:
    try:
        import parted
    except ImportError as error:
        return {"failure": f"pyparted cannot be used: {error}"}
    parted.register_exn_handler(_answer)
    try:
        device = parted.getDevice(path)
        device.open()
        label = parted.newDisk(device)
    except (parted.DiskException, parted.DeviceException, parted.IOException) as error:
        return {"label": "", "partitions": [], "said": [*_said, str(error).strip()]}
    places = [(part.geometry.start, part.geometry.end) for part in label.partitions]
    return {"label": label.type, "partitions": places, "said": _said}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_look(sys.argv[1])))
