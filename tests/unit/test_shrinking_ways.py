# SPDX-License-Identifier: GPL-3.0-or-later
"""Every way of making something smaller has somebody who carries it out, and says what it needs."""

from __future__ import annotations

import subprocess

import pytest

from imager.errors import UsageError
from imager.extents import Extents
from imager.fitting.volumes import volume_sizes
from imager.fitting.ways import WAYS, least_bytes, way_of, why_not
from imager.layout import Content, Partition
from imager.restore.shrinking import _available_bytes, _is_in_memory
from imager.shrinking import MAKERS

GIB = 1 << 30


def test_every_way_has_a_maker():
    inward = {kind for kind, way in WAYS.items() if way.kind in ("group", "container")}
    assert set(WAYS) - inward == set(MAKERS)


@pytest.mark.parametrize("kind", [kind for kind, way in WAYS.items() if way.kind != "container"])
def test_every_way_tells_what_it_needs_and_what_it_changes(kind):
    way = WAYS[kind]
    used = Extents.of([(0, GIB), (50 * GIB, 51 * GIB)])
    outlay = way.outlay(used, 60 * GIB, 20 * GIB)
    assert outlay.scratch_bytes > 0
    assert outlay.memory_bytes > 0
    assert outlay.seconds > 0
    assert way.programs
    assert way.differs
    in_use = 0 if kind == "swap" else 2 * GIB
    assert in_use <= way.least(Content("filesystem", kind, size_bytes=60 * GIB), 2 * GIB) < 8 * GIB


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (Content("filesystem", "squashfs", used_bytes=1), "nothing makes squashfs smaller"),
        (Content("filesystem", "ext4", used_bytes=1, whole_reason="it has errors"), "it has errors"),
        (Content("filesystem", "ext4"), "how much of it is in use"),
        (Content("filesystem", "xfs", used_bytes=1, facts={"features": "attr quota crc"}), "quotas"),
        (Content("filesystem", "btrfs", used_bytes=1, facts={"device": "1 of 2 devices"}), "several devices"),
    ],
)
def test_what_cannot_be_made_smaller_says_why_and_keeps_its_size(content, reason):
    assert reason in why_not(content)
    assert way_of(content) is None
    assert least_bytes(Partition(1, 0, GIB, content=content)) == GIB


def test_a_folder_in_memory_is_known(tmp_path):
    """What lies in it is taken from the programs, so its room is not what it says."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True)
    assert _is_in_memory(str(tmp_path)) == (kind.stdout.strip() in ("tmpfs", "ramfs"))
    assert _is_in_memory("/dev/shm")  # noqa: S108
    assert 0 < _available_bytes() < 2**50


MIB = 1 << 20


def group(*inside):
    facts = {"extent_size_bytes": str(4 * MIB), "extents": "1000", "physical_volumes": "1"}
    used = sum(each.size_bytes for each in inside)
    return Content("volume-manager", "LVM2_member", size_bytes=4001 * MIB, used_bytes=used, facts=facts, inside=inside)


def logical(name, kind, size, used, way="ext4"):
    return Content(kind, way, name=f"vg/{name}", size_bytes=size * MIB, used_bytes=used * MIB)


def new_sizes(content, new_size, wanted=None):
    return {each.name: each.new_size // MIB for each in volume_sizes(content, new_size * MIB, wanted)}


def test_free_extents_go_before_anything_is_made_smaller():
    assert new_sizes(group(logical("root", "filesystem", 2000, 100)), 2101) == {}


def test_logical_volumes_give_in_proportion_to_what_they_have_free():
    content = group(logical("a", "filesystem", 2000, 0), logical("b", "filesystem", 1000, 0))
    sizes = new_sizes(content, 1501)
    assert sum(sizes.values()) <= 1500
    assert 2 * 0.98 < (2000 - sizes["vg/a"]) / (1000 - sizes["vg/b"]) < 2 * 1.02
    assert all(size % 4 == 0 for size in sizes.values())


def test_swap_gives_only_when_the_others_have_not_enough():
    content = group(logical("root", "filesystem", 2000, 100), logical("swap", "swap", 1000, 0, "swap"))
    assert set(new_sizes(content, 2001)) == {"vg/root"}
    assert set(new_sizes(content, 601)) == {"vg/root", "vg/swap"}


def test_sizes_that_a_person_gave_are_kept_and_too_small_ones_refused():
    content = group(logical("a", "filesystem", 2000, 500), logical("b", "filesystem", 1000, 0))
    assert new_sizes(content, 2501, {"vg/b": 402 * MIB}) == {"vg/b": 404}
    with pytest.raises(UsageError, match="vg/a cannot be smaller than"):
        new_sizes(content, 2501, {"vg/a": 100 * MIB})
    with pytest.raises(UsageError, match="too few for the others"):
        new_sizes(content, 1201, {"vg/a": 1200 * MIB})
