# SPDX-License-Identifier: GPL-3.0-or-later
"""Views shown to other programs: these change them, the base stays, and nothing stays behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from imager.errors import UsageError, VolumeFailed
from imager.overlay import Base, Place, Store, View, attached, device, shown
from tests.harness.capturing import MIB, capture_file
from tests.harness.faulty import needs_fuse
from tests.harness.files import flip
from tests.harness.loop import can_mount, mounts_with, needs_root, what_stays
from tests.harness.programs import call, missing_tools

TOOLS = ("mke2fs", "e2fsck", "resize2fs", "debugfs")
pytestmark = [needs_fuse, pytest.mark.skipif(bool(missing_tools(*TOOLS)), reason=f"needs {missing_tools(*TOOLS)}")]
START, SIZE = 3 * MIB, 60 * MIB
needs_ext4 = pytest.mark.skipif(not can_mount("ext4"), reason="the kernel cannot mount ext4")


@pytest.fixture
def stack():
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def disk(tmp_path):
    """A disk with an ext4 in the middle that holds a file of 5 MiB."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"Every block counts.\n" * (5 * MIB // 20))
    volume = tmp_path / "volume"
    call("mke2fs", "-q", "-t", "ext4", "-d", tmp_path / "tree", volume, f"{SIZE // 1024}K")
    path = tmp_path / "disk"
    path.write_bytes(b"\xa5" * START + volume.read_bytes() + b"\xa5" * MIB)
    return path


def base_of(disk):
    return Base.of_disk(str(disk), [(START, SIZE)])


@pytest.mark.parametrize("is_image", [False, True])
def test_a_file_system_is_made_smaller_on_a_view_and_its_base_stays(disk, tmp_path, stack, is_image):
    before, base = disk.read_bytes(), base_of(disk)
    if is_image:
        capture_file(disk, tmp_path / "image", [(0, disk.stat().st_size)])
        base = Base.of_image(str(tmp_path / "image"), [(START, SIZE)])
    with shown([View("volume", base, Store.in_scratch(stack, SIZE))]) as there:
        path = there.path("volume")
        call("e2fsck", "-f", "-p", path)
        call("resize2fs", path, "20M")
        os.truncate(path, 20 * MIB)
        call("e2fsck", "-f", "-n", path)
        after = there.after("volume", stack)
        assert there.problem("volume") == ""
    assert disk.read_bytes() == before
    result = tmp_path / "result"
    result.write_bytes(after.read(0, after.size))
    assert result.stat().st_size == 20 * MIB
    call("e2fsck", "-f", "-n", result)
    call("debugfs", "-R", f"dump /file {tmp_path / 'file'}", result)
    assert (tmp_path / "file").read_bytes() == (tmp_path / "tree" / "file").read_bytes()
    assert 0 < after.dirty.total_bytes < 8 * MIB


def test_several_files_and_ranges_are_shown_at_once(disk, stack):
    content = disk.read_bytes()
    two = Base.of_disk(str(disk), [(MIB, 5000), (0, 3000)])
    with shown([View("volume", base_of(disk), Store.in_scratch(stack, SIZE)), View("two", two)]) as there:
        assert sorted(path.name for path in Path(there.path("two")).parent.iterdir()) == ["two", "volume"]
        assert Path(there.path("two")).read_bytes() == content[MIB : MIB + 5000] + content[:3000]
        with Path(there.path("volume")).open("r+b") as file:
            file.write(b"changed")
        assert Path(there.path("volume")).read_bytes()[:10] == b"changed" + content[START + 7 : START + 10]
        with pytest.raises(OSError, match="Read-only"):
            os.open(there.path("two"), os.O_RDWR)


def test_what_is_damaged_in_the_image_is_said(disk, tmp_path):
    image = tmp_path / "image"
    capture_file(disk, image, [(0, disk.stat().st_size)])
    raw = image.read_bytes()
    flip(image, raw.index(b"\x28\xb5\x2f\xfd", len(raw) // 4) + 40, 40)
    with shown([View("disk", Base.of_image(str(image), [(0, disk.stat().st_size)]))]) as there:
        with pytest.raises(OSError, match="Input/output"):
            Path(there.path("disk")).read_bytes()
        assert "chunk" in there.problem("disk")


def test_a_store_without_room_is_said(disk, stack):
    full = os.open("/dev/full", os.O_RDWR)
    stack.callback(os.close, full)
    with shown([View("volume", base_of(disk), Store([Place(0, SIZE, full, 0)]))]) as there:
        with pytest.raises(OSError, match="No space"), Path(there.path("volume")).open("r+b", buffering=0) as file:
            file.write(b"x" * 4096)
        assert "No space" in there.problem("volume")


def test_a_base_that_is_not_there_is_said(tmp_path):
    with (
        pytest.raises(UsageError, match="missing"),
        shown([View("x", Base.of_disk(str(tmp_path / "missing"), [(0, 1)]))]),
    ):
        pass


def test_a_server_that_dies_is_said(disk, stack):
    with shown([View("volume", base_of(disk))]) as there:
        path = there.path("volume")
        os.kill(int(path.split("/")[2]), signal.SIGKILL)
        with pytest.raises(VolumeFailed, match="has ended"):
            there.dirty("volume")


@needs_root
@needs_ext4
def test_a_view_is_mounted_and_changed_by_the_kernel(disk, tmp_path, stack):
    before = disk.read_bytes()
    with shown([View("volume", base_of(disk), Store.in_scratch(stack, SIZE))]) as there:
        path = there.path("volume")
        with device(path, SIZE) as node, attached(node, "ext4", writable=True) as top:
            (top / "new").write_bytes(b"new" * 100_000)
            assert (top / "file").stat().st_size == 5 * MIB
            assert str(node) not in Path("/proc/mounts").read_text()
        call("e2fsck", "-f", "-n", path)
        call("debugfs", "-R", f"dump /new {tmp_path / 'new'}", path)
    assert (tmp_path / "new").read_bytes() == b"new" * 100_000
    assert disk.read_bytes() == before


# --- However it ends ----------------------------------------------------------------------------------------------

CHILD = f"""
import sys, time
from contextlib import ExitStack
from imager.overlay import *
with ExitStack() as stack:
    store = Store.in_scratch(stack, {SIZE}, sys.argv[2])
    with shown([View("volume", Base.of_disk(sys.argv[1], [({START}, {SIZE})]), store)]) as there:
        path = there.path("volume")
        with device(path, {SIZE}) as node, attached(node, "ext4", writable=True) as top:
            (top / "new").write_bytes(b"new" * 1000000)
            print(path.split("/")[2], node, flush=True)
            while True:
                (top / "more").write_bytes(b"more" * 100000)
"""


@needs_root
@needs_ext4
@pytest.mark.parametrize(
    ("victim", "signal_number"),
    [("child", signal.SIGKILL), ("child", signal.SIGINT), ("child", signal.SIGTERM), ("server", signal.SIGKILL)],
)
def test_nothing_stays_behind_when_it_is_ended(disk, tmp_path, victim, signal_number):
    scratch, temporary = tmp_path / "scratch", tmp_path / "temporary"
    scratch.mkdir()
    temporary.mkdir()
    before = disk.read_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, disk, scratch],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(temporary)},
    ) as child:
        server, node = child.stdout.readline().decode().split()
        os.kill(child.pid if victim == "child" else int(server), signal_number)
        child.wait(timeout=300)
    backing = Path("/sys/block", Path(node).name, "loop/backing_file")
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and (Path("/proc", server).exists() or _shows(backing, "/volume")):
        time.sleep(0.05)
    assert not Path("/proc", server).exists()
    assert not _shows(backing, "/volume")
    assert list(scratch.iterdir()) + list(temporary.iterdir()) == []
    assert what_stays(lambda: mounts_with("imager-shown")) == set()
    assert disk.read_bytes() == before


def _shows(backing, name):
    try:
        return backing.read_text().strip() == name
    except OSError:
        return False


REFUSED = """
import sys
from imager.errors import UsageError
from imager.overlay import Base, View, shown
try:
    with shown([View("zeros", Base.of_zeros(4096))]):
        print("shown")
except UsageError as error:
    print(error.message)
"""


def test_where_fuse_may_not_mount_that_is_said_and_no_folder_stays(tmp_path):
    """In a user namespace of its own, nobody has the right to mount in ours."""
    done = subprocess.run(
        ["unshare", "--user", sys.executable, "-c", REFUSED],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare failed" in done.stderr:
        pytest.skip("needs user namespaces")
    assert "FUSE cannot mount" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_server_whose_starter_is_gone_before_it_is_ready_ends(tmp_path):
    """Nobody listens when it says that it is ready."""
    told = (
        b'[{"name": "z", "kind": "zeros", "path": "", "pieces": [[0, 4096]], "container": null, "uuid": "", "key": "",'
    )
    with subprocess.Popen(
        [sys.executable, "-m", "imager.overlay.serving"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as server:
        server.stdout.close()
        server.stdin.write(told + b' "places": null}]\n')
        server.stdin.close()
        server.wait(timeout=300)
    assert list(tmp_path.iterdir()) == []
