# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m bench.readranges FILE RANGES`: reads ranges of a file (one `start length` a line) and nothing else.

What any survey must at least do with bitmaps that are to be read.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Read."""
    file = os.open(sys.argv[1], os.O_RDONLY)
    for line in Path(sys.argv[2]).read_text(encoding="ascii").splitlines():
        start, length = map(int, line.split())
        if len(os.pread(file, length, start)) != length:
            sys.exit(f"short read at {start}")


if __name__ == "__main__":
    main()
