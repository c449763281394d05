# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores that go wrong: killed, interrupted, out of room, cut streams. None leaves something that looks whole."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from imager.errors import ImageDamaged, ImageError, ImageIncomplete, TargetFailed
from imager.fitting.model import Rule
from tests.harness.disks import MIB, Part, gpt_disk, listed, needs_table_tools, poke
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, needs_root
from tests.harness.programs import call
from tests.harness.restoring import image_of, restore_image

pytestmark = needs_table_tools

DISK = 24 * MIB


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A disk with a partition full of content, and its image beside it."""
    folder = tmp_path_factory.mktemp("source")
    raw = gpt_disk(folder / "raw", DISK, [Part(20 * MIB)])
    poke(raw, MIB, random.Random(7).randbytes(20 * MIB))
    image_of(raw, folder / "image")
    return raw


@pytest.fixture
def image(source) -> Path:
    return source.parent / "image"


@pytest.fixture
def target(tmp_path) -> Path:
    """An old disk with a table of its own."""
    return gpt_disk(tmp_path / "target", DISK + MIB, [Part(10 * MIB, name="old")])


def child(image: Path, target: Path, held_write: int, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.harness.restore_child", os.fspath(image), os.fspath(target), str(held_write)]
    words += options
    folder = Path(__file__).parents[2]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


def looks_like_a_disk(path: Path) -> bool:
    """Whether blkid finds a table or anything else at all."""
    done = subprocess.run(["blkid", "--probe", path], capture_output=True, check=False)
    return bool(done.stdout)


@pytest.mark.parametrize("held_write", [1, 5, 15])
def test_killed_restore_leaves_no_disk_and_can_be_repeated(source, image, target, held_write):
    with child(image, target, held_write) as run:
        assert "writing" in run.stdout.readline()
        run.kill()
    assert run.returncode == -signal.SIGKILL
    assert not looks_like_a_disk(target)
    restore_image(image, target, verify=True)
    assert "No problems found" in call("sgdisk", "--verify", target)
    assert target.read_bytes()[MIB : 21 * MIB] == source.read_bytes()[MIB : 21 * MIB]


def test_killed_restore_with_moved_partitions_leaves_no_disk_and_can_be_repeated(tmp_path):
    raw = gpt_disk(tmp_path / "raw", DISK, [Part(12 * MIB), Part(6 * MIB)])
    poke(raw, MIB, random.Random(8).randbytes(18 * MIB))
    image_of(raw, tmp_path / "image")
    target = gpt_disk(tmp_path / "target", 40 * MIB, [Part(30 * MIB, name="old")])
    with child(tmp_path / "image", target, 10, "--grow=1") as run:
        assert "writing" in run.stdout.readline()
        run.kill()
    assert not looks_like_a_disk(target)
    restore_image(tmp_path / "image", target, verify=True, grow=Rule("partition", 1))
    assert "No problems found" in call("sgdisk", "--verify", target)
    first, second = listed(target)
    assert target.read_bytes()[first.start :][: 12 * MIB] == raw.read_bytes()[MIB : 13 * MIB]
    assert target.read_bytes()[second.start : second.end] == raw.read_bytes()[13 * MIB : 19 * MIB]
    assert second.start > 13 * MIB


def test_interrupt_ends_it_though_a_write_does_not_and_tells_the_state(image, target):
    with child(image, target, 3) as run:
        run.stdout.readline()
        run.send_signal(signal.SIGINT)
        _, told = run.communicate(timeout=300)  # what is held up is so for longer
    assert run.returncode == 130
    assert "no partition table" in told
    assert not looks_like_a_disk(target)


def test_file_that_may_not_grow_is_a_failed_target(image, tmp_path):
    with file_size_limit(8 * MIB), pytest.raises(TargetFailed, match="cannot be"):
        restore_image(image, tmp_path / "new")


@contextlib.contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@needs_root
def test_full_file_system_is_told_with_the_place(image, tmp_path):
    call("mount", "-t", "tmpfs", "-o", "size=6m", "none", tmp_path)
    try:
        with pytest.raises(TargetFailed, match="No space left") as caught:
            restore_image(image, tmp_path / "new")
        assert caught.value.facts["offset_bytes"] is not None
        assert "no partition table" in caught.value.message
    finally:
        call("umount", tmp_path)


@needs_root
def test_disk_that_fails_ends_the_restore_at_once(image, tmp_path):
    call("mount", "-t", "tmpfs", "-o", "size=6m", "none", tmp_path)
    try:
        # The loop device promises more than its backing file gets: from some place on, writes are input/output errors.
        with loop_device(sparse_file(tmp_path / "backing", DISK)) as disk:
            began = time.monotonic()
            with pytest.raises(TargetFailed, match="incomplete"):
                restore_image(image, disk)
            assert time.monotonic() - began < 300
    finally:
        call("umount", tmp_path)


def through_a_pipe(content: bytes, folder: Path) -> Path:
    """A FIFO that delivers the content and then ends."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), pipe.open("wb") as file:
            file.write(content)

    threading.Thread(target=feed, daemon=True).start()
    return pipe


def test_stream_gives_the_same_disk(source, image, target, tmp_path):
    restore_image(through_a_pipe(image.read_bytes(), tmp_path), target, verify=True)
    assert target.read_bytes()[MIB : 21 * MIB] == source.read_bytes()[MIB : 21 * MIB]
    assert "No problems found" in call("sgdisk", "--verify", target)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99999])
def test_stream_that_ends_early_leaves_no_table_and_says_so(image, target, tmp_path, share):
    content = image.read_bytes()
    pipe = through_a_pipe(content[: int(len(content) * share)], tmp_path)
    with pytest.raises(ImageError, match="no partition table") as caught:
        restore_image(pipe, target)
    assert isinstance(caught.value, (ImageIncomplete, ImageDamaged))
    assert not looks_like_a_disk(target)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99999])
def test_truncated_file_is_refused_before_the_target_is_touched(image, target, tmp_path, share):
    content = image.read_bytes()
    (tmp_path / "cut").write_bytes(content[: int(len(content) * share)])
    before = target.read_bytes()
    with pytest.raises(ImageError):
        restore_image(tmp_path / "cut", target)
    assert target.read_bytes() == before


def test_any_flipped_bit_is_reported_or_does_no_harm(source, image, tmp_path):
    content, source_of_places = image.read_bytes(), random.Random(9)
    for position in sorted(source_of_places.sample(range(len(content)), 12)):
        broken = bytearray(content)
        broken[position] ^= 1 << source_of_places.randrange(8)
        (tmp_path / "broken").write_bytes(broken)
        (tmp_path / "new").unlink(missing_ok=True)
        try:
            restore_image(tmp_path / "broken", tmp_path / "new")
        except ImageError:
            assert not (tmp_path / "new").exists() or not looks_like_a_disk(tmp_path / "new")
        else:
            assert (tmp_path / "new").read_bytes() == source.read_bytes()
