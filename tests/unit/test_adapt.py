# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables on disks of another size: the same partitions, a whole GPT, and nothing else changed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imager.blocks import MemoryReader
from imager.errors import TargetRefused, TargetTooSmall
from imager.extents import Extents
from imager.layout import Content, Layout
from imager.partitions.adapt import boot_only_ranges, missing_bytes, relocate, table_only_ranges
from tests.harness.tables import (
    LAST_USABLE,
    MIB,
    Disk,
    case,
    case_names,
    disk,
    layout_of,
    make_gpt,
    read,
    restored,
)

BACKUP_BYTES = 512 + 16384
NEEDED = 24576 * 512 + BACKUP_BYTES  # the last partition of gpt-512 ends with LBA 24575
BIOS_BOOT_END = 6147 * 512, 7148 * 512  # start=6147, size=1001 in the corpus' making


def moves(content: bytes, target_size: int, *, sector_size: int = 512):
    image = MemoryReader(bytes(content), sector_size=sector_size)
    return relocate(layout_of(content, sector_size=sector_size), image, target_size, sector_size)


@pytest.mark.parametrize("name", case_names())
def test_an_equal_disk_gets_nothing(name):
    known = case(name)
    assert moves(known.content, len(known.content), sector_size=known.sector_size) == ([], Extents(), [])


@pytest.mark.parametrize("spoil", [(1, 0), (1, 16), (2, 3), (32767, 0), (0, 510)])
def test_an_equal_disk_gets_nothing_even_when_the_table_is_damaged(spoil):
    content = disk("gpt-512").put(*spoil, b"\x5a")
    assert moves(content, len(content)) == ([], Extents(), [])


@pytest.mark.parametrize("target_size", [NEEDED, 13 * MIB, 16 * MIB - 512, 16 * MIB + 512, 16 * MIB + 5120, 64 * MIB])
@pytest.mark.parametrize("name", ["gpt-512", "hybrid"])
def test_the_moved_table_reads_back_whole(name, target_size):
    known = case(name)
    found = read(restored(known.content, target_size, junk=b"\xa5"))
    assert found.partitions == known.read().partitions
    assert (found.table.problems, found.whole_reason) == ((), "")
    assert (found.table.id, found.table.kind) == (known.read().table.id, known.read().table.kind)
    assert found.table.last_usable_end == target_size - BACKUP_BYTES


@pytest.mark.parametrize("target_size", [12 * MIB, 17 * MIB])
def test_the_table_of_a_4096_byte_sector_disk_moves(target_size):
    known = case("gpt-4096")
    found = read(restored(known.content, target_size, sector_size=4096), sector_size=4096)
    assert found.partitions == known.read().partitions
    assert (found.table.problems, found.whole_reason) == ((), "")


def test_only_the_fields_that_must_change_do():
    content = case("gpt-512").content
    target = restored(content, 20 * MIB)
    changed = {at for at in range(1 * MIB) if content[at] != target[at]}
    allowed = {*range(458, 462), *range(512 + 16, 512 + 20), *range(512 + 32, 512 + 40), *range(512 + 48, 512 + 56)}
    assert changed <= allowed
    assert changed & set(range(512 + 32, 512 + 40))
    middle_end = 16 * MIB - BACKUP_BYTES
    assert content[MIB:middle_end] == target[MIB:middle_end]


def test_the_entry_array_is_the_same_bytes_at_the_new_end():
    content = case("gpt-512").content
    target = restored(content, 20 * MIB)
    assert target[-BACKUP_BYTES:-512] == content[1024 : 1024 + 16384]


def test_the_old_backup_is_erased_on_a_larger_disk():
    _, stale, said = moves(case("gpt-512").content, 20 * MIB)
    assert stale == Extents.single(16 * MIB - BACKUP_BYTES, 16 * MIB)
    assert any("erased" in text for text in said)


def test_where_old_and_new_backup_overlap_the_new_one_wins():
    patches, stale, _ = moves(case("gpt-512").content, 16 * MIB + 1024)
    written = Extents.of((each.offset, each.offset + len(each.content)) for each in patches)
    assert not len(stale & written)
    assert read(restored(case("gpt-512").content, 16 * MIB + 1024)).table.problems == ()


@pytest.mark.parametrize(("target_size", "missing"), [
    (NEEDED, 0), (NEEDED - 1, 512), (NEEDED - 512, 512), (NEEDED - 513, 1024), (0, NEEDED), (99 * MIB, 0),
])  # fmt: skip
def test_missing_bytes_of_a_gpt_count_its_backup(target_size, missing):
    assert missing_bytes(layout_of(case("gpt-512").content), target_size) == missing


def test_missing_bytes_of_an_mbr_count_the_extended_partition():
    layout = layout_of(case("mbr-logicals").content)
    assert missing_bytes(layout, 28192 * 512) == 0
    assert missing_bytes(layout, 28191 * 512) == 512


@pytest.mark.parametrize("target_size", [28192 * 512, 20 * MIB])
def test_an_mbr_needs_nothing_on_another_size(target_size):
    assert moves(case("mbr-logicals").content, target_size) == ([], Extents(), [])


def test_what_is_too_small_is_refused_with_the_number_of_bytes():
    with pytest.raises(TargetTooSmall) as caught:
        moves(case("gpt-512").content, NEEDED - 512)
    assert caught.value.facts["missing_bytes"] == 512


@pytest.mark.parametrize(("name", "target_sector"), [("gpt-512", 4096), ("gpt-4096", 512), ("mbr-logicals", 4096)])
def test_other_sectors_are_refused(name, target_sector):
    known = case(name)
    layout = layout_of(known.content, sector_size=known.sector_size)
    with pytest.raises(TargetRefused) as caught:
        relocate(layout, MemoryReader(known.content), 64 * MIB, target_sector)
    assert str(target_sector) in str(caught.value)
    assert caught.value.hint


def whole_disk_file_system(size_bytes: int | None, reason: str = "") -> Layout:
    content = Content("filesystem", "ext4", size_bytes=size_bytes, whole_reason=reason)
    return layout_of(bytes(4 * MIB), whole=content)


def test_a_file_system_on_the_disk_fits_where_it_ends():
    layout = whole_disk_file_system(3 * MIB)
    assert missing_bytes(layout, 3 * MIB) == 0
    assert missing_bytes(layout, 3 * MIB - 512) == 512
    assert relocate(layout, MemoryReader(bytes(4 * MIB)), 3 * MIB, 512) == ([], Extents(), [])


@pytest.mark.parametrize("layout", [
    whole_disk_file_system(3 * MIB, "dirty"),
    whole_disk_file_system(None),
    whole_disk_file_system(9 * MIB),
    layout_of(bytes(4 * MIB)),
])  # fmt: skip
def test_a_disk_whose_content_is_not_known_needs_all_of_its_size(layout):
    assert missing_bytes(layout, 4 * MIB - 512) == 512


def test_a_disk_without_table_may_go_to_shorter_sectors_only():
    layout = layout_of(bytes(4 * MIB), sector_size=4096)
    relocate(layout, MemoryReader(bytes(4 * MIB)), 8 * MIB, 512)
    with pytest.raises(TargetRefused):
        relocate(whole_disk_file_system(MIB), MemoryReader(bytes(4 * MIB)), 8 * MIB, 4096)


def test_a_table_that_is_not_relied_on_is_left_alone():
    content = disk("gpt-512").put(0, 446, bytes(64))
    patches, stale, said = moves(content, 20 * MIB)
    assert (patches, len(stale)) == ([], 0)
    assert "no protective record" in said[0]
    assert missing_bytes(layout_of(content), 16 * MIB - 512) == 512


def test_a_damaged_primary_stays_and_its_backup_moves():
    content = disk("gpt-512").put(1, 16, b"\x5a")
    target = restored(content, 20 * MIB)
    found = read(target)
    assert target[512:1024] == content[512:1024]
    assert found.partitions == case("gpt-512").read().partitions
    assert found.table.last_usable_end == 20 * MIB - BACKUP_BYTES
    assert any("damaged in the image" in text for text in moves(content, 20 * MIB)[2])


@pytest.mark.parametrize("damage", [b"\x5a" * 512, b"EFI PART" + b"\x5a" * 504])
def test_a_damaged_backup_is_made_anew(damage):
    content = disk("gpt-512").put(32767, 0, damage)
    target = restored(content, 20 * MIB)
    assert read(target).table.problems == ()
    assert b"EFI PART" not in target[1024:-512]
    assert any("made anew" in text for text in moves(content, 20 * MIB)[2])


@pytest.mark.parametrize("target_size", [13 * MIB, 16 * MIB, 18 * MIB, 20 * MIB + 512, 30 * MIB])
def test_a_grown_disk_gets_its_backup_to_the_end_of_another(target_size):
    content = disk("gpt-512") + bytes(4 * MIB)
    found = read(restored(content, target_size))
    assert found.partitions == case("gpt-512").read().partitions
    assert found.table.problems == ()


def test_two_damaged_copies_move_nothing():
    content = disk("gpt-512").put(1, 16, b"\x5a").put(32767, 16, b"\x5a")
    assert moves(content, 20 * MIB)[:2] == ([], Extents())


def protective_size(content: bytes, target_size: int) -> int:
    return Disk(restored(content, target_size)).get_number(0, 446 + 12)


def test_the_protective_record_follows_the_size_of_the_disk():
    assert protective_size(case("gpt-512").content, 20 * MIB) == 20 * 2048 - 1


def test_a_protective_record_that_always_says_ffffffff_keeps_it():
    assert protective_size(disk("gpt-512").put_number(0, 446 + 12, 0xFFFFFFFF), 20 * MIB) == 0xFFFFFFFF


def test_a_protective_record_that_covers_something_else_stays():
    assert protective_size(disk("gpt-512").put_number(0, 446 + 12, 4711), 20 * MIB) == 4711


class LargeDisk(MemoryReader):
    """A GPT disk of 3 TiB with nothing but its table in memory."""

    def __init__(self, small: bytes, size: int) -> None:
        super().__init__(small)
        self.size = size

    def _read(self, offset: int, length: int) -> bytes:
        return super()._read(offset, length).ljust(length, b"\0")


def test_the_protective_record_is_capped_beyond_2_tib():
    layout = layout_of(disk("gpt-512"))
    patches, _, _ = relocate(layout, MemoryReader(bytes(disk("gpt-512"))), 3 * 2**40, 512)
    assert next(each.content for each in patches if each.offset == 458) == b"\xff\xff\xff\xff"


def test_a_disk_beyond_2_tib_gets_its_real_size_on_a_small_one():
    reader = LargeDisk(bytes(disk("gpt-512").put_number(0, 458, 0xFFFFFFFF)), 3 * 2**40)
    patches, _, _ = relocate(layout_of(disk("gpt-512")), reader, 20 * MIB, 512)
    assert next(each.content for each in patches if each.offset == 458) == (20 * 2048 - 1).to_bytes(4, "little")


def test_bytes_after_the_fields_of_the_headers_stay():
    content = disk("gpt-512").put(1, 100, b"primary's own").put(32767, 100, b"backup's own")
    target = restored(content, 20 * MIB)
    assert target[512 + 100 :].startswith(b"primary's own")
    assert target[-512 + 100 :].startswith(b"backup's own")


def test_a_longer_header_keeps_what_its_checksum_covers():
    content = disk("gpt-512").put_number(1, 12, 128).put(1, 92, b"vendor").seal(1)
    found = read(restored(content, 20 * MIB))
    assert found.partitions == case("gpt-512").read().partitions
    assert found.table.problems == ()


def test_table_and_boot_ranges_share_sector_0_and_nothing_else():
    layout = layout_of(case("gpt-512").content)
    table, boot = table_only_ranges(layout), boot_only_ranges(layout)
    assert not len(table & boot)
    assert boot.holds(0, 440)
    assert not boot.touches(440, 512)
    assert table.holds(440, 1024 + 16384)


def test_boot_only_takes_the_bios_boot_partition_and_no_other():
    layout = layout_of(case("gpt-512").content)
    partitions = Extents.of((entry.start, entry.end) for entry in layout.partitions)
    assert boot_only_ranges(layout) & partitions == Extents.of([BIOS_BOOT_END])


@st.composite
def disks(draw):
    """Sizes in sectors and partitions that fit: first and last LBA, in any order of numbers."""
    sector = draw(st.sampled_from([512, 4096]))
    count, entry_bytes = draw(st.sampled_from([(128, 128), (256, 128), (128, 256), (5, 128)]))
    array = -(-count * entry_bytes // sector)
    lengths = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), min_size=1, max_size=5))
    at, spans = 2 + array, []
    for gap, length in lengths:
        spans.append((at + gap, at + gap + length - 1))
        at += gap + length
    needed = at + array + 1
    old, new = draw(st.integers(needed, needed + 200)), draw(st.integers(needed, needed + 200))
    return sector, count, entry_bytes, draw(st.permutations(spans)), old, new


@settings(max_examples=150)
@given(disks())
def test_any_table_moves_to_any_size_that_fits(drawn):
    sector, count, entry_bytes, spans, old, new = drawn
    content = make_gpt(old * sector, spans, sector=sector, count=count, entry_bytes=entry_bytes)
    before = read(content, sector_size=sector)
    assert (before.table.problems, before.whole_reason) == ((), "")
    target = restored(content, new * sector, sector_size=sector, junk=b"\xa5")
    after = read(target, sector_size=sector)
    assert after.partitions == before.partitions
    assert (after.table.problems, after.whole_reason) == ((), "")
    for entry in before.partitions:
        assert target[entry.start : entry.end] == content[entry.start : entry.end]


@settings(max_examples=80)
@given(disks())
def test_there_and_back_gives_the_same_disk(drawn):
    sector, count, entry_bytes, spans, old, new = drawn
    content = make_gpt(old * sector, spans, sector=sector, count=count, entry_bytes=entry_bytes)
    there = restored(content, new * sector, sector_size=sector)
    assert restored(there, old * sector, sector_size=sector) == content


@settings(max_examples=80)
@given(disks(), st.integers(1, 30))
def test_one_sector_too_few_is_refused(drawn, shortfall):
    sector, count, entry_bytes, spans, old, _ = drawn
    layout = layout_of(
        make_gpt(old * sector, spans, sector=sector, count=count, entry_bytes=entry_bytes), sector_size=sector
    )
    array = -(-count * entry_bytes // sector)
    needed = (max(end for _, end in spans) + 1 + array + 1) * sector
    assert missing_bytes(layout, needed) == 0
    assert missing_bytes(layout, needed - shortfall) in (sector, 0 if needed - shortfall >= old * sector else sector)


def test_last_usable_is_what_ends_before_the_backup():
    target = Disk(restored(case("gpt-512").content, 20 * MIB))
    assert target.get_number(1, LAST_USABLE, 8) == 20 * 2048 - 1 - 32 - 1


def test_an_old_backup_inside_of_a_partition_is_never_erased():
    """The primary is damaged, and the protective record ends where an old backup lies in a partition's free space."""
    old = make_gpt(16 * MIB, [(2048, 36863)])
    content = Disk(make_gpt(20 * MIB, [(2048, 36863)])).put(32767, 0, old[-512:]).put(32735, 0, old[-BACKUP_BYTES:-512])
    content.put_number(0, 458, 32767).put(1, 16, b"bad!")
    assert not read(content).whole_reason
    target = restored(content, 30 * MIB)
    assert target[MIB : 18 * MIB] == content[MIB : 18 * MIB]
    assert read(target).partitions == read(content).partitions
