# SPDX-License-Identifier: GPL-3.0-or-later
"""bootmedia test: starts a medium in a virtual machine."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from bootmedia.cli.options import MediumArgument, epilog, reporting
from bootmedia.machine import Disk, Firmware, Machine, displays
from bootmedia.stick.medium import HEAD_BYTES, is_medium
from bootmedia.trial import Reached, Trial, log_said, try_out
from imager.cli.options import DebugOption, JsonOption, QuietOption
from imager.cli.output import Console
from imager.errors import StoreError, UsageError

NAME = "test"
_VNC_ADDRESS, _VNC_PORT = "127.0.0.1", 5900
EPILOG = epilog(
    ("bootmedia test rescue.iso", "from a CD, with UEFI"),
    ("bootmedia test rescue.iso --bios --usb", "from a stick, with BIOS"),
    ("bootmedia test rescue.iso --screen --disk copy.img", "and work with it in a window"),
    ("bootmedia test rescue.iso --secure-boot --log serial.log", "and keep what it said"),
    statuses=(2, 4, 5, 130),
)


@reporting
def command(
    medium: MediumArgument,
    uefi: Annotated[bool, typer.Option("--uefi", help="With UEFI firmware; this is what is done by itself.")] = False,
    bios: Annotated[bool, typer.Option("--bios", help="With BIOS firmware.")] = False,
    secure_boot: Annotated[
        bool, typer.Option("--secure-boot", help="With UEFI firmware that starts only what is signed.")
    ] = False,
    usb: Annotated[bool, typer.Option("--usb", help="As a USB stick instead of a CD.")] = False,
    disk: Annotated[
        list[Path] | None,
        typer.Option("--disk", metavar="FILE", help="A raw disk to put into the machine; it is not changed."),
    ] = None,
    memory: Annotated[int, typer.Option("--memory", min=256, metavar="MIB", help="The machine's memory.")] = 1024,
    timeout: Annotated[int, typer.Option("--timeout", min=1, metavar="SECONDS", help="When to give up.")] = 300,
    screen: Annotated[
        bool,
        typer.Option("--screen", help="With a window (or VNC where there is none), and on until you switch it off."),
    ] = False,
    kvm: Annotated[
        bool, typer.Option("--kvm", help="With the processor's help, where /dev/kvm works; much faster.")
    ] = False,
    log: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Keep what came over the serial line.")
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> int:
    """Start a medium in a virtual machine (QEMU) and say how far it comes and when.

    Ready means: the wizard or a root shell on the serial line, or that an unattended restore counts down. Then the
    machine is switched off; with --screen it is left to you. Neither the medium nor the disks are changed.
    """
    console = Console(json=as_json, quiet=quiet)
    _require_files(medium, *(disk or ()))
    _warn_of_others(medium, console)
    machine = Machine(
        firmware=_firmware(uefi=uefi, bios=bios, secure_boot=secure_boot),
        medium=medium,
        as_stick=usb,
        disks=tuple(Disk(path, throw_away=True) for path in disk or ()),
        memory_mib=memory,
        accelerator="kvm" if kvm else "tcg",
        screen=_screen(console) if screen else "",
    )
    trial = try_out(machine, timeout_seconds=timeout, reached=lambda stage: console.say(_line(stage)), stays_on=screen)
    if log is not None:
        _keep(trial, log)
    console.result(_facts(machine, trial), _lines(machine, trial))
    return 0 if trial.is_ready else 4


def _screen(console: Console) -> str:
    """How this QEMU can show a screen here: in a window, or to a viewer."""
    windows = [kind for kind in ("gtk", "sdl") if kind in displays()]
    if windows and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return windows[0]
    why = "no desktop" if windows else "no window (qemu-system-gui)"
    console.say(f"There is {why} here: connect a VNC viewer to {_VNC_ADDRESS}, port {_VNC_PORT}.")
    return f"vnc={_VNC_ADDRESS}:{_VNC_PORT - 5900}"


def _firmware(*, uefi: bool, bios: bool, secure_boot: bool) -> Firmware:
    if uefi + bios + secure_boot > 1:
        raise UsageError("--uefi, --bios and --secure-boot exclude one another")
    if bios:
        return Firmware.BIOS
    return Firmware.SECURE_BOOT if secure_boot else Firmware.UEFI


def _require_files(*paths: Path) -> None:
    for path in paths:
        if not path.exists():
            raise UsageError(f"there is no {path}", hint="bootmedia build makes a medium.")


def _warn_of_others(medium: Path, console: Console) -> None:
    """Say at once what would be known only when the time is over: what is tried is no medium of ours."""
    with suppress(OSError), medium.open("rb") as file:
        if not is_medium(file.read(HEAD_BYTES)):
            console.warn(f"{medium} is no medium that bootmedia build made; it is started all the same")


def _keep(trial: Trial, log: Path) -> None:
    try:
        log_said(trial, log)
    except OSError as error:
        raise StoreError(f"{log} cannot be written: {error.strerror}") from error


def _line(reached: Reached) -> str:
    return f"{reached.seconds:7.1f} s  {reached.stage.name}"


def _facts(machine: Machine, trial: Trial) -> dict[str, object]:
    return {
        "firmware": machine.firmware.value,
        "ready": trial.is_ready,
        "secure_boot": trial.secure_boot,
        "stages": [{"name": each.stage.name, "seconds": each.seconds} for each in trial.reached],
        "missing": trial.missing.name if trial.missing else None,
    }


def _lines(machine: Machine, trial: Trial) -> list[str]:
    if trial.missing is None:
        return [f"ready after {trial.reached[-1].seconds:.1f} s, {machine.firmware.value}"]
    last = [f"    {line}" for line in trial.said.splitlines()[-12:]]
    return [
        f"not ready, {machine.firmware.value}: the stage '{trial.missing.name}' was not reached",
        f"That means: {trial.missing.meaning_of_absence}.",
        "The last lines on the serial line:",
        *last,
    ]
