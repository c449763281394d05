# SPDX-License-Identifier: GPL-3.0-or-later
"""Where things lie: the stick's folders, file systems by label, images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bootmedia.recovery.answers import SELF, Answers, Restore
from bootmedia.recovery.errors import AnswersWrong
from bootmedia.recovery.facts import MEDIUM, MachineFacts, wait_for_devices
from bootmedia.recovery.fetch import WAITS, Said, quietly
from bootmedia.recovery.naming import ImagePlace, filled, is_sha256, place_of
from bootmedia.recovery.secure_shell import SshInput
from bootmedia.recovery.web import HttpInput
from imager.devices.identity import transport_of
from imager.devices.mounts import devices_of, own_mounts
from imager.devices.sysfs import System
from imager.errors import ImageError, StoreError, UsageError
from imager.image.reader import StreamedImage, open_image
from imager.process import ProgramFailed, run
from imager.stores.parts import parts_of

NAME: Final = "recovery.toml"
DATA_LABEL: Final = "RECOVERY"
"""Label of the file system in the stick's data partition."""


@dataclass(frozen=True)
class Volume:
    """A file system that could be mounted.

    Attributes:
        path: Its device.
        label: Its own.
        mounted_at: Where it is mounted; "" when it is not.
        is_on_stick: Its disk can be plugged in and out.
    """

    path: str
    label: str
    mounted_at: str = ""
    is_on_stick: bool = True


def list_volumes() -> list[Volume]:
    """Every file system of the machine that has a label.

    blkid looks for itself: lsblk knows only what udev knew when a disk was plugged in.

    Raises:
        StoreError: blkid does not say.
    """
    wait_for_devices()
    try:
        said = run(["blkid", "-c", "/dev/null", "-o", "export"], allowed=(0, 2)).output  # 2: it found nothing
    except ProgramFailed as error:
        raise StoreError(f"the file systems of this machine cannot be listed: {error.message}") from error
    machine = System()
    mounted = {name: mount.point for mount in own_mounts(machine) for name in devices_of(mount, machine)}
    return [
        Volume(path, label, mounted.get(machine.name_of_path(path), ""), _is_on_stick(path, machine))
        for path, label in _labels(said.decode(errors="replace"))
    ]


def _is_on_stick(path: str, machine: System) -> bool:
    disk = machine.disk_of(machine.name_of_path(path))
    return machine.number(disk, "removable") == 1 or transport_of(disk, machine) in ("usb", "mmc")


def _labels(export: str) -> Iterator[tuple[str, str]]:
    """Path and label of each file system that has one."""
    for known in blkid_paragraphs(export):
        if known.get("LABEL") and known.get("DEVNAME"):
            yield known["DEVNAME"], known["LABEL"]


def blkid_paragraphs(export: str) -> Iterator[dict[str, str]]:
    """What `blkid -o export` prints: paragraphs of NAME=value, shell characters escaped."""
    for paragraph in export.split("\n\n"):
        pairs = (line.partition("=") for line in paragraph.splitlines())
        yield {name: re.sub(r"\\(.)", r"\1", value) for name, _, value in pairs}


def mount_volume(volume: Volume, folder: Path, *, is_writable: bool) -> None:
    """Mount a file system.

    Raises:
        StoreError: It cannot be mounted.
    """
    # Not "rw": with it, a write-protected stick would not be mounted at all.
    options = ["nosuid", "nodev", "noexec", *([] if is_writable else ["ro"])]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        run(["mount", "-o", ",".join(options), "--", volume.path, str(folder)])
    except (ProgramFailed, OSError) as error:
        raise StoreError(f"{volume.path} ({volume.label}) cannot be mounted: {error}", path=volume.path) from error


@dataclass
class Surroundings:
    """Everything outside of this program that it looks at; tests put their own in its place.

    Attributes:
        system: Where the kernel shows the machine.
        medium: Where the medium is mounted.
        mounts: Where file systems are mounted that were not.
        volumes: Lists the file systems.
        mount: Mounts one.
        waits: Seconds between attempts over the network.
        said: Told of what takes time or goes wrong.
    """

    system: System = field(default_factory=System)
    medium: Path = MEDIUM
    mounts: Path = Path("/run/recovery")
    volumes: Callable[[], list[Volume]] = list_volumes
    mount: Callable[..., None] = mount_volume
    waits: Sequence[float] = WAITS
    said: Said = quietly
    _listed: list[Volume] | None = None

    def known_volumes(self) -> list[Volume]:
        """The file systems with a label; looked for once, as a dying disk can take long to answer."""
        if self._listed is None:
            self._listed = self.volumes()
        return self._listed

    @property
    def is_live(self) -> bool:
        """Whether this is a system that was started from our medium, also when that was taken out."""
        return self.medium.parent.is_dir()

    def data_folder(self) -> Path | None:
        """The stick's data partition, mounted for writing; None when there is none.

        Makers of laptops give this name to partitions of their own: those are not on sticks, and are left alone.
        """
        own = self.medium.with_name("data")  # mounted at the start, when it is on the same stick as the medium
        if own.is_mount():
            return own
        found = [volume for volume in self.known_volumes() if volume.label == DATA_LABEL and volume.is_on_stick]
        return self._only(found, DATA_LABEL, is_writable=True) if found else None

    def labelled(self, label: str, *, is_writable: bool = False) -> Path:
        """The folder of the file system with a label, mounted if it was not.

        Raises:
            StoreError: There is none, or more than one.
        """
        found = [volume for volume in self.known_volumes() if volume.label == label]
        return self._only(found, label, is_writable=is_writable)

    def _only(self, found: Sequence[Volume], label: str, *, is_writable: bool) -> Path:
        if len(found) != 1:
            seen = ", ".join(volume.path for volume in found) or "none is here"
            raise StoreError(
                f"one file system with the label {label} is needed; {seen}",
                hint="Look at the plugs, and at `lsblk -f`." if not found else "Pull out the one that is not meant.",
                label=label,
            )
        if found[0].mounted_at:
            return Path(found[0].mounted_at)
        folder = self.mounts / found[0].path.replace("/", "_").strip("_")
        if not folder.is_mount():
            self.mount(found[0], folder, is_writable=is_writable)
        return folder

    def stick_folders(self) -> list[Path]:
        """Where a person puts files on the stick: its data partition first, as it is the one that can be changed."""
        return [folder for folder in (self.data_folder(), self.medium) if folder is not None and folder.is_dir()]


@dataclass(frozen=True)
class Found:
    """Answers, and where they came from.

    Attributes:
        name: The path or URL.
        folder: Where their relative paths begin; None for a URL.
        image: The image that carries them; None for a file of their own.
        digest: Of their text.
    """

    answers: Answers
    name: str
    folder: Path | None
    image: Path | None = None
    digest: str = ""


# --- Images -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageSource:
    """An image that can be opened, more than once.

    Attributes:
        name: As the answers have it, filled in.
        path: Of a file on this machine; None over the network.
        open: Opens it from its start.
        warning: What the way that it comes does not promise; "" for nothing.
    """

    name: str
    path: Path | None
    open: Callable[[], StreamedImage]
    warning: str = ""


def image_source(restore: Restore, found: Found, facts: MachineFacts, around: Surroundings) -> ImageSource:
    """Where the image of a restore comes from.

    Raises:
        StoreError: It is not there.
        AnswersWrong: {serial} or such cannot be filled in.
    """
    if found.image is not None and restore.image == SELF:
        carrier = found.image
        return ImageSource(str(carrier), carrier, lambda: open_image(str(carrier)))
    try:
        name = filled(restore.image, facts.values())
        place = place_of(name)
    except ValueError as error:
        raise AnswersWrong(f"{found.name}: {error}", path=found.name) from error
    if place.kind == "http":
        warning = "" if name.startswith("https:") else f"{name} comes over plain HTTP: nobody proves who sends it"
        return ImageSource(name, None, lambda: _streamed(_http(name, restore, around)), warning)
    folders = _folders(found, around)
    if place.kind == "ssh":
        key = local_file(place_of(restore.key), folders, around) if restore.key else None
        return ImageSource(name, None, lambda: _streamed(_ssh(place, key, restore, around)))
    path = local_file(place, folders, around)
    return ImageSource(name, path, lambda: open_image(str(path)))


def file_beside(name: str, found: Found, around: Surroundings) -> Path:
    """A small file that the answers name: in the same places as an image that is a path.

    Raises:
        StoreError: It is not there.
        AnswersWrong: It is no path.
    """
    try:
        place = place_of(name)
    except ValueError as error:
        raise AnswersWrong(f"{found.name}: {error}", path=found.name) from error
    if place.kind not in ("path", "label"):
        raise AnswersWrong(f"{found.name}: {name} must be a file, not a URL", path=found.name)
    return local_file(place, _folders(found, around), around)


def folder_beside(name: str, found: Found, around: Surroundings) -> Path:
    """A folder that the answers name, by an absolute path or one in the same places as an image.

    Raises:
        AnswersWrong: It is not there.
    """
    paths = [folder / name for folder in _folders(found, around) or [Path("/")]]  # an absolute path stays one
    for path in paths:
        if path.is_dir():
            return path
    raise AnswersWrong(f"{found.name}: there is no folder {' and no '.join(map(str, paths))}", path=found.name)


def _folders(found: Found, around: Surroundings) -> list[Path]:
    return [*([found.folder] if found.folder else []), *around.stick_folders()]


def _http(url: str, restore: Restore, around: Surroundings) -> HttpInput:
    return HttpInput(url, certificate=restore.certificate, waits=around.waits, said=around.said)


def _ssh(place: ImagePlace, key: Path | None, restore: Restore, around: Surroundings) -> SshInput:
    return SshInput(place, host_key=restore.host_key, key=key, waits=around.waits, said=around.said)


def fetched(
    url: str, *, certificate: str = "", host_key: str = "", key: Path | None = None, said: Said = quietly
) -> HttpInput | SshInput:
    """A file on a server.

    Raises:
        UsageError: It is no URL of a server, or does not say how the server is recognised.
        StoreError: It is not there, or is not the server that it should be.
    """
    try:
        place = place_of(url)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if place.kind == "ssh":
        if not host_key:
            raise UsageError(
                f"{url}: who the server is must be said",
                hint="--host-key takes what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints on it.",
            )
        return SshInput(place, host_key=host_key, key=key, said=said)
    if place.kind != "http":
        raise UsageError(f"{url!r} is on no server", hint="A URL begins with http://, https:// or ssh://.")
    if certificate and not is_sha256(certificate):
        raise UsageError(f"{certificate!r} is no SHA-256 fingerprint of a certificate: 64 hexadecimal digits")
    return HttpInput(url, certificate=certificate, said=said)


def _streamed(source: HttpInput | SshInput) -> StreamedImage:
    try:
        return StreamedImage(source)
    except (ImageError, StoreError):
        source.close()
        raise


def local_file(place: ImagePlace, folders: Sequence[Path], around: Surroundings) -> Path:
    """A file in the first of the folders that has it, or on the file system with a label."""
    tried = [around.labelled(place.label)] if place.kind == "label" else list(folders)
    paths = list(dict.fromkeys(folder / place.path for folder in tried or [Path("/")]))  # an absolute path stays one
    for path in paths:
        if path.is_file() or parts_of(path):
            return path
    raise StoreError(
        f"there is no {' and no '.join(map(str, paths))}",
        hint="Look at the name, capital letters too, and whether the disk that it is on is plugged in.",
        path=str(paths[0]),
    )
