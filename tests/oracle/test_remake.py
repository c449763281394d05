# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems that are made anew hold what the old ones held, as programs that are not ours find it."""

from __future__ import annotations

import os
from contextlib import contextmanager

import pytest

from imager.devices.opening import open_source
from imager.errors import VolumeFailed
from imager.filesystems.base import NotTrusted
from imager.filesystems.xfs import parser as xfs_parser
from imager.fitting.ways import WAYS
from imager.layout import Content
from imager.remaking import carry, xfs
from imager.remaking.making import remake
from imager.remaking.model import CannotRemake, Place
from imager.remaking.programs import known_options
from tests.harness.files import sparse_file
from tests.harness.loop import can_mount, loop_device, mounted
from tests.harness.odd_files import make_odd_files
from tests.harness.programs import call, missing_tools
from tests.harness.trees import everything, rsync_would_do

MIB = 2**20
TOOLS = ("rsync", "getfattr", "getfacl", "lsattr", "filefrag", "setcap", "mkfs.xfs", "xfs_repair", "xfs_io", "xfs_db")
pytestmark = [
    pytest.mark.slow,
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
    planned = plan_of(old, size, sector)
    new = sparse_file(tmp_path / "new", size)
    source, target = Place(str(old), 0, old.stat().st_size), Place(str(new), 0, size, sector)
    found = carry.look(planned, source)
    assert carry.missing_bytes(planned, found) == 0
    assert carry.make(planned, source, target) == ()
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


@needs_xfs
def test_a_log_that_has_to_be_replayed_is_replayed_into_the_copy(tmp_path):
    old = made(tmp_path / "old", PLAIN)
    with loop_device(old) as device, mounted(device, tmp_path / "fill") as top:
        for number in range(200):
            (top / f"{number}").write_text(f"content {number}")
        call("xfs_io", "-x", "-c", "shutdown -f", top)  # what is in the log is all there is
    with open_source(str(old), exclusive_check=False) as reader, pytest.raises(NotTrusted, match="log"):
        xfs_parser.used_map(reader)
    new = remade(old, tmp_path, 400 * MIB)
    with both(old, new, tmp_path) as (one, two):
        assert rsync_would_do(one, two) == ""
        assert len(list(two.iterdir())) == 200


@needs_xfs
def test_the_smallest_size_that_is_planned_is_large_enough_for_many_small_files(tmp_path):
    old = made(tmp_path / "old", "-m rmapbt=1,reflink=1", size=1024 * MIB)
    with loop_device(old) as device, mounted(device, tmp_path / "fill") as top:
        for folder in range(20):
            (top / f"{folder}").mkdir()
            for number in range(1500):
                (top / f"{folder}" / f"a file with a name of some length {number}").write_bytes(b"x" * 600)
        (top / "large").write_bytes(os.urandom(250 * MIB))
    with open_source(str(old), exclusive_check=False) as reader:
        content = xfs_parser.used_map(reader).content
    least = WAYS["xfs"].least(content, content.used_bytes)
    assert 300 * MIB < least < 700 * MIB
    new = remade(old, tmp_path, least)
    with both(old, new, tmp_path) as (one, two):
        assert rsync_would_do(one, two) == ""


@needs_xfs
def test_what_does_not_fit_is_told_before_anything_is_made(tmp_path):
    old = made(tmp_path / "old", PLAIN)
    with loop_device(old) as device, mounted(device, tmp_path / "fill") as top:
        (top / "large").write_bytes(os.urandom(300 * MIB))
    new = sparse_file(tmp_path / "new", 320 * MIB)
    with pytest.raises(VolumeFailed, match=r"do not fit into 320 MiB: 9\d\.\d MiB are missing"):
        remake(Content("filesystem", "xfs"), str(old), str(new), 320 * MIB, 512)
    assert new.stat().st_blocks == 0


@needs_xfs
def test_a_file_of_more_than_4_gib_keeps_its_holes(tmp_path):
    old = made(tmp_path / "old", PLAIN)
    with loop_device(old) as device, mounted(device, tmp_path / "fill") as top, (top / "disk").open("wb") as file:
        for place in (0, 4 * 1024 * MIB, 70 * 1024 * MIB):
            file.seek(place)
            file.write(place.to_bytes(8, "little") * 9000)
        file.truncate(80 * 1024 * MIB)
    new = remade(old, tmp_path, 400 * MIB)
    with both(old, new, tmp_path) as (one, two):
        assert (two / "disk").stat().st_size == 80 * 1024 * MIB
        assert (two / "disk").stat().st_blocks == (one / "disk").stat().st_blocks < 1000
        for place in (0, 4 * 1024 * MIB, 70 * 1024 * MIB):
            pieces = []
            for top in (one, two):
                with (top / "disk").open("rb") as file:
                    file.seek(place)
                    pieces.append(file.read(72_008))
            assert pieces[0] == pieces[1]


@pytest.mark.parametrize(("options", "change", "reason"), [("", "qflags 3", "quotas"), ("-l logdev={}", "", "another")])
def test_what_would_be_lost_is_refused(tmp_path, options, change, reason):
    log = sparse_file(tmp_path / "log", 100 * MIB)
    old = made(tmp_path / "old", options.format(log))
    if change:
        call("xfs_db", "-x", "-c", "sb 0", "-c", f"write {change}", old)
    with pytest.raises(CannotRemake, match=reason):
        plan_of(old, 400 * MIB)


@needs_xfs
def test_an_xfs_for_sectors_of_4096_bytes(tmp_path):
    old = filled(made(tmp_path / "old", "-b size=1024 -m reflink=1"), tmp_path)
    new = remade(old, tmp_path, 600 * MIB, sector=4096)
    assert identity(new) == identity(old)
    told = geometry(new)
    assert (told["sectsize"], told["blocksize"]) == ("4096", "4096")
    with both(old, new, tmp_path, sector=4096) as (one, two):
        assert rsync_would_do(one, two) == ""


@needs_xfs
def test_a_damaged_file_system_is_not_filled_into_another(tmp_path):
    old = filled(made(tmp_path / "old", PLAIN), tmp_path)
    call("xfs_db", "-x", "-c", "sb 0", "-c", "addr rootino", "-c", "write core.nlinkv2 77", old)
    new = sparse_file(tmp_path / "new", 400 * MIB)
    with pytest.raises(VolumeFailed, match="checking the old file system"):
        remake(Content("filesystem", "xfs"), str(old), str(new), 400 * MIB, 512)
    assert new.stat().st_blocks == 0
