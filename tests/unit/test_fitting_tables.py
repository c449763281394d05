# SPDX-License-Identifier: GPL-3.0-or-later
"""Where partitions go when the table is another one: other sectors, a GPT from an MBR, left out and new partitions."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imager.errors import TargetTooSmall, UsageError
from imager.fitting.model import AT_END, BEFORE_FIRST, NewPart, Rule
from imager.fitting.planner import fit
from imager.fitting.sectors import verdict_of
from imager.layout import Content
from imager.partitions.mbr import SECTOR_BYTES
from imager.partitions.types import BIOS_BOOT
from tests.harness.layouts import GIB, MACHINES, MIB, SECTOR, bare, gpt, machine, mbr, part
from tests.unit.test_fitting import layouts

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
TIB = 1024 * GIB
FITS_ALL = {"sector_size_bytes": "4096", "mft_record_bytes": "4096"}


def livable(layout):
    """The same disk, with contents that can live on any sectors or be made anew there."""

    def content(entry):
        found = entry.content
        if found is None or found.type == "BitLocker":
            return replace(found, type="crypto_LUKS") if found else None
        return replace(found, block_size_bytes=4096, facts=FITS_ALL)

    return replace(layout, partitions=tuple(replace(entry, content=content(entry)) for entry in layout.partitions))


def assert_right(layout, fitting, target_size, sector, *, may_be_smaller=False):
    """What is true of every table, whatever it was made from."""
    there = fitting.layout_on_target(layout)
    kind, table = there.table.kind, there.table
    assert there.logical_sector_bytes == sector
    leaves = [entry for entry in there.partitions if entry.kind != "extended"]
    leads = {each.number_there: each.lead for each in fitting.partitions}
    before = table.first_usable if kind == "gpt" else SECTOR_BYTES
    for entry in sorted(leaves, key=lambda entry: entry.start):
        assert entry.start % sector == entry.end % sector == 0
        lead = leads.get(entry.number, 0)
        assert lead % sector == 0
        assert before <= entry.start - lead
        assert entry.start < entry.end
        before = entry.end
    assert before <= fitting.usable_end <= target_size
    if kind == "gpt":
        array = -(-table.entry_count * table.entry_size_bytes // sector)
        assert table.first_usable >= (2 + array) * sector
        assert fitting.usable_end == (target_size // sector - 1 - array) * sector
        assert not any(entry.kind == "extended" for entry in there.partitions)
    assert len({entry.number for entry in there.partitions}) == len(there.partitions)
    for extended in (entry for entry in there.partitions if entry.kind == "extended"):
        inside = [entry for entry in leaves if entry.kind == "logical"]
        assert sorted(entry.number for entry in inside) == list(range(5, 5 + len(inside)))
        assert extended.start == min(entry.start - leads[entry.number] for entry in inside)
        assert all(entry.end <= extended.end for entry in inside)
        assert all(each.end <= extended.start or extended.end <= each.start for each in leaves if each not in inside)
    kept = [each for each in fitting.partitions if each.kind != "extended"]
    order = sorted(kept, key=lambda each: each.image_start)
    assert order == sorted(kept, key=lambda each: each.start)
    for each in kept:
        assert may_be_smaller or each.new_size >= each.old_size
        assert not each.distance or each.start % MIB == 0


RULES = st.sampled_from([Rule("fit"), Rule("last"), Rule("proportional"), Rule.only_to_gpt(), Rule("sizes")])


def can_be(layout):
    """An MBR has four entries beside the logical ones."""
    return layout.table.kind != "mbr" or sum(entry.kind != "logical" for entry in layout.partitions) <= 4


@st.composite
def wishes(draw):
    """A disk, and another table for it."""
    machines = st.sampled_from(MACHINES).map(machine)
    layout = livable(draw(st.one_of(layouts().filter(can_be), machines)))
    numbers = [entry.number for entry in layout.partitions if entry.kind != "extended"]
    out = frozenset(draw(st.lists(st.sampled_from(numbers), max_size=3)))
    places = st.sampled_from([AT_END, BEFORE_FIRST, *numbers])
    sizes = st.sampled_from([0, 4096, MIB, 3 * MIB + 512, 64 * MIB])
    parts = st.builds(NewPart, sizes, st.sampled_from([LINUX, "83", ESP]), places)
    rule = draw(RULES)
    rule = replace(
        rule,
        leave_out=out,
        new=tuple(draw(st.lists(parts, max_size=2))),
        to_gpt=rule.to_gpt or draw(st.booleans()),
    )
    more = draw(st.sampled_from([0, -(10**6), 10**6, 10**8, 10**10, -(10**9)]))
    sector = draw(st.sampled_from([512, 4096]))
    return layout, rule, max(4096, layout.size_bytes + more) // sector * sector, sector


def test_what_leaves_nothing_or_shares_the_rest_is_refused():
    layout = livable(machine("mbr-4kn"))
    everything = frozenset(each.number for each in layout.partitions if each.kind != "extended")
    with pytest.raises(UsageError, match="left out"):
        fit(layout, layout.size_bytes, replace(Rule("sizes"), leave_out=everything))
    with pytest.raises(UsageError, match="only one new partition"):
        fit(layout, layout.size_bytes, replace(Rule("sizes"), new=(NewPart(0, LINUX), NewPart(0, LINUX))))


def test_a_new_partition_may_have_the_number_of_one_that_is_left_out():
    layout = livable(machine("dual-boot-mbr"))
    new = (NewPart(4 * MIB, LINUX), NewPart(8 * MIB, LINUX))
    rule = replace(Rule("fit"), leave_out=frozenset({1}), new=new)
    fitting = fit(layout, layout.size_bytes, rule, 512)
    assert 1 in [place.entry.number for place in fitting.new]
    assert 1 not in [place.number for place in fitting.partitions]


@settings(max_examples=600, deadline=None)
@given(wishes())
def test_whatever_the_table_every_partition_has_a_right_place(wish):
    layout, rule, target_size, sector = wish
    try:
        fitting = fit(layout, target_size, rule, sector)
    except (UsageError, TargetTooSmall):
        return
    assert_right(layout, fitting, target_size, sector, may_be_smaller=rule.kind == "fit")
    assert {each.number for each in fitting.partitions} & rule.leave_out == set()
    assert [place.part for place in fitting.new] == list(rule.new)


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("sector", [512, 4096])
@pytest.mark.parametrize("to_gpt", [False, True])
def test_every_machine_fits_a_larger_disk_of_any_sectors(name, sector, to_gpt):
    """Only unknown content at odd sectors, or an array of an odd length, is refused."""
    layout = livable(machine(name))
    if name == "mbr-4kn" and sector == 512 and not to_gpt:  # an MBR with shorter sectors reaches 2 TiB
        with pytest.raises(TargetTooSmall) as caught:
            fit(layout, layout.size_bytes + GIB, Rule("sizes"), sector)
        assert "--to-gpt" in caught.value.hint
        return
    size = (layout.size_bytes + GIB) // sector * sector
    fitting = fit(layout, size, replace(Rule("sizes"), to_gpt=to_gpt), sector)
    assert_right(layout, fitting, size, sector)
    is_same = sector == layout.logical_sector_bytes and not (to_gpt and layout.table.kind == "mbr")
    assert (fitting.table is None) == is_same
    kept = [entry.number for entry in layout.partitions if entry.kind != "extended"]
    assert [entry.number for entry in fitting.layout_on_target(layout).partitions if entry.kind != "extended"] == kept


# --- Sectors ------------------------------------------------------------------------------------------------------


def test_partitions_at_odd_sectors_move_to_a_mebibyte():
    layout = livable(machine("old-63-sectors"))
    fitting = fit(layout, layout.size_bytes + GIB, Rule("sizes"), 4096)
    assert all(each.start % MIB == 0 for each in fitting.partitions if each.kind == "primary")


def test_a_bios_boot_partition_at_sector_34_moves():
    layout = livable(
        gpt(GIB, part(1, 34 * SECTOR, MIB, content="unknown:unknown", type=BIOS_BOOT), part(2, MIB, 900 * MIB))
    )
    fitting = fit(layout, GIB, Rule("sizes"), 4096)
    assert [each.start for each in fitting.partitions] == [MIB, 2 * MIB]


def test_unknown_content_at_an_odd_sector_cannot_move():
    layout = gpt(GIB, part(1, MIB, 2 * MIB + 512), part(2, 2 * MIB + 512, 3 * MIB, content="unknown:unknown"))
    with pytest.raises(UsageError, match="no multiple of 4096, and cannot move: nobody knows"):
        fit(livable(layout), GIB, Rule("sizes"), 4096)


def test_an_array_of_an_odd_length_is_refused():
    layout = gpt(GIB, part(1, MIB, 2 * MIB + 512, content="raid:linux_raid_member"))
    with pytest.raises(UsageError, match="superblock may be counted from its end"):
        fit(layout, GIB, Rule("sizes"), 4096)


def test_what_does_not_fit_says_by_how_much():
    layout = mbr(GIB, part(1, MIB, 512 * MIB), part(2, 512 * MIB, GIB))
    with pytest.raises(TargetTooSmall) as caught:
        fit(layout, layout.size_bytes, Rule.only_to_gpt())
    assert caught.value.facts["missing_bytes"] == 33 * 512


def test_the_plan_warns_that_no_bios_starts_the_disk():
    said = " ".join(fit(livable(machine("server-bios-boot")), 500 * GIB, Rule("last"), 4096).warnings)
    assert "a BIOS cannot start a disk with sectors of 4096 bytes" in said


@pytest.mark.parametrize(
    ("content", "old", "new", "kind"),
    [
        (Content("filesystem", "ext4", block_size_bytes=4096), 512, 4096, "keeps"),
        (Content("filesystem", "ext4", block_size_bytes=1024), 512, 4096, "anew"),
        (Content("filesystem", "ext4", block_size_bytes=1024), 4096, 512, "keeps"),
        (Content("filesystem", "xfs", facts={"sector_size_bytes": "512"}), 512, 4096, "anew"),
        (Content("filesystem", "xfs", facts={"sector_size_bytes": "4096"}), 512, 4096, "keeps"),
        (Content("filesystem", "btrfs"), 512, 4096, "keeps"),
        (Content("filesystem", "f2fs"), 512, 4096, "keeps"),
        (Content("swap", "swap"), 512, 4096, "keeps"),
        (Content("filesystem", "vfat", facts={"sector_size_bytes": "512"}), 512, 4096, "anew"),
        (Content("filesystem", "vfat", facts={"sector_size_bytes": "4096"}), 512, 4096, "keeps"),
        (Content("filesystem", "vfat", facts={"sector_size_bytes": "4096"}), 4096, 512, "anew"),
        (Content("filesystem", "exfat", facts={"sector_size_bytes": "512"}), 512, 4096, "anew"),
        (Content("filesystem", "minix", block_size_bytes=1024), 512, 4096, "cannot"),
        (Content("encrypted", "BitLocker"), 512, 4096, "cannot"),
        (Content("encrypted", "crypto_LUKS"), 512, 4096, "keeps"),
        (Content("blank", "blank"), 512, 4096, "keeps"),
    ],
)
def test_what_a_content_says_to_other_sectors(content, old, new, kind):
    assert verdict_of(content, old, new).kind == kind


@pytest.mark.parametrize(
    ("sector", "cluster", "record", "new", "kind"),
    [
        (512, 4096, 1024, 4096, "cannot"),  # as Windows formats on disks with sectors of 512 bytes
        (512, 4096, 4096, 4096, "adapts"),
        (512, 2048, 4096, 4096, "cannot"),
        (4096, 4096, 4096, 512, "adapts"),
        (4096, 65536, 4096, 512, "adapts"),
        (512, 4096, 1024, 512, "keeps"),
    ],
)
def test_what_ntfs_says_to_other_sectors(sector, cluster, record, new, kind):
    facts = {"sector_size_bytes": str(sector), "mft_record_bytes": str(record)}
    content = Content("filesystem", "ntfs", block_size_bytes=cluster, facts=facts)
    assert verdict_of(content, 4608 - new, new).kind == kind


def test_what_lies_in_a_container_is_looked_at():
    inside = Content("filesystem", "xfs", name="vg0/root", facts={"sector_size_bytes": "512"})
    group = Content("volume-manager", "LVM2_member", inside=(inside,))
    verdict = verdict_of(group, 512, 4096)
    assert verdict.kind == "cannot"
    assert "vg0/root" in verdict.text
    assert "how much of it is in use" in verdict.text
    assert verdict_of(group, 4096, 512).kind == "keeps"
    unknown = verdict_of(Content("encrypted", "crypto_LUKS"), 512, 4096)
    assert "could not be looked at" in unknown.text


USED = {"used_bytes": MIB}
XFS_512 = Content("filesystem", "xfs", name="vg0/root", facts={"sector_size_bytes": "512"}, **USED)
NTFS_512 = Content("filesystem", "ntfs", block_size_bytes=2048, facts={"sector_size_bytes": "512"}, **USED)


def group_of(*inside, **facts):
    return Content("volume-manager", "LVM2_member", inside=inside, facts={"physical_volumes": "1"} | facts, **USED)


def luks(*inside, **facts):
    return Content("encrypted", "crypto_LUKS", inside=inside, facts=facts, **USED)


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (group_of(XFS_512), "inside", "vg0/root in it is made anew and filled with its files: its sectors have 512"),
        (luks(XFS_512), "inside", "vg0/root in it is made anew"),
        (luks(group_of(XFS_512)), "inside", "vg0/root in it is made anew"),
        (group_of(luks(XFS_512)), "cannot", "is not changed there"),
        (group_of(XFS_512, NTFS_512), "cannot", "ntfs in it cannot live with them"),
        (group_of(XFS_512, physical_volumes="2"), "cannot", "nor be made anew: its volume group lies on 2"),
        (group_of(replace(XFS_512, used_bytes=None)), "cannot", "nor be made anew: it does not say how much"),
        (replace(group_of(XFS_512), kind="raid", type="linux_raid_member"), "cannot", "is not changed there"),
        (luks(data_offset_bytes="2068992"), "cannot", "its data begin at byte 2068992, no multiple of a sector"),
        (luks(data_offset_bytes="2097152", data_size_bytes="512"), "cannot", "its data have a length of 512"),
        (group_of(first_extent_bytes="1050624"), "cannot", "its extents begin at byte 1050624"),
        (group_of(extent_size_bytes="1024"), "cannot", "its extents have a length of 1024"),
        (group_of(extent_size_bytes="4194304", first_extent_bytes="1048576"), "keeps", ""),
    ],
)
def test_what_lies_in_a_container_is_made_anew_there_or_the_reason_is_told(content, kind, words):
    verdict = verdict_of(content, 512, 4096)
    assert verdict.kind == kind
    assert words in verdict.text


def test_what_cannot_live_there_is_refused_with_the_reason():
    layout = machine("windows-11")
    ntfs = Content(
        "filesystem", "ntfs", block_size_bytes=4096, facts={"sector_size_bytes": "512", "mft_record_bytes": "1024"}
    )
    entries = [replace(e, content=ntfs) if e.content.type == "ntfs" else e for e in layout.partitions]
    layout = replace(layout, partitions=tuple(entries))
    with pytest.raises(UsageError, match=r"partition 3 \(ntfs\): its file records have 1024 bytes") as caught:
        fit(layout, 1000 * GIB, Rule("fit"), 4096)
    assert "leave_out" in caught.value.hint
    assert fit(layout, 1000 * GIB, replace(Rule("fit"), leave_out=frozenset({3, 4})), 4096).left_out == (3, 4)


def test_a_file_system_without_a_table_lives_there_or_is_refused():
    layout = bare(8 * GIB)
    fine = replace(layout, content=replace(layout.content, block_size_bytes=4096))
    assert not fit(fine, 8 * GIB, Rule("fit"), 4096).is_changed
    with pytest.raises(UsageError, match="cannot live on sectors of 4096"):
        fit(replace(layout, content=replace(layout.content, block_size_bytes=1024)), 8 * GIB, Rule("fit"), 4096)


# --- A GPT from an MBR --------------------------------------------------------------------------------------------


def test_an_mbr_that_becomes_a_gpt_reaches_beyond_two_tebibytes():
    layout = mbr(GIB, part(1, MIB, GIB))
    fitting = fit(layout, 3 * TIB, replace(Rule("last"), to_gpt=True))
    assert fitting.partition(1).end > 2.9 * TIB
    assert any("BIOS boot loader" in text for text in fitting.warnings)
    assert any("PARTUUIDs" in text for text in fitting.warnings)


def test_logical_partitions_become_plain_ones_with_their_numbers():
    layout = machine("dual-boot-mbr")
    there = fit(layout, layout.size_bytes + GIB, Rule.only_to_gpt()).layout_on_target(layout)
    assert [(entry.number, entry.kind) for entry in there.partitions] == [(n, "primary") for n in (1, 2, 5, 6)]
    assert len({entry.uuid for entry in there.partitions}) == 4
    assert there == fit(layout, layout.size_bytes + GIB, Rule.only_to_gpt()).layout_on_target(layout)


def test_a_windows_that_starts_by_bios_is_told_of():
    layout = machine("windows-7-mbr")
    active = tuple(replace(entry, attributes="80") if entry.number == 1 else entry for entry in layout.partitions)
    fitting = fit(replace(layout, partitions=active), layout.size_bytes + GIB, Rule.only_to_gpt())
    assert any("Windows starts from a GPT by UEFI only" in text for text in fitting.warnings)


def test_a_type_without_a_guid_is_refused():
    layout = mbr(GIB, part(1, MIB, GIB, type="a5", content="unknown:unknown"))
    with pytest.raises(UsageError, match="the type a5"):
        fit(layout, 2 * GIB, Rule.only_to_gpt())


def test_a_gpt_stays_one_and_that_is_said():
    layout = machine("debian-uefi")
    fitting = fit(layout, layout.size_bytes, Rule.only_to_gpt())
    assert not fitting.is_changed


# --- Left out and new ---------------------------------------------------------------------------------------------


def with_new(layout, *parts, size=None, **fields):
    rule = replace(Rule("sizes"), new=parts, **fields)
    return fit(layout, size or layout.size_bytes, rule)


def test_a_new_partition_comes_after_the_one_that_is_named():
    layout = machine("windows-11")
    fitting = with_new(layout, NewPart(10 * GIB, LINUX, 3), size=300 * GIB)
    (new,) = fitting.new
    assert new.entry.number == 5
    assert fitting.partition(3).end <= new.entry.start
    assert new.entry.end <= fitting.partition(4).start
    assert new.entry.size_bytes == 10 * GIB


def test_a_new_partition_gets_all_that_is_left():
    layout = machine("debian-uefi")
    (new,) = with_new(layout, NewPart(0, LINUX), size=500 * GIB).new
    assert new.entry.end > 499 * GIB


def test_a_bios_boot_partition_goes_in_front_of_the_first_one():
    layout = machine("dual-boot-mbr")
    rule = replace(Rule.only_to_gpt(), new=(NewPart(0, BIOS_BOOT, BEFORE_FIRST),))
    (new,) = fit(layout, layout.size_bytes + GIB, rule).new
    assert (new.entry.start, new.entry.end) == (20480, MIB)


def test_the_gap_in_front_may_be_too_small():
    with pytest.raises(TargetTooSmall) as caught:
        with_new(machine("debian-uefi"), NewPart(2 * MIB, BIOS_BOOT, BEFORE_FIRST))
    assert caught.value.facts["missing_bytes"] == 20480 + 2 * MIB - MIB


def test_an_mbr_with_four_entries_takes_no_more():
    layout = mbr(GIB, *(part(n, n * MIB, (n + 1) * MIB) for n in range(1, 5)))
    with pytest.raises(UsageError, match="four entries") as caught:
        with_new(layout, NewPart(MIB, "83"))
    assert "--to-gpt" in caught.value.hint


def test_a_name_that_the_table_cannot_hold_is_refused():
    layout = mbr(GIB, part(1, MIB, 500 * MIB))
    with pytest.raises(UsageError, match="an MBR has no names") as caught:
        with_new(layout, NewPart(MIB, "83", name="data"))
    assert "--to-gpt" in caught.value.hint


def test_a_new_partition_between_logical_ones_is_refused():
    with pytest.raises(UsageError, match="between logical ones"):
        with_new(machine("dual-boot-mbr"), NewPart(MIB, "83", 5), size=600 * GIB)


def test_a_new_partition_after_the_last_logical_one_lies_behind_the_extended_one():
    layout = machine("dual-boot-mbr")
    (new,) = with_new(layout, NewPart(GIB, "83", 6), size=600 * GIB).new
    assert new.entry.start >= layout.partition(3).end
    assert new.entry.number == 4


def test_a_new_partition_needs_room():
    with pytest.raises(TargetTooSmall, match="are missing"):
        with_new(machine("debian-uefi"), NewPart(GIB, LINUX))


def test_the_room_of_what_is_left_out_can_be_used():
    layout = machine("windows-11")
    fitting = with_new(layout, NewPart(100 * GIB, LINUX), leave_out=frozenset({3}))
    assert [each.number for each in fitting.partitions] == [1, 2, 4]
    assert [entry.number for entry in fitting.layout_on_target(layout).partitions] == [1, 2, 4, 5]


def test_what_comes_first_then_makes_room_only_when_it_must():
    layout = gpt(10 * GIB, part(1, MIB, 5 * GIB), part(2, 5 * GIB, 9 * GIB))
    rule = replace(Rule("sizes"), leave_out=frozenset({1}))
    assert fit(layout, 10 * GIB, rule).partition(2).start == 5 * GIB
    assert fit(layout, 5 * GIB, rule).partition(2).start == MIB


def test_a_logical_partition_that_is_left_out_changes_the_numbers_behind_it():
    layout = machine("dual-boot-mbr")
    fitting = fit(layout, layout.size_bytes, replace(Rule("sizes"), leave_out=frozenset({5})))
    assert fitting.partition(6).number_there == 5
    assert any("partition 6 of the image is partition 5" in text for text in fitting.warnings)


@pytest.mark.parametrize(("number", "told"), [(9, "no partition 9"), (3, "extended")])
def test_what_cannot_be_left_out_is_said(number, told):
    layout = machine("dual-boot-mbr")
    with pytest.raises(UsageError, match=told):
        fit(layout, layout.size_bytes, replace(Rule("sizes"), leave_out=frozenset({number})))
