# SPDX-License-Identifier: GPL-3.0-or-later
"""What rsync lacks when one file system is copied into another, as a program of its own, which runs between two mounts.

    python3 -m imager.remaking.fill look SOURCE            can everything be read, and how much is it
    python3 -m imager.remaking.fill before SOURCE TARGET   files whose blocks matter: shared, reserved, with holes
    python3 -m imager.remaking.fill after SOURCE TARGET    times of access, flags (chattr) and project ids

rsync knows no shared extents, makes holes of all zeros or of none, and knows neither flags nor project ids; of times of
access it keeps whole seconds, and those of folders not at all. So the files
in which that matters are made before rsync runs: it finds them with the right size and time, leaves their content alone
and gives them everything else. The other things come after it, because nothing can be written into what is immutable.

Nothing in SOURCE is followed: no link is opened, and what is opened is a regular file or a folder.
"""

from __future__ import annotations

import itertools
import json
import os
import stat
import sys
from typing import Final

from imager.remaking.fill_ioctls import SETTABLE_FLAGS, attributes_of, flags_of, set_flags
from imager.remaking.fill_made import BLOCK_BYTES, Maker, attempt, entries_in, give, opened, say, shown

_MOST_TOLD: Final = 20
_MOST_PATH: Final = 4095 - 64
"""rsync's own limit is that of the kernel, with its folder in front."""

# --- Look ---------------------------------------------------------------------------------------------------------


def look(source: bytes) -> dict[str, object]:
    """Count what is there, by reading every folder and every inode."""
    files = content = 0
    problems: list[str] = []
    seen: set[int] = set()
    for path, status in entries_in(source):
        files += 1
        if len(path) > _MOST_PATH and len(problems) < _MOST_TOLD:
            problems.append(f"the path of {shown(path)} has {len(path)} bytes, more than programs can use")
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
        content += status.st_blocks * BLOCK_BYTES
    state = os.statvfs(source)
    used = (state.f_blocks - state.f_bfree) * state.f_frsize
    return {"files": files, "content_bytes": content, "used_bytes": used, "problems": problems}


# --- After rsync --------------------------------------------------------------------------------------------------


def finish(source: bytes, target: bytes) -> None:
    """Give everything its times, its flags and its project id."""
    for path, status in itertools.chain([(b"", os.lstat(source))], entries_in(source)):
        place = os.path.join(target, path)
        os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            _finish_one(source, target, path)


def _finish_one(source: bytes, target: bytes, path: bytes) -> None:
    old = opened(source, path)
    try:
        new = opened(target, path)
        try:
            wanted = attributes_of(old)
            if wanted is not None:
                attempt(path, lambda: give(new, wanted))
            _give_user_flags(path, old, new)
        finally:
            os.close(new)
    finally:
        os.close(old)


def _give_user_flags(path: bytes, old: int, new: int) -> None:
    wanted, now = flags_of(old) & SETTABLE_FLAGS, flags_of(new)
    if wanted != now & SETTABLE_FLAGS:
        attempt(path, lambda: set_flags(new, now & ~SETTABLE_FLAGS | wanted))


def main(words: list[str]) -> int:
    """Do what the first word says; results are lines on standard output."""
    kind, *folders = words
    source, *target = (os.fsencode(folder) for folder in folders)
    try:
        if kind == "look":
            say("found", json.dumps(look(source)))
        elif kind == "before":
            maker = Maker(source, target[0])
            maker.make_all()
        else:
            finish(source, target[0])
    except OSError as error:
        name = os.fsencode(error.filename) if error.filename else b""
        sys.stderr.write(f"{shown(name) or 'a file'}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
