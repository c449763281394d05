# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables that sfdisk, sgdisk and parted made are read as those tools read them."""

from __future__ import annotations

import json

import pytest

from imager.layout import Layout, Partition
from tests.harness.disks import Place
from tests.harness.tables import CORPUS, case, case_names, layout_of

_NAMED_BITS = {"RequiredPartition": 0, "NoBlockIOProtocol": 1, "LegacyBIOSBootable": 2}


def _place(entry: Partition) -> Place:
    uuid = entry.uuid if len(entry.type) > 2 else ""
    return Place(entry.number, entry.start, entry.end, entry.type, uuid, entry.name)


def _attribute_bits(text: str) -> int:
    bits = 0
    for word in text.split():
        numbers = word.removeprefix("GUID:").split(",") if word.startswith("GUID:") else [str(_NAMED_BITS[word])]
        bits |= sum(1 << int(number) for number in numbers)
    return bits


@pytest.mark.parametrize("name", case_names())
def test_partitions_are_those_that_sfdisk_lists(name):
    known = case(name)
    found = known.read()
    assert [_place(entry) for entry in found.partitions] == known.places()
    assert (found.whole_reason, found.table.problems) == ("", ())


@pytest.mark.parametrize("name", case_names())
def test_the_id_of_the_disk_is_the_one_that_sfdisk_shows(name):
    known = case(name)
    assert known.read().table.id == known.expected["table"]["id"].lower().removeprefix("0x")


@pytest.mark.parametrize("name", [name for name in case_names() if "gpt" in name])
def test_usable_range_and_attributes_are_those_of_sfdisk(name):
    known = case(name)
    table, found = known.expected["table"], known.read()
    assert found.table.first_usable == table["firstlba"] * known.sector_size
    assert found.table.last_usable_end == (table["lastlba"] + 1) * known.sector_size
    expected = [_attribute_bits(row.get("attrs", "")) for row in table["partitions"]]
    assert [int(entry.attributes, 16) for entry in found.partitions] == expected


@pytest.mark.parametrize("name", [name for name in case_names() if "mbr" in name])
def test_the_active_partition_is_the_one_that_sfdisk_calls_bootable(name):
    known = case(name)
    expected = ["80" if row.get("bootable") else "" for row in known.expected["table"]["partitions"]]
    assert [entry.attributes for entry in known.read().partitions] == expected


def test_kinds_of_tables():
    kinds = {name: case(name).read().table.kind for name in case_names()}
    assert kinds == {
        "gpt-256-entries": "gpt",
        "gpt-4096": "gpt",
        "gpt-512": "gpt",
        "hybrid": "hybrid",
        "mbr-4096": "mbr",
        "mbr-logicals": "mbr",
    }


@pytest.mark.parametrize("name", case_names(foreign=True))
def test_tables_of_other_worlds_are_named_and_copied_whole(name):
    found = case(name).read()
    assert found.table.kind == "unreadable"
    assert case(name).expected["foreign"] in found.whole_reason


@pytest.mark.parametrize("name", case_names() + case_names(foreign=True))
def test_layouts_survive_json(name):
    layout = layout_of(case(name).content, sector_size=case(name).sector_size)
    assert Layout.from_json(layout.to_json()) == layout


@pytest.mark.parametrize("name", case_names())
def test_every_structure_of_the_table_and_the_boot_gap_are_covered(name):
    """All bytes that the tool wrote before the first partition, at the end and in EBRs, lie in the ranges."""
    known = case(name)
    table = known.read().table
    content = bytearray(known.content)
    for start, end in (*table.table_ranges, *table.boot_ranges):
        content[start:end] = bytes(end - start)
    assert not any(content)


@pytest.mark.parametrize("name", case_names())
def test_boot_ranges_hold_no_byte_of_the_table_and_none_of_a_partition(name):
    found = case(name).read()
    others = [*found.table.table_ranges, *((entry.start, entry.end) for entry in found.partitions)]
    for start, end in found.table.boot_ranges:
        assert all(end <= other_start or other_end <= start for other_start, other_end in others)


def test_every_case_says_how_it_was_made():
    for folder in CORPUS.iterdir():
        assert len((folder / "ABOUT").read_text().splitlines()) == 1
        json.loads((folder / "expect.json").read_text())
