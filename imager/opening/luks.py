# SPDX-License-Identifier: GPL-3.0-or-later
"""LUKS containers, opened by cryptsetup under a name of our own.

The passphrase goes through standard input: an argument is seen by every user of the machine.
"""

from __future__ import annotations

from contextlib import ExitStack

from imager.errors import VolumeFailed
from imager.opening import mapper
from imager.opening.model import OpenVolume, Secrets
from imager.opening.nodes import again_and_again, uninterrupted
from imager.process import ProgramFailed, run

_WRONG_PASSPHRASE = 2  # cryptsetup(8), RETURN CODES
_SECONDS = 600  # Argon2 with the memory and the processor of another machine


def open_container(stack: ExitStack, volume: OpenVolume, secrets: Secrets, *, writable: bool) -> str:
    """Open a container until the stack is closed; the path of its plain text.

    Raises:
        VolumeFailed: There is no passphrase for it, or it does not open it; the machine cannot open containers.
    """
    secret = secrets.get(volume.content.uuid)
    if secret is None:
        raise VolumeFailed("it is locked: no passphrase was given", uuid=volume.content.uuid)
    if not mapper.is_there():
        raise VolumeFailed(mapper.MISSING)
    name = mapper.own_name(volume.content.uuid)
    # Without the kernel's keyring, a later `cryptsetup resize` needs no passphrase.
    words = ["cryptsetup", "open", "--type", "luks", "--batch-mode", "--disable-keyring", "--key-file", "-"]
    words += [] if writable else ["--readonly"]
    try:
        with uninterrupted():
            run([*words, volume.path, name], input_bytes=bytes(secret), timeout_seconds=_SECONDS)
            stack.callback(again_and_again, lambda: run(["cryptsetup", "close", name]))
    except ProgramFailed as error:
        if error.facts.get("exit_code") == _WRONG_PASSPHRASE:
            raise VolumeFailed("the passphrase does not open it", uuid=volume.content.uuid) from error
        raise VolumeFailed(error.message) from error
    return f"/dev/mapper/{name}"
