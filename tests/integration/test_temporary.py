# SPDX-License-Identifier: GPL-3.0-or-later
"""Temporary folders: gone at the end of a run, taken away by the next run when one was killed, and nobody else's."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imager import temporary
from imager.errors import StoreError
from tests.harness.capturing import MIB, raw_file
from tests.harness.faulty import needs_fuse
from tests.harness.loop import needs_root
from tests.harness.programs import call

NAME = "imager-mounted-4711-abcd_123"

HOLDER = """
import sys, time
from imager import temporary
print(temporary.make("mounted").path, flush=True)
time.sleep(600)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where temporary files lie, for this process and those that it starts."""
    folder = tmp_path / "temporary files"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(temporary, "_looked_at", set())
    yield folder
    for mount in reversed(mounts_in(folder)):
        subprocess.run(["umount", "--lazy", mount], check=False)


@pytest.fixture
def holder(place):
    """Another process that has a folder, and that folder."""
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as process:
        yield process, Path(process.stdout.readline().rstrip("\n"))
        process.kill()


def mounts_in(folder):
    points = call("findmnt", "--noheadings", "--list", "--output", "TARGET").splitlines()
    return [point for point in points if point.startswith(f"{folder}/")]


def another_run(*words):
    return subprocess.run([sys.executable, "-m", "imager", *map(str, words)], capture_output=True, check=False)


def made_by_hand(top):
    (top / "in").mkdir(parents=True)
    top.chmod(0o700)
    (top / "in" / "file").write_text("x")
    return top


def test_a_folder_is_private_and_gone_at_the_end(place):
    with temporary.folder("mounted") as path:
        assert path.parent.parent == place
        assert path.parent.stat().st_mode & 0o777 == 0o700
        (path / "file").write_text("x")
    assert not list(place.iterdir())


def test_what_a_killed_run_left_is_taken_away_by_the_next_one(holder, place):
    process, path = holder
    (path / "key").write_text("secret")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.exists()
    another_run("info", place / "missing")
    assert not list(place.iterdir())


@needs_fuse
@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_a_capture_of_a_virtual_disk_that_was_killed_leaves_nothing_after_the_next_run(place, tmp_path):
    disk = tmp_path / "disk.qcow2"
    call("qemu-img", "convert", "-O", "qcow2", raw_file(tmp_path / "raw", 8 * MIB), disk)
    words = ["capture", "--rate-limit", "64KiB", str(disk), str(tmp_path / "image.img.zst")]
    with subprocess.Popen([sys.executable, "-m", "imager", *words]) as process:
        while not (tmp_path / "image.img.zst.partial").exists():
            assert process.poll() is None
            time.sleep(0.05)
        assert [name.name.startswith(f"imager-virtual-{process.pid}-") for name in place.iterdir()] == [True]
        process.send_signal(signal.SIGKILL)
    assert list(place.iterdir())
    another_run("info", tmp_path / "missing")
    assert not list(place.iterdir())


def test_what_another_run_uses_is_left_alone(holder, place):
    _, path = holder
    (path / "file").write_text("x")
    another_run("info", place / "missing")
    temporary.remove_abandoned()
    assert (path / "file").read_text() == "x"


@needs_root
def test_what_is_mounted_is_unmounted_and_not_deleted(holder, place, tmp_path):
    process, path = holder
    call("mount", "-t", "tmpfs", "-o", "size=1m", "none", path)
    (path / "sub").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    call("mount", "--bind", elsewhere, path / "sub")
    process.kill()
    process.wait()
    another_run("info", place / "missing")
    assert not list(place.iterdir())
    assert not mounts_in(place)
    assert (elsewhere / "precious").read_text() == "x"


@needs_root
def test_a_mount_that_somebody_uses_stays_until_it_is_free(holder, place):
    process, path = holder
    call("mount", "-t", "tmpfs", "-o", "size=1m", "none", path)
    (path / "precious").write_text("x")
    process.kill()
    process.wait()
    with (path / "precious").open() as held:
        another_run("info", place / "missing")
        assert held.read() == "x"
        assert (path / "precious").read_text() == "x"
    another_run("info", place / "missing")
    assert not list(place.iterdir())


@needs_root
def test_what_is_mounted_on_an_own_folder_is_not_deleted_at_its_end(place):
    made = temporary.make("mounted")
    call("mount", "-t", "tmpfs", "-o", "size=1m", "none", made.path)
    (made.path / "precious").write_text("x")
    made.remove()
    assert (made.path / "precious").read_text() == "x"


@needs_root
def test_a_loop_device_that_shows_a_file_there_is_given_back(place):
    top = made_by_hand(place / NAME)
    (top / "in" / "file").write_bytes(bytes(MIB))
    device = call("losetup", "--find", "--show", top / "in" / "file").strip()
    another_run("info", place / "missing")
    assert not top.exists()
    assert not call("losetup", "--noheadings", "--list", "--output", "BACK-FILE", "--associated", top / "in" / "file")
    assert str(top) not in call("losetup", "--noheadings", "--list", "--output", "NAME,BACK-FILE"), device


@pytest.mark.parametrize("name", ["imager-notes", "imager-mounted-old", "imager-1-abcdefgh", f"{NAME}9", f".{NAME}"])
def test_a_folder_of_another_name_is_not_ours(place, name):
    made_by_hand(place / name)
    temporary.remove_abandoned()
    assert (place / name / "in" / "file").exists()


def test_links_and_files_with_our_name_are_left_alone(place, tmp_path):
    precious = made_by_hand(tmp_path / "precious")
    (place / NAME).symlink_to(precious)
    (place / "imager-mounted-4712-abcd_123").write_text("x")
    os.mkfifo(place / "imager-mounted-4713-abcd_123")
    temporary.remove_abandoned()
    assert len(list(place.iterdir())) == 3
    assert (precious / "in" / "file").exists()


def test_links_in_an_abandoned_folder_lead_nowhere(place, tmp_path):
    precious = made_by_hand(tmp_path / "precious")
    top = made_by_hand(place / NAME)
    (top / "in" / "link").symlink_to(precious)
    shutil.rmtree(made_by_hand(place / "imager-mounted-4712-abcd_123") / "in")
    (place / "imager-mounted-4712-abcd_123" / "in").symlink_to(precious)
    temporary.remove_abandoned()
    assert not list(place.iterdir())
    assert (precious / "in" / "file").exists()


@needs_root
def test_a_folder_of_another_user_is_left_alone(place):
    os.chown(made_by_hand(place / NAME), 65534, 65534)
    temporary.remove_abandoned()
    assert (place / NAME / "in" / "file").exists()


def test_a_folder_that_others_may_look_into_is_not_ours(place):
    made_by_hand(place / NAME).chmod(0o755)
    temporary.remove_abandoned()
    assert (place / NAME / "in" / "file").exists()


def test_without_locks_a_folder_is_made_and_none_is_taken_away(place, monkeypatch):
    made_by_hand(place / NAME)

    def no_locks(_fd, _how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with temporary.folder("mounted") as path:
        assert path.is_dir()
    assert [entry.name for entry in place.iterdir()] == [NAME]


@needs_root
def test_a_full_place_is_told_with_its_name(place, monkeypatch):
    call("mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "none", place)
    try:
        monkeypatch.setattr("tempfile.tempdir", str(place))
        with pytest.raises(StoreError, match=r"no temporary folder can be made in .*temporary files") as caught:
            temporary.make("mounted")
        assert "TMPDIR" in caught.value.hint
    finally:
        call("umount", place)
