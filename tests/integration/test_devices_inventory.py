# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory of this machine, compared with what lsblk tells of it."""

from __future__ import annotations

import json

import pytest

from imager.devices.inventory import disk_info, list_disks
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, needs_root, partitions
from tests.harness.programs import call

pytestmark = [pytest.mark.root, needs_root]

MIB = 1 << 20


def lsblk(path):
    columns = "SIZE,LOG-SEC,PHY-SEC,RM,ROTA,RO"
    said = call("lsblk", "--json", "--bytes", "--nodeps", "--output", columns, path)
    return json.loads(said)["blockdevices"][0]


@pytest.mark.parametrize(("sector_size", "read_only"), [(512, False), (4096, True)])
def test_a_loop_device_is_listed_as_lsblk_sees_it(tmp_path, sector_size, read_only):
    file = sparse_file(tmp_path / "disk", 3 * MIB)
    with loop_device(file, sector_size=sector_size, read_only=read_only) as device:
        found = next(disk for disk in list_disks() if disk.path == str(device))
        expected = lsblk(device)
    assert found.size_bytes == expected["size"]
    assert (found.logical_sector_bytes, found.physical_sector_bytes) == (expected["log-sec"], expected["phy-sec"])
    assert found.is_removable == expected["rm"]
    assert found.is_rotational == expected["rota"]
    assert found.is_read_only == expected["ro"]
    assert (found.backing_file, found.identity.transport) == (str(file), "loop")


def test_the_partitions_are_those_that_partx_made(tmp_path):
    with loop_device(sparse_file(tmp_path / "disk", 8 * MIB)) as device:
        call("sfdisk", device, input_text="label: gpt\nstart=2048, size=2048\nstart=8192, size=4096\n")
        with partitions(device) as nodes:
            found = disk_info(nodes[1])
            said = call("partx", "--show", "--bytes", "--noheadings", "--output", "NR,START,SIZE", device)
    expected = [[int(word) for word in line.split()] for line in said.splitlines()]
    assert [[part.number, part.start_bytes // 512, part.size_bytes] for part in found.partitions] == expected
    assert [part.path for part in found.partitions] == [str(node) for node in nodes]


def test_every_disk_that_lsblk_lists_is_there():
    said = json.loads(call("lsblk", "--json", "--bytes", "--nodeps", "--output", "PATH,SIZE,TYPE"))
    expected = {disk["path"] for disk in said["blockdevices"] if disk["type"] == "disk" and disk["size"]}
    assert {path for path in expected if not path.startswith("/dev/zram")} <= {disk.path for disk in list_disks()}
