# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore in a process of its own that never comes to its end, to be ended in the middle.

    python -m tests.harness.restore_child IMAGE TARGET WRITE [--grow=RULE | --fit --scratch=WHERE]

The write of that number (the first is 1) and all later ones are held up, and "writing" is printed once. Ends with the
exit status of the error, its message on standard error.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

from imager.devices.target import TargetDisk
from imager.errors import ImagerError
from imager.fitting.model import Rule
from tests.harness.restoring import restore_image

_SECONDS = 600


def main(image: str, target: str, held_write: int, grow: Rule | None, scratch: str = "") -> int:
    """Restore as far as to a write."""
    write, numbers = TargetDisk.write, itertools.count(1)  # next() is one step: several threads may be writing

    def held(self: TargetDisk, offset: int, content: bytes | bytearray | memoryview) -> None:
        number = next(numbers)
        if number == held_write:
            sys.stdout.write("writing\n")
            sys.stdout.flush()
        if number >= held_write:
            time.sleep(_SECONDS)
        write(self, offset, content)

    TargetDisk.write = held  # type: ignore[method-assign]
    try:
        restore_image(image, Path(target), grow=grow, scratch=scratch)
    except ImagerError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    options = dict(word.partition("=")[::2] for word in sys.argv[4:])
    rule = Rule.parse(options["--grow"]) if "--grow" in options else Rule("fit") if "--fit" in options else None
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), rule, options.get("--scratch", "")))
