# SPDX-License-Identifier: GPL-3.0-or-later
"""Which volumes on a disk may stay open while it is read, on a recorded machine."""

from __future__ import annotations

import pytest

from imager.devices import ioctls
from imager.devices.idle import hold_idle, idle_tops, is_held
from imager.devices.ioctls import MappingStatus
from imager.devices.sysfs import System
from imager.devices.usage import uses_of
from tests.harness import machines

CRYPT, LINEAR = frozenset(("crypt",)), frozenset(("linear",))


@pytest.fixture
def laptop(tmp_path):
    """A container in partition 3 and two logical volumes in it."""
    return System(machines.build(machines.LAPTOP, tmp_path))


def said(**changes: MappingStatus | None):
    usual = {"dm-0": MappingStatus(CRYPT, 2, False), "dm-1": MappingStatus(LINEAR, 0, False)}
    return {**usual, "dm-2": MappingStatus(LINEAR, 0, False), **changes}.get


@pytest.mark.parametrize("name", ["nvme0n1", "nvme0n1p3"])
def test_what_stands_at_the_top_is_to_be_held(laptop, name):
    assert idle_tops(name, laptop, said()) == ["dm-1", "dm-2"]


@pytest.mark.parametrize(
    "status",
    [
        None,  # no mapping, or nobody may ask
        MappingStatus(frozenset(("thin",)), 0, False),
        MappingStatus(frozenset(("linear", "snapshot-merge")), 0, False),
        MappingStatus(frozenset(("",)), 0, False),  # more targets than fit into an answer
        MappingStatus(LINEAR, 0, True),
    ],
)
@pytest.mark.parametrize("name", ["dm-0", "dm-2"])
def test_one_volume_that_may_write_by_itself_or_waits_forbids_all(laptop, status, name):
    assert idle_tops("nvme0n1", laptop, said(**{name: status})) == []


def test_a_part_without_volumes_has_nothing_to_hold(laptop):
    assert idle_tops("nvme0n1p1", laptop, said()) == []


@pytest.mark.parametrize(("state", "tops"), [("read-auto", ["md0"]), ("readonly", ["md0"]), ("clean", []), ("", [])])
def test_an_array_may_run_until_it_is_written_to(tmp_path, state, tops):
    system = System(machines.build(machines.RAID, tmp_path))
    (system.block("md0") / "md").mkdir(exist_ok=True)
    (system.block("md0") / "md/array_state").write_text(f"{state}\n")
    assert idle_tops("sdb", system, lambda _: None) == tops


def test_on_a_recording_nothing_is_held_and_volumes_count_as_use(laptop):
    with hold_idle("/dev/nvme0n1", system=laptop):
        assert not is_held("dm-0", laptop)
        kinds = {use.kind for use in uses_of("/dev/nvme0n1p3", system=laptop) if use.writable}
    assert {"crypt", "lvm"} <= kinds


def test_the_request_is_the_kernels_own():
    """DM_TABLE_STATUS as strace shows it of dmsetup."""
    assert ioctls.DM_TABLE_STATUS == 0xC138FD0C or not ioctls._IS_GENERIC
