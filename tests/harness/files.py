# SPDX-License-Identifier: GPL-3.0-or-later
"""Files as disks."""

from __future__ import annotations

import os
from pathlib import Path

from imager.blocks import BlockReader


def sparse_file(path: Path, size_bytes: int) -> Path:
    """A new file of holes."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def flip(path: Path, offset: int, count: int = 1) -> Path:
    """Damage bytes of a file: each bit becomes the other, so that no byte is what it was, whatever it was."""
    with path.open("r+b") as file:
        content = os.pread(file.fileno(), count, offset)
        assert len(content) == count, f"{path} ends before byte {offset + count}"
        os.pwrite(file.fileno(), bytes(byte ^ 0xFF for byte in content), offset)
    return path


class FileReader(BlockReader):
    """A file as a disk, read at offsets."""

    def __init__(self, path: Path, *, sector_size: int = 512) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._fd).st_size
        self.sector_size = sector_size

    def _read(self, offset: int, length: int) -> bytes:
        content = os.pread(self._fd, length, offset)
        assert len(content) == length, f"short read at {offset}"
        return content

    def close(self) -> None:
        """Read no more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FileReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
