# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a restored system's initramfs hold the drivers of this machine, with the system's own program for it.

For the run, the program takes all drivers of storage instead of those that it finds at work; its configuration stays
as it is, so the next kernel is again made for the machine that the system then runs on. What came out is looked at.

References:
    update-initramfs(8), initramfs.conf(5); dracut(8); mkinitcpio(8), mkinitcpio.conf(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from imager.booting.drivers import Device, Need, needs
from imager.booting.installed import Installed, has_modules_of_this_machine_only
from imager.booting.steps import Step, TemporaryFile
from imager.booting.tree import Tree

_MOST: Final = TemporaryFile("/etc/initramfs-tools/conf.d/zzz-repair-boot", "MODULES=most\n")
_HOOKS: Final = re.compile(r"^(\s*HOOKS\+?=\(?[\"']?)(.*)$", re.MULTILINE)
_AUTODETECT: Final = re.compile(r"\bautodetect\b ?")
_LISTERS: Final = {"initramfs-tools": "lsinitramfs", "dracut": "lsinitrd", "mkinitcpio": "lsinitcpio"}


def initramfs_steps(
    tree: Tree, system: Installed, devices: Sequence[Device]
) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    """The steps, and what the system lacks."""
    if not system.initramfs_tool:
        reason = "no program is known that makes its initramfs (initramfs-tools, dracut, mkinitcpio)"
        return (), (f"{reason}: if it does not start, make it hold {_named(devices) or 'all drivers'} by hand",)
    by_kernel = {kernel: needs(tree, kernel, devices) for kernel in system.kernels}
    build = _build_step(tree, system, devices)
    new = [*_new_ones(tree, system, build)]
    checks = [*_checks(tree, system, by_kernel)]
    return (build, *new, *checks), tuple(_lacking(by_kernel))


def _named(devices: Sequence[Device]) -> str:
    return ", ".join(dict.fromkeys(device.driver for device in devices))


def _build_step(tree: Tree, system: Installed, devices: Sequence[Device]) -> Step:
    drivers = f" (here: {_named(devices)})" if devices else ""
    text = f"make the initramfs of all kernels again, with the drivers of all storage{drivers}"
    if system.initramfs_tool == "initramfs-tools":
        during = (_MOST,) if has_modules_of_this_machine_only(tree) else ()
        how = "update-initramfs" + (", MODULES=most in place of its setting for this run" if during else "")
        return Step("run", f"{text}: {how}", command=("update-initramfs", "-u", "-k", "all"), during=during)
    if system.initramfs_tool == "dracut":
        command = ("dracut", "--force", "--regenerate-all", "--no-hostonly")
        return Step("run", f"{text}: dracut, not for one machine only in this run", command=command)
    changed = tuple(_without_autodetect(tree))
    how = "mkinitcpio" + (", without its hook autodetect for this run" if changed else "")
    return Step("run", f"{text}: {how}", command=("mkinitcpio", "-P"), during=changed)


def _new_ones(tree: Tree, system: Installed, build: Step) -> Iterator[Step]:
    """update-initramfs makes again only what is there; a kernel without an initramfs gets one."""
    for kernel in system.kernels:
        if system.initramfs_tool == "initramfs-tools" and not tree.is_file(f"/boot/initrd.img-{kernel}"):
            text = f"make an initramfs for the kernel {kernel}, which has none"
            yield replace(build, text=text, command=("update-initramfs", "-c", "-k", kernel))


def _without_autodetect(tree: Tree) -> Iterator[TemporaryFile]:
    """Configurations of mkinitcpio without the hook; its option to skip hooks does not reach what presets start."""
    folder = "/etc/mkinitcpio.conf.d"
    names = [f"{folder}/{name}" for name in tree.listing(folder) if name.endswith(".conf")]
    for path in ("/etc/mkinitcpio.conf", *names):
        text = tree.text(path)
        new_text = _HOOKS.sub(lambda match: match[1] + _AUTODETECT.sub("", match[2]), text)
        if new_text != text:
            yield TemporaryFile(path, new_text)


def _lacking(by_kernel: dict[str, tuple[Need, ...]]) -> Iterator[str]:
    """Kernels that cannot drive this machine's disk, whatever is in their initramfs."""
    for kernel, wanted in by_kernel.items():
        unknown = [need.device for need in wanted if not need.is_known]
        if unknown:
            named = ", ".join(f"{device.alias} (here driven by {device.driver})" for device in unknown)
            yield (
                f"its kernel {kernel} has no driver for {named}: attach the disk to another controller, or install a "
                "kernel that has one (on Debian linux-image-amd64, not the cloud kernel; elsewhere a newer one)"
            )


def _checks(tree: Tree, system: Installed, by_kernel: dict[str, tuple[Need, ...]]) -> Iterator[Step]:
    """Looks into what was made, one for each kernel whose initramfs can be named."""
    lister = _LISTERS[system.initramfs_tool]
    if not tree.program(lister):
        return
    for kernel, wanted in by_kernel.items():
        modules = tuple(need.modules for need in wanted if need.modules)
        path = _initramfs_of(tree, system, kernel)
        if modules and path:
            text = f"look whether {path} holds {_or_list(modules)}"
            yield Step("check-initramfs", text, path=path, command=(lister, path), wanted=modules)


def _or_list(modules: Sequence[tuple[str, ...]]) -> str:
    return ", ".join(" or ".join(names[:3]) for names in modules)


def _initramfs_of(tree: Tree, system: Installed, kernel: str) -> str:
    """Where a kernel's initramfs lies; "" when it is not where it is usual."""
    if system.initramfs_tool == "initramfs-tools":
        return f"/boot/initrd.img-{kernel}"
    package = tree.text(f"/usr/lib/modules/{kernel}/pkgbase").strip()  # Arch
    names = [f"/boot/initramfs-{kernel}.img", f"/boot/initrd.img-{kernel}", f"/boot/initrd-{kernel}"]
    names += [f"/boot/initramfs-{package}.img"] if re.fullmatch(r"[\w.@+-]+", package) else []
    return next((name for name in names if tree.is_file(name)), "")
