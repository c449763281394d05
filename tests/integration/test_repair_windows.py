# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a Windows on real disks are changed by the commands; needs root, FUSE and ntfs-3g.

No Windows runs here: its tree is made by hand on NTFS that mkntfs made. What others read in it (hivexml, reged,
ntfs-3g's extended attributes, ntfsfix) is what is expected.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imager.cli.app import app
from tests.harness.disks import MIB, Part, mbr_disk, sfdisk_table
from tests.harness.files import sparse_file
from tests.harness.hives import Tree, binary, make_hive, read_by_hivex, read_by_reged, string
from tests.harness.loop import forget_partitions, loop_device, mounted, needs_root, partition_nodes, partitions
from tests.harness.ntfs_images import needs_driver, write_log
from tests.harness.programs import call, missing_tools
from tests.unit.test_windows_repair import device as gpt_device
from tests.unit.test_windows_repair import driver_file, hexed, mbr_device, service, store

MISSING = missing_tools("hivexsh", "hivexml", "reged", "mkntfs", "sfdisk")
pytestmark = [needs_root, needs_driver, pytest.mark.skipif(bool(MISSING), reason=MISSING or "tools")]
CONFIG = "Windows/System32/config"
DRIVERS = "Windows/System32/drivers"
PARTS = [Part(8 * MIB, type="7", bootable=True), Part(40 * MIB, type="7"), Part(16 * MIB, type="7")]
STARTS = (MIB, 9 * MIB, 49 * MIB)
SECRET = bytes.fromhex(
    "010004803000000040000000000000001400000002001c000100000000031400ff011f00010100000000000512000000"
    "01020000000000052000000020020000"
    "010100000000000512000000"
)
"""A security descriptor: SYSTEM may do everything, and nobody else anything (MS-DTYP 2.4.6)."""


def imager(*words: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == status, result.output
    return result.stdout


def letter(signature: str, start: int) -> bytes:
    return bytes.fromhex(signature)[::-1] + start.to_bytes(8, "little")


def system_hive(signature: str = "df4546ae") -> Tree:
    services: Tree = {name: service(3, name, override=True) for name in ("storahci", "stornvme")}
    letters: Tree = {
        "\\DosDevices\\C:": binary(letter(signature, STARTS[1])),
        "\\DosDevices\\D:": binary(letter(signature, STARTS[2])),
        "\\DosDevices\\E:": binary("\\??\\SCSI#CdRom".encode("utf-16-le")),
    }
    machine: Tree = {"Control": {"Session Manager": {"Environment": {"PROCESSOR_ARCHITECTURE": string("AMD64")}}}}
    return {"ControlSet001": {"Services": services, **machine}, "DriverDatabase": {}, "MountedDevices": letters}


SOFTWARE: Tree = {
    "Microsoft": {
        "Windows NT": {
            "CurrentVersion": {
                "ProductName": string("Windows 10 Pro"),
                "CurrentBuildNumber": string("19045"),
                "SystemRoot": string("C:\\Windows"),
            }
        }
    }
}


def menu_of(signature: str) -> Tree:
    return store(mbr_device(signature, STARTS[0]), mbr_device(signature, STARTS[1]), binary(b"")[1])


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def fill(nodes: list[Path], folder: Path, signature: str = "df4546ae") -> None:
    """A boot partition, a Windows, data."""
    for node in nodes:
        call("mkntfs", "-F", "-Q", "-q", node)
    with mounted(nodes[0], folder / "mnt", kind="ntfs-3g") as top:
        put(top / "Boot/BCD", make_hive(menu_of(signature)))
        os.setxattr(top / "Boot/BCD", "system.ntfs_attrib", (0x26).to_bytes(4, "little"))  # hidden, system, archive
    with mounted(nodes[1], folder / "mnt", kind="ntfs-3g") as top:
        put(top / CONFIG / "SYSTEM", make_hive(system_hive(signature)))
        os.setxattr(top / CONFIG / "SYSTEM", "system.ntfs_acl", SECRET)
        put(top / CONFIG / "SOFTWARE", make_hive(SOFTWARE))
        for name in ("storahci", "stornvme"):
            put(top / DRIVERS / f"{name}.sys", b"MZ")


@pytest.fixture
def disk(tmp_path) -> Iterator[tuple[Path, list[Path]]]:
    """An MBR whose signature is not the one that registry and boot menu know."""
    file = mbr_disk(tmp_path / "disk", 68 * MIB, PARTS, disk_id="0x12345678")
    with loop_device(file) as device, partitions(device) as nodes:
        fill(nodes, tmp_path)
        yield device, nodes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def copied(node: Path, folder: Path, path: str) -> Path:
    """A file of a volume."""
    with mounted(node, folder / "mnt", kind="ntfs-3g", options="ro") as top:
        return Path(shutil.copy(top / path, folder / Path(path).name))


def test_drivers_letters_and_the_boot_menu_are_set_right(disk, tmp_path):
    device, nodes = disk
    planned = imager("repair-boot", "--dry-run", device)
    assert f"in Windows 10 Pro on partition 2 of {device}:" in planned
    assert "start the driver storahci with Windows" in planned
    assert "\\DosDevices\\C: means byte 9437184 of disk 12345678 now" in planned
    assert "SYSTEM.imager-backup" in planned
    assert copied(nodes[1], tmp_path, f"{CONFIG}/SYSTEM").read_bytes() == make_hive(system_hive())

    said = json.loads(imager("repair-boot", "--yes", "--json", device))
    assert not [text for result in said["result"] for text in result["failures"]]
    path = copied(nodes[1], tmp_path, f"{CONFIG}/SYSTEM")
    system = read_by_hivex(path)
    for name in ("storahci", "stornvme"):
        assert system[f"ControlSet001\\Services\\{name}"]["Start"] == (4, bytes(4))
    letters = system["MountedDevices"]
    assert letters["\\DosDevices\\C:"][1] == letter("12345678", STARTS[1])
    assert letters["\\DosDevices\\E:"] == binary("\\??\\SCSI#CdRom".encode("utf-16-le"))
    assert read_by_reged(path, tmp_path).keys() == system.keys()
    menu = read_by_hivex(copied(nodes[0], tmp_path, "Boot/BCD"))
    assert menu["Objects\\{1}\\Elements\\21000001"]["Element"][1] == mbr_device("12345678", STARTS[1])
    assert copied(nodes[1], tmp_path, f"{CONFIG}/SYSTEM.imager-backup").read_bytes() == make_hive(system_hive())
    assert copied(nodes[0], tmp_path, "Boot/BCD.imager-backup").read_bytes() == make_hive(menu_of("df4546ae"))

    again = imager("repair-boot", "--dry-run", device)
    assert again.count("nothing needs to be changed") == 2
    for node in nodes:
        assert "successfully" in call("ntfsfix", "--no-action", node)


def test_rights_stay_and_the_copy_has_them_too(disk, tmp_path):
    """SYSTEM holds the key to all secrets of a Windows; a copy that everybody may read would give it away."""
    device, nodes = disk
    imager("repair-boot", "--yes", device)
    with mounted(nodes[1], tmp_path / "mnt", kind="ntfs-3g", options="ro") as top:
        assert names(top / CONFIG) == ["SOFTWARE", "SYSTEM", "SYSTEM.imager-backup"]
        for name in ("SYSTEM", "SYSTEM.imager-backup"):
            assert os.getxattr(top / CONFIG / name, "system.ntfs_acl") == SECRET
    with mounted(nodes[0], tmp_path / "mnt", kind="ntfs-3g", options="ro") as top:
        assert os.getxattr(top / "Boot/BCD", "system.ntfs_attrib") == b"\x26\0\0\0"


def test_drivers_of_a_folder_are_put_in(disk, tmp_path):
    device, nodes = disk
    folder = tmp_path / "virtio-win"
    source = driver_file(folder / "viostor/w10/amd64/viostor.sys", 0x8664)
    driver_file(folder / "vioscsi/w7/amd64/vioscsi.sys", 0x8664)
    said = imager("repair-boot", "--yes", "--windows-drivers", folder, device)
    assert f"copy {source} to {DRIVERS}/viostor.sys" in said
    assert copied(nodes[1], tmp_path, f"{DRIVERS}/viostor.sys").read_bytes() == source.read_bytes()
    system = read_by_hivex(copied(nodes[1], tmp_path, f"{CONFIG}/SYSTEM"))
    assert system["ControlSet001\\Services\\viostor"]["Start"] == (4, bytes(4))
    assert "ControlSet001\\Services\\vioscsi" not in system


def test_a_driver_that_does_not_fit_leaves_the_registry_alone(disk, tmp_path):
    """A registry that names a driver that is not there would keep Windows from starting at all."""
    device, nodes = disk
    big = driver_file(tmp_path / "drivers/viostor.sys", 0x8664)
    os.truncate(big, 48 * MIB)
    said = imager("repair-boot", "--yes", "--windows-drivers", big.parent, device, status=10)
    assert "No space left on device" in said
    assert f"{CONFIG}/SYSTEM is left as it is" in said
    assert copied(nodes[1], tmp_path, f"{CONFIG}/SYSTEM").read_bytes() == make_hive(system_hive())
    with mounted(nodes[1], tmp_path / "mnt", kind="ntfs-3g", options="ro") as top:
        assert names(top / DRIVERS) == ["storahci.sys", "stornvme.sys"]


def test_a_sleeping_windows_is_left_alone(disk, tmp_path):
    device, nodes = disk
    with mounted(nodes[1], tmp_path / "mnt", kind="ntfs-3g") as top:
        (top / "hiberfil.sys").write_bytes(b"HIBR".ljust(8192, b"\0"))
    said = imager("repair-boot", "--yes", device, status=10)
    assert "Fast Startup" in said
    assert "shutdown /s /f /t 0" in said
    assert copied(nodes[1], tmp_path, f"{CONFIG}/SYSTEM").read_bytes() == make_hive(system_hive())


def test_a_volume_with_a_log_in_use_is_left_alone(disk, tmp_path):
    device, nodes = disk
    in_use = {"lsn": 900, "in_use": True}
    write_log(nodes[1], in_use, in_use)
    before = nodes[1].read_bytes()
    said = imager("repair-boot", "--yes", device, status=10)
    assert "it was not cleanly unmounted" in said
    assert "shutdown /s /f /t 0" in said
    assert nodes[1].read_bytes() == before


def test_a_volume_that_waits_for_chkdsk_is_left_alone(disk, tmp_path):
    device, nodes = disk
    call("ntfsfix", nodes[1])  # without -d it asks Windows for a check
    said = imager("repair-boot", "--yes", device, status=10)
    assert "it is marked as dirty" in said
    assert "ntfsfix -d" in said
    assert copied(nodes[1], tmp_path, f"{CONFIG}/SYSTEM").read_bytes() == make_hive(system_hive())
    call("ntfsfix", "-d", nodes[1])
    imager("repair-boot", "--yes", device)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"garbage" * 1000, "no registry file"),
        (make_hive(system_hive())[:-4096], "cut short"),
        (make_hive(system_hive(), sequences=(8, 7)), "in its log only"),
    ],
)
def test_a_registry_that_is_damaged_stays_and_the_rest_is_done(disk, tmp_path, content, words):
    device, nodes = disk
    with mounted(nodes[1], tmp_path / "mnt", kind="ntfs-3g") as top:
        (top / CONFIG / "SYSTEM").write_bytes(content)
    said = imager("repair-boot", "--yes", device, status=10)
    assert words in said
    assert copied(nodes[1], tmp_path, f"{CONFIG}/SYSTEM").read_bytes() == content
    menu = read_by_hivex(copied(nodes[0], tmp_path, "Boot/BCD"))
    assert menu["Objects\\{1}\\Elements\\21000001"]["Element"][1] == mbr_device("12345678", STARTS[1])


@pytest.mark.parametrize("content", [b"", b"regf" * 2000, make_hive(menu_of("df4546ae"))[:5000]])
def test_a_boot_menu_that_is_damaged_stays_and_the_rest_is_done(disk, tmp_path, content):
    device, nodes = disk
    with mounted(nodes[0], tmp_path / "mnt", kind="ntfs-3g") as top:
        (top / "Boot/BCD").write_bytes(content)
    said = imager("repair-boot", "--yes", device, status=10)
    assert "bcdboot C:\\Windows" in said
    assert copied(nodes[0], tmp_path, "Boot/BCD").read_bytes() == content
    system = read_by_hivex(copied(nodes[1], tmp_path, f"{CONFIG}/SYSTEM"))
    assert system["ControlSet001\\Services\\stornvme"]["Start"] == (4, bytes(4))


def test_a_hive_that_hivexsh_does_not_survive_stays(disk, tmp_path):
    """Its keys' rights are counted wrongly, so that hivexsh takes them for free and stops."""
    device, nodes = disk
    hive = bytearray(make_hive(system_hive()))
    at = hive.index(b"sk\0\0")
    hive[at + 12 : at + 16] = (1).to_bytes(4, "little")
    with mounted(nodes[1], tmp_path / "mnt", kind="ntfs-3g") as top:
        (top / CONFIG / "SYSTEM").write_bytes(hive)
        driver_file(tmp_path / "drivers/viostor.sys", 0x8664)
    said = imager("repair-boot", "--yes", "--windows-drivers", tmp_path / "drivers", device, status=10)
    assert "could not be changed: hivexsh" in said
    with mounted(nodes[1], tmp_path / "mnt", kind="ntfs-3g", options="ro") as top:
        assert (top / CONFIG / "SYSTEM").read_bytes() == hive
        assert names(top / CONFIG) == ["SOFTWARE", "SYSTEM"]


def test_a_restore_that_moves_partitions_keeps_letters_and_menu(tmp_path):
    """The plan gives the first two partitions more room, so the last one starts elsewhere."""
    file = mbr_disk(tmp_path / "disk", 68 * MIB, PARTS, disk_id="0xdf4546ae")
    with loop_device(file) as device, partitions(device) as nodes:
        fill(nodes, tmp_path)
    image, target = tmp_path / "image", sparse_file(tmp_path / "target", 136 * MIB)
    imager("capture", file, image, "--quiet")
    with loop_device(target) as device:
        planned = imager("restore", "--grow", "2", "--repair-boot", image, device, "--dry-run")
        assert "look for Windows on the disks" in planned
        said = json.loads(imager("restore", "--grow", "2", "--repair-boot", image, device, "--yes", "--json"))
        done = said["result"]["afterwards"]
        assert not [text for result in done for text in result["failures"]], done
        call("partx", "--update", device)
        nodes = partition_nodes(device)
        start = int(Path("/sys/class/block", nodes[2].name, "start").read_text()) * 512
        assert start > STARTS[2]
        system = read_by_hivex(copied(nodes[1], tmp_path, f"{CONFIG}/SYSTEM"))
        assert system["MountedDevices"]["\\DosDevices\\D:"][1] == letter("df4546ae", start)
        assert system["MountedDevices"]["\\DosDevices\\C:"][1] == letter("df4546ae", STARTS[1])
        forget_partitions(device)


def test_an_mbr_that_becomes_a_gpt_keeps_letters_and_menu(tmp_path):
    """Its partitions have GUIDs then, and start where they did."""
    file = mbr_disk(tmp_path / "disk", 68 * MIB, PARTS, disk_id="0xdf4546ae")
    with loop_device(file) as device, partitions(device) as nodes:
        fill(nodes, tmp_path)
    image, target = tmp_path / "image", sparse_file(tmp_path / "target", 72 * MIB)
    imager("capture", file, image, "--quiet")
    with loop_device(target) as device:
        imager("restore", "--to-gpt", "--repair-boot", image, device, "--yes")
        call("partx", "--update", device)
        nodes, table = partition_nodes(device), sfdisk_table(device)
        guids = [row["uuid"].lower() for row in table["partitions"]]
        system = read_by_hivex(copied(nodes[1], tmp_path, f"{CONFIG}/SYSTEM"))
        for drive, guid in (("C:", guids[1]), ("D:", guids[2])):
            expected = b"DMIO:ID:" + bytes.fromhex(hexed(guid))
            assert system["MountedDevices"][f"\\DosDevices\\{drive}"][1] == expected
        menu = read_by_hivex(copied(nodes[0], tmp_path, "Boot/BCD"))
        expected = gpt_device(str(table["id"]).lower(), guids[1])
        assert menu["Objects\\{1}\\Elements\\21000001"]["Element"][1] == expected
        forget_partitions(device)


def test_drivers_without_repair_are_a_contradiction(tmp_path):
    result = CliRunner().invoke(app, ["restore", "--windows-drivers", str(tmp_path), "a", "b"])
    assert result.exit_code == 2
    assert "--windows-drivers belongs to --repair-boot" in result.output
