# SPDX-License-Identifier: GPL-3.0-or-later
"""The poison test: fill everything outside of a used map with garbage, and see whether anyone misses it.

It serves every file system. An image file holds one file system, from its first byte on::

    with FileReader(image) as reader:
        used = parser.used_map(reader).used
    poison(image, poisoned, used)
    check(poisoned)                              # e2fsck -fn, fsck.fat -n, ...
    assert tree_hashes(a) == tree_hashes(b)      # of mounted or dumped trees
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from imager.extents import Extents

_PIECE_BYTES = 2**20
_GARBAGE = hashlib.shake_128(b"poison").digest(_PIECE_BYTES)


def poison(image: Path, poisoned: Path, used: Extents) -> int:
    """Make a copy in which every byte outside of the used ranges is garbage; how many bytes those are."""
    size = image.stat().st_size
    assert used.end <= size
    with image.open("rb") as source, poisoned.open("wb") as target:
        target.truncate(size)
        for start, end in used:
            _copy(source, target, start, end)
        unused = used.complement(size)
        for start, end in unused:
            for at in range(start, end, _PIECE_BYTES):
                os.pwrite(target.fileno(), _GARBAGE[: min(_PIECE_BYTES, end - at)], at)
    return unused.total_bytes


def _copy(source, target, start: int, end: int) -> None:
    """Copy a range, leaving holes where there are only zeros."""
    for at in range(start, end, _PIECE_BYTES):
        content = os.pread(source.fileno(), min(_PIECE_BYTES, end - at), at)
        if content.count(0) < len(content):
            os.pwrite(target.fileno(), content, at)


def tree_hashes(top: Path) -> dict[str, str]:
    """Every entry below top, by its path: what it is, its attributes that matter, and its content's digest."""
    found = {}
    for folder, names, files in os.walk(top):
        for name in sorted(names + files):
            path = Path(folder, name)
            found[str(path.relative_to(top))] = _describe(path)
    return found


def _describe(path: Path) -> str:
    state = path.lstat()
    kind = stat.filemode(state.st_mode)
    if stat.S_ISREG(state.st_mode):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha1").hexdigest()
        return f"{kind} {state.st_size} {digest}"
    if stat.S_ISLNK(state.st_mode):
        return f"{kind} -> {path.readlink()}"
    return kind
