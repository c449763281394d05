# SPDX-License-Identifier: GPL-3.0-or-later
"""Files on SSH servers, whose key is known before anything is sent.

References: RFC 4253 8 (host keys), ssh-keyscan(1), ssh_config(5), sshd(8) (known_hosts).
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from bootmedia.recovery.errors import Unreachable
from bootmedia.recovery.fetch import WAITS, ResumingInput, Said, quietly
from bootmedia.recovery.naming import ImagePlace
from imager import temporary
from imager.errors import StoreError
from imager.process import PIPE, ProgramFailed, Running, run, start


class SshInput(ResumingInput):
    """A file on an SSH server, read by its own `tail`, which can begin anywhere."""

    def __init__(
        self,
        place: ImagePlace,
        *,
        host_key: str,
        key: Path | None = None,
        waits: Sequence[float] = WAITS,
        said: Said = quietly,
    ) -> None:
        self._place = place
        self._host_key = host_key
        self._key = key
        self._stack = ExitStack()
        self._running: Running | None = None
        self._errors: IO[bytes] | None = None
        self._folder = self._stack.enter_context(temporary.folder("ssh"))
        super().__init__(place.url, waits, said)

    def _open(self, offset: int) -> None:
        known = self._folder / "known_hosts"
        if not known.exists():
            known.write_text(known_host(self._place.host, self._place.port, self._host_key))
        connection = ExitStack()
        errors = self._folder / "errors"
        try:
            self._errors = connection.enter_context(errors.open("w+b"))
            self._running = connection.enter_context(
                start(self._command(known, offset), output_to=PIPE, errors_to=self._errors)
            )
        except ProgramFailed as error:
            connection.close()
            raise StoreError(f"{self.name}: {error.message}", hint="Install openssh-client.") from error
        self._connection = connection

    def _command(self, known: Path, offset: int) -> list[str]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(known),
            "GlobalKnownHostsFile": "/dev/null",
            "UpdateHostKeys": "no",
            "ConnectTimeout": "20",
            "ServerAliveInterval": "15",
            "Compression": "no",  # images are compressed already
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        if self._key:
            words += ["-o", "IdentitiesOnly=yes", "-i", str(self._own_key(self._key))]
        words += ["-T", "-p", str(self._place.port), "-l", self._place.user, "--", self._place.host]
        return ["ssh", *words, f"tail -c +{offset + 1} -- {shlex.quote(self._place.path)}"]

    def _own_key(self, key: Path) -> Path:
        """The key in a file that only we may read: on a FAT stick all may, and ssh refuses it."""
        copy = self._folder / "key"
        if not copy.exists():
            try:
                content = key.read_bytes()
            except OSError as error:
                raise StoreError(f"the SSH key {key} cannot be read: {error.strerror}", path=str(key)) from error
            copy.touch(mode=0o600)
            copy.write_bytes(content)
        return copy

    def _read(self, view: memoryview) -> int:
        if self._running is None or self._running.stdout is None:
            return 0
        got: int = self._running.stdout.readinto(view)  # type: ignore[attr-defined]
        if not got and self._running.wait():
            raise self._failure(self._running.returncode)
        return got

    def _failure(self, code: int) -> StoreError:
        said = ""
        if self._errors:
            self._errors.seek(0)
            said = " ".join(self._errors.read(4096).decode(errors="replace").split())
        message = f"{self.name} broke off after {self._offset} bytes: {said or f'ssh ended with status {code}'}"
        # 255 is ssh's own, about the connection; below 0 is a signal that ended it.
        if (code == 255 or code < 0) and "denied" not in said and "verification failed" not in said:
            return Unreachable(message, path=self.name)
        hint = "The server does not accept the key: look at key = in recovery.toml." if "denied (" in said else ""
        return StoreError(message, hint=hint, path=self.name)

    def _drop(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._connection.close()
        self._running = None

    def close(self) -> None:
        """End the connection and forget the key."""
        super().close()
        self._stack.close()


def known_host(host: str, port: int, fingerprint: str) -> str:
    """The line of known_hosts for the key that has a fingerprint.

    Raises:
        Unreachable: The server does not answer.
        StoreError: It has no such key.
    """
    known = host_keys(host, port)
    wanted = fingerprint.rstrip("=")
    if wanted not in known:
        raise StoreError(
            f"{host} shows the SSH keys {', '.join(known)}; expected was {wanted}",
            hint="Somebody else answers, or the server has new keys: ask whoever runs it, then set host_key.",
            expected=wanted,
            found=list(known),
        )
    return known[wanted] + "\n"


def host_keys(host: str, port: int) -> dict[str, str]:
    """The lines of known_hosts for all keys that a server shows, by their fingerprints; nobody has vouched for them.

    Raises:
        Unreachable: The server does not answer.
        StoreError: It cannot be asked.
    """
    try:
        found = run(["ssh-keyscan", "-T", "15", "-p", str(port), "--", host], timeout_seconds=60, allowed=(0, 1))
    except ProgramFailed as error:
        raise StoreError(error.message, hint="Install openssh-client.") from error
    lines = [line for line in found.output.decode(errors="replace").splitlines() if not line.startswith("#")]
    if not lines:
        raise Unreachable(f"{host}, port {port}, does not answer as an SSH server", host=host, port=port)
    return dict(_fingerprints(lines))


def _fingerprints(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The fingerprint of each key, as ssh-keygen -l prints it, and the key's line."""
    for line in lines:
        words = line.split()
        if len(words) >= 3:
            digest = hashlib.sha256(base64.b64decode(words[2])).digest()
            yield "SHA256:" + base64.b64encode(digest).decode().rstrip("="), line
