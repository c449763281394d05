# SPDX-License-Identifier: GPL-3.0-or-later
"""Images on other machines: shares that are mounted, and web servers that are read as a stream."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from bootmedia.recovery.naming import place_of
from bootmedia.recovery.secure_shell import host_keys
from bootmedia.recovery.web import certificate_problem
from bootmedia.wizard.attached import forget_folder
from bootmedia.wizard.running import Outcome
from bootmedia.wizard.screens.frame import Form, Frame
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.shares import Share, refusal
from bootmedia.wizard.source import Source
from bootmedia.wizard.volumes import folder_of
from imager.errors import StoreError
from imager.text import one_line

Browsed = Callable[[Path], None]
Picked = Callable[[Source], None]
Fields = Sequence[tuple[str, str, str]]
FETCH = ("recovery", "fetch", "--json")
"""With what it says in a form that the screen can tell from what the program behind it says."""


class Accept(Frame):
    """A fingerprint that nobody vouches for: a person compares it, or goes back."""

    KEYS: ClassVar[Sequence[tuple[str, str]]] = (("Up/Down", "move"), ("Enter", "choose"))

    def __init__(
        self, title: str, about: str, fingerprints: Sequence[tuple[str, str]], accepted: Callable[[], None]
    ) -> None:
        super().__init__()
        self.TITLE_TEXT = title
        self._about = about
        self._fingerprints = fingerprints
        self._accepted = accepted

    def entered(self) -> None:
        """Back comes first: Enter by mistake accepts nothing."""
        rows = [("about", styled((f"{self._about}\n", "warning")), False)]
        rows += [("", styled(f"{kind}\n", (f"{digest}\n", "strong")), False) for kind, digest in self._fingerprints]
        rows = [(f"row{number}", text, usable) for number, (_, text, usable) in enumerate(rows)]
        rows += [
            ("no", styled(("Back: it is not the same, or I cannot tell", "strong")), True),
            ("yes", styled(("Accept: I have compared it with what the server's owner says", "strong")), True),
        ]
        self.menu.fill(rows)

    def chosen(self, name: str) -> None:
        """Go on with it, or back."""
        self.action_back()
        if name == "yes":
            self._accepted()


class ShareForm(Form):
    """Server, folder and who asks."""

    KIND = ""

    def __init__(self, browse: Browsed, picked: Picked, *, is_writable: bool) -> None:
        super().__init__()
        self._browse = browse
        self._picked = picked
        self._is_writable = is_writable

    def share(self) -> Share:
        """What stands in the fields."""
        names = [name for name, _, _ in self.FIELDS]
        values = {name: self.value(name) for name in names if name != "port"}
        port = self.value("port") if "port" in names else ""
        port = port or "22"
        number = int(port) if port.isdecimal() else 0
        return Share(self.KIND, port=number, is_writable=self._is_writable, **values)

    def submit(self) -> None:
        """Mount it."""
        share = self.share()
        if share.fault():
            self.tell(share.fault(), style="warning")
            return
        self.attach(share)

    def attach(self, share: Share) -> None:
        """Run the command that mounts it."""
        credentials = folder_of(f"credentials-{share.server}-{os.getpid()}")
        command = share.mount(str(credentials))
        self.set_command(command)

        wizard = self.wizard  # from here on: this screen may be left while the command runs

        def work() -> Outcome:
            if wizard.attached.is_alive(share.folder):
                return Outcome(0)
            share.folder.mkdir(parents=True, exist_ok=True)
            if share.kind == "smb" and share.user:
                wizard.attached.keep_file(credentials, share.credentials().encode())
            try:
                outcome = wizard.carry_out(command, given=share.secret())
            finally:
                wizard.attached.forget_file(credentials)
            if outcome.is_well:
                wizard.attached.mounted(share.folder)
            else:
                forget_folder(share.folder)
            return outcome

        self.in_background(work, lambda outcome: self._mounted(share, outcome))

    def _mounted(self, share: Share, outcome: Outcome) -> None:
        if outcome.is_well:
            self.mounted(share)
        else:
            meaning, hint = refusal(share, outcome.message)
            self.tell(f"{share} cannot be mounted: {meaning}", outcome.hint or hint)

    def mounted(self, share: Share) -> None:
        """Look into it."""
        self._browse(share.folder)


class SmbForm(ShareForm):
    """A Windows share."""

    KIND = "smb"
    TITLE_TEXT = "Windows share (SMB)"
    FIELDS: ClassVar[Fields] = (
        ("server", "Server", "192.168.1.10"),
        ("path", "Share, and a folder in it", "backup/images"),
        ("user", "User (empty: guest)", ""),
        ("domain", "Domain (mostly empty)", ""),
        ("password", "Password", ""),
    )


class NfsForm(ShareForm):
    """A folder of an NFS server."""

    KIND = "nfs"
    TITLE_TEXT = "NFS"
    FIELDS: ClassVar[Fields] = (("server", "Server", "192.168.1.10"), ("path", "Folder that it exports", "/srv/images"))


class SshForm(ShareForm):
    """A folder of an SSH server, whose key is accepted first."""

    KIND = "ssh"
    _image = ""
    TITLE_TEXT = "SSH / SFTP"
    FIELDS: ClassVar[Fields] = (
        ("server", "Server", "192.168.1.10"),
        ("port", "Port", "22"),
        ("path", "Folder, or an image (.zst)", "/srv/images"),
        ("user", "User", "root"),
        ("key", "File with a private key (empty: password)", "/mnt/id_ed25519"),
        ("password", "Password (empty: key)", ""),
    )

    def attach(self, share: Share) -> None:
        """Look whose keys these are, before anything is sent."""
        self.set_command(f"ssh-keyscan -p {share.port} -- {share.server} | ssh-keygen -lf -")
        self.in_background(lambda: host_keys(share.server, share.port), lambda found: self._seen(share, found))

    def _seen(self, share: Share, found: dict[str, str]) -> None:
        shown = [(line.split()[1], digest) for digest, line in found.items()]
        about = f"{share.server} shows these keys. On the server, ssh-keygen -lf shows the same."

        self.wizard.push_screen(Accept("is this the right server?", about, shown, lambda: self._accepted(share, found)))

    def _accepted(self, share: Share, found: dict[str, str]) -> None:
        is_image = share.path.endswith(".zst") and not self._is_writable
        if is_image and not share.password:
            self._picked(streamed(share, next(iter(found))))
            return
        self._image = Path(share.path).name if is_image else ""
        if is_image:
            share = replace(share, path=str(Path(share.path).parent))
        self.in_background(lambda: self._with_keys(share, found), super().attach)

    def _with_keys(self, share: Share, found: dict[str, str]) -> Share:
        """The share with the server's keys, and with the private key where only we may read it.

        On a FAT stick all may, and ssh refuses it. The copy is needed as long as the folder is mounted: sshfs logs in
        again with it when the network was gone.
        """
        known = folder_of(f"known-hosts-{share.server}-{share.port}")
        self.wizard.attached.keep_file(known, "".join(f"{line}\n" for line in found.values()).encode())
        if not share.key:
            return replace(share, known_hosts=str(known))
        try:
            content = Path(share.key).read_bytes()
        except OSError as error:
            raise StoreError(
                f"the key {share.key} cannot be read: {error.strerror}", hint="Look at its path.", path=share.key
            ) from error
        copy = folder_of(f"ssh-key-{share.server}-{share.port}-{os.getpid()}")
        self.wizard.attached.keep_file(copy, content)
        return replace(share, known_hosts=str(known), key=str(copy))

    def _mounted(self, share: Share, outcome: Outcome) -> None:
        if share.key and not outcome.is_well:
            self.wizard.attached.forget_file(Path(share.key))
        super()._mounted(share, outcome)

    def mounted(self, share: Share) -> None:
        """Look into it, or take the image that was named: with a password it is read from a mount."""
        if self._image:
            self._picked(Source(path=str(share.folder / self._image)))
        else:
            super().mounted(share)


def streamed(share: Share, fingerprint: str) -> Source:
    """An image on an SSH server as a stream, which goes on where the network broke off."""
    url = f"ssh://{share.user or 'root'}@{share.server}:{share.port}{share.path}"
    key = ("--key", share.key) if share.key else ()
    return Source(fetch=(*FETCH, "--host-key", fingerprint, *key, url), name=url)


def share_form(kind: str, browse: Browsed, picked: Picked, *, is_writable: bool) -> ShareForm:
    """The form for a kind of share."""
    return {"smb": SmbForm, "nfs": NfsForm, "ssh": SshForm}[kind](browse, picked, is_writable=is_writable)


class WebForm(Form):
    """The URL of an image."""

    TITLE_TEXT = "Web server (HTTP, HTTPS)"
    INTRODUCTION = "The image is read as a stream, and checked while it is written."
    FIELDS: ClassVar[Fields] = (("url", "URL of the image", "https://192.168.1.10/server.img.zst"),)

    def __init__(self, picked: Picked) -> None:
        super().__init__()
        self._picked = picked

    def submit(self) -> None:
        """Look who answers."""
        url = self.value("url")
        try:
            is_web = place_of(url).kind == "http"
        except ValueError:
            is_web = False
        if not is_web:
            self.tell("This is no URL that begins with http:// or https://.", style="warning")
            return
        self.set_command(f"recovery fetch {url}")
        self.in_background(lambda: certificate_problem(url), lambda found: self._answered(url, found))

    def _answered(self, url: str, found: tuple[str, str] | None) -> None:
        if found is None:
            self._picked(Source(fetch=(*FETCH, url), name=url))
            return
        problem, digest = found
        source = Source(fetch=(*FETCH, "--certificate", digest, url), name=url)
        about = f"No authority vouches for this server: {one_line(problem)}. Its certificate has this fingerprint."
        rows = [("SHA-256", f"{digest[:32]}\n{digest[32:]}")]
        self.wizard.push_screen(Accept("is this the right server?", about, rows, lambda: self._picked(source)))
