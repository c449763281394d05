# SPDX-License-Identifier: GPL-3.0-or-later
"""bootmedia netboot: makes the folder that machines start from over the network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bootmedia.build import creation_time
from bootmedia.cli.options import MediumArgument, epilog, reporting
from bootmedia.netboot import MadeNetboot, NetbootWishes, make_netboot
from bootmedia.recipes import read_recipe
from bootmedia.served import answers_url, server
from imager.cli.options import DebugOption, JsonOption, ProgressOption, QuietOption
from imager.cli.output import Console
from imager.errors import UsageError

NAME = "netboot"
EPILOG = epilog(
    ("bootmedia netboot rescue.iso /srv/netboot --url http://192.0.2.1:8080/", "and follow README.txt in it"),
    (
        "bootmedia netboot rescue.iso /srv/netboot --url http://192.0.2.1:8080/ --answers recovery.toml",
        "machines that start from it are restored by themselves",
    ),
    statuses=(1, 2, 4, 5, 130),
)


@reporting
def command(
    medium: MediumArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="Where machines will find DIR: http://SERVER:PORT/.")
    ],
    tftp_address: Annotated[
        str | None,
        typer.Option("--tftp-address", metavar="IP", help="The machine that dnsmasq runs on; else the one of --url."),
    ] = None,
    recovery: Annotated[
        str | None,
        typer.Option("--recovery", metavar="URL", help="Answers that each machine gets, as http://boss/{mac}.toml."),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option("--answers", metavar="FILE", help="The same from a file, which is put into DIR.")
    ] = None,
    ipxe: Annotated[
        Path | None,
        typer.Option("--ipxe", metavar="FILE", help="Start BIOS machines with this iPXE (undionly.kpxe) and not GRUB."),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = None,
    debug: DebugOption = False,
) -> None:
    """Make a folder with all that machines need to start over the network, from a medium and nothing else.

    It has boot loaders for BIOS, UEFI and UEFI with Secure Boot, kernel and initrd, the medium's file systems, and
    configurations of dnsmasq for a network with and without a DHCP server; README.txt says how to serve it. The initrd
    refuses file systems that are not those of the medium.
    """
    console = Console(json=as_json, quiet=quiet, progress_as=progress)
    if recovery is not None and answers is not None:
        raise UsageError("--recovery and --answers exclude one another")
    for path in (medium, answers, ipxe):
        if path is not None and not path.is_file():
            raise UsageError(f"there is no file {path}")
    wishes = NetbootWishes(
        recipe=read_recipe("minimal"),
        served=server(url, tftp_address),
        recovery_url=answers_url(recovery) if recovery is not None else "",
        answers=answers,
        ipxe=ipxe,
    )
    made = make_netboot(medium, folder, wishes, time=creation_time(), progress=console.progress())
    console.result(_facts(made), _lines(made))


def _facts(made: MadeNetboot) -> dict[str, object]:
    return {
        "folder": str(made.folder),
        "initrd_bytes": made.initrd_bytes,
        "layers": dict(made.layers),
        "kernel_options": made.kernel_options,
    }


def _lines(made: MadeNetboot) -> list[str]:
    fetched = (sum(made.layers.values()) + made.initrd_bytes) / 2**20
    return [
        f"{made.folder}: each machine fetches {fetched:.0f} MiB, {made.initrd_bytes / 2**20:.0f} of them as initrd",
        "",
        (made.folder / "README.txt").read_text().rstrip(),
    ]
