# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs other programs; no other module does.

Programs are found on PATH and in the administrator's folders, which are missing from the PATH of ordinary users
on Debian. Messages are wanted in English, because some are parsed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from imager.errors import ImagerError

_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))


PIPE = subprocess.PIPE
NOWHERE = subprocess.DEVNULL
Running = subprocess.Popen[bytes]
"""A program that runs beside this one."""


class ProgramFailed(ImagerError):
    """A helper program is missing, failed or did not end in time."""


@dataclass(frozen=True)
class Finished:
    """What a program left behind."""

    exit_code: int
    output: bytes
    errors: bytes


def find_program(name: str) -> str | None:
    """The full path of a program, or None when it is not installed."""
    return shutil.which(name, path=_PATH)


def _environment(additions: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, "PATH": _PATH, "LC_ALL": "C.UTF-8", **(additions or {})}


def run(
    command: Sequence[str],
    *,
    input_bytes: bytes = b"",
    timeout_seconds: float = 60,
    allowed: Sequence[int] = (0,),
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    shown: Sequence[str] = (),
) -> Finished:
    """Run a program to its end and return what it printed.

    Args:
        command: Name and arguments; no shell is involved.
        input_bytes: What it gets on standard input.
        timeout_seconds: It is killed when it takes longer.
        allowed: Exit statuses that are no failure.
        environment: Variables to add to the present ones.
        pass_fds: File descriptors that it inherits.
        shown: The command in messages, where the real one has wrappings that nobody would type.

    Raises:
        ProgramFailed: It is not installed, took too long, or ended with a status that is not allowed.
    """
    program = find_program(command[0])
    if program is None:
        raise ProgramFailed(f"the program {command[0]} is not installed", program=command[0])
    try:
        done = subprocess.run(
            [program, *command[1:]],
            input=input_bytes,
            capture_output=True,
            check=False,
            timeout=timeout_seconds,
            pass_fds=tuple(pass_fds),
            env=_environment(environment),
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramFailed(
            f"{command[0]} did not end within {timeout_seconds:g} seconds", program=command[0]
        ) from error
    except OSError as error:
        raise ProgramFailed(f"{command[0]} could not be started: {error.strerror}", program=command[0]) from error
    if done.returncode not in allowed:
        said = done.stderr.decode(errors="replace").strip() or done.stdout.decode(errors="replace").strip()
        raise ProgramFailed(
            f"{' '.join(shown or command)} ended with status {done.returncode}: {said[-500:] or 'no message'}",
            program=(shown or command)[0],
            exit_code=done.returncode,
        )
    return Finished(done.returncode, done.stdout, done.stderr)


@contextmanager
def start(
    command: Sequence[str],
    *,
    input_from: int | IO[bytes] = NOWHERE,
    output_to: int | IO[bytes] = NOWHERE,
    errors_to: int | IO[bytes] = NOWHERE,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    own_session: bool = False,
    patience_seconds: float = 10,
) -> Iterator[Running]:
    """Run a program beside this one: for what takes long, or is talked with.

    When the block is left while the program runs, it is asked to end, and killed when it does not do so in time. With
    own_session, a Ctrl-C at the terminal does not reach it.

    Raises:
        ProgramFailed: It is not installed or cannot be started. How it ends is for the caller to look at.
    """
    program = find_program(command[0])
    if program is None:
        raise ProgramFailed(f"the program {command[0]} is not installed", program=command[0])
    try:
        running = subprocess.Popen(
            [program, *command[1:]],
            stdin=input_from,
            stdout=output_to,
            stderr=errors_to,
            env=_environment(environment),
            pass_fds=tuple(pass_fds),
            start_new_session=own_session,
        )
    except OSError as error:
        raise ProgramFailed(f"{command[0]} could not be started: {error.strerror}", program=command[0]) from error
    with running:
        try:
            yield running
        finally:
            _end(running, patience_seconds)


def wait_for(running: Running, timeout_seconds: float) -> int:
    """The exit status of a program that ends by itself.

    Raises:
        TimeoutError: It did not in time.
    """
    try:
        return running.wait(timeout_seconds)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError from error


def _end(running: Running, patience_seconds: float) -> None:
    if running.poll() is not None:
        return
    running.terminate()
    try:
        running.wait(patience_seconds)
    except subprocess.TimeoutExpired:
        running.kill()
