# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems that are made anew hold what the old ones held, as programs that are not ours find it."""

from __future__ import annotations

import os
from contextlib import contextmanager

import pytest

from imager.devices.opening import open_source
from imager.remaking import carry, xfs
from imager.remaking.model import Place
from imager.remaking.programs import known_options
from tests.harness.files import sparse_file
from tests.harness.loop import can_mount, loop_device, mounted
from tests.harness.odd_files import make_odd_files
from tests.harness.programs import call, missing_tools
from tests.harness.trees import everything, rsync_would_do

MIB = 2**20
TOOLS = ("rsync", "getfattr", "getfacl", "lsattr", "filefrag", "setcap", "mkfs.xfs", "xfs_repair", "xfs_io", "xfs_db")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(bool(missing_tools(*TOOLS)), reason=f"needs {missing_tools(*TOOLS)}"),
]
needs_xfs = pytest.mark.skipif(os.geteuid() != 0 or not can_mount("xfs"), reason="the kernel cannot mount XFS")
PLAIN = "-m crc=1,rmapbt=0,reflink=1"


def made(path, options, size=600 * MIB, label="old one"):
    sparse_file(path, size)
    call("mkfs.xfs", "-q", "-L", label, *options.split(), path)
    return path


def plan_of(path, size, sector=512):
    with open_source(str(path), exclusive_check=False) as reader:
        return xfs.plan(reader, sector, size, known_options("mkfs.xfs"))


@contextmanager
def both(old, new, tmp_path, sector=512):
    """Two XFS of the same UUID, mounted side by side; nothing is written to either."""
    options = "ro,nouuid,noatime,norecovery"
    with (
        loop_device(old, read_only=True) as first,
        mounted(first, tmp_path / "m1", options=options) as one,
        loop_device(new, read_only=True, sector_size=sector) as second,
        mounted(second, tmp_path / "m2", options=options) as two,
    ):
        yield one, two


def filled(path, tmp_path, *, reflink=True):
    with loop_device(path) as device, mounted(device, tmp_path / "fill") as top:
        make_odd_files(top, reflink=reflink)
    return path


def remade(old, tmp_path, size, sector=512):
    remake = plan_of(old, size, sector)
    new = sparse_file(tmp_path / "new", size)
    source, target = Place(str(old), 0, old.stat().st_size), Place(str(new), 0, size, sector)
    found = carry.look(remake, source)
    assert carry.missing_bytes(remake, found) == 0
    assert carry.make(remake, source, target) == ()
    return new


def identity(path):
    return call("blkid", "-p", "-o", "value", "-s", "UUID", "-s", "LABEL", "-s", "TYPE", path)


def geometry(path):
    """Features and sizes as xfs_db names them; what must differ with the size is left out."""
    said = call("xfs_db", "-r", "-c", "sb 0", "-c", "print", "-c", "version", path)
    told = dict(line.split(" = ", 1) for line in said.splitlines() if " = " in line)
    kept = (
        "blocksize",
        "sectsize",
        "inodesize",
        "imax_pct",
        "dirblklog",
        "unit",
        "width",
        "uuid",
        "fname",
        "versionnum",
    )
    features = {key: value for key, value in told.items() if key.startswith("features_")}
    return {key: told.get(key) for key in kept} | features | {"version": said.splitlines()[-1]}


@needs_xfs
@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        "-m crc=1,rmapbt=1,reflink=1,bigtime=1,inobtcount=1 -i size=1024,maxpct=7,nrext64=1 -n size=16384",
        "-m crc=1,finobt=0,rmapbt=0,reflink=0,bigtime=0,inobtcount=0 -i sparse=0 -b size=1024 -s size=1024",
        "-s size=4096 -d sunit=128,swidth=512",
    ],
)
def test_an_xfs_that_is_made_anew_has_every_file_and_every_feature(tmp_path, options):
    reflink = "reflink=0" not in options
    old = filled(made(tmp_path / "old", options), tmp_path, reflink=reflink)
    new = remade(old, tmp_path, 400 * MIB)
    assert identity(new) == identity(old)
    assert geometry(new) == geometry(old)
    call("xfs_repair", "-n", new)
    with both(old, new, tmp_path) as (one, two):
        assert rsync_would_do(one, two) == ""
        first, second = everything(one), everything(two)
    for name, said in first.items():
        assert said == second[name], name
    shared = sum("shared" in kind for pieces in first["holes"].values() for _, _, kind in pieces)
    assert bool(shared) == reflink
