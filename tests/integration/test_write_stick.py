# SPDX-License-Identifier: GPL-3.0-or-later
"""bootmedia write on files and loop devices: what it refuses, what it writes, what it keeps."""

from __future__ import annotations

import json
import os
import tempfile

import pytest
from typer.testing import CliRunner

from bootmedia.cli.app import app
from bootmedia.stick.medium import HEAD_BYTES
from tests.harness.disks import MIB
from tests.harness.loop import forget_partitions, loop_device, mounted, needs_root, partition_nodes
from tests.harness.programs import call
from tests.unit.test_stick import a_head

ANSWERS = '[match]\nany = true\n[[restore]]\nimage = "images/one.img.zst"\ntarget = "only"\n'


@pytest.fixture
def medium(tmp_path):
    """Begins as a medium does, and is random behind that."""
    path = tmp_path / "m.iso"
    path.write_bytes(a_head() + os.urandom(5 * MIB - HEAD_BYTES))
    return path


@pytest.fixture
def stick(tmp_path):
    """In a file, full of what an old stick is full of."""
    path = tmp_path / "stick.img"
    path.write_bytes(b"\xa5" * (256 * MIB))
    return path


def write(*words, status=0):
    result = CliRunner().invoke(app, ["write", *map(str, words), "--yes"])
    assert result.exit_code == status, result.output
    return result.output


def third(stick):
    """Byte and size of the data partition, as sfdisk reads the table."""
    entry = json.loads(call("sfdisk", "--json", stick))["partitiontable"]["partitions"][2]
    return entry["start"] * 512, entry["size"] * 512


def data_partition(stick):
    start, size = third(stick)
    return loop_device(stick, offset=start, size_limit=size)


def test_the_medium_is_on_the_stick_and_the_image_in_its_partition(tmp_path, medium, stick):
    image, answers = tmp_path / "one.img.zst", tmp_path / "recovery.toml"
    image.write_bytes(os.urandom(3 * MIB + 77))
    answers.write_text(ANSWERS)
    said = write(medium, stick, "--include", image, "--answers", answers)
    assert "read back" in said
    content, written = medium.read_bytes(), stick.read_bytes()
    changed = [n for n in range(len(content)) if content[n] != written[n]]
    assert set(changed) <= {*range(440, 444), *range(478, 494)}
    start, size = third(stick)
    part = tmp_path / "part"
    part.write_bytes(written[start : start + size])
    assert "clean. directories 3, files 3" in call("fsck.exfat", "-n", part)
    at = written.index(image.read_bytes())
    assert start < at < start + size


@needs_root
def test_the_image_can_be_read_where_exfat_is_mounted(tmp_path, medium, stick):
    image = tmp_path / "one.img.zst"
    image.write_bytes(os.urandom(3 * MIB + 77))
    write(medium, stick, "--include", image)
    folder = tmp_path / "mounted"
    folder.mkdir()
    with data_partition(stick) as device:
        call("mount.exfat-fuse", "-o", "ro", device, folder)
        try:
            assert (folder / "images" / "one.img.zst").read_bytes() == image.read_bytes()
            assert "Runbook" in (folder / "README.txt").read_text()
            assert (folder / "logs").is_dir()
        finally:
            call("umount", folder)


@needs_root
def test_a_second_medium_leaves_the_data_alone(tmp_path, medium, stick):
    write(medium, stick, "--data-format", "ext4")
    with data_partition(stick) as device, mounted(device, tmp_path / "mounted") as folder:
        (folder / "images" / "precious").write_text("only copy")
    before = third(stick)
    newer = tmp_path / "newer.iso"
    newer.write_bytes(a_head() + os.urandom(9 * MIB))
    assert 'kept\n  partition 3 (ext4 "RECOVERY")' in write(newer, stick, "--dry-run")
    write(newer, stick)
    assert third(stick) == before
    with data_partition(stick) as device:
        call("e2fsck", "-fn", device)
        assert call("debugfs", "-R", "cat images/precious", device).endswith("only copy")


@needs_root
@pytest.mark.parametrize("passed", [0, 1], ids=["before the medium", "in the middle of it"])
def test_data_survive_a_write_that_is_cut_short_and_done_again(tmp_path, medium, stick, monkeypatch, passed):
    """`Write it again` is what the message says: that must not be what loses the only copy."""
    from bootmedia.stick.job import Writing

    write(medium, stick, "--data-format", "ext4")
    with data_partition(stick) as device, mounted(device, tmp_path / "mounted") as folder:
        (folder / "images" / "precious").write_text("only copy")
    before, keep = third(stick), Writing._put

    def cut_short(self, offset, view):
        if len(self.written) == passed:
            raise KeyboardInterrupt
        keep(self, offset, view)

    with monkeypatch.context() as patch:
        patch.setattr(Writing, "_put", cut_short)
        assert "incomplete: write it again" in write(medium, stick, status=130)
    entries = json.loads(call("sfdisk", "--json", stick))["partitiontable"]["partitions"]
    assert [each["start"] * 512 for each in entries] == [before[0]]
    assert 'kept\n  partition 3 (ext4 "RECOVERY")' in write(medium, stick, "--dry-run")
    write(medium, stick)
    assert third(stick) == before
    with data_partition(stick) as device:
        assert call("debugfs", "-R", "cat images/precious", device).endswith("only copy")


@needs_root
def test_a_disk_that_is_no_stick_is_refused_and_a_mounted_one_always(tmp_path, medium, stick):
    before = stick.read_bytes()
    with loop_device(stick) as device:
        assert "no USB stick and no memory card" in write(medium, device, status=6)
        assert stick.read_bytes() == before
        assert "read back" in write(medium, device, "--not-removable", "--data-format", "ext4")
        data = partition_nodes(device)[-1]  # the command has told the kernel of them
        with mounted(data, tmp_path / "mounted"):
            assert "mounted" in write(medium, device, "--not-removable", status=6)
        assert "is a partition" in write(medium, data, "--not-removable", status=6)
        forget_partitions(device)


def test_without_a_yes_nothing_is_written(medium, stick):
    before = stick.read_bytes()
    result = CliRunner().invoke(app, ["write", str(medium), str(stick)])
    assert result.exit_code == 9
    assert stick.read_bytes() == before


def test_what_the_medium_lies_on_is_refused(medium):
    assert "overwritten while it is read" in write(medium, medium, status=6)


def test_wrong_answers_are_told_before_anything_is_written(tmp_path, medium, stick):
    answers = tmp_path / "recovery.toml"
    answers.write_text(ANSWERS.replace("target", "traget"))
    before = stick.read_bytes()
    assert "traget" in write(medium, stick, "--answers", answers, status=2)
    assert stick.read_bytes() == before


def test_a_pipe_is_no_medium_and_is_not_waited_for(tmp_path, stick):
    pipe = tmp_path / "pipe.iso"
    os.mkfifo(pipe)
    assert "neither a file nor a disk" in write(pipe, stick, status=2)


@needs_root
@pytest.mark.parametrize("kind", ["exfat", "fat32", "ext4"])
def test_no_room_for_temporary_files_is_told_before_anything_is_written(tmp_path, medium, stick, monkeypatch, kind):
    before = stick.read_bytes()
    folder = tmp_path / "small"
    folder.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder)
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        said = write(medium, stick, "--data-format", kind, status=5)
    finally:
        call("umount", folder)
    assert f"made in a file in {folder} first" in said
    assert "set TMPDIR" in said
    assert stick.read_bytes() == before


def test_a_stick_that_forgets_is_found_out(medium, stick, monkeypatch):
    """As those do that say that they are larger than they are."""
    from bootmedia.stick.job import Writing

    keep = Writing._put

    def forgetful(self, offset, view):
        keep(self, offset, view)
        if offset == MIB:
            self.target.write(offset + 4096, bytes(512))

    monkeypatch.setattr(Writing, "_put", forgetful)
    said = write(medium, stick, status=6)
    assert "does not hold what was written" in said
    assert "incomplete: write it again" in said
