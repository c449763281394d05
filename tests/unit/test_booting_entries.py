# SPDX-License-Identifier: GPL-3.0-or-later
"""Which boot entries a restored disk needs, for firmware that knew it, knew it elsewhere, or never saw it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from imager.booting.device_path import HardDrive, OtherNode
from imager.booting.entries import EntryPlan, NewEntry, plan_entries
from imager.booting.firmware import Firmware
from imager.booting.load_option import LoadOption, load_option
from imager.booting.loaders import Loader, find_loaders
from imager.booting.system_partition import SystemPartition

HERE = HardDrive(1, 2048, 32768, "11111111-2222-3333-4444-555555555555", is_gpt=True)
GONE = replace(HERE, signature="99999999-2222-3333-4444-555555555555")
ELSEWHERE = replace(HERE, signature="77777777-2222-3333-4444-555555555555")
SHIM = "\\EFI\\debian\\shimx64.efi"
WINDOWS = "\\EFI\\Microsoft\\Boot\\bootmgfw.efi"
PRESENT = {HERE.signature, ELSEWHERE.signature}
DVD = LoadOption("UEFI DVD", (OtherNode(2, 1, b"\xd0\x41\x03\x0a\0\0\0\0"),))


def esp(*paths: str) -> SystemPartition:
    files = {path.casefold(): path for path in paths}
    return SystemPartition(HERE, "/dev/sda", find_loaders(files, {}, "x64"), files)


def firmware(entries: dict[int, LoadOption], order: tuple[int, ...] | None = None) -> Firmware:
    return Firmware(True, can_write=True, entries=entries, order=tuple(entries) if order is None else order)


def planned(entries: dict[int, LoadOption], *paths: str, order: tuple[int, ...] | None = None) -> EntryPlan:
    return plan_entries(firmware(entries, order), [esp(*(paths or (SHIM,)))], PRESENT)


def test_a_machine_that_never_saw_the_disk_gets_its_entry_first() -> None:
    plan = planned({3: DVD})
    assert plan.first == (NewEntry(Loader("debian", SHIM), HERE, "/dev/sda"),)
    assert plan.order_with([7]) == (7, 3)
    assert list(plan.sentences()) == [
        f'make the boot entry "debian": {SHIM} on partition 1 ({HERE.signature})',
        'let the firmware try first: "debian"; the other entries come after',
    ]


def test_an_entry_that_fits_is_kept_and_tried_first() -> None:
    plan = planned({3: DVD, 5: load_option("debian", HERE, SHIM)})
    assert plan.first == (5,)
    assert not plan.new
    assert plan.order_with([]) == (5, 3)
    assert not planned({5: load_option("debian", HERE, SHIM), 3: DVD}).is_needed


def test_an_entry_for_another_place_of_the_partition_is_replaced() -> None:
    old = load_option("My Debian", replace(HERE, start_lba=4096), SHIM, b"\1\2")
    plan = planned({2: old, 3: DVD})
    assert plan.new == (NewEntry(Loader("My Debian", SHIM, b"\1\2"), HERE, "/dev/sda", replaces=2),)
    assert plan.removed == (2,)
    assert plan.order_with([8]) == (8, 3)


def test_an_entry_for_a_disk_that_is_gone_is_made_again_with_its_name_and_stays() -> None:
    plan = planned({2: load_option("My Debian", GONE, SHIM, b"\1"), 3: DVD})
    assert plan.new == (NewEntry(Loader("My Debian", SHIM, b"\1"), HERE, "/dev/sda", like=2),)
    assert plan.order_with([8]) == (8, 2, 3)
    assert "efibootmgr --bootnum 0002 --delete-bootnum" in plan.notes[0]


def test_entries_of_other_disks_are_not_looked_at() -> None:
    plan = planned({2: load_option("debian", ELSEWHERE, SHIM)})
    assert plan.new == (NewEntry(Loader("debian", SHIM), HERE, "/dev/sda"),)
    assert plan.order_with([0]) == (0, 2)


def test_systems_keep_the_order_that_they_had_and_windows_comes_last_else() -> None:
    had = {1: load_option("Windows", GONE, WINDOWS), 2: load_option("debian", GONE, SHIM)}
    assert [each.loader.label for each in planned(had, SHIM, WINDOWS).new] == ["Windows", "debian"]
    assert [each.loader.label for each in planned({}, WINDOWS, SHIM).new] == ["debian", "Windows Boot Manager"]


def test_an_entry_for_another_loader_in_the_same_folder_is_enough() -> None:
    grub = "\\EFI\\debian\\grubx64.efi"
    plan = planned({4: load_option("debian", HERE, grub)}, SHIM, grub)
    assert plan.first == (4,)


def test_an_entry_whose_file_is_not_there_counts_for_nothing() -> None:
    plan = planned({4: load_option("debian", HERE, "\\EFI\\debian\\other.efi")})
    assert [each.loader.file for each in plan.new] == [SHIM]


def test_an_entry_that_is_switched_off_is_not_what_starts_the_machine() -> None:
    off = replace(load_option("debian", HERE, SHIM), attributes=0)
    assert [each.loader.file for each in planned({4: off}).new] == [SHIM]


def test_partitions_of_an_mbr_are_told_apart_by_their_numbers() -> None:
    here = HardDrive(1, 2048, 32768, "deadbeef", is_gpt=False)
    system = replace(esp(SHIM), partition=here)
    listed = {1: load_option("other", replace(here, number=2), SHIM), 2: load_option("debian", here, SHIM)}
    plan = plan_entries(firmware(listed), [system], {"deadbeef"})
    assert plan.first == (2,)
    assert not plan.removed


def test_twins_of_a_disk_that_is_gone_give_one_entry() -> None:
    again = load_option("debian", GONE, SHIM)
    assert len(planned({1: again, 2: again}).new) == 1


def test_a_partition_that_cannot_be_read_is_named() -> None:
    plan = plan_entries(firmware({}), [SystemPartition(HERE, problem="it is no FAT file system")], PRESENT)
    assert plan.notes == ("EFI system partition 1 cannot be read: it is no FAT file system",)
    assert not plan.is_needed


places = st.sampled_from([HERE, GONE, ELSEWHERE, replace(HERE, start_lba=1), replace(HERE, number=4)])
options = st.builds(
    load_option, st.sampled_from(["debian", "x"]), places, st.sampled_from([SHIM, WINDOWS, "\\EFI\\x\\y.efi"])
)


@given(st.dictionaries(st.integers(0, 6), st.one_of(options, st.just(DVD)), max_size=6), st.permutations(range(7)))
def test_what_was_done_once_has_not_to_be_done_again(entries: dict[int, LoadOption], order: list[int]) -> None:
    """And no entry is lost but those that others replace."""
    listed = tuple(number for number in order if number in entries)
    plan = planned(entries, SHIM, WINDOWS, order=listed)
    free = (number for number in range(100) if number not in entries)
    numbers = [next(free) for _ in plan.new]
    loaders = [entry.loader for entry in plan.new]
    made = {n: load_option(e.label, HERE, e.file, e.arguments) for n, e in zip(numbers, loaders, strict=True)}
    after = {n: option for n, option in entries.items() if n not in plan.removed} | made
    order_after = plan.order_with(numbers)
    assert set(order_after) >= set(listed) - set(plan.removed)
    assert len(set(order_after)) == len(order_after)
    assert not planned(after, SHIM, WINDOWS, order=order_after).is_needed
    for number in order_after[:1]:
        assert after[number].partition == HERE
