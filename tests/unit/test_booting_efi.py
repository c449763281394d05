# SPDX-License-Identifier: GPL-3.0-or-later
"""The firmware's bytes: read like efibootmgr reads them, refused when they are hostile."""

from __future__ import annotations

import contextlib
import re
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imager.blocks import MemoryReader
from imager.booting.device_path import FilePath, HardDrive, OtherNode, device_path_bytes, parse_device_path
from imager.booting.firmware import GLOBAL, read_firmware
from imager.booting.load_option import LoadOption, boot_order_bytes, load_option, parse_boot_order, parse_load_option
from imager.booting.loaders import find_loaders, parse_boot_csv, plan_fallback
from imager.booting.system_partition import system_partitions
from imager.booting.utf16 import Malformed
from imager.devices.opening import open_source
from imager.errors import SourceError
from imager.filesystems.base import NotTrusted
from imager.filesystems.fat.files import FatFiles
from imager.survey import Disk, survey
from tests.harness.disks import MIB, Part, gpt_disk, mbr_disk
from tests.harness.programs import call

CORPUS = Path(__file__).parents[1] / "corpus/efi"
GUID = "11111111-2222-3333-4444-555555555555"


def recorded(name: str) -> dict[str, bytes]:
    lines = (CORPUS / name).read_text().splitlines()
    return {word: bytes.fromhex(content) for word, content in (line.split() for line in lines)}


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The recorded variables below a root folder."""
    place = tmp_path / "sys/firmware/efi/efivars"
    place.mkdir(parents=True)
    (place.parent / "fw_platform_size").write_text("64\n")
    for name, content in recorded("ovmf.txt").items():
        (place / name).write_bytes(content)
    return tmp_path


def efibootmgr_says() -> dict[int, tuple[str, str]]:
    """Label and path of each entry, as efibootmgr printed them."""
    lines = re.findall(r"^Boot([0-9A-F]{4})\* (.*?)\s*\t(.*)$", (CORPUS / "efibootmgr.txt").read_text(), re.MULTILINE)
    return {int(number, 16): (label, path) for number, label, path in lines}


def test_entries_are_those_that_efibootmgr_lists(machine: Path) -> None:
    firmware = read_firmware(machine)
    assert firmware.is_uefi
    assert firmware.words == "UEFI"
    assert firmware.order == (1, 2, 3, 0, 4)
    expected = efibootmgr_says()
    assert len(expected) == 8
    assert {number: option.description.strip() for number, option in firmware.entries.items()} == {
        number: label for number, (label, _) in expected.items()
    }
    for number, option in firmware.entries.items():
        if option.partition:
            assert f"{option.partition}/File({option.file})" == expected[number][1].split(" ")[0]
    assert {number for number, option in firmware.entries.items() if option.partition} == {5, 6, 7}
    assert firmware.entries[6].arguments == b"a\0b\0"


def test_our_bytes_are_those_of_efibootmgr(machine: Path) -> None:
    raw = recorded("ovmf.txt")
    for number, option in read_firmware(machine).entries.items():
        assert option.to_bytes() == raw[f"Boot{number:04X}-{GLOBAL}"][4:]
    partition = HardDrive(1, 0x800, 0x8000, GUID, is_gpt=True)
    made = load_option("Fedora æ", partition, "\\EFI\\fedora\\shimx64.efi", b"a\0b\0")
    assert made.to_bytes() == raw[f"Boot0006-{GLOBAL}"][4:]


def test_a_machine_that_bios_started_has_none(tmp_path: Path) -> None:
    firmware = read_firmware(tmp_path)
    assert not firmware.is_uefi
    assert firmware.words == "BIOS"
    assert not firmware.entries


@pytest.mark.parametrize("cut", range(1, 118))
def test_an_entry_that_was_cut_off_is_refused_or_has_fewer_arguments(cut: int) -> None:
    raw = recorded("ovmf.txt")[f"Boot0005-{GLOBAL}"][4:]
    with pytest.raises(Malformed):
        parse_load_option(raw[: len(raw) - cut])


def test_an_entry_that_cannot_be_understood_is_left_alone(machine: Path) -> None:
    odd = machine / f"sys/firmware/efi/efivars/Boot0009-{GLOBAL}"
    odd.write_bytes(b"\x07\0\0\0" + b"\xff" * 40)
    firmware = read_firmware(machine)
    assert firmware.not_understood == (9,)
    assert 9 not in firmware.entries


@given(st.binary(max_size=300))
def test_any_bytes_are_an_entry_or_refused(raw: bytes) -> None:
    for parse in (parse_load_option, parse_device_path, parse_boot_order):
        with contextlib.suppress(Malformed):
            parse(raw)


@given(st.integers(0, 117), st.integers(0, 255))
def test_an_entry_with_one_wrong_byte_is_an_entry_or_refused(at: int, value: int) -> None:
    raw = bytearray(recorded("ovmf.txt")[f"Boot0005-{GLOBAL}"][4:])
    raw[at] = value
    with contextlib.suppress(Malformed):
        parse_load_option(bytes(raw))


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
hard_drives = st.builds(
    HardDrive,
    st.integers(1, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.uuids().map(str),
    st.just(True),
)
others = st.builds(OtherNode, st.integers(1, 3), st.integers(0, 255), st.binary(max_size=40))


@given(st.lists(st.one_of(hard_drives, st.builds(FilePath, texts), others), max_size=8), texts, st.binary(max_size=50))
def test_what_is_written_is_read_again(nodes: list[HardDrive | FilePath | OtherNode], name: str, more: bytes) -> None:
    assert parse_device_path(device_path_bytes(nodes)) == tuple(nodes)
    option = LoadOption(name, tuple(nodes), 1, more)
    assert parse_load_option(option.to_bytes()) == option


@given(st.lists(st.integers(0, 0xFFFF), max_size=20))
def test_an_order_is_read_again(numbers: list[int]) -> None:
    assert parse_boot_order(boot_order_bytes(numbers)) == tuple(numbers)


# What is on an EFI system partition.


def files(*paths: str) -> dict[str, str]:
    return {path.casefold(): path for path in paths}


SHIM = "\\EFI\\debian\\shimx64.efi"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["\\EFI\\debian\\grubx64.efi", SHIM], [("debian", SHIM)]),
        (["\\EFI\\GRUB\\grubx64.efi"], [("GRUB", "\\EFI\\GRUB\\grubx64.efi")]),
        (["\\EFI\\systemd\\systemd-bootx64.efi"], [("Linux Boot Manager", "\\EFI\\systemd\\systemd-bootx64.efi")]),
        (
            ["\\EFI\\Microsoft\\Boot\\bootmgfw.efi", "\\EFI\\ubuntu\\shimx64.efi"],
            [
                ("ubuntu", "\\EFI\\ubuntu\\shimx64.efi"),
                ("Windows Boot Manager", "\\EFI\\Microsoft\\Boot\\bootmgfw.efi"),
            ],
        ),
        (["\\EFI\\BOOT\\BOOTX64.EFI", "\\EFI\\BOOT\\grubx64.efi", "\\EFI\\dell\\logs\\a.txt"], []),
        (["\\EFI\\debian\\shimia32.efi"], []),
    ],
)
def test_loaders_are_found_by_their_folders(names: list[str], expected: list[tuple[str, str]]) -> None:
    assert [(each.label, each.file) for each in find_loaders(files(*names), {}, "x64")] == expected


def test_a_table_of_the_vendor_says_label_and_arguments() -> None:
    names = files("\\EFI\\fedora\\shim.efi", "\\EFI\\fedora\\shimx64.efi", "\\EFI\\fedora\\BOOTX64.CSV")
    text = "\ufeffshimx64.efi,Fedora,-x y,This is the boot entry for Fedora\nmissing.efi,Nothing,,\n"
    found = find_loaders(names, {"\\efi\\fedora\\bootx64.csv": text.encode("utf-16-le")}, "x64")
    assert [(each.label, each.file, each.arguments) for each in found] == [
        ("Fedora", "\\EFI\\fedora\\shimx64.efi", "-x y".encode("utf-16-le"))
    ]


@pytest.mark.parametrize("name", ["..\\other\\grubx64.efi", "a/b.efi", "c:x.efi", ""])
def test_a_table_speaks_of_its_own_folder_only(name: str) -> None:
    assert parse_boot_csv(f"{name},Label,,\n".encode("utf-16-le")) == ()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_none(raw: bytes) -> None:
    parse_boot_csv(raw)


def test_the_fallback_path_is_filled_with_all_that_shim_needs() -> None:
    names = files(*(f"\\EFI\\debian\\{name}" for name in ("shimx64.efi", "grubx64.efi", "mmx64.efi", "fbx64.efi")))
    copies = plan_fallback(names, find_loaders(names, {}, "x64"), "x64")
    assert [(copy.source, copy.target) for copy in copies] == [
        (SHIM, "\\EFI\\BOOT\\BOOTX64.EFI"),
        ("\\EFI\\debian\\grubx64.efi", "\\EFI\\BOOT\\grubx64.efi"),
        ("\\EFI\\debian\\mmx64.efi", "\\EFI\\BOOT\\mmx64.efi"),
    ]
    with_table = names | files("\\EFI\\debian\\BOOTX64.CSV")
    copies = plan_fallback(with_table, find_loaders(with_table, {}, "x64"), "x64")
    assert "\\EFI\\BOOT\\fbx64.efi" in [copy.target for copy in copies]


def test_a_loader_at_the_fallback_path_stays() -> None:
    names = files(SHIM, "\\efi\\boot\\bootx64.efi")
    assert plan_fallback(names, find_loaders(names, {}, "x64"), "x64") == ()


# Files of a FAT volume, made by mtools.


def made_esp(disk: Path, start: int, names: list[str], scratch: Path) -> None:
    """Put files on the FAT file system in a disk."""
    image = f"{disk}@@{start}"
    folders: dict[str, None] = {}
    for name in names:
        parts = name.split("/")[:-1]
        folders.update(dict.fromkeys("/".join(parts[: count + 1]) for count in range(len(parts))))
    for folder in folders:
        call("mmd", "-i", image, f"::{folder}")
    for number, name in enumerate(names):
        source = scratch / "source"
        source.write_bytes(f"content of {name} ".encode() * (1 + number * 2000))
        call("mcopy", "-i", image, source, f"::{name}")


ESP_FILES = [
    "EFI/debian/shimx64.efi",
    "EFI/debian/grubx64.efi",
    "EFI/debian/A rather long name, with blanks and Übermut.txt",
    "EFI/Microsoft/Boot/bootmgfw.efi",
    "EFI/Microsoft/Boot/de-DE/bootmgfw.efi.mui",
    "startup.nsh",
]


@pytest.mark.parametrize(("megabytes", "bits"), [(2, 12), (16, 16), (64, 32)])
def test_files_of_a_fat_volume_are_what_mtools_wrote(tmp_path: Path, megabytes: int, bits: int) -> None:
    volume = tmp_path / "fat"
    with volume.open("wb") as file:
        file.truncate(megabytes * MIB)
    call("mkfs.fat", "-F", bits, *(["-s", 1] if bits == 32 else []), volume)
    made_esp(volume, 0, ESP_FILES, tmp_path)
    with open_source(volume) as reader:
        fat = FatFiles(reader)
        assert {entry.name for entry in fat.folder("EFI/DEBIAN")} == {Path(name).name for name in ESP_FILES[:3]}
        for number, name in enumerate(ESP_FILES):
            assert fat.read(name, most_bytes=MIB) == f"content of {name} ".encode() * (1 + number * 2000)
        assert fat.read("EFI/debian/none", most_bytes=1) is None
        with pytest.raises(NotTrusted, match="more than 10"):
            fat.read(ESP_FILES[1], most_bytes=10)


@pytest.mark.parametrize("kind", ["gpt", "mbr"])
def test_a_disk_says_what_can_be_started_from_it(tmp_path: Path, kind: str) -> None:
    disk = tmp_path / "disk"
    part = Part(16 * MIB, type="U" if kind == "gpt" else "ef", uuid=GUID if kind == "gpt" else "")
    (gpt_disk if kind == "gpt" else mbr_disk)(disk, 32 * MIB, [part])
    call("mformat", "-i", f"{disk}@@{MIB}", "-T", 16 * MIB // 512, "-h", "16", "-s", "63", "::")
    made_esp(disk, MIB, ESP_FILES, tmp_path)
    with open_source(disk) as reader:
        layout = survey([Disk(reader, str(disk))])[0].layout
        (found,) = system_partitions(reader, layout, "x64", "/dev/x")
    assert [loader.label for loader in found.loaders] == ["debian", "Windows Boot Manager"]
    assert [copy.target for copy in found.fallback] == ["\\EFI\\BOOT\\BOOTX64.EFI", "\\EFI\\BOOT\\grubx64.efi"]
    signature = GUID if kind == "gpt" else "deadbeef"
    assert found.partition == HardDrive(1, 2048, 32768, signature, is_gpt=kind == "gpt")


@given(st.integers(0, 8191), st.binary(min_size=1, max_size=8))
def test_a_damaged_fat_volume_is_read_or_refused(at: int, junk: bytes) -> None:
    raw = bytearray(small_fat())
    raw[at * 3 : at * 3 + len(junk)] = junk
    with contextlib.suppress(NotTrusted, SourceError):
        fat = FatFiles(MemoryReader(bytes(raw)))
        for entry in fat.folder("EFI/debian"):
            fat.read(f"EFI/debian/{entry.name}", most_bytes=MIB)


@cache
def small_fat() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        volume = Path(folder, "fat")
        with volume.open("wb") as file:
            file.truncate(MIB // 4)
        call("mkfs.fat", "-F", "12", volume)
        made_esp(volume, 0, ["EFI/debian/shimx64.efi"], Path(folder))
        return volume.read_bytes()
