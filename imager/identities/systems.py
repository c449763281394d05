# SPDX-License-Identifier: GPL-3.0-or-later
"""The systems on restored disks get the new identifiers in their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from imager.booting.roots import assembled, find_roots
from imager.booting.steps import Step
from imager.booting.tree import Tree
from imager.errors import VolumeFailed
from imager.identities.changing import Say
from imager.identities.files import replacing_steps
from imager.layout import Layout
from imager.opening import Secrets, opened_volumes

_TABS: Final = ("/etc/fstab", "/etc/crypttab")


@dataclass(frozen=True)
class Rewritten:
    """What was done in the systems.

    Attributes:
        done: In sentences.
        failures: What failed.
    """

    done: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


def rewrite_systems(
    disks: Sequence[tuple[str, Layout]], secrets: Secrets, ids: Mapping[str, str], groups: Mapping[str, str], say: Say
) -> Rewritten:
    """Put new identifiers for old ones in the files of all systems.

    Args:
        disks: The path of each, and what is on it now.
        secrets: For containers.
        ids: New identifiers by old ones.
        groups: New names of volume groups by old ones.
        say: Takes each step.
    """
    done: list[str] = []
    failures: list[str] = []
    with opened_volumes(disks, secrets, writable=True) as opened:
        for root in find_roots(opened)[0]:
            # At first /etc/fstab leads nowhere; what it mounts is found when it has the new ones.
            for is_whole in (False, True):
                try:
                    with assembled(root, opened, disks, writable=True) as there:
                        for step in replacing_steps(there.tree, ids, groups):
                            if not is_whole and step.path not in _TABS:
                                continue
                            say(f"{root.known_as}: {step.text}")
                            _carry_out(step, there.tree)
                            done.append(f"{root.known_as}: {step.text}")
                except VolumeFailed as error:
                    failures.append(error.message)
                except OSError as error:
                    failures.append(f"{root.known_as}: {error.filename}: {error.strerror}")
    return Rewritten(tuple(done), tuple(dict.fromkeys(failures)))


def _carry_out(step: Step, tree: Tree) -> None:
    if step.kind == "put-aside":
        tree.put_aside(step.path)
    else:
        tree.rewrite(step.path, step.new_text)
