# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines as data: the part of /sys, /proc and /dev that tells which disks there are, in the shape of real ones.

Attribute names, paths and formats are those that Linux 6.1 shows on such hardware; serial numbers are made up.
`build` writes a machine below a folder, which `imager.devices.sysfs.System` then takes for the root.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Disk:
    """A block device: its place in /sys/devices, its own attributes and those of the device that it is on."""

    name: str
    place: str
    number: str
    size_bytes: int
    own: dict[str, str] = field(default_factory=dict)
    device: dict[str, str | bytes] = field(default_factory=dict)
    above: dict[str, str] = field(default_factory=dict)
    """Attributes of the device above that one, such as the USB device that a SCSI disk hangs on."""
    above_place: str = ""
    partitions: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """Name: device number, start and size in units of 512 bytes."""
    slaves: tuple[str, ...] = ()
    node: str = ""


@dataclass
class Machine:
    """Block devices, mounts and swap areas."""

    disks: list[Disk]
    mountinfo: str = ""
    swaps: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    """Further files, by their path."""


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode() + b"\n")


def build(machine: Machine, root: Path) -> Path:
    """Write the machine below root."""
    for disk in machine.disks:
        _build_disk(disk, root)
    for disk in machine.disks:
        for slave in disk.slaves:
            _link(root / "sys/class/block" / slave / "holders" / disk.name, root / "sys/class/block" / disk.name)
            _link(root / "sys/class/block" / disk.name / "slaves" / slave, root / "sys/class/block" / slave)
    write(root / "proc/self/mountinfo", machine.mountinfo.strip())
    write(root / "proc/swaps", "\n".join(["Filename Type Size Used Priority", *machine.swaps]))
    for path, content in machine.files.items():
        write(root / path, content)
    return root


def _build_disk(disk: Disk, root: Path) -> None:
    place = root / "sys/devices" / disk.place
    folder = place / ("" if disk.name.startswith("nvme") else "block") / disk.name
    number_of = {disk.name: disk.number, **{name: entry[0] for name, entry in disk.partitions.items()}}
    write(folder / "size", str(disk.size_bytes // 512))
    write(folder / "ro", "0")
    write(folder / "removable", "0")
    for name, content in {"queue/logical_block_size": "512", **disk.own}.items():
        write(folder / name, content)
    for name, value in disk.device.items():
        write(place / name, value)
    if disk.device:
        _link(folder / "device", place)
    for name, content in disk.above.items():
        write(root / "sys/devices" / disk.above_place / name, content)
    for position, (name, (_, start, size)) in enumerate(disk.partitions.items(), start=1):
        number = name.rpartition("p")[2] if "p" in name else name.lstrip("sdvabc")
        for attribute, value in (("partition", number or position), ("start", start), ("size", size), ("ro", 0)):
            write(folder / name / attribute, str(value))
    for name, number in number_of.items():
        _register(root, folder if name == disk.name else folder / name, name, number, disk.node)


def _register(root: Path, folder: Path, name: str, number: str, node: str) -> None:
    write(folder / "dev", number)
    write(folder / "uevent", f"DEVNAME={name}")
    _link(root / "sys/class/block" / name, folder)
    _link(root / "sys/dev/block" / number, folder)
    write(root / "dev" / name, "")
    if node:
        _link(root / node.lstrip("/"), root / "dev" / name)


def _link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def ata_information(model: str, serial: str) -> bytes:
    """Vital product data page 89h, as libata makes it of IDENTIFY DEVICE (SAT-3, 12.4.2)."""
    words = bytearray(512)
    for first, text, length in ((10, serial.rjust(20), 20), (27, model.ljust(40), 40)):
        raw = text.encode()
        for index in range(0, length, 2):
            words[2 * first + index : 2 * first + index + 2] = raw[index + 1 : index + 2] + raw[index : index + 1]
    return bytes((0, 0x89, 0x02, 0x38)) + bytes(56) + bytes(words)


_NVME = "pci0000:00/0000:00:1d.0/0000:3d:00.0/nvme/nvme0"

LAPTOP = Machine(
    disks=[
        Disk(
            "nvme0n1",
            _NVME,
            "259:0",
            512110190592,
            own={"wwid": "eui.0025388b01b2c3d4", "queue/rotational": "0", "queue/write_zeroes_max_bytes": "2097152"},
            device={
                "model": "SAMSUNG MZVLB512HBJQ-000L7              ",
                "serial": "S4ENNX0N123456      ",
                "transport": "pcie",
            },
            partitions={
                "nvme0n1p1": ("259:1", 2048, 1048576),
                "nvme0n1p2": ("259:2", 1050624, 2097152),
                "nvme0n1p3": ("259:3", 3147776, 997066752),
            },
        ),
        Disk(
            "dm-0",
            "virtual",
            "254:0",
            510000000000,
            own={"dm/name": "nvme0n1p3_crypt", "dm/uuid": "CRYPT-LUKS2-0123456789abcdef-nvme0n1p3_crypt"},
            slaves=("nvme0n1p3",),
            node="/dev/mapper/nvme0n1p3_crypt",
        ),
        Disk(
            "dm-1",
            "virtual",
            "254:1",
            490000000000,
            own={"dm/name": "vg-root", "dm/uuid": "LVM-aaaabbbb"},
            slaves=("dm-0",),
            node="/dev/mapper/vg-root",
        ),
        Disk(
            "dm-2",
            "virtual",
            "254:2",
            16000000000,
            own={"dm/name": "vg-swap_1", "dm/uuid": "LVM-aaaacccc"},
            slaves=("dm-0",),
            node="/dev/mapper/vg-swap_1",
        ),
    ],
    mountinfo="""
22 28 0:20 / /sys rw,nosuid - sysfs sysfs rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw,errors=remount-ro
90 28 259:2 / /boot rw,relatime shared:40 - ext4 /dev/nvme0n1p2 rw
93 90 259:1 / /boot/efi rw,relatime shared:42 - vfat /dev/nvme0n1p1 rw,fmask=0077
95 28 0:44 / /home/me/a\\040b rw - fuse.sshfs server:/home rw,user_id=1000""",
    swaps=("/dev/dm-2                               partition\t15624188\t0\t-2",),
)

_SAS = "pci0000:80/0000:80:02.0/0000:82:00.0/host{0}/port-{0}:0/end_device-{0}:0/target{0}:0:0/{0}:0:0:0"
_SAS_DISK: dict[str, str | bytes] = {
    "vendor": "HITACHI ",
    "model": "HUC109060CSS600 ",
    "vpd_pg80": b"\x00\x80\x00\x08KZH1A2BC",
    "wwid": "naa.5000cca0724b1d38",
    "type": "0",
}

SERVER = Machine(
    disks=[
        *(
            Disk(
                name,
                _SAS.format(host),
                number,
                600127266816,
                own={"queue/rotational": "1", "queue/discard_max_bytes": "0", "queue/write_zeroes_max_bytes": "0"},
                device=_SAS_DISK,
            )
            for name, host, number in (("sda", 1, "8:0"), ("sdb", 2, "8:16"))
        ),
        Disk(
            "dm-0",
            "virtual",
            "253:0",
            600127266816,
            own={"dm/name": "mpatha", "dm/uuid": "mpath-35000cca0724b1d38"},
            slaves=("sda", "sdb"),
            node="/dev/mapper/mpatha",
        ),
        Disk(
            "dm-1",
            "virtual",
            "253:1",
            600000000000,
            own={"dm/name": "mpatha-part1", "dm/uuid": "part1-mpath-35000cca0724b1d38"},
            slaves=("dm-0",),
            node="/dev/mapper/mpatha-part1",
        ),
    ],
    mountinfo="40 1 253:1 / /srv rw,relatime - xfs /dev/mapper/mpatha-part1 rw,attr2",
)

_SATA = "pci0000:00/0000:00:17.0/ata{0}/host{0}/target{0}:0:0/{0}:0:0:0"


def _sata(name: str, port: int, number: str, minors: int) -> Disk:
    return Disk(
        name,
        _SATA.format(port),
        number,
        2000398934016,
        own={"queue/rotational": "1", "queue/physical_block_size": "4096"},
        device={
            "vendor": "ATA     ",
            "model": "WDC WD20EFRX-68E",
            "wwid": f"naa.50014ee2b5b1c0f{port}",
            "vpd_pg80": b"\x00\x80\x00\x14     WD-WCC4M0123456",
            "vpd_pg89": ata_information("WDC WD20EFRX-68EUZN0", "WD-WCC4M0123456"),
            "type": "0",
        },
        partitions={f"{name}1": (f"8:{minors}", 2048, 3907026944)},
    )


RAID = Machine(
    disks=[
        _sata("sda", 1, "8:0", 1),
        _sata("sdb", 2, "8:16", 17),
        Disk(
            "md0",
            "virtual",
            "9:0",
            2000262529024,
            own={"md/level": "raid1", "md/uuid": "c0ffee00-1111-2222-3333-444455556666"},
            slaves=("sda1", "sdb1"),
        ),
    ],
    mountinfo="40 1 0:35 /@ / rw,relatime - btrfs /dev/md0 rw,subvol=/@",
    files={"sys/fs/btrfs/0a1b2c3d-0000-0000-0000-000000000000/devices/md0": ""},
)

_MMC = "pci0000:00/0000:00:1a.0/mmc_host/mmc0/mmc0:0001"

TABLET = Machine(
    disks=[
        Disk(
            "mmcblk0",
            _MMC,
            "179:0",
            62537072640,
            device={"name": "DF4064", "serial": "0x1a2b3c4d", "cid": "450100444634303634011a2b3c4d5900", "type": "MMC"},
            partitions={"mmcblk0p1": ("179:1", 2048, 122140672)},
        ),
        Disk("mmcblk0boot0", _MMC, "179:8", 4194304),
        Disk("mmcblk0boot1", _MMC, "179:16", 4194304),
    ],
    files={"dev/mmcblk0rpmb": ""},
)

_USB = "pci0000:00/0000:00:14.0/usb2/2-1"

LIVE = Machine(
    disks=[
        _sata("sda", 1, "8:0", 1),
        Disk(
            "sdb",
            f"{_USB}/2-1:1.0/host6/target6:0:0/6:0:0:0",
            "8:16",
            15376318464,
            own={"removable": "1", "queue/rotational": "1"},
            device={"vendor": "SanDisk ", "model": "Ultra Fit       ", "type": "0"},
            above={"idVendor": "0781", "serial": "4C530001234567890123", "product": "Ultra Fit"},
            above_place=_USB,
            partitions={"sdb1": ("8:17", 64, 30029760)},
        ),
        Disk("loop0", "virtual", "7:0", 800000000, own={"loop/backing_file": "/run/live/medium/live/fs.squashfs"}),
        Disk("sr0", "pci0000:00/0000:00:17.0/ata5/host5/target5:0:0/5:0:0:0", "11:0", 0, device={"type": "5"}),
        Disk("zram0", "virtual", "252:0", 4000000000),
    ],
    mountinfo="""
20 30 8:17 / /run/live/medium ro,noatime - iso9660 /dev/sdb1 ro
25 30 7:0 / /run/live/rootfs/fs.squashfs ro,noatime - squashfs /dev/loop0 ro
27 30 0:27 / /run/live/overlay rw - tmpfs tmpfs rw
30 1 0:30 / / rw - overlay overlay rw,lowerdir=/run/live/rootfs/fs.squashfs/,upperdir=/run/live/overlay/rw""",
    files={
        "run/live/medium/live/fs.squashfs": "",
        "run/live/rootfs/fs.squashfs/etc/x": "",
        "run/live/overlay/rw/x": "",
    },
)

VIRTUAL = Machine(
    disks=[
        Disk(
            "vda",
            "pci0000:00/0000:00:04.0/virtio1",
            "254:0",
            21474836480,
            own={"serial": "disk-1", "queue/write_zeroes_max_bytes": "0", "queue/discard_max_bytes": "2147483136"},
            device={"vendor": "0x1af4", "device": "0x0002"},
            partitions={"vda1": ("254:1", 2048, 41938944)},
        ),
    ],
    mountinfo="30 1 254:1 / / ro,relatime - ext4 /dev/root ro",
)
