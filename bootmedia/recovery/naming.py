# SPDX-License-Identifier: GPL-3.0-or-later
"""What the words in answers name: a disk, a place of an image, a certificate, something that this machine has. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote, urlsplit

RULES: Final = ("largest", "smallest-that-fits", "only")
NAMING_RULES: Final = ("serial", "wwn", "path")
_CERTIFICATE: Final = re.compile(r"([0-9a-f]{2}:?){31}[0-9a-f]{2}")
_LABEL: Final = re.compile(r"label=([^/]+)/(.+)")


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
        return ImagePlace("label", relative(labelled[2]), label=labelled[1])
    if text.startswith("label="):
        raise ValueError(f"{text!r}: a path is missing, as in label=BACKUP/server.img.zst")
    if "://" not in text:
        if not text.strip():
            raise ValueError("image is empty")
        return ImagePlace("path", text if text.startswith("/") else relative(text))
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


def relative(path: str) -> str:
    """A path that stays inside of the folder that it is taken in.

    Raises:
        ValueError: It would lead out of it; the message is for people.
    """
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


def is_sha256(certificate: str) -> bool:
    """Whether a text is the SHA-256 of something, with or without colons."""
    return _CERTIFICATE.fullmatch(certificate.lower()) is not None
