# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `recovery`: run, find, show and ssh."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from bootmedia.recovery.door import close_door, open_door
from bootmedia.recovery.facts import candidates, machine_facts
from bootmedia.recovery.finding import checked_answers, find_answers
from bootmedia.recovery.job import Recovery, end_with, told_as_failure
from bootmedia.recovery.places import Surroundings, fetched
from imager import __version__
from imager.cli.options import DebugOption, DryRunOption, JsonOption, ProgressOption, QuietOption
from imager.cli.output import Console
from imager.cli.problems import reports_problems
from imager.cli.running import run_program
from imager.errors import UsageError

P = ParamSpec("P")

EXIT_STATUSES = (
    (0, "all that was asked for is done"),
    (1, "a defect of recovery itself, or a program that it calls failed"),
    (2, "the command line or recovery.toml is wrong, or it is for other machines"),
    (3, "the disks could not be looked at"),
    (4, "the image: damaged, incomplete, or of a newer version"),
    (5, "recovery.toml or the image: missing, or the network or server does not answer"),
    (6, "the target: no disk fits the rule, or several do; in use, too small, or a write failed"),
    (7, "done, but the image lacks content, as was accepted"),
    (130, "interrupted; 143 by SIGTERM"),
)
"""What each exit status means: imager's, in the words of this command."""

app = typer.Typer(
    name="recovery",
    help="Restore this machine as recovery.toml says, without asking anybody.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text keeps the examples as they are written, and man pages are made from it
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _epilog(*examples: tuple[str, str], statuses: Sequence[int]) -> str:
    shown = "\n".join(f"  # {comment}\n  {line}" for line, comment in examples)
    meanings = dict(EXIT_STATUSES)
    listed = "\n".join(f"  {code:<4} {meanings[code]}" for code in (0, *statuses))
    return f"\b\nExamples:\n{shown}\n\n\b\nExit status:\n{listed}"


def _reporting(command: Callable[P, int | None]) -> Callable[P, None]:
    return reports_problems(command, program="recovery")


def surroundings() -> Surroundings:
    """This machine."""
    return Surroundings()


@app.command(
    "run",
    epilog=_epilog(
        ("recovery run --dry-run", "what would be done, with the recovery.toml of the stick or of the kernel's line"),
        ("recovery run /mnt/recovery.toml", "as this file says"),
        ("recovery run http://10.0.0.1/{mac}.toml", "as a file says that the server has for this machine"),
        statuses=[code for code, _ in EXIT_STATUSES[1:]],
    ),
)
@_reporting
def run(
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="The answers: a path, label=NAME/PATH or a URL; else they are looked for."),
    ] = None,
    certificate: Annotated[
        str,
        typer.Option(
            "--certificate", metavar="SHA256", help="Fingerprint of the certificate that the server of FILE must show."
        ),
    ] = "",
    once: Annotated[
        bool,
        typer.Option("--once", help="Not on a machine that this stick has restored by the same answers before."),
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    progress: ProgressOption = None,
    debug: DebugOption = False,
) -> None:
    """Restore this machine as recovery.toml says. WHAT IS ON THE CHOSEN DISKS IS LOST, and nobody is asked.

    Answers are looked for on the kernel's command line (recovery=), on the stick, and beside the images on it. All is
    decided before anything is written; if any disk, image or machine is not the one that is meant beyond doubt, nothing
    is written. The plan is shown first. On a failure the machine is left running, whatever comes after.
    """
    console = Console(json=as_json, quiet=quiet, progress_as=progress)
    around = surroundings()
    around.said = lambda text: console.say(text)
    recovery = Recovery.of(around, console.progress(), certificate)
    recovery.once = once
    if dry_run:
        plan = recovery.decide(file)
        console.result({"plan": plan.as_dict()}, [*plan.lines(), "", "Nothing was written: this was a dry run."])
        return
    report = recovery.run(file)
    after = recovery.plan.answers.after if recovery.plan else "shell"
    console.result(report, [_done_line(recovery)])
    with told_as_failure(after):
        end_with(after, around)


@app.command(
    "find",
    epilog=_epilog(
        ("recovery find", "where the recovery.toml lies that `recovery run` would follow"),
        ("recovery find && recovery run", "only when there is one for this machine"),
        statuses=(2, 5),
    ),
)
@_reporting
def find(as_json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False) -> None:
    """Say where the answers for this machine are: on the stick, beside an image, or inside of one."""
    console = Console(json=as_json, quiet=quiet)
    around = surroundings()
    around.said = lambda text: console.say(text)
    found = find_answers(None, machine_facts(around.system), around)
    console.result({"answers": found.name}, [found.name])


@app.command(
    "check",
    epilog=_epilog(
        ("recovery check recovery.toml", "before it goes onto a stick, or into an image with imager capture --answers"),
        ("recovery check server.img.zst", "what the image carries"),
        statuses=(2, 5),
    ),
)
@_reporting
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A recovery.toml, or an image that carries one.")],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Say whether a recovery.toml can be followed, on any machine; disks and images are not looked at."""
    console = Console(json=as_json, quiet=quiet)
    answers, is_for_image = checked_answers(Path(file))
    restores = [{"image": each.image, "target": each.target} for each in answers.restore]
    lines = [f"{file} is right: restores {len(restores)}, then {answers.after}"]
    lines += [f"  {each['image']} to the disk {each['target']}" for each in restores]
    if is_for_image:
        lines.append("  self is the image that carries it: this file works only with imager capture --answers")
    console.result(
        {"answers": file, "restores": restores, "after": answers.after, "only_in_image": is_for_image}, lines
    )


def _done_line(recovery: Recovery) -> str:
    targets = ", ".join(str(result["target"]) for result in recovery.results)
    log = f"; the log is {recovery.log.path}, the report lies beside it" if recovery.log.path else ""
    return f"done: {targets}{log}"


@app.command(
    "fetch",
    epilog=_epilog(
        ("recovery fetch http://10.0.0.1/server.img.zst | imager info -", "what is in an image on a web server"),
        ("recovery fetch URL | imager restore - /dev/sda", "restore it; the plan is shown, and the name asked for"),
        statuses=(2, 5, 130),
    ),
)
@_reporting
def fetch(
    url: Annotated[str, typer.Argument(metavar="URL", help="http://, https:// or ssh://USER@HOST/PATH.")],
    certificate: Annotated[
        str, typer.Option("--certificate", metavar="SHA256", help="Fingerprint that the web server's certificate has.")
    ] = "",
    host_key: Annotated[
        str, typer.Option("--host-key", metavar="SHA256:...", help="Fingerprint of the SSH server's key.")
    ] = "",
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Private SSH key to log in with.", dir_okay=False)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Messages and the error as lines of JSON, on standard error.")
    ] = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a file from a web or SSH server to standard output, and take it up again where the network breaks off.

    Who answers is checked before a byte is passed on: by an authority or by a fingerprint that you name.

    Where the server is lost, it is tried eight times, with pauses of two minutes in all. A server that refuses is so
    given up after two minutes, and one that is silent, which is waited for a minute each time, after ten.
    """
    if sys.stdout.isatty():
        raise UsageError("the file would be written to the terminal", hint="Pipe it into a program, or redirect it.")
    said = Console(quiet=quiet, progress_as="lines").progress().note if as_json else Console(quiet=quiet).say
    with fetched(url, certificate=certificate, host_key=host_key, key=key, said=said) as source:
        buffer = memoryview(bytearray(1 << 20))
        while got := source.read_into(buffer):
            sys.stdout.buffer.write(buffer[:got])
        sys.stdout.buffer.flush()


@app.command(
    "show",
    epilog=_epilog(
        ("recovery show", "lines for recovery.toml"),
        ("recovery show --json | jq -r .machine.mac[0]", "for a script"),
        statuses=(2, 3),
    ),
)
@_reporting
def show(as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Show what this machine is, as [match] of recovery.toml wants it, and its disks, as target wants them."""
    console = Console(json=as_json)
    around = surroundings()
    facts = machine_facts(around.system)
    disks = candidates({}, around.system)
    lines = [*facts.lines(), "", "# disks"]
    for disk in disks:
        names = (("serial", disk.serial), ("wwn", disk.wwn))
        keys = [f'target = "{key}={value}"' for key, value in names if value] or [f'target = "path={disk.path}"']
        lines += [f"# {disk}{f': {disk.kept}' if disk.kept else ''}", *(f"#   {key}" for key in keys)]
    console.result({"machine": facts.as_dict(), "disks": [disk.as_dict() for disk in disks]}, lines)


@app.command(
    "ssh",
    epilog=_epilog(
        ("recovery ssh", "shows a password that is good for one login"),
        ("recovery ssh --close", "nobody comes in any more"),
        statuses=(1, 2),
    ),
)
@_reporting
def ssh(
    close: Annotated[bool, typer.Option("--close", help="End it: the password is worth nothing any more.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Open a root shell over SSH, once, with a password that is made now and shown here.

    The first login uses it up, and after 30 minutes it is worth nothing anyway. Compare the key of this host with what
    ssh asks about: that is the only proof that nobody stands in between.
    """
    console = Console(json=as_json)
    if close:
        close_door(surroundings())
        console.result({"open": False}, ["Nobody comes in over SSH with a password; who is in stays."])
        return
    door = open_door(surroundings())
    console.result(door.as_dict(), door.lines())


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"recovery {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Restore this machine as recovery.toml says, without asking anybody."""


def main() -> None:
    """Entry point of the program."""
    run_program(app)
