# SPDX-License-Identifier: GPL-3.0-or-later
"""Where Debian's packages come from: this machine's own apt sources, rewritten to the suite that the medium has.

Only what is Debian's own is taken over: a source of somebody else has nothing for another suite. Works on text alone.

Reference: sources.list(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from bootmedia.errors import PackagesUnavailable

FIRMWARE = "non-free-firmware"
"""The component of Debian with what is loaded into devices and has no source code."""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_RELEASES = {
    *("buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid"),
    *("oldoldstable", "oldstable", "stable", "testing", "unstable"),
}
# Backports would raise versions beside the suite's own; proposed updates are not yet released.
_POCKETS = {"": "", "-updates": "-updates", "-security": "-security", "/updates": "-security"}
_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.*)")


@dataclass(frozen=True)
class Source:
    """One place of packages: a suite on a mirror."""

    uri: str
    suite: str
    signed_by: str = KEYRING
    has_firmware: bool = False
    """Whether the component of non-free firmware is taken from it, too."""

    def __str__(self) -> str:
        components = f"main {FIRMWARE}" if self.has_firmware else "main"
        return f"deb [signed-by={self.signed_by}] {self.uri} {self.suite} {components}"


def sources_text(suite: str, *, mirror: str | None, files: Mapping[str, str], firmware: bool = False) -> str:
    """The sources.list for a suite: of a mirror that was named, else of this machine's files.

    Args:
        suite: Debian's release.
        mirror: A mirror of Debian; every one has all components.
        files: This machine's apt sources by file name.
        firmware: Also take the component of non-free firmware, where it is offered.

    Raises:
        PackagesUnavailable: No mirror was named, and the files have no source of Debian's own, or none with firmware.
    """
    if mirror is not None:
        found = [Source(mirror, suite, has_firmware=firmware)]
    else:
        found = list(dict.fromkeys(_of_files(suite, files)))
        if not any(source.suite == suite for source in found):
            raise PackagesUnavailable(
                f"the apt configuration of this machine names no source of Debian that could have {suite}",
                hint="Name a mirror of Debian with --mirror URL.",
            )
        if firmware and not any(source.has_firmware for source in found):
            raise PackagesUnavailable(
                f"the apt configuration of this machine does not offer {FIRMWARE}",
                hint=f"Add {FIRMWARE} to the components of its source of Debian, or name a mirror with --mirror URL.",
            )
    wanted = found if firmware else [replace(source, has_firmware=False) for source in found]
    return "".join(f"{source}\n" for source in dict.fromkeys(wanted))


def _of_files(suite: str, files: Mapping[str, str]) -> Iterator[Source]:
    for name in sorted(files):
        read = _deb822 if name.endswith(".sources") else _one_line
        for source in read(files[name]):
            pocket = _pocket(source.suite)
            if pocket is not None:
                yield replace(source, suite=suite + pocket)


def _pocket(suite: str) -> str | None:
    """What follows the release's name in a suite of Debian: "-updates"; None for what is not taken over."""
    for ending, pocket in _POCKETS.items():
        if suite.endswith(ending) and suite.removesuffix(ending) in _RELEASES:
            return pocket
    return None


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is not None and "main" in match["components"].split():
            options = dict(word.split("=", 1) for word in (match["options"] or "").split() if "=" in word)
            has_firmware = FIRMWARE in match["components"].split()
            yield Source(match["uri"], match["suite"], _keyring(options.get("signed-by")), has_firmware)


def _deb822(text: str) -> Iterator[Source]:
    for paragraph in re.split(r"\n\s*\n", text):
        fields = _fields(paragraph)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in {"no", "false"}:
            continue
        components = fields.get("components", "").split()
        if "main" in components:
            for uri in fields.get("uris", "").split():
                for suite in fields.get("suites", "").split():
                    yield Source(uri, suite, _keyring(fields.get("signed-by")), FIRMWARE in components)


def _fields(paragraph: str) -> dict[str, str]:
    lines = [line for line in paragraph.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\n[ \t]+", " ", "\n".join(lines))
    pairs = (line.partition(":") for line in joined.splitlines())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _keyring(signed_by: str | None) -> str:
    """A keyring's path as it is given; a key that stands in the source itself cannot be named on one line."""
    return signed_by if signed_by is not None and re.fullmatch(r"/[^\s\]]+", signed_by) else KEYRING
