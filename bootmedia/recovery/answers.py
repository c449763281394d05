# SPDX-License-Identifier: GPL-3.0-or-later
"""recovery.toml: its bytes to Answers, or to a sentence that names the key that is wrong.

Pure. The format is described in docs/reference/recovery-toml.md. Whatever is not understood is refused: a misspelt
key that is passed over would restore another image, or onto another disk, than the person meant.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, urlsplit

import msgspec

from bootmedia.recovery.errors import AnswersWrong
from imager.devices.machine import plain_mac
from imager.errors import UsageError
from imager.fitting.model import RULES as RULES_FOR_GROWING
from imager.fitting.model import Rule as GrowRule
from imager.toml import WrongToml, parse

MOST_BYTES: Final = 1 << 20
_TOLD: Final = 80
"""Characters of a key that a message shows."""
FORMAT: Final = 1
SELF: Final = "self"
"""The image that carries the answers."""
RULES: Final = ("largest", "smallest-that-fits", "only")
NAMING_RULES: Final = ("serial", "wwn", "path")
_HOST_KEY: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")
_CERTIFICATE: Final = re.compile(r"([0-9a-f]{2}:?){31}[0-9a-f]{2}")
_LABEL: Final = re.compile(r"label=([^/]+)/(.+)")

Words = str | tuple[str, ...]
Number = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Unlock = Annotated[str, msgspec.Meta(pattern=r"^(disk|[1-9][0-9]{0,3}):.")]


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which machines the file is for: every key that is given must be right, by any of its values."""

    serial: Words = ()
    mac: Words = ()
    model: Words = ()
    any: bool = False


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who is told how it went.

    Attributes:
        url: Gets an HTTP POST of JSON.
        certificate: SHA-256 of the certificate that the server of url must show.
        log: Folder for logs, on the stick's data partition unless it is absolute; None for logs if there is such one.
    """

    url: str = ""
    certificate: str = ""
    log: str | None = None


class Restore(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One image and where it goes.

    Attributes:
        image: A path, label=NAME/PATH, a URL, ssh://USER@HOST/PATH, or self.
        target: A rule that one disk fits.
        partition: Only this one of the image, onto the partition of that number.
        grow: Who gets the room of a larger disk; nobody when it is empty.
        grow_volume: The logical volume that gets the room of its group, such as vg0/root.
        fit: Move partitions together and make file systems smaller, as far as the disk needs it.
        unlock: Encrypted partitions that are opened when all is written: N:KEYFILE, a path like image.
        repair_boot: Change the restored system so that it starts on this machine.
        firmware: Make it start with this kind of firmware, whatever it had; repairs too.
        windows_drivers: A folder with drivers that a Windows does not bring along, a path like image; "" for none.
        new_ids: What is restored gets new identifiers.
        boot_entries: The UEFI firmware of this machine gets entries for it.
        verify: Read everything back.
        accept_damage: Also restore an image that lacks content.
        host_key: Fingerprint of the SSH server's key.
        key: Private SSH key to log in with; a path like image.
        certificate: SHA-256 of the certificate that the web server must show, in place of one that an authority signed.
    """

    target: str
    image: str = SELF
    partition: Number | None = None
    onto: Number | None = None
    grow: str = ""
    grow_volume: str = ""
    fit: bool = False
    unlock: Annotated[tuple[Unlock, ...], msgspec.Meta(max_length=64)] = ()
    repair_boot: bool = False
    firmware: Literal["", "uefi", "bios"] = ""
    windows_drivers: str = ""
    new_ids: bool = False
    boot_entries: bool = True
    verify: bool = False
    accept_damage: bool = False
    host_key: str = ""
    key: str = ""
    certificate: str = ""


class Answers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    match: Match
    restore: Annotated[tuple[Restore, ...], msgspec.Meta(min_length=1, max_length=64)]
    format: int = FORMAT
    after: Literal["reboot", "poweroff", "shell"] = "shell"
    wait_seconds: Annotated[int, msgspec.Meta(ge=0, le=3600)] = 10
    report: Report = Report()


_TABLES: Final[dict[str, type[msgspec.Struct]]] = {"match": Match, "restore": Restore, "report": Report}


def read_answers(content: bytes, name: str, *, in_image: bool = False) -> Answers:
    """The answers in a file.

    Args:
        content: All of it.
        name: Where it comes from, for messages.
        in_image: An image carries it.

    Raises:
        AnswersWrong: It is no TOML, or a key is unknown, missing or has a value that cannot be.
    """
    try:
        text, tree = parse(content, MOST_BYTES)
    except WrongToml as error:
        raise AnswersWrong(
            f"{name} {error}",
            hint='A key, a "=", and a value in quotation marks; see the page about recovery.toml.',
            path=name,
        ) from error
    _refuse_unknown(tree, text, name)
    answers = _converted(tree, name)
    for sentence in (*_contradictions(answers), *_without_image(answers, in_image=in_image)):
        raise AnswersWrong(f"{name}: {sentence}", path=name)
    return answers


def _converted(tree: Mapping[str, Any], name: str) -> Answers:
    try:
        return msgspec.convert(tree, Answers)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$.")
        what = re.sub(r"^Object missing required field `(\w+)`$", r"the key \1 is missing", what)
        where = re.sub(r"\[(\d+)\]", lambda number: f" {int(number[1]) + 1}", where.rstrip("`"))
        raise AnswersWrong(f"{name}: {where + ': ' if where else ''}{what}", path=name, key=where) from error


# --- Keys that nobody knows ---------------------------------------------------------------------------------------


def _refuse_unknown(tree: Mapping[str, Any], text: str, name: str) -> None:
    for table, key, known in _unknown_keys(tree):
        near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.5)
        line = _line_of(text, key)
        told = f"[{table}] knows" if table else "known are"
        raise AnswersWrong(
            f"{name}{f', line {line}' if line else ''}: the key {key[:_TOLD]!r} is not known",
            hint=f"Is {near[0]} meant?" if near else f"{told}: {', '.join(known)}.",
            path=name,
            key=f"{table}.{key}" if table else key,
            nearest=near[0] if near else "",
        )


def _unknown_keys(tree: Mapping[str, Any]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    yield from (("", key, Answers.__struct_fields__) for key in tree if key not in Answers.__struct_fields__)
    for table, kind in _TABLES.items():
        known = kind.__struct_fields__
        yield from ((table, key, known) for part in _parts(tree.get(table)) for key in part if key not in known)


def _parts(table: object) -> Iterator[Mapping[str, Any]]:
    """The tables under a name: one, or an array of them."""
    for part in table if isinstance(table, list) else [table]:
        if isinstance(part, dict):
            yield part


def _line_of(text: str, key: str) -> int:
    """The line that a key stands in; 0 when it is written in a way that this does not find."""
    pattern = re.compile(rf"""^[\s\[{{,.\w]*?["']?{re.escape(key)}["']?\s*[=\].]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 0)


# --- Values that contradict each other ----------------------------------------------------------------------------


def _contradictions(answers: Answers) -> Iterator[str]:
    if answers.format != FORMAT:
        yield f"format {answers.format} is not known here; this program knows {FORMAT}"
    yield from _match_faults(answers.match)
    for number, restore in enumerate(answers.restore, 1):
        for sentence in _restore_faults(restore):
            yield f"restore {number}: {sentence}"
    yield from _report_faults(answers.report)


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
            _relative(folder)
    except ValueError as error:
        yield f"[report] log: {error}"


def is_sha256(certificate: str) -> bool:
    """Whether a text is the SHA-256 of something, with or without colons."""
    return _CERTIFICATE.fullmatch(certificate.lower()) is not None


# --- What the words mean ------------------------------------------------------------------------------------------


def words(value: Words) -> tuple[str, ...]:
    """One or several values as several."""
    return (value,) if isinstance(value, str) else value


@dataclass(frozen=True)
class Rule:
    """Which disk is wanted: one of RULES, or one of NAMING_RULES with the value that it must have."""

    kind: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.kind}={self.value}" if self.value else self.kind


def rule_of(text: str) -> Rule:
    """A target rule.

    Raises:
        ValueError: It is none; the message is for people.
    """
    kind, equals, value = text.strip().partition("=")
    kind, value = kind.strip().lower(), value.strip()
    if kind in RULES and not equals:
        return Rule(kind)
    if kind in NAMING_RULES and value:
        return Rule(kind, value)
    raise ValueError(
        f"target: {text!r} is none of {', '.join(RULES)}, {', '.join(f'{key}=...' for key in NAMING_RULES)}"
    )


@dataclass(frozen=True)
class ImagePlace:
    """Where an image lies.

    Attributes:
        kind: A path in a folder that is at hand, a path on the file system with a label, or a protocol.
        path: On the stick, on the file system, or on the server.
        label: Of the file system.
        user: For ssh; "" for root.
        host: For ssh.
        port: For ssh.
        url: As it was written.
    """

    kind: Literal["path", "label", "http", "ssh"]
    path: str
    label: str = ""
    user: str = ""
    host: str = ""
    port: int = 22
    url: str = ""


def place_of(text: str) -> ImagePlace:
    """Where an image lies.

    Raises:
        ValueError: The words name no place; the message is for people.
    """
    labelled = _LABEL.fullmatch(text)
    if labelled:
        return ImagePlace("label", _relative(labelled[2]), label=labelled[1])
    if text.startswith("label="):
        raise ValueError(f"{text!r}: a path is missing, as in label=BACKUP/server.img.zst")
    if "://" not in text:
        if not text.strip():
            raise ValueError("image is empty")
        return ImagePlace("path", text if text.startswith("/") else _relative(text))
    try:
        parts = urlsplit(text)
        port = parts.port  # looked at here, as it raises ValueError when it is none
    except ValueError as error:
        raise ValueError(f"{text!r} is no URL: {error}") from error
    if parts.password is not None or (parts.username and parts.scheme in ("http", "https")):
        # Not repeated: it would stand in logs and reports.
        raise ValueError(f"a URL for {parts.hostname!r} has a user or a password in it; nothing here sends them")
    if parts.scheme in ("http", "https") and parts.hostname:
        return ImagePlace("http", parts.path, host=parts.hostname, url=text)
    if parts.scheme == "ssh" and parts.hostname and len(parts.path) > 1:
        if parts.hostname.startswith("-") or (parts.username or "").startswith("-"):
            raise ValueError(f"{text!r}: ssh would not take this as USER@HOST")
        return ImagePlace("ssh", parts.path, "", parts.username or "root", parts.hostname, port or 22, text)
    raise ValueError(f"{text!r} is neither a path, label=NAME/PATH, http://, https:// nor ssh://USER@HOST/PATH")


def _relative(path: str) -> str:
    """A path that stays inside of the folder that it is taken in."""
    if ".." in path.split("/"):
        raise ValueError(f"{path!r} leads out of its folder; .. is not allowed here")
    return path.lstrip("/")


def filled(text: str, values: Mapping[str, Iterable[str]]) -> str:
    """A text with {serial} and such replaced by what this machine has.

    Raises:
        ValueError: The machine has none of what is asked for, or several.
    """
    is_url = "://" in text

    def replace(match: re.Match[str]) -> str:
        found = [quote(each, safe=":") if is_url else each for each in dict.fromkeys(values[match[1]])]
        if len(found) != 1:
            many = "several: " + ", ".join(found) if found else "none"
            raise ValueError(f"{text!r} needs one {match[1]} of this machine, which has {many}")
        return found[0]

    return re.sub(r"\{(" + "|".join(map(re.escape, values)) + r")\}", replace, text)
