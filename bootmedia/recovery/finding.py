# SPDX-License-Identifier: GPL-3.0-or-later
"""Which recovery.toml is for this machine.

It is looked for, in this order: what the command names; `recovery=` on the kernel's command line; the stick's data
partition, then the medium; the folders of images on both, and there inside of the images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from bootmedia.recovery.answers import SELF, Answers
from bootmedia.recovery.errors import AnswersWrong, NoAnswers, NotThisMachine
from bootmedia.recovery.facts import MachineFacts, mismatch
from bootmedia.recovery.inside import answers_inside, carrying
from bootmedia.recovery.naming import filled, is_sha256, place_of
from bootmedia.recovery.places import NAME, Found, Surroundings, local_file
from bootmedia.recovery.reading import MOST_BYTES, read_answers
from bootmedia.recovery.web import get
from imager.devices.sysfs import System, read_text
from imager.image.beginning import is_image


def find_answers(given: str | None, facts: MachineFacts, around: Surroundings, certificate: str = "") -> Found:
    """The answers for this machine.

    Args:
        given: Where they are; None to look for them.
        facts: The machine.
        around: What is outside.
        certificate: Fingerprint of the certificate that the server of a URL must show; the kernel's command line can
            have it too, as recovery.certificate=.

    Raises:
        NoAnswers: There are none.
        NotThisMachine: There are some, for other machines.
        AnswersWrong: They cannot be read.
        StoreError: The place that was named does not answer.
    """
    named = given or _from_command_line("recovery", around.system)
    if named == "off" and not given:  # no restore by itself; whoever calls this by hand wants one
        named = ""
    stages = [[_named_answers(named, facts, around, certificate)]] if named else _on_the_stick(around)
    differing: list[tuple[Found, str]] = []
    for stage in stages:
        looked_at = [(each, mismatch(each.answers.match, facts)) for each in stage]
        matching = [each for each, sentence in looked_at if not sentence]
        if matching:
            return _the_only_one(matching)
        differing += looked_at
    if not differing:
        raise NoAnswers(
            f"there is no {NAME}: not on the kernel's command line, not on the stick, not beside an image or in one",
            hint="Without one, restore by hand: imager restore IMAGE TARGET.",
        )
    first, why = differing[0]
    raise NotThisMachine(
        f"{first.name} is not for this machine: {why}"
        if len(differing) == 1
        else f"none of {len(differing)} files {NAME} is for this machine, the first because {why}",
        hint="`recovery show` prints what this machine is, as [match] wants it.",
        path=first.name,
    )


def _the_only_one(matching: Sequence[Found]) -> Found:
    if len(matching) > 1:
        raise AnswersWrong(
            f"{len(matching)} files are for this machine: {', '.join(each.name for each in matching)}",
            hint="Name one of them: recovery run FILE.",
        )
    return matching[0]


def _from_command_line(name: str, system: System) -> str:
    """The last NAME= of the kernel's command line."""
    words = read_text(system.root / "proc/cmdline").split()
    return next((word.removeprefix(f"{name}=") for word in reversed(words) if word.startswith(f"{name}=")), "")


def _named_answers(name: str, facts: MachineFacts, around: Surroundings, certificate: str) -> Found:
    try:
        name = filled(name, facts.values())
        place = place_of(name)
    except ValueError as error:
        raise AnswersWrong(f"recovery={error}" if "recovery" not in str(error) else str(error)) from error
    if place.kind == "ssh":
        raise AnswersWrong(f"{name}: answers come from a file or over HTTP; only images come over SSH", path=name)
    if place.kind == "http":
        certificate = certificate or _from_command_line("recovery.certificate", around.system)
        if certificate and not is_sha256(certificate):
            raise AnswersWrong(f"{certificate!r} is no SHA-256 fingerprint of a certificate: 64 hexadecimal digits")
        if not name.startswith("https:"):
            around.said(f"warning: {name} comes over plain HTTP: nobody proves who sends it")
        content = get(name, MOST_BYTES, certificate=certificate, waits=around.waits, said=around.said)
        return _found(content, name, None)
    return _read_file(local_file(place, [Path.cwd(), *around.stick_folders()] if place.kind == "path" else [], around))


def _on_the_stick(around: Surroundings) -> Iterator[list[Found]]:
    """What is there, stage by stage: the next one counts only where nothing of one before is for this machine."""
    folders = around.stick_folders()
    top = [folder / NAME for folder in folders if (folder / NAME).is_file()]
    if top:
        yield [_read_file(top[0])]
        return
    yield [_read_file(path) for path in _beside_images(folders)]
    yield list(_inside_images(folders, around))


def _inside_images(folders: Sequence[Path], around: Surroundings) -> Iterator[Found]:
    for path, text in carrying(folders):
        try:
            yield _carried(path, text)
        except AnswersWrong as error:  # of another machine, maybe: that one may not keep this one from its own
            around.said(f"warning: {error.message}")


def _carried(path: Path, text: str) -> Found:
    return _found(text.encode(), f"{path} (inside)", path.absolute().parent, path)


def _beside_images(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(folder.glob(f"images/{NAME}"))
        yield from sorted(folder.glob(f"images/*/{NAME}"))


def _read_file(path: Path) -> Found:
    try:
        if not path.is_file() or is_image(path):  # a split image has no file of its name
            return _from_image(path)
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise NoAnswers(f"{path} cannot be read: {error.strerror}", hint="Check the path.", path=str(path)) from error
    return _found(content, str(path), path.absolute().parent)


def _found(content: bytes, name: str, folder: Path | None, image: Path | None = None) -> Found:
    answers = read_answers(content, name, in_image=image is not None)
    return Found(answers, name, folder, image, hashlib.sha256(content).hexdigest())


def checked_answers(path: Path) -> tuple[Answers, bool]:
    """Answers by themselves, wherever they are meant for, and whether they work only inside of an image.

    Raises:
        NoAnswers: There are none.
        AnswersWrong: They cannot be followed.
    """
    try:
        text = answers_inside(path).encode() if is_image(path) else path.read_bytes()[: MOST_BYTES + 1]
    except OSError as error:
        raise NoAnswers(f"{path} cannot be read: {error.strerror}", hint="Check the path.", path=str(path)) from error
    if not text:
        raise NoAnswers(
            f"{path} has no answers", hint="imager capture --answers puts some into an image.", path=str(path)
        )
    answers = read_answers(text, str(path), in_image=True)
    return answers, any(restore.image == SELF for restore in answers.restore)


def _from_image(path: Path) -> Found:
    text = answers_inside(path)
    if not text:
        raise NoAnswers(f"{path} carries no {NAME}", hint="imager capture --answers puts one in.", path=str(path))
    return _carried(path, text)
