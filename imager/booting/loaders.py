# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be started from an EFI system partition: boot loaders by the folders that systems put them in.

Pure: it judges names and the content of small files; who reads the partition is another module.

References:
    UEFI Specification 2.10: 3.5.1.1 Removable Media Boot Behavior, 13.3.1.3 Directory Structure.
    shim, README.fallback: a vendor's folder holds BOOTX64.CSV, UTF-16 lines of FILE,LABEL,ARGUMENTS,COMMENT.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from imager.booting.utf16 import encoded

MOST_CSV_BYTES: Final = 64 * 1024
_MOST_CSV_LINES: Final = 16
_MOST_LABEL: Final = 120
_WINDOWS: Final = "\\efi\\microsoft\\boot\\bootmgfw.efi"
_LOADERS: Final = ("shim{arch}.efi", "grub{arch}.efi", "systemd-boot{arch}.efi", "refind_{arch}.efi")
"""By preference: shim starts GRUB, and is what firmware with Secure Boot accepts."""
_LABELS: Final = {
    "almalinux": "AlmaLinux",
    "arch": "Arch Linux",
    "centos": "CentOS Linux",
    "fedora": "Fedora",
    "redhat": "Red Hat Enterprise Linux",
    "rocky": "Rocky Linux",
    "systemd": "Linux Boot Manager",
}
"""What the installers call them; others are called like their folders, as grub-install does."""


@dataclass(frozen=True)
class Loader:
    """A boot loader on an EFI system partition.

    Attributes:
        label: What its boot entry is called.
        file: Where it lies, with backslashes from the root on.
        arguments: What it gets.
    """

    label: str
    file: str
    arguments: bytes = b""

    @property
    def is_windows(self) -> bool:
        """Whether it is Windows' own, which GRUB of another system can start as well."""
        return self.file.casefold() == _WINDOWS


def folder_of(file: str) -> str:
    """The folder of a file, to compare: two entries for one folder are for one system."""
    return file.rpartition("\\")[0].casefold()


def find_loaders(files: Mapping[str, str], tables: Mapping[str, bytes], arch: str) -> tuple[Loader, ...]:
    """The boot loaders of the systems on an EFI system partition, those of Windows last.

    Args:
        files: Every file, path in lower case to path as it is written, with backslashes from the root on.
        tables: The content of the BOOT*.CSV files among them, by path in lower case.
        arch: How UEFI calls the processor in file names: x64, ia32, aa64.
    """
    folders = sorted({folder_of(file) for file in files if file.startswith("\\efi\\")})
    found: list[Loader] = []
    for folder in folders:
        if folder.count("\\") == 2 and folder != "\\efi\\boot":
            listed = [*_from_table(folder, files, tables, arch)]
            found += listed or [*_by_name(folder, files, arch)]
    windows = files.get(_WINDOWS)
    return (*found, Loader("Windows Boot Manager", windows)) if windows else tuple(found)


def _by_name(folder: str, files: Mapping[str, str], arch: str) -> Iterator[Loader]:
    for name in _LOADERS:
        file = files.get(f"{folder}\\{name.format(arch=arch)}")
        if file is not None:
            own_name = file.split("\\")[-2]
            yield Loader(_LABELS.get(own_name.casefold(), own_name), file)
            return


def _from_table(folder: str, files: Mapping[str, str], tables: Mapping[str, bytes], arch: str) -> Iterator[Loader]:
    raw = tables.get(f"{folder}\\boot{arch}.csv") or tables.get(f"{folder}\\boot.csv") or b""
    for name, label, arguments in parse_boot_csv(raw):
        file = files.get(f"{folder}\\{name.casefold()}")
        if file is not None:
            yield Loader(label, file, encoded(arguments)[:-2])


def parse_boot_csv(raw: bytes) -> tuple[tuple[str, str, str], ...]:
    """File, label and arguments of each line that has the first two; nothing when it is no such table.

    A file must be a plain name: shim's folder is all that a table may speak about.
    """
    try:
        text = raw[:MOST_CSV_BYTES].decode("utf-16-le").removeprefix("\ufeff")
    except UnicodeDecodeError:
        return ()
    rows: list[tuple[str, str, str]] = []
    for line in text.replace("\0", "\n").splitlines()[:_MOST_CSV_LINES]:
        name, label, arguments, *_ = [*line.split(","), "", "", ""]
        if name and label and len(label) <= _MOST_LABEL and label.isprintable() and not set(name) & set("\\/:"):
            rows.append((name, label, arguments))
    return tuple(rows)


@dataclass(frozen=True)
class Copy:
    """A file that is copied on an EFI system partition; never over another."""

    source: str
    target: str


def fallback_file(arch: str) -> str:
    """What firmware starts from a disk that it has no entry for."""
    return f"\\EFI\\BOOT\\BOOT{arch.upper()}.EFI"


def plan_fallback(files: Mapping[str, str], loaders: tuple[Loader, ...], arch: str) -> tuple[Copy, ...]:
    """What is copied so that the fallback path leads to the first of the loaders; nothing when it is there.

    With shim go what it starts or needs: GRUB, the key manager, and its own fallback, which makes boot entries
    from the vendor's table, if there is one.
    """
    target = fallback_file(arch)
    if target.casefold() in files or not loaders:
        return ()
    first = loaders[0]
    folder = folder_of(first.file)
    copies = [Copy(first.file, target)]
    if first.file.casefold().endswith(f"\\shim{arch}.efi"):
        names = [f"grub{arch}.efi", f"mm{arch}.efi"]
        names += [f"fb{arch}.efi"] if {f"{folder}\\boot{arch}.csv", f"{folder}\\boot.csv"} & set(files) else []
        for name in names:
            source = files.get(f"{folder}\\{name}")
            if source is not None and f"\\efi\\boot\\{name}" not in files:
                copies.append(Copy(source, f"\\EFI\\BOOT\\{name}"))
    return tuple(copies)
