# SPDX-License-Identifier: GPL-3.0-or-later
"""Where partitions go on a larger disk: machines as data, and what is true of every layout."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imager.errors import TargetTooSmall, UsageError
from imager.fitting.arrange import arrange
from imager.fitting.boxes import boxes_of, grain_of, usable_end
from imager.fitting.model import NewPart, Rule
from imager.fitting.planner import fit
from imager.fitting.shrink import sizes_that_fit
from tests.harness.layouts import GIB, GROWING, MIB, SECTOR, bare, gpt, machine, mbr, part

LAST, PROPORTIONAL, FIT = Rule("last"), Rule("proportional"), Rule("fit")


def sizes(fitting):
    return {each.number: each.new_size for each in fitting.partitions}


def changed(fitting):
    return {each.number for each in fitting.partitions if each.is_changed}


def only(number):
    return Rule("partition", number)


# --- Rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["last", "proportional", "1", "128", " last "])
def test_rules_are_read_and_written_alike(text):
    assert str(Rule.parse(text)) == text.strip()


@pytest.mark.parametrize("text", ["", "0", "first", "-1", "1.5", "sda1", "LAST", "²", "9" * 9])
def test_what_is_no_rule_is_refused_with_the_rules(text):
    with pytest.raises(UsageError, match="no rule") as caught:
        Rule.parse(text)
    assert "proportional" in caught.value.hint


# --- Machines -----------------------------------------------------------------------------------------------------


def test_debian_with_uefi_grows_its_root_partition():
    fitting = fit(machine("debian-uefi"), 1000 * GIB, LAST)
    assert changed(fitting) == {2}
    assert sizes(fitting)[2] > 990 * GIB


def test_windows_moves_its_recovery_partition_to_the_end():
    layout = machine("windows-11")
    fitting = fit(layout, 1000 * GIB, LAST)
    recovery, system = fitting.partition(4), fitting.partition(3)
    assert changed(fitting) == {3, 4}
    assert recovery.old_size == recovery.new_size
    assert usable_end(layout, 1000 * GIB) - recovery.end < MIB
    assert system.start == system.image_start
    assert recovery.start - system.end < MIB
    assert any("reagentc" in text for text in fitting.warnings)


def test_the_reason_why_a_partition_moves_is_told():
    said = " ".join(fit(machine("windows-11"), 1000 * GIB, LAST).why)
    assert "partition 3 grows: it is the last one that can" in said
    assert "partition 4 keeps its size and moves: a Windows recovery partition" in said


def test_dual_boot_shares_the_room_in_proportion():
    layout = machine("dual-boot")
    fitting = fit(layout, 2 * layout.size_bytes, PROPORTIONAL)
    windows, linux = fitting.partition(3), fitting.partition(5)
    assert windows.new_size / windows.old_size == pytest.approx(linux.new_size / linux.old_size, rel=0.01)
    for number in (1, 2, 4, 6):
        assert fitting.partition(number).new_size == fitting.partition(number).old_size


def test_debian_with_bios_and_lvm_grows_the_logical_partition_and_the_extended_one():
    fitting = fit(machine("debian-bios-lvm"), 100 * GIB, LAST)
    assert changed(fitting) == {2, 5}
    assert fitting.partition(2).end == fitting.partition(5).end
    assert fitting.partition(2).start == fitting.partition(2).image_start


def test_swap_at_the_end_makes_way_for_root():
    fitting = fit(machine("mbr-swap-behind"), 100 * GIB, LAST)
    root, extended, swap = (fitting.partition(number) for number in (1, 2, 5))
    assert root.new_size > 98 * GIB
    assert swap.new_size == swap.old_size
    assert swap.start - extended.start == MIB  # the boot record goes with it
    assert extended.end >= swap.end


def test_cloud_image_grows_the_first_partition_which_is_the_last_on_the_disk():
    fitting = fit(machine("cloud"), 50 * GIB, LAST)
    assert changed(fitting) == {1}
    assert fitting.partition(1).start == fitting.partition(1).image_start


def test_a_file_system_without_a_table_gets_the_disk():
    layout = bare(8 * GIB)
    fitting = fit(layout, 16 * GIB, LAST)
    assert fitting.grown(layout) == {0: (8 * GIB, 16 * GIB)}
    assert not fitting.is_changed


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("rule", [LAST, PROPORTIONAL])
def test_nothing_changes_on_a_disk_of_equal_size(name, rule):
    layout = machine(name)
    fitting = fit(layout, layout.size_bytes, rule)
    grown = [new - old for old, new in fitting.grown(layout).values()]
    assert sum(grown) <= sum(gap.end - gap.start for gap in layout.gaps)


# --- Refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "rule", "reason"),
    [
        (machine("windows-11"), only(9), "it has 1, 2, 3, 4"),
        (machine("debian-bios-lvm"), only(2), "grows with the logical ones"),
        (replace(machine("windows-11"), whole_reason="its table is odd"), LAST, "its table is odd"),
        (gpt(GIB, part(1, MIB, 900 * MIB, content="raid:linux_raid_member")), only(1), "superblock of an array"),
        (gpt(GIB, part(1, MIB, 900 * MIB, content="raid:linux_raid_member")), LAST, "no partition of the image can"),
        (gpt(GIB, part(1, MIB, 500 * MIB), part(2, 500 * MIB, 600 * MIB, content="unknown:unknown")), only(1), "stays"),
        (replace(bare(GIB), content=None), LAST, "nobody knows"),
        (bare(GIB), only(1), "no numbered partitions"),
    ],
)
def test_what_cannot_grow_is_refused_with_the_reason(layout, rule, reason):
    with pytest.raises(UsageError, match=reason):
        fit(layout, 100 * GIB, rule)


def test_a_hybrid_mbr_is_refused():
    layout = machine("debian-uefi")
    hybrid = replace(layout, table=replace(layout.table, kind="hybrid"))
    with pytest.raises(UsageError, match="hybrid MBR"):
        fit(hybrid, 100 * GIB, LAST)


@pytest.mark.parametrize(
    ("rule", "option"),
    [(LAST, "--grow"), (Rule("sizes", sizes={1: 500 * MIB}), "--plan"), (Rule("fit"), "--fit")],
    ids=str,
)
def test_partitions_that_overlap_are_refused(rule, option):
    with pytest.raises(UsageError, match="overlap") as refused:
        fit(gpt(GIB, part(1, MIB, 500 * MIB), part(2, 400 * MIB, 600 * MIB)), 2 * GIB, rule)
    assert refused.value.hint.startswith(f"Restore without {option}")


@pytest.mark.parametrize(
    ("table", "entry", "told"),
    [
        ({}, {"number": 2**40}, "a number that no partition has"),
        ({}, {"number": 0}, "a number that no partition has"),
        ({}, {"end": MIB}, "is empty"),
        ({"entry_size_bytes": 2**28}, {}, "longer than the room"),
    ],
)
@pytest.mark.parametrize("rule", [LAST, FIT, Rule("sizes", new=(NewPart(MIB, "83"),))], ids=str)
def test_what_no_disk_has_is_refused_and_costs_no_time(table, entry, told, rule):
    layout = gpt(GIB, part(1, MIB, 500 * MIB))
    changed = replace(layout.partitions[0], **entry)
    with pytest.raises(UsageError, match=told):
        fit(replace(layout, table=replace(layout.table, **table), partitions=(changed,)), 2 * GIB, rule)


def test_a_partition_without_known_content_grows_when_it_is_named():
    layout = gpt(GIB, part(1, MIB, 500 * MIB, content="unknown:unknown"))
    assert changed(fit(layout, 2 * GIB, only(1))) == {1}


def test_an_mbr_ends_at_two_tebibytes_and_says_so():
    layout = mbr(GIB, part(1, MIB, GIB))
    fitting = fit(layout, 3 * 1024 * GIB, LAST)
    assert fitting.partition(1).end == 2 * 1024 * GIB
    assert any("32 bits" in text for text in fitting.warnings)


# --- What is true of every layout ---------------------------------------------------------------------------------

CONTENTS = [
    "filesystem:ext4",
    "filesystem:ntfs",
    "filesystem:vfat",
    "swap:swap",
    "volume-manager:LVM2_member",
    "encrypted:crypto_LUKS",
    "raid:linux_raid_member",
    "unknown:unknown",
    "blank:blank",
]
TYPES = {
    "gpt": [
        "0fc63daf-8483-4772-8e79-3d69d8477de4",
        "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
        "21686148-6449-6e6f-744e-656564454649",
        "de94bba4-06d1-4d40-a16a-bfd50179d6ac",
    ],
    "mbr": ["83", "07", "27", "82", "a5"],
}


@st.composite
def layouts(draw):
    kind = draw(st.sampled_from(["gpt", "mbr"]))
    align = draw(st.sampled_from([1, 8, 63, 2048, 4096]))
    at, parts = max(align, 64), []
    logical_from = draw(st.integers(0, 6)) if kind == "mbr" else 99
    logical_to = logical_from + draw(st.integers(1, 3))
    number = 1
    for index in range(draw(st.integers(1, 7))):
        is_logical = logical_from <= index < logical_to
        at += draw(st.sampled_from([0, 0, 1, 2048, 100000])) + (max(align, 2048) if is_logical else 0)
        at = -(-at // align) * align
        size = draw(st.integers(1, 400)) * draw(st.sampled_from([1, 2048, 20480]))
        what = draw(st.sampled_from(CONTENTS)), draw(st.sampled_from(TYPES[kind]))
        parts.append((number, at, at + size, "logical" if is_logical else "primary", *what))
        number, at = number + 1, at + size
    size = at + draw(st.sampled_from([0, 1, 2048, 300000])) + 34
    made = [part(n, a * SECTOR, b * SECTOR, kind=k, content=c, type=t) for n, a, b, k, c, t in parts]
    return gpt(size * SECTOR, *made) if kind == "gpt" else mbr(size * SECTOR, *made, ebr_gap=max(align, 2048))


RULES = st.one_of(st.just(LAST), st.just(PROPORTIONAL), st.just(FIT), st.integers(1, 8).map(only))


@settings(max_examples=400)
@given(layouts(), RULES, st.sampled_from([0, 1, 2047, 2048, 5000, 10**5, 10**8, -1, -50, -2048, -5000, -(10**5)]))
def test_whatever_the_layout_every_partition_has_a_right_place(layout, rule, more):
    target_size = max(SECTOR, layout.size_bytes + more * SECTOR)
    try:
        fitting = fit(layout, target_size, rule)
    except (UsageError, TargetTooSmall):
        return
    end = usable_end(layout, target_size)
    leaves = sorted((each for each in fitting.partitions if each.kind != "extended"), key=lambda each: each.start)
    assert [each.number for each in leaves] == [box.number for box in boxes_of(layout) if box.entry.kind != "extended"]
    before = 0
    for each in leaves:
        assert before <= each.start - each.lead
        assert each.new_size >= each.old_size
        assert not each.distance or each.start % MIB == 0
        before = each.end
    assert before <= end
    for extended in (each for each in fitting.partitions if each.kind == "extended"):
        inside = [each for each in leaves if each.kind == "logical"]
        assert all(extended.start <= each.start - each.lead and each.end <= extended.end for each in inside)
        assert inside[0].start - inside[0].lead == extended.start
        others = [each for each in leaves if each.kind == "primary"]
        assert all(each.end <= extended.start or extended.end <= each.start for each in others)
        assert extended.end <= max(end, extended.image_end)
    assert all(each.start == each.image_start for each in leaves if _is_loader(layout, each.number))
    assert leaves[0].start == leaves[0].image_start


def _is_loader(layout, number):
    return layout.partition(number).type == "21686148-6449-6e6f-744e-656564454649"


@settings(max_examples=200)
@given(layouts(), st.integers(1, 10**6))
def test_all_room_behind_the_last_partition_is_given_away(layout, more):
    target_size = layout.size_bytes + more * SECTOR
    try:
        fitting = fit(layout, target_size, LAST)
    except UsageError:
        return
    leaves = [each for each in fitting.partitions if each.kind != "extended"]
    if changed(fitting):
        free = usable_end(layout, target_size) - max(each.end for each in leaves)
        assert free < 64 * MIB or any("stay unpartitioned" in text for text in fitting.warnings)


def test_partitions_of_a_disk_without_a_table_are_refused() -> None:
    layout = replace(bare(64 * MIB), partitions=gpt(64 * MIB, part(1, MIB, 8 * MIB)).partitions)
    with pytest.raises(UsageError, match="it has partitions but no table"):
        fit(layout, 128 * MIB, Rule("last"))


# --- Smaller disks ------------------------------------------------------------------------------------------------


def shrunk_windows():
    """Windows whose C: was made smaller in Windows: room before the recovery partition, which stayed at the end."""
    layout = machine("windows-11")
    entries = [replace(e, end=e.start + 100 * GIB) if e.number == 3 else e for e in layout.partitions]
    return replace(layout, partitions=tuple(entries))


def test_partitions_move_together_on_a_smaller_disk():
    fitting = fit(shrunk_windows(), 120 * GIB, FIT)
    assert changed(fitting) == {4}
    assert fitting.partition(3).end <= fitting.partition(4).start < fitting.partition(3).end + MIB
    assert fitting.why == ("partitions move together, with the sizes that they have",)


def test_a_rule_for_growing_moves_them_together_first():
    fitting = fit(shrunk_windows(), 120 * GIB, LAST)
    assert changed(fitting) == {3, 4}
    assert fitting.partition(3).new_size > 118 * GIB


def test_what_fits_as_it_is_does_not_move():
    layout = shrunk_windows()
    assert not fit(layout, layout.size_bytes, FIT).is_changed


def with_used(layout, number, used_bytes):
    def content(entry):
        return replace(entry.content, used_bytes=used_bytes) if entry.number == number else entry.content

    return replace(layout, partitions=tuple(replace(e, content=content(e)) for e in layout.partitions))


def test_what_does_not_fit_is_made_smaller_when_that_is_asked_for():
    fitting = fit(with_used(machine("windows-11"), 3, 40 * GIB), 120 * GIB, FIT)
    assert [each.number for each in fitting.shrunk] == [3]
    assert 118 * GIB < fitting.partition(3).new_size < 120 * GIB
    assert fitting.partition(4).new_size == fitting.partition(4).old_size


def test_what_does_not_fit_says_by_how_much_and_what_could_be_smaller():
    with pytest.raises(TargetTooSmall) as caught:
        fit(with_used(machine("windows-11"), 3, 40 * GIB), 120 * GIB, LAST)
    assert 117 * GIB < caught.value.facts["missing_bytes"] < 119 * GIB
    assert "partition 3 to 119 GiB" in caught.value.hint


def test_what_cannot_fit_at_all_is_said():
    layout = with_used(machine("windows-11"), 3, 200 * GIB)
    with pytest.raises(TargetTooSmall, match="even as small as they can be") as caught:
        fit(layout, 120 * GIB, FIT)
    assert "cannot be made as small" in caught.value.hint
    missing = caught.value.facts["missing_bytes"]
    assert fit(layout, 120 * GIB + missing, FIT)
    with pytest.raises(TargetTooSmall):
        fit(layout, 120 * GIB + missing - 8 * MIB, FIT)


@settings(max_examples=300)
@given(layouts(), st.integers(1, 10**6), st.lists(st.integers(0, 10), min_size=8, max_size=8))
def test_sizes_that_would_fit_do_and_none_is_below_its_minimum(layout, less, tenths):
    boxes = [
        replace(box, trait=replace(box.trait, minimum_bytes=box.size - box.size * tenth // 10))
        for box, tenth in zip(boxes_of(layout), tenths, strict=False)
    ]
    end, grain = max(0, layout.size_bytes - less * SECTOR), grain_of(boxes)
    sizes = sizes_that_fit(boxes, end, grain)
    if sizes is None:
        return
    places = arrange([replace(box, wanted=sizes.get(box.number)) for box in boxes], {}, end, grain)
    assert max(stop for _, stop in places.values()) <= end
    for box in boxes:
        assert box.trait.minimum_bytes <= sizes.get(box.number, box.size) <= box.size
