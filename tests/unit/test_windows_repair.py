# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Windows needs on another machine: drivers, letters, boot menu. Registries made here; no Windows runs here."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from imager.booting.drivers import Device
from imager.booting.windows.boot_menu import menu_edits
from imager.booting.windows.driver_files import find_driver, machine_of
from imager.booting.windows.edits import Edit, RemoveKey, RemoveValue, SetValue, edit_hive
from imager.booting.windows.installed import Installation
from imager.booting.windows.letters import letter_edits
from imager.booting.windows.places import Named, Places, places
from imager.booting.windows.planning import refusal
from imager.booting.windows.registry import Hive
from imager.booting.windows.storage import plan_storage
from imager.layout import Content, Identity, Layout, Partition, Table
from tests.harness.hives import Tree, binary, dword, make_hive, read_by_hivex, string
from tests.harness.programs import missing_tools

MIB = 1024 * 1024
DISK = "0b2394a9-095e-487d-8d48-719ecd4d78ca"
OTHER_DISK = "376e5397-7d1f-4e4f-a668-5a62c1269e60"
ESP, WINDOWS, RECOVERY = (str(uuid.UUID(int=number)) for number in (0x1111, 0x2222, 0x3333))
NVME = Device("pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02", "nvme")
AHCI = Device("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", "ahci")
INTEL_RAID = Device("pci:v00008086d00002822sv00001AF4sd00001100bc01sc04i00", "ahci")
VIRTIO = Device("virtio:d00000002v00001AF4", "virtio_blk")
needs_hivex = pytest.mark.skipif(bool(missing_tools("hivexsh", "hivexml")), reason="needs libhivex-bin")


# --- Drivers --------------------------------------------------------------------------------------------------------


def service(start: int, name: str, *, override: bool = False) -> Tree:
    return {
        "Start": dword(start),
        "ImagePath": string(f"System32\\drivers\\{name}.sys", 2),
        **({"StartOverride": {"0": dword(3)}} if override else {}),
    }


def windows_10(**more: Tree) -> Tree:
    services: Tree = {
        "storahci": service(3, "storahci", override=True),
        "stornvme": service(3, "stornvme", override=True),
        "pciide": service(3, "pciide"),
        "LSI_SAS": service(3, "lsi_sas"),
        "disk": service(0, "disk"),
        **more,
    }
    return {"ControlSet001": {"Services": services}, "DriverDatabase": {"DeviceIds": {"PCI": {}}}}


def installation(*drivers: str, build: int = 19045, sets: tuple[str, ...] = ("ControlSet001",)) -> Installation:
    files = frozenset(f"{name}.sys" for name in drivers or ("storahci", "stornvme", "lsi_sas", "pciide", "disk"))
    return Installation("Windows", build, processor="amd64", control_sets=sets, drivers=files)


def flat(edits: tuple[tuple[str, tuple[Edit, ...]], ...]) -> list[Edit]:
    return [edit for _, each in edits for edit in each]


def changed(tmp_path: Path, tree: Tree, edits: list[Edit]) -> dict[str, dict[str, tuple[int, bytes]]]:
    path = tmp_path / "SYSTEM"
    path.write_bytes(make_hive(tree))
    edit_hive(path, edits, "SYSTEM")
    return read_by_hivex(path)


@needs_hivex
def test_drivers_that_were_not_needed_are_started(tmp_path):
    tree = windows_10()
    storage = plan_storage(Hive(make_hive(tree), "SYSTEM"), installation(), [NVME])
    assert not storage.missing
    found = changed(tmp_path, tree, flat(storage.edits))
    for name in ("storahci", "stornvme", "pciide"):
        assert found[f"ControlSet001\\Services\\{name}"]["Start"] == (4, bytes(4))
        assert f"ControlSet001\\Services\\{name}\\StartOverride" not in found
    # What this machine has no use for stays as it was.
    assert found["ControlSet001\\Services\\LSI_SAS"]["Start"] == (4, b"\3\0\0\0")
    assert not plan_storage(Hive((tmp_path / "SYSTEM").read_bytes(), "SYSTEM"), installation(), [NVME]).edits


def test_every_control_set_is_changed():
    tree = {name: windows_10()["ControlSet001"] for name in ("ControlSet001", "ControlSet002")}
    sets = ("ControlSet001", "ControlSet002")
    edits = flat(plan_storage(Hive(make_hive(tree), "SYSTEM"), installation(sets=sets), [AHCI]).edits)
    for name in sets:
        assert any(isinstance(edit, SetValue) and edit.key == f"{name}\\Services\\storahci" for edit in edits)
        assert RemoveKey(f"{name}\\Services\\storahci\\StartOverride") in edits


def test_a_driver_without_its_file_is_not_started():
    storage = plan_storage(Hive(make_hive(windows_10()), "SYSTEM"), installation("storahci"), [NVME])
    assert not [edit for edit in flat(storage.edits) if "stornvme" in edit.key]
    (lacking,) = storage.missing
    assert "(nvme): it needs stornvme" in lacking


def test_virtio_without_drivers_is_missing_with_the_way_out():
    (lacking,) = plan_storage(Hive(make_hive(windows_10()), "SYSTEM"), installation(), [VIRTIO]).missing
    assert "needs viostor" in lacking
    assert "--windows-drivers FOLDER" in lacking


def test_intels_raid_is_not_taken_for_ahci():
    (lacking,) = plan_storage(Hive(make_hive(windows_10()), "SYSTEM"), installation(), [INTEL_RAID]).missing
    assert "iaStorV" in lacking
    raid = windows_10(iaStorAC=service(3, "iaStorAC"))
    storage = plan_storage(Hive(make_hive(raid), "SYSTEM"), installation("iastorac"), [INTEL_RAID])
    assert not storage.missing
    assert [words for words, _ in storage.edits] == ["start the driver iaStorAC with Windows"]


def test_an_unknown_controller_is_told():
    storage = plan_storage(Hive(make_hive(windows_10()), "SYSTEM"), installation(), [Device("pci:x", "hpsa")])
    assert not storage.missing
    assert "not known here (hpsa)" in storage.notes[0]


@needs_hivex
def test_what_windows_8_and_later_need_of_virtio_is_put_in(tmp_path):
    tree = windows_10()
    storage = plan_storage(Hive(make_hive(tree), "SYSTEM"), installation(), [VIRTIO], ["viostor"])
    assert not storage.missing
    found = changed(tmp_path, tree, flat(storage.edits))
    assert found["ControlSet001\\Services\\viostor"]["Start"] == (4, bytes(4))
    assert found["ControlSet001\\Services\\viostor"]["ImagePath"] == string("System32\\drivers\\viostor.sys", 2)
    database = "DriverDatabase\\DeviceIds\\PCI\\"
    for device in ("VEN_1AF4&DEV_1001&REV_00", "VEN_1AF4&DEV_1042&REV_01"):
        assert found[database + device] == {"imager_viostor.inf": (3, b"\x01\xff\0\0")}
    package = "DriverDatabase\\DriverPackages\\imager_viostor.inf_boot"
    assert found[package]["Version"][1][:24] == bytes.fromhex("00ff0900000000007be9364d25e3ce11bfc108002be10318")
    assert found[f"{package}\\Configurations\\imager_conf"]["Service"] == string("viostor")
    assert not [path for path in found if "CriticalDeviceDatabase" in path]


@needs_hivex
def test_before_windows_8_devices_are_in_another_key(tmp_path):
    tree: Tree = {"ControlSet001": {"Services": {"msahci": service(3, "msahci")}}}
    storage = plan_storage(
        Hive(make_hive(tree), "SYSTEM"), installation("msahci", build=7601), [AHCI, VIRTIO], ["viostor"]
    )
    assert not storage.missing
    found = changed(tmp_path, tree, flat(storage.edits))
    critical = "ControlSet001\\Control\\CriticalDeviceDatabase\\"
    assert found[f"{critical}pci#cc_0106"]["Service"] == string("msahci")
    assert found[f"{critical}PCI#VEN_1AF4&DEV_1001&REV_00"]["Service"] == string("viostor")
    assert "DriverDatabase" not in found


def driver_file(path: Path, machine: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = b"MZ".ljust(0x3C, b"\0") + (0x80).to_bytes(4, "little")
    path.write_bytes(head.ljust(0x80, b"\0") + b"PE\0\0" + machine.to_bytes(2, "little") + bytes(200))
    return path


def test_the_driver_for_the_right_windows_is_found(tmp_path):
    for release in ("w7", "w10", "w11", "2k19", "xp"):
        driver_file(tmp_path / "viostor" / release / "amd64" / "viostor.sys", 0x8664)
        driver_file(tmp_path / "viostor" / release / "x86" / "viostor.sys", 0x14C)

    def found(build: int, *, server: bool = False, processor: str = "amd64") -> str:
        path = find_driver(tmp_path, "viostor", Installation("", build, server, processor=processor))
        return str(path.relative_to(tmp_path)) if path else ""

    assert found(19045) == "viostor/w10/amd64/viostor.sys"
    assert found(19045, processor="x86") == "viostor/w10/x86/viostor.sys"
    assert found(22631) == "viostor/w11/amd64/viostor.sys"
    assert found(17763, server=True) == "viostor/2k19/amd64/viostor.sys"
    assert found(7601) == "viostor/w7/amd64/viostor.sys"
    assert found(9600) == ""
    assert found(19045, processor="arm64") == ""
    assert find_driver(tmp_path, "vioscsi", Installation("", 19045, processor="amd64")) is None


def test_a_folder_with_the_file_alone_will_do(tmp_path):
    path = driver_file(tmp_path / "VIOSTOR.SYS", 0x8664)
    assert find_driver(tmp_path, "viostor", Installation("", 9600, processor="amd64")) == path
    path.write_bytes(b"MZ no driver")
    assert machine_of(path) == ""
    assert find_driver(tmp_path, "viostor", Installation("", 9600, processor="amd64")) is None


# --- Letters and boot menu ------------------------------------------------------------------------------------------


def layout(kind: str, disk_id: str, entries: list[tuple[int, str]]) -> Layout:
    parts = tuple(Partition(number, start, start + MIB, uuid=guid) for number, (start, guid) in enumerate(entries, 1))
    return Layout(Identity(), 100 * MIB, 512, 512, Table(kind, disk_id), parts)


def gpt(disk_id: str = DISK) -> Layout:
    return layout("gpt", disk_id, [(MIB, ESP), (2 * MIB, WINDOWS), (3 * MIB, RECOVERY)])


def mbr(signature: str = "df4546ae", *starts: int) -> Layout:
    return layout("mbr", signature, [(start, "") for start in starts or (MIB, 525336576)])


def letters(before: Layout | None, after: Layout, values: dict[str, bytes], own: int = 2) -> dict[str, bytes | None]:
    """What becomes of values: their new content, or None."""
    known = places([("/dev/x", after)], {"/dev/x": before} if before else {})
    hive = Hive(make_hive({"MountedDevices": {name: binary(data) for name, data in values.items()}}), "SYSTEM")
    found: dict[str, bytes | None] = {}
    for _, edit in letter_edits(hive, known, known.present["/dev/x", own], "C:"):
        assert isinstance(edit, SetValue | RemoveValue)
        if isinstance(edit, SetValue):
            found[edit.value.name] = edit.value.data
        else:
            found[edit.name] = None
    return found


C_MBR = bytes.fromhex("ae4645df0000501f00000000")  # as a Windows 10 has it: byte 525336576 of disk df4546ae
E_MBR = bytes.fromhex("ae4645df0000100000000000")


def test_letters_that_fit_stay():
    assert letters(mbr(), mbr(), {"\\DosDevices\\C:": C_MBR, "\\DosDevices\\E:": E_MBR}) == {}
    data = b"DMIO:ID:" + uuid.UUID(WINDOWS).bytes_le
    assert letters(gpt(), gpt(OTHER_DISK), {"\\DosDevices\\C:": data}) == {}


def test_a_moved_partition_keeps_its_letter():
    after = mbr("df4546ae", MIB, 600 * MIB)
    found = letters(mbr(), after, {"\\DosDevices\\C:": C_MBR, "\\??\\Volume{a}": C_MBR, "\\DosDevices\\E:": E_MBR})
    new = bytes.fromhex("ae4645df") + (600 * MIB).to_bytes(8, "little")
    assert found == {"\\DosDevices\\C:": new, "\\??\\Volume{a}": new}


def test_a_disk_with_another_signature_keeps_its_letters():
    found = letters(mbr(), mbr("12345678"), {"\\DosDevices\\C:": C_MBR, "\\DosDevices\\E:": E_MBR})
    assert found == {
        "\\DosDevices\\C:": bytes.fromhex("78563412") + C_MBR[4:],
        "\\DosDevices\\E:": bytes.fromhex("78563412") + E_MBR[4:],
    }


def test_without_an_image_the_own_drive_is_known():
    """imager repair-boot knows no image: the drive that Windows is on can be told, others may be of other disks."""
    found = letters(None, mbr("12345678"), {"\\DosDevices\\C:": C_MBR, "\\DosDevices\\E:": E_MBR})
    assert found == {"\\DosDevices\\C:": bytes.fromhex("78563412") + C_MBR[4:]}


def test_a_letter_of_a_place_without_partition_is_removed():
    gone = bytes.fromhex("ae4645df") + (7 * MIB).to_bytes(8, "little")
    assert letters(mbr(), mbr(), {"\\DosDevices\\F:": gone}) == {"\\DosDevices\\F:": None}


def test_letters_of_other_disks_and_things_stay():
    values = {
        "\\DosDevices\\F:": bytes.fromhex("e51b2b000000100000000000"),
        "\\DosDevices\\D:": "\\??\\SCSI#CdRom".encode("utf-16-le"),
        "\\DosDevices\\G:": b"DMIO:ID:" + bytes(range(16)),
    }
    assert letters(mbr(), mbr("12345678", 3 * MIB, 4 * MIB), values) == {}


# The bytes of a Windows 10's own boot menu (its GUIDs are DISK and the three below), as regipy has it for its tests.
RAMDISK_HEAD = (
    "e7623b7308f6eb11825cc112f60133ab0000000001000000b80000000000000003000000000000000000000000000000000000000000000001"
    "000000900000000500000006000000000000004800000000000000"
)
RAMDISK_TAIL = (
    "000000000000000000000000000000005c005200650063006f0076006500720079005c00570069006e0064006f0077007300520045005c"
    "00570069006e00720065002e00770069006d000000"
)


def device(disk: str, part: str) -> bytes:
    """A partition of a GPT, as bcdedit writes it."""
    head = "00000000000000000000000000000000" + "06000000000000004800000000000000"
    return bytes.fromhex(f"{head}{hexed(part)}0000000000000000{hexed(disk)}" + "00" * 16)


def ramdisk(disk: str, part: str) -> bytes:
    """A file on a partition of a GPT that becomes a disk in memory."""
    return bytes.fromhex(f"{RAMDISK_HEAD}{hexed(part)}0000000000000000{hexed(disk)}{RAMDISK_TAIL}")


def mbr_device(signature: str, start: int) -> bytes:
    """A partition of an MBR, as BCD-SYS writes it."""
    head = "00000000000000000000000000000000" + "06000000000000004800000000000000"
    place = start.to_bytes(16, "little").hex()
    number = int(signature, 16).to_bytes(16, "little").hex()
    return bytes.fromhex(f"{head}{place}0000000001000000{number}" + "00" * 16)


def hexed(guid: str) -> str:
    first, second, third, *rest = guid.split("-")
    turned = (
        "".join(reversed([part[at : at + 2] for at in range(0, len(part), 2)])) for part in (first, second, third)
    )
    return "".join((*turned, *rest))


BOOT_MANAGER = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}"


def entry(kind: int, title: str, **devices: bytes) -> Tree:
    elements: Tree = {name.strip("_"): {"Element": binary(data)} for name, data in devices.items()}
    return {"Description": {"Type": dword(kind)}, "Elements": {**elements, "12000004": {"Element": string(title)}}}


def store(manager: bytes, loader: bytes, wim: bytes) -> Tree:
    return {
        "Objects": {
            BOOT_MANAGER: entry(0x10100002, "Windows Boot Manager", _11000001=manager),
            "{1}": entry(0x10200003, "Windows 10", _11000001=loader, _21000001=loader, _22000002=b"no device"),
            "{2}": entry(0x10200003, "Windows Recovery Environment", _11000001=wim, _21000001=wim),
            "{3}": entry(0x101FFFFF, "Linux Boot Manager", _11000001=device(OTHER_DISK, RECOVERY)),
        }
    }


def mended(
    tree: Tree, known: Places, tmp_path: Path, windows: int | None = 2
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The devices of a store that was mended, and what is unclear."""
    hive = Hive(make_hive(tree), "BCD")
    own, win = known.present["/dev/x", 1], known.present["/dev/x", windows] if windows else None
    menu = menu_edits(hive, known, own, win)
    found = changed(tmp_path, tree, [edit for _, edit in menu.edits]) if menu.edits else {}
    devices = {
        path.removeprefix("Objects\\").replace("\\Elements\\", " "): values["Element"][1]
        for path, values in found.items()
        if path[-7:] == "1000001"
    }
    return devices, menu.unclear


GOOD = store(device(DISK, ESP), device(DISK, WINDOWS), ramdisk(DISK, RECOVERY))


def test_a_menu_that_fits_stays(tmp_path):
    assert mended(GOOD, places([("/dev/x", gpt())], {}), tmp_path) == ({}, ())


@needs_hivex
def test_a_menu_gets_the_new_guids(tmp_path):
    new = ["11111111-0000-4000-8000-00000000000" + each for each in "123"]
    after = layout("gpt", OTHER_DISK, list(zip((MIB, 2 * MIB, 3 * MIB), new, strict=True)))
    found, unclear = mended(GOOD, places([("/dev/x", after)], {"/dev/x": gpt()}), tmp_path)
    assert found == {
        f"{BOOT_MANAGER} 11000001": device(OTHER_DISK, new[0]),
        "{1} 11000001": device(OTHER_DISK, new[1]),
        "{1} 21000001": device(OTHER_DISK, new[1]),
        "{2} 11000001": ramdisk(OTHER_DISK, new[2]),
        "{2} 21000001": ramdisk(OTHER_DISK, new[2]),
        "{3} 11000001": device(OTHER_DISK, RECOVERY),
    }
    assert not unclear


@needs_hivex
def test_a_new_guid_of_the_disk_is_enough_to_mend(tmp_path):
    found, unclear = mended(GOOD, places([("/dev/x", gpt(OTHER_DISK))], {}), tmp_path)
    assert found["{2} 11000001"] == ramdisk(OTHER_DISK, RECOVERY)
    assert found["{1} 21000001"] == device(OTHER_DISK, WINDOWS)
    assert not unclear


@needs_hivex
def test_a_moved_partition_of_an_mbr_is_followed(tmp_path):
    tree = store(mbr_device("df4546ae", MIB), mbr_device("df4546ae", 525336576), b"")
    after = mbr("df4546ae", MIB, 600 * MIB)
    found, _ = mended(tree, places([("/dev/x", after)], {"/dev/x": mbr()}), tmp_path)
    assert found[f"{BOOT_MANAGER} 11000001"] == mbr_device("df4546ae", MIB)
    assert found["{1} 11000001"] == mbr_device("df4546ae", 600 * MIB)


@needs_hivex
def test_an_mbr_that_became_a_gpt_is_followed(tmp_path):
    tree = store(mbr_device("df4546ae", MIB), mbr_device("df4546ae", 525336576), b"")
    after = layout("gpt", DISK, [(MIB, ESP), (525336576, WINDOWS)])
    found, _ = mended(tree, places([("/dev/x", after)], {"/dev/x": mbr()}), tmp_path)
    assert found["{1} 11000001"] == device(DISK, WINDOWS)


@needs_hivex
def test_without_an_image_the_only_windows_is_meant(tmp_path):
    tree = store(mbr_device("aaaaaaaa", MIB), mbr_device("aaaaaaaa", 5 * MIB), ramdisk(DISK, RECOVERY))
    found, unclear = mended(tree, places([("/dev/x", mbr())], {}), tmp_path)
    assert found[f"{BOOT_MANAGER} 11000001"] == mbr_device("df4546ae", MIB)
    assert found["{1} 21000001"] == mbr_device("df4546ae", 525336576)
    assert not unclear


def test_with_two_of_them_it_is_unclear(tmp_path):
    tree = store(mbr_device("df4546ae", MIB), mbr_device("aaaaaaaa", 5 * MIB), b"")
    found, unclear = mended(tree, places([("/dev/x", mbr())], {}), tmp_path, windows=None)
    assert not found
    assert unclear[0] == (
        '"Windows 10", 11000001 leads to byte 5242880 of disk aaaaaaaa, which is on none of the disks'
    )


def test_an_entry_of_another_disk_stays_when_the_old_disks_are_known(tmp_path):
    tree = store(mbr_device("df4546ae", MIB), mbr_device("aaaaaaaa", 5 * MIB), b"")
    found, unclear = mended(tree, places([("/dev/x", mbr())], {"/dev/x": mbr()}), tmp_path)
    assert not found
    assert len(unclear) == 2


def test_names_are_those_that_windows_writes():
    known = places([("/dev/x", mbr())], {})
    assert known.of_letter(C_MBR) == Named(False, "df4546ae", start=525336576) == known.present["/dev/x", 2]
    assert known.present["/dev/x", 2].letter_data == C_MBR


# --- What is left alone ---------------------------------------------------------------------------------------------


def test_a_sleeping_windows_is_refused_with_the_way_out():
    words = refusal(Content("filesystem", "ntfs", facts={"hibernated": "hiberfil.sys (HIBR)"}))
    assert "Fast Startup" in words
    assert "shutdown /s /f /t 0" in words
    assert "remove_hiberfile" in words
    assert "ntfsfix" in refusal(Content("filesystem", "ntfs", warnings=("it was not cleanly unmounted",)))
    assert refusal(Content("filesystem", "ntfs")) == ""
