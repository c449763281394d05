# SPDX-License-Identifier: GPL-3.0-or-later
"""bootmedia build: makes a medium."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bootmedia.build import Built, Wishes, build
from bootmedia.cache import Cache, default_folder
from bootmedia.cli.options import epilog, read_checked_answers, reporting
from bootmedia.errors import RecipeError
from bootmedia.kernels import DEBIANS, given_kernel
from bootmedia.layer import Settings, ssh_keys
from bootmedia.network import network_options
from bootmedia.recipes import Recipe, firmware_packages, profiles, read_recipe
from bootmedia.recipes import package as read_package
from bootmedia.squashfs import COMPRESSIONS
from imager import __version__
from imager.cli.options import DebugOption, JsonOption, ProgressOption, QuietOption
from imager.cli.output import Console
from imager.errors import UsageError

NAME = "build"
EPILOG = epilog(
    ("bootmedia build rescue.iso", "a medium for BIOS and UEFI, CD and stick"),
    ("bootmedia build rescue.iso --include /backup/server.img.zst", "with the image on it"),
    ("bootmedia build rescue.iso --compression small --keymap de --ssh-key ~/.ssh/id_ed25519.pub", "smaller"),
    ("bootmedia build rescue.iso --include server.img.zst --answers recovery.toml", "restores without being asked"),
    ("bootmedia write rescue.iso /dev/sdX", "onto a stick; it shows a plan and asks first"),
    statuses=(1, 2, 3, 5, 130),
)


@reporting
def command(
    output: Annotated[Path, typer.Argument(metavar="OUT.iso", help="The file to make.")],
    profile: Annotated[
        str, typer.Option("--profile", metavar="NAME", help=f"What is on it: {' or '.join(profiles())}.")
    ] = "rescue",
    include: Annotated[
        list[Path] | None,
        typer.Option("--include", metavar="IMAGE", help="Put an image, or a folder of them, on the medium."),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            "--answers", metavar="FILE", help="A recovery.toml: the machine is restored without asking anybody."
        ),
    ] = None,
    ssh_key: Annotated[
        list[Path] | None,
        typer.Option(
            "--ssh-key", metavar="FILE", help="A public key that opens root's shell over SSH; without one, no SSH."
        ),
    ] = None,
    hostname: Annotated[
        str, typer.Option("--hostname", metavar="NAME", help="What the machine calls itself.")
    ] = "recovery",
    keymap: Annotated[
        str | None, typer.Option("--keymap", metavar="NAME", help="Keyboard layout, such as de or fr-latin1.")
    ] = None,
    package: Annotated[
        list[str] | None, typer.Option("--package", metavar="NAME", help="A further Debian package.")
    ] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            "--network",
            metavar="SETTINGS",
            help="dhcp, off, or address=IP/LENGTH,gateway=IP,dns=IP,interface=MAC for one card.",
        ),
    ] = None,
    driver_firmware: Annotated[
        bool, typer.Option("--driver-firmware", help="With non-free firmware for network cards and controllers.")
    ] = False,
    kernel: Annotated[
        str | None,
        typer.Option(
            "--kernel", metavar="PACKAGE", help="Debian's package of another kernel; with --modules, a kernel's file."
        ),
    ] = None,
    modules: Annotated[
        Path | None,
        typer.Option("--modules", metavar="DIR", help="Folder lib/modules/VERSION of the kernel file --kernel."),
    ] = None,
    suite: Annotated[str, typer.Option("--suite", metavar="NAME", help="Debian's release.")] = "trixie",
    mirror: Annotated[
        str | None,
        typer.Option("--mirror", metavar="URL", help="Where packages come from; else this machine's apt sources."),
    ] = None,
    compression: Annotated[
        str, typer.Option("--compression", metavar="KIND", help="fast, or small: slower to make, nothing else.")
    ] = "fast",
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="DIR", help="What is kept for the next build; else ~/.cache/imager/bootmedia."),
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Fetch the packages anew, for updates since the base was kept.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.iso when it is there.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = None,
    debug: DebugOption = False,
) -> None:
    """Make a medium that starts a machine without a system and has imager on it.

    It starts on BIOS and on UEFI, with Secure Boot too, from a CD and from a USB stick, and ends in the wizard on the
    screen and on the serial line, with a root shell behind it. The first build fetches Debian packages and takes
    minutes; what does not depend on the options is kept, and the next takes seconds. With SOURCE_DATE_EPOCH set, the
    same inputs give the same bytes.
    """
    console = Console(json=as_json, quiet=quiet, progress_as=progress)
    if compression not in COMPRESSIONS:
        raise RecipeError(f"--compression: {compression!r} is neither {' nor '.join(COMPRESSIONS)}")
    firmware = firmware_packages() if driver_firmware else []
    recipe = read_recipe(profile, more_packages=[*(package or ()), *firmware])
    wishes = Wishes(
        recipe=_with_kernel(recipe, kernel, modules).with_kernel_options(network_options(network or ())),
        settings=Settings(
            title=f"imager {__version__} recovery",
            host_name=hostname,
            keymap=keymap or "",
            ssh_keys="".join(_read_keys(path) for path in ssh_key or ()),
        ),
        suite=suite,
        mirror=mirror,
        compression=COMPRESSIONS[compression],
        firmware=driver_firmware,
        kernel=given_kernel(Path(kernel), modules) if kernel and modules else None,
        included=tuple(include or ()),
        answers=answers if answers and read_checked_answers(answers) else None,
        overwrite=overwrite,
        refresh=refresh,
    )
    built = build(wishes, output, Cache(cache or default_folder()), console.progress())
    console.result(_facts(built), _lines(built))


def _with_kernel(recipe: Recipe, kernel: str | None, modules: Path | None) -> Recipe:
    """The recipe with the packages of the kernel that is wanted: another one, or none for one that is given."""
    if modules and not kernel:
        raise UsageError("--modules belongs to --kernel FILE, the kernel that they are for")
    if modules:
        return recipe.with_packages([], instead_of=DEBIANS)
    if kernel and "/" in kernel:
        raise UsageError(
            f"--kernel {kernel} is a file, so its modules are needed: --modules DIR", hint="lib/modules/VERSION"
        )
    return recipe.with_packages([read_package(kernel)], instead_of=DEBIANS) if kernel else recipe


def _read_keys(path: Path) -> str:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"--ssh-key: {path} cannot be read as text: {error}") from error
    return ssh_keys(text, str(path))


def _facts(built: Built) -> dict[str, object]:
    return {
        "path": str(built.path),
        "medium_id": built.medium_id,
        "kernel": built.kernel,
        "size_bytes": built.size_bytes,
        "contents": dict(built.contents),
        "base_made": built.base_made,
        "seconds": round(built.seconds, 1),
    }


def _lines(built: Built) -> list[str]:
    return [
        f"{built.path}: {built.size_bytes / 2**20:.0f} MiB, made in {built.seconds:.0f} s",
        "  " + ", ".join(f"{name} {size / 2**20:.1f}" for name, size in built.contents.items()),
        f"Debian packages as of {built.base_made} (newer: --refresh)",
        f"Try it: bootmedia test {built.path}",
    ]
