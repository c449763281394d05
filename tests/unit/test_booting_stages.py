# SPDX-License-Identifier: GPL-3.0-or-later
"""What a restore says that it will do for the firmware, and how loaders get onto the fallback path."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from imager.booting.boot_manager import carry_out
from imager.booting.device_path import HardDrive
from imager.booting.entries import EntryPlan, plan_entries
from imager.booting.fallback import copy_loaders
from imager.booting.firmware import Firmware
from imager.booting.loaders import Copy, find_loaders, plan_fallback
from imager.booting.system_partition import SystemPartition, hard_drive, is_bios_system, is_system_partition
from imager.errors import StageFailed, VolumeFailed
from imager.layout import Identity, Layout, Partition, Table
from imager.process import ProgramFailed
from imager.restore import boot_entries_stage
from imager.restore.boot_entries_stage import BootEntries

PLACE = HardDrive(1, 2048, 32768, "11111111-2222-3333-4444-555555555555", is_gpt=True)
SHIM = "\\EFI\\debian\\shimx64.efi"
FILES = {path.casefold(): path for path in (SHIM, "\\EFI\\debian\\grubx64.efi")}
LOADERS = find_loaders(FILES, {}, "x64")
ESP = SystemPartition(PLACE, "/dev/sda", LOADERS, FILES, plan_fallback(FILES, LOADERS, "x64"))
UEFI = Firmware(is_uefi=True, can_write=True)
BIOS = Firmware(is_uefi=False)


@pytest.fixture(autouse=True)
def _with_efibootmgr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_entries_stage, "find_program", lambda name: f"/usr/bin/{name}")


def stage(firmware: Firmware, *partitions: SystemPartition, is_bios_system: bool = False) -> BootEntries:
    plan = plan_entries(firmware, partitions, {PLACE.signature}) if partitions else EntryPlan()
    return BootEntries(firmware, partitions, plan, ("/dev/sda",), is_bios_system)


def test_every_change_is_in_the_plan() -> None:
    assert stage(UEFI, ESP).lines() == [
        f"copy {SHIM} to \\EFI\\BOOT\\BOOTX64.EFI on partition 1, as it is missing",
        "copy \\EFI\\debian\\grubx64.efi to \\EFI\\BOOT\\grubx64.efi on partition 1, as it is missing",
        f'make the boot entry "debian": {SHIM} on partition 1 ({PLACE.signature})',
        'let the firmware try first: "debian"; the other entries come after',
    ]


def test_a_stream_cannot_be_looked_into_before() -> None:
    (line,) = stage(UEFI, SystemPartition(PLACE, "/dev/sda")).lines()
    assert "which are known when it is written" in line


@pytest.mark.parametrize(
    ("firmware", "said"),
    [
        (replace(UEFI, can_write=False), "make no boot entries, as the firmware's variables cannot be written"),
        (BIOS, "leave the firmware alone, as BIOS started this machine"),
    ],
)
def test_what_is_not_done_is_said(firmware: Firmware, said: str) -> None:
    assert said in stage(firmware, ESP).lines()[-1]


def test_a_system_for_bios_on_a_machine_with_uefi_is_told() -> None:
    (line,) = stage(UEFI, is_bios_system=True).lines()
    assert "switch its firmware to legacy mode (CSM)" in line
    assert not stage(BIOS, is_bios_system=True).lines()
    assert not stage(UEFI).lines()


def test_without_efibootmgr_the_menu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_entries_stage, "find_program", lambda name: None)
    assert "efibootmgr is not installed: choose the disk in the firmware's boot menu" in stage(UEFI, ESP).lines()[-1]


def test_a_hostile_label_does_not_get_out_of_its_quotes_in_commands_to_copy() -> None:
    evil = "\\EFI\\x'; rm -rf ~; '\\shimx64.efi"
    files = {evil.casefold(): evil}
    system = SystemPartition(PLACE, "/dev/null", find_loaders(files, {}, "x64"), files)
    plan = plan_entries(UEFI, [system], set())

    def fails() -> Firmware:
        raise ProgramFailed("no")

    with pytest.raises(StageFailed) as caught:
        carry_out(plan, read=fails)
    words = shlex.split(caught.value.hint.split("Try by hand: ")[1].split(". Or choose")[0])
    assert words[words.index("--loader") + 1] == evil


# Partitions of a layout.


def layout(kind: str, *partitions: Partition) -> Layout:
    return Layout(Identity(), 2**30, 512, 512, Table(kind, id="deadbeef"), partitions)  # type: ignore[arg-type]


def test_system_partitions_are_known_by_their_types() -> None:
    esp = Partition(1, 2**20, 2**21, type="c12a7328-f81f-11d2-ba4b-00a0c93ec93b", uuid=PLACE.signature.upper())
    gpt = layout("gpt", esp)
    assert is_system_partition(gpt, esp)
    assert hard_drive(gpt, esp) == HardDrive(1, 2048, 2048, PLACE.signature, is_gpt=True)
    old = Partition(2, 2**20, 2**21, type="ef", attributes="80")
    mbr = layout("mbr", old)
    assert is_system_partition(mbr, old)
    assert hard_drive(mbr, old) == HardDrive(2, 2048, 2048, "deadbeef", is_gpt=False)
    assert is_bios_system(mbr)
    assert not is_bios_system(gpt)


# The fallback path.


def test_loaders_are_copied_and_never_over_others(tmp_path: Path) -> None:
    for name, text in (("debian/shimx64.efi", "shim"), ("debian/grubx64.efi", "grub"), ("BOOT/grubx64.efi", "other")):
        path = tmp_path / "EFI" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    copy_loaders(tmp_path, ESP.fallback)
    assert {path.name: path.read_text() for path in (tmp_path / "EFI/BOOT").iterdir()} == {
        "BOOTX64.EFI": "shim",
        "grubx64.efi": "other",
    }


def test_a_loader_that_cannot_be_copied_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "EFI/debian").mkdir(parents=True)
    with pytest.raises(VolumeFailed, match="could not be copied"):
        copy_loaders(tmp_path, [Copy(SHIM, "\\EFI\\BOOT\\BOOTX64.EFI")])
    assert not list((tmp_path / "EFI/BOOT").iterdir())


def test_paths_of_a_partition_stay_on_it(tmp_path: Path) -> None:
    esp = tmp_path / "esp"
    (esp / "EFI").mkdir(parents=True)
    (esp / "EFI/a").write_text("x")
    copy_loaders(esp, [Copy("\\EFI\\a", "\\..\\..\\b")])
    assert (esp / "b").exists()
    assert not (tmp_path / "b").exists()
