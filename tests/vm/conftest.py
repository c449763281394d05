# SPDX-License-Identifier: GPL-3.0-or-later
"""One medium for all tests of a run, with a small image on it, and the disk that the image was made of.

Nothing here is skipped: who runs `make test-vm` wants virtual machines, and a missing program is a failure that says
what installs it. The medium's base is kept in the user's cache, so only the first run takes minutes.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bootmedia.cli.app import app
from imager.cli.app import app as imager_app
from tests.harness.disks import MIB, Part, gpt_disk
from tests.harness.programs import call

DISK_BYTES = 96 * MIB


@dataclass(frozen=True)
class Prepared:
    """What the tests start from."""

    medium: Path
    disk: Path
    image: Path


def ran(application, *words):
    """Run a command of ours; its messages are shown when it fails."""
    result = CliRunner().invoke(application, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, worker_id):
    """The medium with an image; with several workers one builds it and the others wait for it."""
    with once(tmp_path_factory, worker_id, "medium") as folder:
        made = Prepared(folder / "rescue.iso", folder / "source.img", folder / "small.img.zst")
        if not made.medium.exists():
            make_disk(made.disk)
            ran(imager_app, "capture", made.disk, made.image)
            print(ran(app, "build", made.medium, "--include", made.image, "--json"))
    return made


@pytest.fixture(scope="session")
def plain_medium(tmp_path_factory, worker_id):
    """A medium with nothing on it but itself."""
    with once(tmp_path_factory, worker_id, "plain") as folder:
        medium = folder / "plain.iso"
        if not medium.exists():
            ran(app, "build", medium)
    return medium


@contextmanager
def once(tmp_path_factory, worker_id, name):
    """A folder that the workers of a run share, and that one at a time looks into."""
    shared = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        shared = shared.parent
    folder = shared / f"shared-{name}"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def make_disk(path):
    """GPT, an ESP and an ext4 with files of random content, and boot code."""
    chosen = random.Random(4)
    gpt_disk(path, DISK_BYTES, [Part(16 * MIB, type="U"), Part(64 * MIB, type="L", name="root")])
    files = path.parent / "files"
    (files / "etc").mkdir(parents=True)
    for number in range(40):
        (files / "etc" / f"file{number}").write_bytes(chosen.randbytes(chosen.randrange(1_400_000)))
    call("mke2fs", "-q", "-t", "ext4", "-d", files, "-E", f"offset={17 * MIB}", path, "64m")
    call("mformat", "-i", f"{path}@@{MIB}", "-T", 16 * MIB // 512, "-h", "16", "-s", "63", "::")
    with path.open("r+b") as disk:
        disk.write(chosen.randbytes(440))


def blank(path, size_bytes):
    """An empty disk."""
    with path.open("wb") as disk:
        disk.truncate(size_bytes)
    return path


def facts(text):
    """The JSON object that a command printed."""
    return json.loads(text[text.index("{") :])


_LONG = ("test_machines", "test_repair_boot")
_ON_ONE_WORKER = (
    "test_growing",
    "test_netboot",
    "test_new_ids_volumes",
    "test_shares",
    "test_stick",
    "test_unattended",
)
"""Their tests share a guest or a medium, which would else be made twice."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The longest tests first: with two workers the short ones then fill the time beside the last of them."""
    order = [*_LONG, *_ON_ONE_WORKER]
    for item in items:
        if item.path.stem in _ON_ONE_WORKER:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: order.index(item.path.stem) if item.path.stem in order else len(order))


@pytest.fixture(scope="session", autouse=True)
def _in_reach_of_root_only_tools():
    """mke2fs and its like lie in folders that are not on every user's PATH."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
