# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens SSH on a running medium for one login, with a password that is shown on the screen.

It is worth nothing afterwards: the first that gets in with it uses it up (recovery-ssh-used, called by PAM), and
recovery-ssh.service ends after half an hour, whoever came.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bootmedia.recovery.places import Surroundings
from imager.errors import UsageError
from imager.process import ProgramFailed, run

MINUTES: Final = 30
"""As recovery-ssh.service has it."""
_LETTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"
"""Without those that look like another one."""
_GROUPS, _GROUP_LENGTH = 3, 4
_UNIT: Final = "recovery-ssh.service"
_TOKEN: Final = Path("/run/recovery-ssh/unused")
_HOST_KEY: Final = Path("/etc/ssh/ssh_host_ed25519_key.pub")


@dataclass(frozen=True)
class Door:
    """What somebody needs to come in.

    Attributes:
        password: For root, once.
        addresses: Of this machine.
        fingerprint: Of its host key, to compare with what ssh shows.
    """

    password: str
    addresses: tuple[str, ...]
    fingerprint: str

    def lines(self) -> list[str]:
        """For the screen."""
        commands = [f"  ssh root@{address}" for address in self.addresses]
        return [
            *(commands or ["  this machine has no address yet: `ip address`, `dhcpcd CARD`"]),
            f"  password          {self.password}",
            f"  key of this host  {self.fingerprint}",
            f"For one login, within {MINUTES} minutes; `recovery ssh --close` ends it before.",
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "user": "root",
            "password": self.password,
            "addresses": list(self.addresses),
            "fingerprint": self.fingerprint,
            "minutes": MINUTES,
        }


def new_password() -> str:
    """60 bits that can be read out on the telephone."""
    groups = ("".join(secrets.choice(_LETTERS) for _ in range(_GROUP_LENGTH)) for _ in range(_GROUPS))
    return "-".join(groups)


def addresses_in(said: str) -> tuple[str, ...]:
    """The addresses that others can reach, in what `ip -json address` says."""
    return tuple(
        address["local"]
        for card in json.loads(said)
        for address in card.get("addr_info", ())
        if address.get("scope") == "global" and "local" in address
    )


def open_door(around: Surroundings) -> Door:
    """Set the password and start to listen.

    Raises:
        UsageError: This is not a running medium, or SSH is open in another way.
        ProgramFailed: sshd does not start.
    """
    _refuse_other_systems(around)
    if run(["systemctl", "is-active", "--quiet", "ssh.service"], allowed=(0, 1, 3, 4)).exit_code == 0:
        raise UsageError(
            "SSH is open already, for the key that this medium was built with",
            hint="To open it with a password instead: systemctl stop ssh; recovery ssh",
        )
    close_door(around)
    password = new_password()
    run(["chpasswd"], input_bytes=f"root:{password}\n".encode())
    _TOKEN.parent.mkdir(mode=0o700, exist_ok=True)
    _TOKEN.touch()
    try:
        run(["systemctl", "start", _UNIT], timeout_seconds=120)
    except ProgramFailed:
        close_door(around)
        raise
    shown = run(["ssh-keygen", "-l", "-f", str(_HOST_KEY)]).output.decode()
    found = re.search(r"SHA256:\S+", shown)
    return Door(password, addresses_in(run(["ip", "-json", "address"]).output.decode()), found[0] if found else shown)


def close_door(around: Surroundings) -> None:
    """Let nobody in any more; who is in stays.

    Raises:
        UsageError: This is not a running medium, whose root has no password to lose.
    """
    _refuse_other_systems(around)
    _TOKEN.unlink(missing_ok=True)
    run(["systemctl", "stop", _UNIT], timeout_seconds=120)
    run(["usermod", "--password", "*", "root"])


def _refuse_other_systems(around: Surroundings) -> None:
    if not around.is_live:
        raise UsageError(
            "this system was not started from a recovery medium: its root would get another password",
            hint="Use the SSH server of this system.",
        )
