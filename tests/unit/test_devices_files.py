# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources and targets that are regular files, and faults of the kernel's calls."""

from __future__ import annotations

import errno
import os

import pytest

from imager.devices import ioctls
from imager.devices.beneath import is_on_disk
from imager.devices.identity import identify
from imager.devices.opening import open_source
from imager.devices.target import open_target
from imager.errors import SourceUnreadable, SourceUnusable, TargetFailed, TargetRefused

SIZE = 64 * 1024


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(SIZE))
    return path


def failing(number, *, after=0):
    """A system call that fails, once it was called so many times."""
    calls = []

    def call(*words):
        calls.append(words)
        if len(calls) > after:
            raise OSError(number, os.strerror(number))
        return 0

    return call


def test_a_file_is_read_as_it_is(file):
    with open_source(file) as source:
        assert (source.size, source.sector_size, source.is_block_device) == (SIZE, 512, False)
        assert source.read(3, 1000) == file.read_bytes()[3:1003]
        buffer = bytearray(100)
        source.read_into(SIZE - 100, memoryview(buffer))
        assert buffer == file.read_bytes()[-100:]


@pytest.mark.parametrize(("offset", "expected"), [(512, 512), (4096, 4096), (2048, 512)])
def test_a_gpt_header_tells_the_sector_size_of_a_file(file, offset, expected):
    with file.open("r+b") as disk:
        disk.seek(offset)
        disk.write(b"EFI PART")
    with open_source(file) as source:
        assert source.sector_size == expected


def test_the_sector_size_of_a_file_can_be_given(file):
    with open_source(file, sector_size=4096) as source:
        assert (source.sector_size, source.physical_sector_size) == (4096, 4096)


def test_a_source_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(SourceUnusable, match=r"nothing\.img.*No such file") as refused:
        open_source(tmp_path / "nothing.img")
    assert "imager disks" in refused.value.hint


def test_what_is_not_a_disk_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for path, name in ((tmp_path, "folder"), ("/dev/null", "character device"), (tmp_path / "pipe", "named pipe")):
        with pytest.raises(SourceUnusable, match=name):
            open_source(path)
        with pytest.raises(TargetRefused, match="neither a disk nor"):
            open_target(path)


def test_an_empty_file_is_no_disk(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(SourceUnusable, match="is empty"):
        open_source(tmp_path / "empty")
    with pytest.raises(TargetRefused, match="0 bytes"):
        open_target(tmp_path / "empty")


def test_a_missing_permission_comes_with_a_hint(file, monkeypatch):
    monkeypatch.setattr(os, "open", failing(errno.EACCES))
    with pytest.raises(SourceUnusable, match="Permission denied") as refused:
        open_source(file, exclusive_check=False)
    assert "root" in refused.value.hint


def test_an_unreadable_sector_is_told_with_its_place(file, monkeypatch):
    with open_source(file) as source:
        monkeypatch.setattr(os, "preadv", failing(errno.EIO))
        with pytest.raises(SourceUnreadable, match="byte 4096: Input/output error") as failed:
            source.read_into(4096, memoryview(bytearray(512)))
    assert (failed.value.facts["offset_bytes"], failed.value.facts["length_bytes"]) == (4096, 512)
    assert "--rescue" in failed.value.hint


def test_a_source_that_vanishes_is_not_a_bad_sector(file, monkeypatch):
    with open_source(file) as source:
        monkeypatch.setattr(os, "preadv", failing(errno.ENODEV))
        with pytest.raises(SourceUnusable, match="is gone"):
            source.read_into(0, memoryview(bytearray(512)))


def test_a_file_that_shrinks_while_it_is_read_is_told(file):
    with open_source(file) as source:
        os.truncate(file, 5000)
        with pytest.raises(SourceUnreadable, match="it ends there") as failed:
            source.read(4096, 4096)
    assert failed.value.facts["offset_bytes"] == 5000


def test_short_reads_are_continued(file, monkeypatch):
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: real(fd, [buffers[0][:100]], offset))
    with open_source(file) as source:
        buffer = bytearray(1050)
        source.read_into(7, memoryview(buffer))
    assert buffer == file.read_bytes()[7:1057]


def test_a_new_target_is_private_and_as_long_as_asked(tmp_path):
    path = tmp_path / "new.img"
    with open_target(path, create_size=SIZE, sector_size=4096) as target:
        assert (target.size, target.sector_size, target.was_created) == (SIZE, 4096, True)
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (SIZE, 0o600)


def test_a_target_is_made_only_when_that_was_asked(tmp_path):
    with pytest.raises(TargetRefused, match="does not exist"):
        open_target(tmp_path / "typo.img")
    assert not (tmp_path / "typo.img").exists()


def test_an_existing_target_keeps_its_size_and_content(file):
    before = file.read_bytes()
    with open_target(file, create_size=10 * SIZE) as target:
        assert (target.size, target.was_created) == (SIZE, False)
    assert file.read_bytes() == before


def test_short_writes_are_continued(file, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, content, offset: real(fd, content[:100], offset))
    content = os.urandom(1050)
    with open_target(file) as target:
        target.write(7, content)
    assert file.read_bytes()[7:1057] == content


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "No space left"), (errno.EIO, "Input/output error"), (errno.ENODEV, "is gone")],
)
def test_a_failing_write_tells_from_where_on_nothing_was_written(file, monkeypatch, number, words):
    with open_target(file) as target:
        real = os.pwrite
        second = failing(number)
        monkeypatch.setattr(
            os, "pwrite", lambda fd, part, at: real(fd, part[:512], at) if at < 1024 else second(fd, part, at)
        )
        with pytest.raises(TargetFailed, match=words) as failed:
            target.write(512, bytes(2048))
    assert failed.value.facts["offset_bytes"] == 1024


def test_a_failing_flush_is_told(file, monkeypatch):
    with open_target(file) as target:
        monkeypatch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(TargetFailed, match="stable storage"):
            target.flush()


def test_where_holes_cannot_be_made_zeros_are_written(file, monkeypatch):
    monkeypatch.setattr(ioctls, "punch_hole", failing(errno.EOPNOTSUPP))
    with open_target(file) as target:
        target.zero(100, SIZE - 200)
        assert not target.discard(0, SIZE)
    content = file.read_bytes()
    assert content[100:-100] == bytes(SIZE - 200)
    assert any(content[:100])
    assert any(content[-100:])


def test_closing_twice_closes_nothing_else(file):
    target, source = open_target(file), open_source(file, exclusive_check=False)
    for disk in (target, source):
        disk.close()
        disk.close()
        assert disk.fd == -1


def test_a_file_is_identified_by_its_path(file):
    found = identify(file)
    assert (found.path, found.transport, found.short_name()) == (str(file), "file", str(file))


def test_an_image_that_is_its_own_target_is_found(file, tmp_path):
    (tmp_path / "link").symlink_to(file)
    assert is_on_disk(tmp_path / "link", file)
    assert not is_on_disk(tmp_path / "other", file)
