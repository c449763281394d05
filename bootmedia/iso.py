# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a medium together: one ISO 9660 file that starts on BIOS and UEFI, from a CD and from a USB stick.

BIOS reads GRUB's core, from a CD as El Torito image, from a stick through the code in the first sector. UEFI reads a
small FAT file system that is a partition of the stick and an El Torito image at once; in it are Debian's shim, signed
by Microsoft, and GRUB, signed by Debian, so Secure Boot stays on. Nothing is mounted for any of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootmedia.base import Base
from bootmedia.menu import Menu
from bootmedia.programs import follow
from imager.process import run
from imager.progress import Progress

# Not the name of a stick's data partition: that is looked for by its name.
_VOLUME_NAME = "RECOVERY_BOOT"
_EFI_FILE_SYSTEM_KIB = 8192
# Names that the firmware and the signed loaders look for.
_EFI_FILES = {
    "::EFI/BOOT/BOOTX64.EFI": "usr/lib/shim/shimx64.efi.signed",
    "::EFI/BOOT/GRUBX64.EFI": "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed",
    "::EFI/BOOT/MMX64.EFI": "usr/lib/shim/mmx64.efi.signed",
}


@dataclass(frozen=True)
class Parts:
    """What a medium is put together from."""

    medium_id: str
    kernel: Path
    initrd: Path
    layers: Mapping[str, Path]
    """Squashfs files by the name that they get; the later in the alphabet, the higher."""
    menu: Menu
    about: str
    images: Mapping[str, Path]
    """Files for /images, by their path below it."""
    answers: Path | None = None
    """A recovery.toml."""
    memory_tests: Sequence[Path] = ()
    """Programs for /boot, one for each kind of firmware, which the menu starts in place of the kernel."""


def make_iso(parts: Parts, base: Base, scratch: Path, output: Path, *, time: int, progress: Progress) -> None:
    """Write the ISO file.

    Raises:
        ProgramFailed: A tool failed; the output may be there in part.
    """
    tree = scratch / "iso"
    _write_small_files(parts, base, tree)
    efi = scratch / "efi.img"
    make_efi_file_system(parts.menu, base, scratch, efi, time=time)
    for path in (efi, *tree.rglob("*")):
        os.utime(path, (time, time))
    placed = {"live/vmlinuz": parts.kernel, "live/initrd": parts.initrd}
    placed |= {f"live/{name}": path for name, path in parts.layers.items()}
    placed |= {f"boot/{path.name}": path for path in parts.memory_tests}
    placed |= {"recovery.toml": parts.answers} if parts.answers else {}
    placed |= {f"images/{name}": path for name, path in parts.images.items()}
    progress.start(None, "medium")
    follow(
        xorriso_command(tree, placed, base, efi, output, time=time),
        lambda line: None,
        environment={"SOURCE_DATE_EPOCH": str(time), "TZ": "UTC"},
    )
    progress.done()


def _write_small_files(parts: Parts, base: Base, tree: Path) -> None:
    grub = tree / "boot" / "grub"
    grub.mkdir(parents=True)
    (grub / "grub.cfg").write_text(parts.menu.grub)
    core = base.part("usr/lib/grub/i386-pc/bootmedia-core.img").read_bytes()
    (grub / "eltorito.img").write_bytes(base.part("usr/lib/grub/i386-pc/cdboot.img").read_bytes() + core)
    own = tree / "bootmedia"
    own.mkdir()
    # GRUB and the initrd look for this name: another medium of this kind may be in the machine.
    (own / f"id-{parts.medium_id}").write_text(parts.medium_id + "\n")
    (own / "about.json").write_text(parts.about)


def make_efi_file_system(menu: Menu, base: Base, scratch: Path, output: Path, *, time: int) -> None:
    """Make the FAT file system that UEFI starts from."""
    settings = scratch / "efi.cfg"
    settings.write_text(menu.efi)
    os.utime(settings, (time, time))
    environment = {"SOURCE_DATE_EPOCH": str(time), "TZ": "UTC", "MTOOLSRC": os.devnull}
    sectors = str(_EFI_FILE_SYSTEM_KIB * 2)
    commands = [
        [
            "mformat",
            "-i",
            str(output),
            "-C",
            "-T",
            sectors,
            "-h",
            "16",
            "-s",
            "63",
            "-N",
            "424f4f54",
            "-v",
            "BOOT",
            "::",
        ],
        ["mmd", "-i", str(output), "::EFI", "::EFI/BOOT", "::boot", "::boot/grub"],
        *(["mcopy", "-i", str(output), str(base.part(part)), name] for name, part in _EFI_FILES.items()),
        ["mcopy", "-i", str(output), str(settings), "::boot/grub/grub.cfg"],
    ]
    for command in commands:
        run(command, environment=environment)


def xorriso_command(
    tree: Path, placed: Mapping[str, Path], base: Base, efi: Path, output: Path, *, time: int
) -> list[str]:
    """The words of the call that writes the ISO file."""
    return [
        *("xorriso", "-as", "mkisofs", "-quiet", "-o", str(output)),
        *("-J", "-joliet-long", "-R", "-iso-level", "3", "-V", _VOLUME_NAME),
        *("--set_all_file_dates", f"={time}"),
        # BIOS, stick: code in the first sector. The partition begins later, so that the first sectors are no one's.
        *("--grub2-mbr", str(base.part("usr/lib/grub/i386-pc/boot_hybrid.img")), "-partition_offset", "16"),
        # BIOS, CD.
        *("-c", "boot/boot.cat", "-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4"),
        *("-boot-info-table", "--grub2-boot-info"),
        # UEFI, both.
        *("-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot"),
        *("-append_partition", "2", "0xef", str(efi), "--protective-msdos-label"),
        "-graft-points",
        f"/={_escaped(str(tree))}",
        *(f"/{_escaped(name)}={_escaped(str(path))}" for name, path in sorted(placed.items())),
    ]


def _escaped(path: str) -> str:
    """A path in a graft point, where = parts the two (xorrisofs(1))."""
    return path.replace("\\", "\\\\").replace("=", "\\=")
