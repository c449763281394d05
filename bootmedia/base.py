# SPDX-License-Identifier: GPL-3.0-or-later
"""The base of a medium: Debian packages as one squashfs, and beside it what the boot needs of them.

This is what takes minutes, so it is kept. It depends on the recipe's packages, the sources and the compression, and on
nothing of a single build. Its files carry a fixed time: then two builds from the same packages are the same bytes,
whatever SOURCE_DATE_EPOCH the medium gets.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bootmedia.cache import Cache, key_of
from bootmedia.errors import PackagesUnavailable, ToolFailed
from bootmedia.programs import follow
from bootmedia.recipes import Recipe
from bootmedia.squashfs import Compression, make_squashfs
from imager.progress import Progress

_FORM = "2"
"""Raised when this module makes something else of the same inputs, so that what was kept is not used."""
# 2025-08-09, when Debian 13 came out. Older files keep their time.
_TIME = 1754697600
_NEEDED_BYTES = 3 << 30
_PARTS = (
    "boot/vmlinuz-*",
    "boot/memtest86+x64.*",
    "usr/bin/busybox",
    "usr/lib/modules/*/modules.*",
    "usr/lib/modules/*/kernel/*",
    "usr/lib/grub/i386-pc/bootmedia-core.img",
    "usr/lib/grub/i386-pc/cdboot.img",
    "usr/lib/grub/i386-pc/boot_hybrid.img",
    "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed",
    "usr/lib/shim/shimx64.efi.signed",
    "usr/lib/shim/mmx64.efi.signed",
    "var/lib/dpkg/status",
)
_NETWORK_TROUBLE = re.compile(
    r"Could not resolve|Temporary failure|Could not connect|Failed to fetch|Connection|404|Unable to locate package"
    r"|has no installation candidate|InRelease|not signed|NO_PUBKEY|certificate"
)


@dataclass(frozen=True)
class Base:
    """A base that was made."""

    folder: Path

    @property
    def squashfs(self) -> Path:
        """All of Debian's files."""
        return self.folder / "base.squashfs"

    @property
    def about(self) -> dict[str, str]:
        """When it was made, of what suite, and the digest of its content."""
        facts: dict[str, str] = json.loads((self.folder / "about.json").read_text())
        return facts

    def part(self, pattern: str) -> Path:
        """The one file that the boot needs, by its path in the root; * stands for what the kernel's version fills.

        Raises:
            PackagesUnavailable: The packages did not bring it.
        """
        found = self.parts(pattern)
        if len(found) != 1:
            raise PackagesUnavailable(
                f"the packages hold {len(found)} files {pattern}, one is needed",
                hint="Look at the recipe's package list, and at packages that were added.",
            )
        return found[0]

    def parts(self, pattern: str) -> list[Path]:
        """All files by their paths in the root, of what not every profile has."""
        return sorted((self.folder / "parts").glob(pattern))

    @property
    def modules(self) -> Path:
        """The folder of kernel modules, usr/lib/modules/VERSION."""
        return self.part("usr/lib/modules/*/modules.dep").parent

    @property
    def python_version(self) -> str:
        """The version of the root's Python, as 3.13."""
        return self.about["python"]

    @property
    def keymaps(self) -> frozenset[str]:
        """Names of keyboard layouts that loadkeys finds."""
        return frozenset((self.folder / "keymaps.txt").read_text().split())

    def packages(self) -> Iterator[tuple[str, str]]:
        """Names and versions of the Debian packages."""
        for paragraph in self.part("var/lib/dpkg/status").read_text(encoding="utf-8").split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version|Status): (.*)$", paragraph, re.MULTILINE))
            if fields.get("Status", "").endswith(" installed"):
                yield fields["Package"], fields["Version"]


def find_or_make_base(
    cache: Cache,
    recipe: Recipe,
    *,
    suite: str,
    sources: str,
    compression: Compression,
    progress: Progress,
    anew: bool = False,
) -> Base:
    """The base for a recipe: from the cache, or made now, which takes minutes and the network.

    Raises:
        PackagesUnavailable: Packages could not be fetched or installed.
        StoreError: There is no room.
    """
    hook = recipe.text("customize.sh")
    left_out = "\n".join(recipe.left_out)
    key = key_of(_FORM, suite, sources, "\n".join(recipe.packages), left_out, hook, compression.name)

    def make(folder: Path) -> None:
        root = folder / "root.tar"
        make_root(recipe, root, suite=suite, sources=sources, progress=progress)
        progress.start(root.stat().st_size, "parts of the boot")
        facts = _take_parts(root, folder, progress)
        progress.done()
        with root.open("rb") as archive:
            make_squashfs(archive, folder / "base.squashfs", compression, time=_TIME, progress=progress)
        root.unlink()
        facts |= {"suite": suite, "made": datetime.now(UTC).isoformat(timespec="seconds")}
        facts |= {"digest": _digest(folder / "base.squashfs")}
        (folder / "about.json").write_text(json.dumps(facts, indent=2))

    return Base(cache.find_or_make("base", key, make, anew=anew, needed_bytes=_NEEDED_BYTES))


def make_root(recipe: Recipe, root: Path, *, suite: str, sources: str, progress: Progress) -> None:
    """Let mmdebstrap fetch and unpack the packages of a recipe into a tar archive.

    Raises:
        PackagesUnavailable: Packages could not be fetched or installed.
    """
    scratch = root.parent
    (scratch / "sources.list").write_text(sources)
    progress.start(None, "Debian packages")
    try:
        follow(
            [*own_namespaces(), *mmdebstrap_command(recipe, suite, scratch / "sources.list", root)],
            lambda line: progress.note(f"  {line.removeprefix('I: ')}") if line.startswith("I: ") else None,
            environment={
                "SOURCE_DATE_EPOCH": str(_TIME),
                "TMPDIR": str(scratch),
                "INITRD": "No",  # Debian's own would take half a minute, and ours is made from modules
                "DEBIAN_FRONTEND": "noninteractive",
            },
        )
    except ToolFailed as error:
        raise packages_unavailable(error, sources) from error
    finally:
        progress.done()
    (scratch / "sources.list").unlink()


def own_namespaces() -> list[str]:
    """What mmdebstrap is started by, as root: mounts and processes of its own, which end with it, whatever ends it.

    It binds /dev/shm, /proc and /sys of this machine into the new root. Left there by one that was killed, they would
    be deleted with the half-made root. For other users it makes namespaces itself.
    """
    if os.geteuid() != 0:
        return []
    return [
        *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
    ]


def mmdebstrap_command(recipe: Recipe, suite: str, sources: Path, root: Path) -> list[str]:
    """The words of the call that makes a root as a tar archive."""
    kept = [f"path-include={rule[1:]}" for rule in recipe.left_out if rule.startswith("!")]
    gone = [f"path-exclude={rule}" for rule in recipe.left_out if not rule.startswith("!")]
    return [
        "mmdebstrap",
        "--mode=auto",  # as root in a mount namespace, else in a user namespace
        "--variant=apt",
        "--format=tar",
        "--aptopt=Apt::Install-Recommends false",
        "--aptopt=Acquire::Languages none",
        *(f"--dpkgopt={rule}" for rule in (*gone, *kept)),
        f"--customize-hook=sh '{recipe.folder / 'customize.sh'}' \"$1\"",
        f"--include={','.join(recipe.packages)}",
        suite,
        str(root),
        str(sources),
    ]


def packages_unavailable(error: ToolFailed, sources: str) -> PackagesUnavailable:
    """What mmdebstrap said, in the lines that matter."""
    lines = list(error.lines)
    # "E: apt-get (all its words) failed" says nothing that the lines before it have not said.
    told = [line for line in lines if line.startswith(("E: ", "Err:")) and not line.endswith(" failed")] or lines[-3:]
    said = " | ".join(line.removeprefix("E: ") for line in told[:3])
    if "chroot mode" in said:  # neither root nor user namespaces
        return PackagesUnavailable(
            f"mmdebstrap may not make a root here: {said}",
            hint="Build as root; or let users have user namespaces: apt-get install uidmap, and a range for "
            "this user in /etc/subuid and /etc/subgid.",
        )
    if _NETWORK_TROUBLE.search(" ".join(lines)) is None:
        return PackagesUnavailable(
            f"mmdebstrap could not make the root: {said}", hint="Run the command again with --debug."
        )
    return PackagesUnavailable(
        f"Debian packages could not be fetched: {said}",
        hint="Look at the network and the packages' names. Another mirror: --mirror URL. Asked were: "
        + ", ".join(line.split("] ", 1)[-1] for line in sources.splitlines()),
    )


def _take_parts(root: Path, folder: Path, progress: Progress) -> dict[str, str]:
    """Copy what the boot needs out of the archive, in one pass, and note what else a build asks for."""
    keymaps: set[str] = set()
    python = ""
    done = 0
    with tarfile.open(root) as archive:
        for member in archive:
            progress.advance(max(0, member.offset_data - done))
            done = max(done, member.offset_data)
            name = member.name.removeprefix("./")
            if member.isreg() and any(fnmatch.fnmatchcase(name, pattern) for pattern in _PARTS):
                _copy_out(archive, member, folder / "parts" / name)
            if fnmatch.fnmatchcase(name, "usr/share/keymaps/*.kmap.gz"):
                keymaps.add(Path(name).name.removesuffix(".kmap.gz"))
            if version := re.fullmatch(r"usr/bin/python(3\.\d+)", name):
                python = version[1]
    (folder / "keymaps.txt").write_text("\n".join(sorted(keymaps)))
    return {"python": python}


def _copy_out(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    content = archive.extractfile(member)
    if content is not None:
        with content, place.open("wb") as copy:
            shutil.copyfileobj(content, copy)


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
