# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore in a process of its own, slow enough to be killed in the middle.

    python -m tests.harness.restore_child IMAGE TARGET SECONDS_PER_WRITE [--grow=RULE | --fit --scratch=WHERE]

Prints "writing" when the first chunk is on its way; ends with the exit status of the error, its message on standard
error.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from imager.devices.target import TargetDisk
from imager.errors import ImagerError
from imager.fitting.model import Rule
from tests.harness.restoring import restore_image


def main(image: str, target: str, seconds_per_write: float, grow: Rule | None, scratch: str = "") -> int:
    """Restore, sleeping at each write."""
    write = TargetDisk.write

    def slow(self: TargetDisk, offset: int, content: bytes | bytearray | memoryview) -> None:
        sys.stdout.write("writing\n")  # in one piece: several threads are writing
        sys.stdout.flush()
        time.sleep(seconds_per_write)
        write(self, offset, content)

    TargetDisk.write = slow  # type: ignore[method-assign]
    try:
        restore_image(image, Path(target), grow=grow, scratch=scratch)
    except ImagerError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    options = dict(word.partition("=")[::2] for word in sys.argv[4:])
    rule = Rule.parse(options["--grow"]) if "--grow" in options else Rule("fit") if "--fit" in options else None
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), rule, options.get("--scratch", "")))
