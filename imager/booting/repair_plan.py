# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be changed in a restored system so that it starts on this machine.

Pure, but for reading the system's tree: whoever calls has mounted it, for reading only. The order is that in which
the parts need each other: names of devices, then the initramfs (which takes names from them), then the boot loader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imager.booting.drivers import Device
from imager.booting.initramfs import initramfs_steps
from imager.booting.installed import Installed, look_at
from imager.booting.loader_steps import BootPlace, loader_notes, loader_steps, missing_for_loader
from imager.booting.names_in_files import naming_steps, unclear_names
from imager.booting.network_names import strange_cards
from imager.booting.old_names import Candidate
from imager.booting.steps import RepairPlan, Step
from imager.booting.tree import Tree


@dataclass(frozen=True)
class Found:
    """A restored system and what is known of where it lies.

    Attributes:
        tree: Its files, with what it mounts below.
        candidates: The partitions of the restored disks.
        boot: Where its boot loader goes.
        devices: What the disks that it lies on hang on.
        root_type: The file system of its root.
        unmounted: What it mounts and what could not be mounted here, in sentences.
        macs: Addresses of this machine's network cards; None when it will run on another one.
    """

    tree: Tree
    candidates: tuple[Candidate, ...]
    boot: BootPlace
    devices: tuple[Device, ...] = ()
    root_type: str = ""
    unmounted: tuple[str, ...] = ()
    macs: tuple[str, ...] | None = ()


def plan_repair(found: Found) -> RepairPlan:
    """The steps for one system."""
    system = look_at(found.tree)
    naming = naming_steps(found.tree, found.candidates, root_type=found.root_type)
    initramfs, lacking = initramfs_steps(found.tree, system, found.devices)
    loading = [*loader_steps(found.tree, system, found.boot)]
    return RepairPlan(
        name=system.name,
        steps=(*naming, *initramfs, *loading),
        missing=(*found.unmounted, *lacking, *missing_for_loader(system, found.boot)),
        notes=(
            *unclear_names(found.tree, found.candidates, root_type=found.root_type),
            *_notes(found.tree, system, loading),
            *loader_notes(system, found.boot),
            *strange_cards(found.tree, found.macs),
        ),
    )


def _notes(tree: Tree, system: Installed, loading: Sequence[Step]) -> Iterator[str]:
    if system.is_like("fedora", "rhel"):
        yield (
            "its new files get their SELinux labels when it runs: `restorecon -R /boot /etc` after its first start, if "
            "it complains"
        )
    if tree.is_file("/var/lib/dpkg/info/grub-pc.list") and any("i386-pc" in step.text for step in loading):
        yield "after its first start: `dpkg-reconfigure grub-pc`, so that GRUB's next update finds the new disk"
