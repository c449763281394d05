# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the folder that machines start from over the network, from nothing but a medium.

What a machine gets, in this order: a boot loader over TFTP (or HTTP, where the firmware can); the menu; kernel and
initrd over HTTP; and by the initrd the layers, over HTTP. The initrd carries their digests, so layers of another
medium, or damaged ones, are refused. The boot loaders are Debian's signed ones from the medium: Secure Boot stays on.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootmedia.errors import MediumUnusable
from bootmedia.initrd import make_initrd, packed
from bootmedia.menu import filled, without_comments
from bootmedia.opened import Opened, open_medium, take_out
from bootmedia.programs import require_programs
from bootmedia.recipes import Recipe
from bootmedia.served import Server, web_servers
from imager.errors import StoreError, UsageError
from imager.progress import Progress

PROGRAMS = ("xorriso", "unsquashfs")
_TIMEOUT_SECONDS = 3
_LOADERS = {
    "shimx64.efi": "usr/lib/shim/shimx64.efi.signed",
    # The name that shim asks for.
    "grubx64.efi": "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed",
    "mmx64.efi": "usr/lib/shim/mmx64.efi.signed",
    "grub.pxe": "usr/lib/grub/i386-pc/bootmedia-pxe.img",
}
# Whatever the given file is called: dnsmasq reads the name.
_IPXE = "undionly.kpxe"
_FIT_FOR_GRUB = re.compile(r"""^[A-Za-z0-9._~:/@%+=,-]+$|["'\\]""")
_BUSYBOX = "usr/bin/busybox"
_MODULES = "usr/lib/modules"
_FIRMWARE = "usr/lib/firmware"
# Modules name the firmware that they ask for (MODULE_FIRMWARE, linux/module.h).
_FIRMWARE_NAME = re.compile(rb"\0firmware=([A-Za-z0-9][A-Za-z0-9._/-]*)\0")


@dataclass(frozen=True)
class NetbootWishes:
    """What a folder for the network was asked for."""

    recipe: Recipe
    served: Server
    recovery_url: str = ""
    """Where machines get their answers; "" when nobody wants them restored by themselves."""
    answers: Path | None = None
    """Answers to put into the folder, and to name to the machines."""
    ipxe: Path | None = None
    """An iPXE for BIOS, instead of GRUB."""


@dataclass(frozen=True)
class MadeNetboot:
    """A folder that was made."""

    folder: Path
    initrd_bytes: int
    layers: Mapping[str, int]
    """Names and bytes of what machines fetch."""
    kernel_options: str


def make_netboot(medium: Path, folder: Path, wishes: NetbootWishes, *, time: int, progress: Progress) -> MadeNetboot:
    """Make the folder; it has its name only when it is complete.

    Raises:
        ToolMissing: A program is not installed.
        MediumUnusable: The file is no medium, or not of this version.
        StoreError: The folder is there already, or cannot be written.
    """
    require_programs(*PROGRAMS)
    place = folder.absolute()
    _check_folder(place)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
            made = _make(medium, Path(scratch), place, wishes, time=time, progress=progress)
            (Path(scratch) / "made").replace(place)
    except OSError as error:
        raise StoreError(f"{place} cannot be made: {error.strerror}", path=str(place)) from error
    return made


def _check_folder(place: Path) -> None:
    if not re.fullmatch(r"[A-Za-z0-9._/+@-]+", str(place)):
        raise UsageError(f"{place} has characters that dnsmasq would take for something else: choose another name")
    if not place.parent.is_dir():
        raise StoreError(f"there is no folder {place.parent}", hint="Make it, or name another one.", path=str(place))
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise StoreError(
            f"{place} is there already, and is not an empty folder",
            hint="Give another name, or remove it first: files of two media must not be mixed.",
            path=str(place),
        )


def _make(
    medium: Path, scratch: Path, place: Path, wishes: NetbootWishes, *, time: int, progress: Progress
) -> MadeNetboot:
    progress.start(None, "the medium's parts")
    opened = open_medium(medium, scratch / "opened")
    root, made = scratch / "root", scratch / "made"
    take_out(opened.layers, [_BUSYBOX, _MODULES, _FIRMWARE, *_LOADERS.values()], root)
    progress.done()
    # Readable for the servers, which are other users.
    made.mkdir(mode=0o755)
    (made / "live").mkdir()
    _put(opened.kernel, made / "live" / "vmlinuz")
    for layer in opened.layers:
        _put(layer, made / "live" / layer.name)
    progress.start(sum(layer.stat().st_size for layer in opened.layers), "digests and initrd")
    initrd = _initrd(wishes.recipe, root, opened, time, progress)
    (made / "live" / "initrd").write_bytes(initrd)
    progress.done()
    for name, part in _loaders(wishes).items():
        _put(root / part, made / name, of=medium)
    options = _kernel_options(opened, wishes)
    write_texts(made, place, opened, wishes, options)
    return MadeNetboot(place, len(initrd), {path.name: path.stat().st_size for path in opened.layers}, options)


def _put(source: Path, target: Path, *, of: Path | None = None) -> None:
    if not source.is_file():
        raise MediumUnusable(
            f"{of} has no {source.name}, which a start over the network needs",
            hint="Build the medium again with this version.",
        )
    shutil.copyfile(source, target)
    target.chmod(0o644)


def _loaders(wishes: NetbootWishes) -> dict[str, Path | str]:
    return dict(_LOADERS) | ({_IPXE: wishes.ipxe.absolute()} if wishes.ipxe else {})


def _initrd(recipe: Recipe, root: Path, opened: Opened, time: int, progress: Progress) -> bytes:
    """The initrd for the network: cards instead of disks, and what is to be fetched."""
    modules = root / _MODULES / opened.kernel_version
    if not (modules / "modules.dep").is_file() or not (root / _BUSYBOX).is_file():
        raise MediumUnusable("the medium has no modules for its kernel, or no busybox", hint="Build it again.")
    tree = make_initrd(recipe.text("initrd/init"), root / _BUSYBOX, modules, patterns=recipe.network_modules)
    tree.add_file("network", recipe.text("initrd/network").encode())
    tree.add_file("dhcp", recipe.text("initrd/dhcp").encode(), mode=0o755)
    tree.add_file("layers", layer_list(opened.layers, progress).encode())
    contents = [entry.content for path, entry in tree if path.endswith(".ko")]
    for name in sorted(firmware_names(contents)):
        if (root / _FIRMWARE / name).is_file():
            tree.add_file(f"lib/firmware/{name}", (root / _FIRMWARE / name).read_bytes())
    return packed(tree, time=time)


def layer_list(layers: Sequence[Path], progress: Progress) -> str:
    """What the initrd fetches: a line each of SHA-256, bytes and name, as recipe/initrd/network reads it."""
    return "".join(f"{_sha256(path, progress)} {path.stat().st_size} {path.name}\n" for path in layers)


def _sha256(path: Path, progress: Progress) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as content:
        while part := content.read(1 << 20):
            whole.update(part)
            progress.advance(len(part))
    return whole.hexdigest()


def firmware_names(modules: Sequence[bytes]) -> set[str]:
    """The files of firmware that modules ask for, below lib/firmware."""
    names = (match[1].decode() for module in modules for match in _FIRMWARE_NAME.finditer(module))
    return {name for name in names if ".." not in name.split("/")}


def _kernel_options(opened: Opened, wishes: NetbootWishes) -> str:
    return " ".join([opened.kernel_options, *_network_options(wishes)])


def _network_options(wishes: NetbootWishes) -> Iterator[str]:
    yield f"bootmedia.fetch={wishes.served.url}live"
    if wishes.answers is not None:
        yield f"recovery={wishes.served.url}recovery.toml"
    elif wishes.recovery_url:
        yield f"recovery={wishes.recovery_url}"


def for_grub(options: str) -> str:
    """Words as GRUB's shell takes them: unquoted, {, }, & and ? mean something to it (GRUB manual, Quoting).

    A word with quotation marks comes from the menu of the medium, and is quoted already; no URL has any.
    """
    return " ".join(word if _FIT_FOR_GRUB.search(word) else f"'{word}'" for word in options.split())


def write_texts(made: Path, place: Path, opened: Opened, wishes: NetbootWishes, options: str) -> None:
    """Write the configurations; they name the folder by the place that it will have."""
    served, text = wishes.served, wishes.recipe.text
    first, last = served.some_addresses
    known = {
        "TITLE": re.sub(r"[^A-Za-z0-9 ._-]", "_", opened.title),
        "TIMEOUT_SECONDS": str(_TIMEOUT_SECONDS),
        "OPTIONS": options,
        "GRUB_OPTIONS": for_grub(options),
        "URL": served.url,
        "PORT": str(served.port),
        "GRUB_FILES": served.grub_files,
        "ADDRESS": str(served.address),
        "FIRST_ADDRESS": first,
        "LAST_ADDRESS": last,
        "FOLDER": str(place),
        "BIOS_LOADER": _IPXE if wishes.ipxe else "grub.pxe",
        "WEB_SERVERS": web_servers(served, place),
    }
    (made / "grub").mkdir()
    shared = text("netboot/dnsmasq.conf")
    texts = {
        "grub/grub.cfg": without_comments(text("netboot/grub.cfg")),
        "boot.ipxe": text("netboot/boot.ipxe"),
        "dnsmasq-beside.conf": text("netboot/dnsmasq-beside.conf") + shared,
        "dnsmasq-alone.conf": text("netboot/dnsmasq-alone.conf") + shared,
        "README.txt": text("netboot/README.txt"),
    }
    for name, template in texts.items():
        (made / name).write_text(filled(template, known, f"netboot/{Path(name).name}"))
    if wishes.answers is not None:
        _put(wishes.answers, made / "recovery.toml")
