# SPDX-License-Identifier: GPL-3.0-or-later
"""Images as files: NAME, or NAME.000, NAME.001, ... when split.

Writing: every file is called ``....partial`` until all of them are on stable storage; then they get their final names,
the first part last, and the folder is synced. So whatever has a final name is whole. A leftover .partial is never
overwritten silently: resume or overwrite says what to do with it. A lock on it keeps two writers apart.

Splitting knows nothing of what is split: offsets are logical, and ``cat NAME.*`` is the image.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from imager.errors import ImageIncomplete, StoreError, UsageError
from imager.stores.base import Buffer, Input, Output, store_error
from imager.stores.parts import MOST_PARTS, PARTIAL, finished_files, part_name, unfinished_files
from imager.stores.stream import write_all

MIN_SPLIT_SIZE: Final = 1 << 20


def sync_folder(folder: Path) -> None:
    """Make the names in a folder stable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some file systems (FUSE, CIFS) cannot sync folders, and say so with these.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(fd)


class LocalOutput(Output):
    """One image as a file or as parts of it."""

    resumable = True

    def __init__(
        self, path: Path, *, overwrite: bool = False, resume: bool = False, split_size: int | None = None
    ) -> None:
        """Make (or, to resume, take up) the first file.

        Raises:
            StoreError: Something is there that would be lost, or the place cannot be written.
        """
        if split_size is not None and split_size < MIN_SPLIT_SIZE:
            raise UsageError(f"parts of {split_size} bytes are too small; at least {MIN_SPLIT_SIZE} are needed")
        self.name = os.fspath(path)
        self._path = path
        self._overwrite = overwrite
        self._split_size = split_size
        self._fds: list[int] = []
        self._closed = False
        self._size = 0
        if not overwrite:
            self._refuse_existing(resume=resume)
        try:
            self._open_first(resume=resume)
        except BaseException:
            self._close()
            raise

    def _refuse_existing(self, *, resume: bool) -> None:
        for path in finished_files(self._path):
            raise StoreError(
                f"{path} exists", hint="Choose another name, or replace it with --overwrite.", path=os.fspath(path)
            )
        for path in [] if resume else unfinished_files(self._path):
            raise StoreError(
                f"{path} is left from a capture that did not finish",
                hint="Continue it with --resume, or start again with --overwrite.",
                path=os.fspath(path),
            )

    def _open_first(self, *, resume: bool) -> None:
        if resume:
            self._take_up()
        if not self._fds:
            self._open_part(0, os.O_RDWR | os.O_CREAT)
        if not resume:
            self._cut(0)

    def _take_up(self) -> None:
        """Open what an interrupted run left: all parts up to the first that is not full."""
        left = unfinished_files(self._path)
        ours = [self._partial(number) for number in range(len(left))]
        if left and ours[0] not in left:
            raise self._otherwise_split(left[0])
        for number in range(len(left)):
            if ours[number] not in left:
                break
            self._open_part(number, os.O_RDWR)
            size = os.fstat(self._fds[-1]).st_size
            if self._split_size is not None and size > self._split_size:
                raise self._otherwise_split(ours[number])
            self._size += size
            if size != self._split_size:
                break

    def _otherwise_split(self, path: Path) -> StoreError:
        return StoreError(
            f"{path} was begun with another --split",
            hint="Resume with the same --split as before, or start again with --overwrite.",
            path=os.fspath(path),
        )

    def _partial(self, number: int) -> Path:
        return self._final(number).with_name(self._final(number).name + PARTIAL)

    def _final(self, number: int) -> Path:
        return part_name(self._path, number) if self._split_size else self._path

    def _open_part(self, number: int, flags: int) -> None:
        path = self._partial(number)
        try:
            # Two names of one file: the last run ended between giving the second and taking the first. It is finished.
            if path.exists() and path.stat().st_nlink > 1:
                path.unlink()
            # An image holds every secret of its disk: only its owner may read it, unless he says otherwise.
            fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
            self._fds.append(fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"another program is writing {path}", hint="Wait for it, or choose another name.", path=os.fspath(path)
            ) from error
        except OSError as error:
            raise store_error(error, os.fspath(path), "cannot make") from error

    def tell(self) -> int:
        """How many bytes there are in all parts."""
        return self._size

    def write(self, pieces: Sequence[Buffer]) -> None:
        """Append all pieces, and begin new parts where the size of one is reached."""
        try:
            if self._split_size is None:
                self._size += write_all(self._fds[-1], pieces)
            else:
                for piece in pieces:
                    self._write_split(memoryview(piece).cast("B"), self._split_size)
        except OSError as error:
            partial = os.fspath(self._partial(len(self._fds) - 1))
            raise store_error(error, partial, "cannot write to", offset_bytes=self._size) from error

    def _write_split(self, piece: memoryview, split_size: int) -> None:
        while piece:
            room = len(self._fds) * split_size - self._size
            if not room:
                self._next_part()
                room = split_size
            self._size += write_all(self._fds[-1], [piece[:room]])
            piece = piece[room:]

    def _next_part(self) -> None:
        if len(self._fds) == MOST_PARTS:
            raise StoreError(
                f"{self.name} would need more than {MOST_PARTS} parts",
                hint="Choose larger parts with --split.",
                path=self.name,
            )
        self._open_part(len(self._fds), os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def truncate(self, size: int) -> None:
        """Cut what is there to so many bytes, and go on from there."""
        try:
            self._cut(size)
        except OSError as error:
            raise store_error(error, self.name, "cannot shorten") from error

    def _cut(self, size: int) -> None:
        keep = max(1, -(-size // self._split_size)) if self._split_size else 1
        while len(self._fds) > keep:
            os.close(self._fds.pop())
        inside = size - (keep - 1) * (self._split_size or 0)
        os.ftruncate(self._fds[-1], inside)
        os.lseek(self._fds[-1], inside, os.SEEK_SET)
        self._size = size
        self._remove_partials_from(keep)

    def _remove_partials_from(self, count: int) -> None:
        """Parts of an earlier attempt beyond those in use would stand beside the new ones."""
        ours = {self._partial(number) for number in range(count)}
        for path in unfinished_files(self._path):
            if path not in ours:
                path.unlink(missing_ok=True)

    def read_back(self) -> Input:
        """What is there so far."""
        return LocalInput(self.name, [os.dup(fd) for fd in self._fds])

    def commit(self) -> None:
        """Sync all parts, give them their names, the first one last, and sync the folder."""
        try:
            for fd in self._fds:
                os.fsync(fd)
            self._clear_the_way()
            for number in reversed(range(len(self._fds))):
                self._give_name(self._partial(number), self._final(number))
            sync_folder(self._path.parent)
        except FileExistsError as error:
            raise self._made_meanwhile(Path(error.filename2 or self._path)) from error
        except OSError as error:
            raise store_error(error, self.name, "cannot finish") from error
        self._close()

    def _clear_the_way(self) -> None:
        """What is replaced goes first, its first part before all: a mixture of old and new must never look whole."""
        finals = [self._final(number) for number in range(len(self._fds))]
        for path in finished_files(self._path):
            if not self._overwrite:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path, None, path)
            if len(finals) > 1 or path not in finals:
                path.unlink()

    def _give_name(self, partial: Path, final: Path) -> None:
        """Rename; unless told to overwrite, in a way that never replaces what another program made a moment ago."""
        if not self._overwrite:
            try:
                os.link(partial, final)
            except FileExistsError:
                raise
            except OSError:  # FAT and some network file systems have no hard links; _clear_the_way has looked
                pass
            else:
                partial.unlink()
                return
        partial.rename(final)

    def _made_meanwhile(self, path: Path) -> StoreError:
        return StoreError(
            f"{path} was made by another program while this image was written",
            hint=f"The new image is whole: it is called {self._partial(0).name}. Give it a name of your choice.",
            path=os.fspath(path),
        )

    def abort(self, *, keep: bool) -> None:
        """Leave the .partial files for --resume, or remove them."""
        if self._closed:
            return
        if not keep:
            for number in range(len(self._fds)):
                with contextlib.suppress(OSError):
                    self._partial(number).unlink()
        self._close()

    def _close(self) -> None:
        self._closed = True
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)


class LocalInput(Input):
    """An image file, or its parts one after the other."""

    seekable = True

    def __init__(self, name: str, fds: list[int]) -> None:
        """Take over open files, in order."""
        self.name = name
        self._fds = fds
        self._sizes = [os.fstat(fd).st_size for fd in fds]
        self._starts = [sum(self._sizes[:number]) for number in range(len(fds))]
        self.size: int = sum(self._sizes)
        self._position = 0

    def read_into(self, buffer: memoryview) -> int:
        """Fill the buffer with the next bytes."""
        got = self.read_at_into(self._position, buffer)
        self._position += got
        return got

    def read_at_into(self, offset: int, buffer: memoryview) -> int:
        """Fill the buffer from an offset on; how many bytes there were."""
        got = 0
        try:
            for fd, start, size in zip(self._fds, self._starts, self._sizes, strict=True):
                while got < len(buffer) and start <= offset + got < start + size:
                    inside = offset + got - start
                    step = os.preadv(fd, [buffer[got : got + size - inside]], inside)
                    if not step:
                        raise self._shortened(offset + got)
                    got += step
        except OSError as error:
            raise store_error(error, self.name, "cannot read", offset_bytes=offset + got) from error
        return got

    def _shortened(self, offset: int) -> StoreError:
        """Where bytes that were there end.

        A server that is lost may look like that, too: what FUSE gets too few bytes of, it takes for the file's end
        (libfuse, fuse.h, `read`).
        """
        return StoreError(
            f"{self.name} ends at byte {offset} now, and had {self.size} bytes when it was opened",
            hint="The server of its share does not answer, or somebody changes it: look at cable and server.",
            path=self.name,
            expected=self.size,
            found=offset,
        )

    def close(self) -> None:
        """Close all parts. A share whose server is gone fails here too; what was read was told of before."""
        while self._fds:
            with contextlib.suppress(OSError):
                os.close(self._fds.pop())


def open_files(name: str, paths: Sequence[Path | None], part_size: int = 0) -> LocalInput:
    """Open the parts of an image, in order.

    Args:
        name: Of the image.
        paths: Of its parts; None for one that is lost, which reads as zeros.
        part_size: Of one that is lost.

    Raises:
        StoreError: One is missing or may not be read.
    """
    fds: list[int] = []
    try:
        for path in paths:
            fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else _hole(part_size))
            if stat.S_ISDIR(os.fstat(fds[-1]).st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return LocalInput(name, fds)
    except OSError as error:
        for fd in fds:
            os.close(fd)
        failed = paths[len(fds) - bool(len(fds) == len(paths))]
        raise store_error(error, os.fspath(failed or name), "cannot open") from error


def _hole(size: int) -> int:
    """A file of that size with nothing in it, which takes no room."""
    fd = os.memfd_create("lost part", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    return fd


def refuse_unfinished(path: Path) -> None:
    """Say so when the image is one whose capture has not finished.

    Raises:
        ImageIncomplete: Only .partial files have this name.
    """
    for partial in unfinished_files(path):
        raise ImageIncomplete(
            f"the capture of {path} has not finished: there is {partial}",
            hint=f"Continue it: same command with --resume. Or get out what is there: imager salvage {partial} NEW.",
            path=os.fspath(path),
        )
