# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers that cannot be meant, as sentences: values that are none, and values that contradict each other. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from bootmedia.recovery.answers import FORMAT, SELF, Answers, Match, Report, Restore, words
from bootmedia.recovery.naming import ImagePlace, is_sha256, place_of, relative, rule_of
from imager.devices.machine import plain_mac
from imager.errors import UsageError
from imager.fitting.model import RULES as RULES_FOR_GROWING
from imager.fitting.model import Rule as GrowRule

_HOST_KEY: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")


def contradictions(answers: Answers, *, in_image: bool) -> Iterator[str]:
    """What of answers cannot be, in sentences; none when all can.

    Args:
        answers: What a file says.
        in_image: An image carries it.
    """
    if answers.format != FORMAT:
        yield f"format {answers.format} is not known here; this program knows {FORMAT}"
    yield from _match_faults(answers.match)
    for number, restore in enumerate(answers.restore, 1):
        for sentence in _restore_faults(restore):
            yield f"restore {number}: {sentence}"
    yield from _report_faults(answers.report)
    yield from _without_image(answers, in_image=in_image)


def _without_image(answers: Answers, *, in_image: bool) -> Iterator[str]:
    for number, restore in enumerate(answers.restore, 1):
        if restore.image == SELF and not in_image:
            yield f"restore {number}: the key image is missing; only answers that an image carries may leave it out"


def _match_faults(match: Match) -> Iterator[str]:
    named = [key for key in ("serial", "mac", "model") if words(getattr(match, key))]
    if match.any and named:
        yield f"[match] any = true and {named[0]} contradict each other"
    if not match.any and not named:
        yield "[match] names no machine; any = true means every machine, and must be written"
    if any(not word.strip() for key in named for word in words(getattr(match, key))):
        yield "[match] has an empty value"
    wrong = next(
        (mac for mac in words(match.mac) if not re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", plain_mac(mac))), ""
    )
    if wrong:
        yield f"[match] {wrong!r} is no MAC address, such as 52:54:00:12:34:56"


def _restore_faults(restore: Restore) -> Iterator[str]:
    try:
        rule_of(restore.target)
        place = place_of(restore.image)
        key = place_of(restore.key) if restore.key else None
    except ValueError as error:
        yield str(error)
        return
    if (restore.partition is None) != (restore.onto is None):
        yield "partition and onto belong together"
    yield from _grow_faults(restore)
    yield from _fit_faults(restore)
    for name, is_wanted in (
        ("repair_boot", restore.repair_boot),
        ("firmware", restore.firmware),
        ("new_ids", restore.new_ids),
    ):
        if is_wanted and restore.partition is not None:
            yield f"{name} is for whole disks: partition and {name} contradict each other"
    if restore.windows_drivers and not (restore.repair_boot or restore.new_ids):
        yield "windows_drivers belongs to repair_boot"
    if key and key.kind not in ("path", "label"):
        yield "key must be a file, not a URL"
    yield from _unlock_faults(restore)
    yield from _ssh_faults(restore, place)
    yield from _certificate_faults(restore.certificate, restore.image)


def _grow_faults(restore: Restore) -> Iterator[str]:
    if not restore.grow:
        yield from ["grow_volume belongs to grow"] if restore.grow_volume else []
        return
    if restore.partition is not None:
        yield "grow is for whole disks: partition and grow contradict each other"
    try:
        GrowRule.parse(restore.grow)
    except UsageError:
        yield f"grow: {restore.grow!r} is no rule; known are {RULES_FOR_GROWING}"


def _fit_faults(restore: Restore) -> Iterator[str]:
    if not restore.fit:
        return
    if restore.partition is not None:
        yield "fit is for whole disks: partition and fit contradict each other"
    if restore.grow:
        yield "grow and fit contradict each other: grow moves partitions together as fit does"
    if restore.target == "smallest-that-fits":
        yield "smallest-that-fits and fit contradict each other: with fit, nobody knows beforehand what is the smallest"


def _unlock_faults(restore: Restore) -> Iterator[str]:
    for name in (text.partition(":")[2] for text in restore.unlock):
        try:
            if place_of(name).kind not in ("path", "label"):
                yield f"unlock: {name!r} must be a file, not a URL"
        except ValueError as error:
            yield f"unlock: {error}"


def _ssh_faults(restore: Restore, place: ImagePlace) -> Iterator[str]:
    if place.kind != "ssh":
        if restore.host_key or restore.key:
            yield "host_key and key are for images at ssh://"
        return
    if not restore.host_key:
        yield (
            "host_key is missing: the fingerprint that `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` "
            "prints on the server, SHA256:..."
        )
    elif not _HOST_KEY.fullmatch(restore.host_key):
        yield f"host_key: {restore.host_key!r} is no fingerprint of the form SHA256: and 43 characters"


def _certificate_faults(certificate: str, url: str) -> Iterator[str]:
    if certificate and not url.startswith("https://"):
        yield "certificate is for https:// only"
    elif certificate and not is_sha256(certificate):
        yield (
            "certificate: not the 64 hexadecimal digits that "
            "`openssl x509 -in server.crt -noout -fingerprint -sha256` prints"
        )


def _report_faults(report: Report) -> Iterator[str]:
    yield from _log_faults(report.log or "")
    kinds = ("http://", "https://")
    if report.url and not report.url.startswith(kinds):
        yield f"[report] url: {report.url.rpartition('@')[2]!r} is no URL that begins with {' or '.join(kinds)}"
        return
    try:
        place_of(report.url or "http://nobody/")
    except ValueError as error:
        yield f"[report] url: {error}"
    yield from (f"[report] {sentence}" for sentence in _certificate_faults(report.certificate, report.url))


def _log_faults(folder: str) -> Iterator[str]:
    """An absolute folder is meant as it stands; one on the stick must not lead away from it."""
    try:
        if not folder.startswith("/"):
            relative(folder)
    except ValueError as error:
        yield f"[report] log: {error}"
