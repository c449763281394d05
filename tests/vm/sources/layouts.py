# SPDX-License-Identifier: GPL-3.0-or-later
"""Four ways in which Debian lies on a disk, and the disks that have them.

Each is made as its own tools make it, without a virtual machine: mount and loop devices of this kernel, LVM without
device-mapper, mtools for the ESP, qemu-img for LUKS. What differs from the work of an installer: GRUB's parts are laid
down here, because grub-install asks the running machine what it is.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bootmedia.machine import Bus, Disk, Firmware, Machine
from bootmedia.tree import Tree
from tests.harness.disks import MIB, Part, gpt_disk, mbr_disk
from tests.harness.files import sparse_file
from tests.harness.loop import loop_device, mounted
from tests.harness.luks import make_luks1
from tests.harness.lvm import VolumeGroup
from tests.harness.programs import call
from tests.vm.sources.debian import kernel_of, unpack

_BIOS_GRUB = "21686148-6449-6E6F-744E-656564454649"
_SECTOR = 512


@dataclass(frozen=True)
class Source:
    """A machine that will be imaged.

    Attributes:
        name: Of the machine, and of its layout.
        firmware: What starts it.
        bus: What its disk hangs on.
        size_bytes: Of its disk.
        fill: Makes the disk in a file, with a folder for what is needed on the way.
        passphrase: That is asked for when it starts; "" for none.
    """

    name: str
    firmware: Firmware
    bus: Bus
    size_bytes: int
    fill: Callable[[Source, Path, Path], None]
    passphrase: str = ""

    def machine(self, disk: Path) -> Machine:
        """The machine with its disk."""
        return Machine(self.firmware, disks=(Disk(disk, self.bus, serial=f"OLD-{self.name}"[:20]),))

    def uuid(self, what: str) -> str:
        """The UUID of one of its file systems; always the same."""
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{what}.{self.name}"))


def make_source(source: Source, disk: Path, scratch: Path) -> Path:
    """Make the disk of a machine; all but the layout with ext4 alone need root.

    Args:
        source: Which machine.
        disk: The new file.
        scratch: An empty folder.
    """
    partial = scratch / "disk.img"
    source.fill(source, partial, scratch)
    return partial.replace(disk)


# --- What several layouts share -----------------------------------------------------------------------------------


def _fat_id(source: Source) -> str:
    return source.uuid("esp")[:8].upper()


def _esp_line(source: Source) -> str:
    number = _fat_id(source)
    return f"UUID={number[:4]}-{number[4:]} /boot/efi vfat umask=0077 0 1\n"


def _own_files(source: Source, fstab: str) -> dict[str, str]:
    # An emulated machine on a busy one takes longer to find its disks than systemd waits by itself.
    patience = "[Manager]\nDefaultDeviceTimeoutSec=15min\nDefaultTimeoutStartSec=15min\n"
    # What a menu is made of that is made again; there is no screen, on which GRUB's would wait for ever.
    menu = (
        'GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200"\nGRUB_TIMEOUT=0\nGRUB_TERMINAL="console serial"\n'
        'GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"\n'
    )
    return {
        "etc/default/grub": menu,
        "etc/hostname": f"{source.name}\n",
        "etc/hosts": f"127.0.0.1 localhost {source.name}\n",
        "etc/fstab": fstab,
        "etc/systemd/system.conf.d/patience.conf": patience,
    }


def _write_menu(folder: Path, boot_uuid: str, root: str, *, boot: str = "/boot") -> None:
    """GRUB's menu, as update-grub would write it: /boot is a folder of the file system with the UUID, or its top."""
    kernel = kernel_of(folder)
    menu = folder / "boot/grub/grub.cfg"
    menu.parent.mkdir(parents=True, exist_ok=True)
    menu.write_text(f"""set timeout=0
if [ "$grub_platform" = pc ]; then
    serial --unit=0 --speed=115200
    terminal_output console serial
fi
menuentry "Debian GNU/Linux" {{
    search --no-floppy --fs-uuid --set=root {boot_uuid}
    linux {boot}/vmlinuz-{kernel} root={root} ro quiet console=tty0 console=ttyS0,115200
    initrd {boot}/initrd.img-{kernel}
}}
""")


def _make_ext4(folder: Path, path: Path, size_bytes: int, fs_uuid: str) -> Path:
    sparse_file(path, size_bytes)
    call("mke2fs", "-q", "-t", "ext4", "-U", fs_uuid, "-E", "root_owner=0:0", "-d", folder, path)
    return path


def _lay_down(content: Path, disk: Path, offset_bytes: int) -> None:
    """Write a file into a disk, without its holes."""
    place = f"of={disk}", "oflag=seek_bytes", f"seek={offset_bytes}"
    call("dd", f"if={content}", *place, "bs=1M", "conv=notrunc,sparse")


def _make_esp(source: Source, system: Path, disk: Path, start: int, size_bytes: int, menu: str) -> None:
    """The EFI system partition: shim and GRUB as Debian signed them, under their own name and as what is started first.

    Without an entry in the firmware's memory it starts EFI/BOOT, whose fallback program makes the entry "debian".
    """
    place = f"{disk}@@{start}"
    call("mformat", "-i", place, "-F", "-N", _fat_id(source), "-T", size_bytes // _SECTOR, "-h", 16, "-s", 63, "::")
    call("mmd", "-i", place, "::/EFI", "::/EFI/BOOT", "::/EFI/debian")
    shim, grub = system / "usr/lib/shim", system / "usr/lib/grub/x86_64-efi-signed"
    config = disk.with_name("esp.cfg")
    config.write_text(menu)
    for content, names in (
        (shim / "shimx64.efi.signed", ("BOOT/BOOTX64.EFI", "debian/shimx64.efi")),
        (shim / "fbx64.efi.signed", ("BOOT/fbx64.efi",)),
        (shim / "mmx64.efi.signed", ("BOOT/mmx64.efi", "debian/mmx64.efi")),
        (shim / "BOOTX64.CSV", ("debian/BOOTX64.CSV",)),
        (grub / "grubx64.efi.signed", ("debian/grubx64.efi",)),
        (config, ("debian/grub.cfg",)),
    ):
        for name in names:
            call("mcopy", "-i", place, content, f"::/EFI/{name}")


def _esp_menu(fs_uuid: str, folder: str) -> str:
    return f"search.fs_uuid {fs_uuid} root\nset prefix=($root)'{folder}'\nconfigfile $prefix/grub.cfg\n"


def _install_bios_grub(system: Path, disk: Path, sector: int, modules: str, prefix: str, fs_uuid: str) -> None:
    """GRUB for BIOS: its modules into /boot/grub, its core from a sector on, its boot code into the first sector.

    The boot code knows the core's first sector, and the core's first sector knows the second (GRUB 2.12,
    include/grub/i386/pc/boot.h and grub-core/boot/i386/pc/diskboot.S).
    """
    call("cp", "-a", system / "usr/lib/grub/i386-pc", system / "boot/grub/i386-pc")
    config = system / "tmp/core.cfg"
    config.write_text(f"search.fs_uuid {fs_uuid} root\nset prefix=($root){prefix}\n")
    words = "grub-mkimage -O i386-pc -c /tmp/core.cfg -o /tmp/core.img"
    call("chroot", system, *words.split(), "-p", prefix, "biosdisk", "search_fs_uuid", *modules.split())
    core = bytearray((system / "tmp/core.img").read_bytes())
    boot = bytearray((system / "usr/lib/grub/i386-pc/boot.img").read_bytes()[:440])
    struct.pack_into("<Q", boot, 0x5C, sector)
    struct.pack_into("<Q", core, 0x1F4, sector + 1)
    for path in (config, system / "tmp/core.img"):
        path.unlink()
    with disk.open("r+b") as whole:
        whole.write(boot)
        whole.seek(sector * _SECTOR)
        whole.write(core)


# --- The four -----------------------------------------------------------------------------------------------------


def _fill_uefi_ext4(source: Source, disk: Path, scratch: Path) -> None:
    """GPT: ESP, ext4."""
    esp_bytes, start = 48 * MIB, 49 * MIB
    size = source.size_bytes - start - MIB
    gpt_disk(disk, source.size_bytes, [Part(esp_bytes, type="U", name="esp"), Part(size, type="L", name="root")])
    root = source.uuid("root")
    system = scratch / "system"
    system.mkdir()
    unpack(system, _own_files(source, f"UUID={root} / ext4 errors=remount-ro 0 1\n" + _esp_line(source)))
    (system / "boot/efi").mkdir()
    _write_menu(system, root, f"UUID={root}")
    _make_esp(source, system, disk, MIB, esp_bytes, _esp_menu(root, "/boot/grub"))
    _lay_down(_make_ext4(system, scratch / "root.img", size, root), disk, start)


def _fill_bios_lvm(source: Source, disk: Path, scratch: Path) -> None:
    """MBR: one physical volume with root and swap; GRUB's core in the gap before it."""
    start = MIB
    size = source.size_bytes - start
    mbr_disk(disk, source.size_bytes, [Part(size, type="8e", start_bytes=start, bootable=True)])
    root, swap = source.uuid("root"), source.uuid("swap")
    system = scratch / "system"
    system.mkdir()
    unpack(system, _own_files(source, f"UUID={root} / ext4 errors=remount-ro 0 1\nUUID={swap} none swap sw 0 0\n"))
    _write_menu(system, root, "/dev/mapper/vg0-root")
    _install_bios_grub(system, disk, 1, "part_msdos lvm ext2", "/boot/grub", root)
    swap_bytes = 128 * MIB
    with loop_device(disk, offset=start, size_limit=size) as device:
        group = VolumeGroup("vg0", [disk], [device])
        group.lvm("pvcreate", device)
        group.lvm("vgcreate", "-s", "4m", "vg0", device)
        group.lvm("lvcreate", "-n", "swap", "-L", f"{swap_bytes}b", "vg0")
        group.lvm("lvcreate", "-n", "root", "-l", "100%FREE", "vg0")
        places = {name: group.ranges(name)[0][0] for name in ("swap", "root")}
    call("mkswap", "-U", swap, sparse_file(scratch / "swap.img", swap_bytes))
    _lay_down(scratch / "swap.img", disk, start + places["swap"][1])
    _lay_down(_make_ext4(system, scratch / "root.img", places["root"][2], root), disk, start + places["root"][1])


def _fill_uefi_luks(source: Source, disk: Path, scratch: Path) -> None:
    """GPT: ESP, ext4 for /boot, LUKS; in that LVM with XFS for root."""
    esp_bytes, boot_bytes = 48 * MIB, 128 * MIB
    boot_at = MIB + esp_bytes
    luks_at = boot_at + boot_bytes
    size = source.size_bytes - luks_at - MIB
    parts = [
        Part(esp_bytes, type="U", name="esp"),
        Part(boot_bytes, type="L", name="boot"),
        Part(size, type="CA7D7CCB-63ED-4C53-861C-1742536059CC", name="vault"),
    ]
    gpt_disk(disk, source.size_bytes, parts)
    boot, root = source.uuid("boot"), source.uuid("root")
    plain = sparse_file(scratch / "plain.img", size - 2 * MIB)
    with loop_device(plain) as device:
        group = VolumeGroup("vg1", [plain], [device])
        group.lvm("pvcreate", device)
        group.lvm("vgcreate", "-s", "4m", "vg1", device)
        group.lvm("lvcreate", "-n", "root", "-l", "100%FREE", "vg1")
        _, offset, length = group.ranges("root")[0][0]
    fstab = f"UUID={root} / xfs defaults 0 0\nUUID={boot} /boot ext4 defaults 0 2\n" + _esp_line(source)
    files = _own_files(source, fstab)
    files["etc/crypttab"] = f"vault UUID={source.uuid('vault')} none luks,discard\n"
    with loop_device(plain, offset=offset, size_limit=length) as device:
        call("mkfs.xfs", "-q", "-m", f"uuid={root}", device)
        with mounted(device, scratch / "mnt") as system:
            unpack(system, files)
            (system / "boot/efi").mkdir()
            _write_menu(system, boot, "/dev/mapper/vg1-root", boot="")
            _add_to_initrd(system, "cryptroot/crypttab", files["etc/crypttab"])
            _make_esp(source, system, disk, MIB, esp_bytes, _esp_menu(boot, "/grub"))
            _lay_down(_make_ext4(system / "boot", scratch / "boot.img", boot_bytes, boot), disk, boot_at)
            for place in (system / "boot").iterdir():
                call("rm", "-r", place)
    key = scratch / "key"
    key.write_text(source.passphrase)
    make_luks1(plain, scratch / "luks.img", key, f"--uuid {source.uuid('vault')}")
    plain.unlink()
    _lay_down(scratch / "luks.img", disk, luks_at)


def _add_to_initrd(system: Path, name: str, content: str) -> None:
    """Put a file over those of the initrd, as a further archive behind it (kernel, driver-api/early-userspace)."""
    tree = Tree()
    tree.add_file(name, content.encode())
    with (system / f"boot/initrd.img-{kernel_of(system)}").open("ab") as initrd:
        initrd.write(bytes(-initrd.tell() % _SECTOR))
        tree.write_cpio(initrd, time=0)


def _fill_bios_btrfs(source: Source, disk: Path, scratch: Path) -> None:
    """GPT: a partition for GRUB's core, Btrfs with the subvolumes @ and @home."""
    start = 2 * MIB
    size = source.size_bytes - start - MIB
    gpt_disk(disk, source.size_bytes, [Part(MIB, type=_BIOS_GRUB, name="grub"), Part(size, type="L", name="root")])
    root = source.uuid("root")
    fstab = f"UUID={root} / btrfs subvol=@ 0 0\nUUID={root} /home btrfs subvol=@home 0 0\n"
    with loop_device(disk, offset=start, size_limit=size) as device:
        call("mkfs.btrfs", "-q", "-U", root, device)
        with mounted(device, scratch / "mnt") as top:
            for name in ("@", "@home"):
                call("btrfs", "subvolume", "create", top / name)
            system = unpack(top / "@", _own_files(source, fstab))
            (top / "@home/letter").write_text("kept in another subvolume\n")
            _write_menu(system, root, f"UUID={root} rootflags=subvol=@", boot="/@/boot")
            _install_bios_grub(system, disk, MIB // _SECTOR, "part_gpt btrfs", "/@/boot/grub", root)


SOURCES = {
    source.name: source
    for source in (
        Source("uefi-ext4", Firmware.SECURE_BOOT, Bus.VIRTIO, 1536 * MIB, _fill_uefi_ext4),
        Source("bios-lvm", Firmware.BIOS, Bus.AHCI, 1536 * MIB, _fill_bios_lvm),
        Source("uefi-luks", Firmware.UEFI, Bus.NVME, 1280 * MIB, _fill_uefi_luks, "correct horse battery staple"),
        Source("bios-btrfs", Firmware.BIOS, Bus.VIRTIO, 1536 * MIB, _fill_bios_btrfs),
    )
}
