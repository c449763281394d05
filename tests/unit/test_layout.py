# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from dataclasses import replace

import pytest

from imager.errors import ImageDamaged
from imager.extents import Extents
from imager.layout import Content, Gap, Identity, Layout, Partition, Table

LAYOUT = Layout(
    identity=Identity(path="/dev/sda", model="Disk", serial="S1"),
    size_bytes=10_000_000,
    logical_sector_bytes=512,
    physical_sector_bytes=4096,
    table=Table("gpt", id="4f68bce3-e8cd-4db1-96e7-fbcaf984b709", problems=("backup header damaged",)),
    partitions=(
        Partition(
            1, 1_048_576, 5_000_192, name="rööt\ud800", content=Content("filesystem", "ext4", warnings=("dirty",))
        ),
    ),
    gaps=(Gap(5_000_192, 10_000_000, 100),),
    warnings=("hidden area",),
)


def without_surrogates(layout: Layout) -> Layout:
    return replace(layout, partitions=(replace(layout.partitions[0], name="rööt"),))


def test_json_and_back_is_the_same():
    layout = without_surrogates(LAYOUT)
    assert Layout.from_json(layout.to_json()) == layout


def test_parity_covers_the_members_that_say_so_and_were_not_left_out():
    raid = Content("raid", "linux_raid_member", unused_is_zero=True)
    entries = [
        Partition(1, 100, 200, content=raid),
        Partition(2, 300, 400, content=Content("filesystem", "ext4")),
        Partition(3, 500, 600, captured=False, content=raid),
    ]
    layout = Layout.from_json(replace(LAYOUT, partitions=tuple(entries), warnings=()).to_json())
    assert layout.parity_ranges() == Extents.single(100, 200)
    assert replace(layout, partitions=(), content=raid).parity_ranges() == Extents.single(0, LAYOUT.size_bytes)


def test_unknown_fields_are_ignored():
    facts = json.loads(without_surrogates(LAYOUT).to_json())
    facts["from_the_future"] = {"x": 1}
    assert Layout.from_json(json.dumps(facts).encode()) == without_surrogates(LAYOUT)


@pytest.mark.parametrize(
    ("field", "value"),
    [("size_bytes", -1), ("size_bytes", 2**70), ("size_bytes", "7"), ("logical_sector_bytes", 0), ("table", None)],
)
def test_impossible_values_are_refused(field, value):
    facts = json.loads(without_surrogates(LAYOUT).to_json())
    facts[field] = value
    with pytest.raises(ImageDamaged):
        Layout.from_json(json.dumps(facts).encode())


def test_a_partition_beyond_the_disk_is_refused():
    facts = json.loads(without_surrogates(LAYOUT).to_json())
    facts["partitions"][0]["end"] = 10_000_001
    with pytest.raises(ImageDamaged, match="partition 1"):
        Layout.from_json(json.dumps(facts).encode())


def test_deep_nesting_is_refused():
    with pytest.raises(ImageDamaged):
        Layout.from_json(b"[" * 100_000)


def test_all_warnings_name_what_they_are_about():
    assert LAYOUT.all_warnings() == (
        "hidden area",
        "partition table: backup header damaged",
        "partition 1: dirty",
    )
