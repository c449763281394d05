# SPDX-License-Identifier: GPL-3.0-or-later
"""Images on other machines: shares that are mounted, and web servers that are read as a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from bootmedia.recovery.answers import place_of
from bootmedia.recovery.secure_shell import host_keys
from bootmedia.recovery.web import certificate_problem
from bootmedia.wizard.choice import Source
from bootmedia.wizard.running import Outcome
from bootmedia.wizard.screens.frame import Form, Frame
from bootmedia.wizard.screens.look import styled
from bootmedia.wizard.volumes import MOUNTS, Share, folder_of
from imager.text import one_line

Browsed = Callable[[Path], None]
Picked = Callable[[Source], None]
Fields = Sequence[tuple[str, str, str]]


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
        return Share(self.KIND, port=int(port) if port.isdecimal() else 22, **values)

    def submit(self) -> None:
        """Mount it."""
        share = self.share()
        if share.fault():
            self.tell(share.fault(), style="warning")
            return
        self.attach(share)

    def attach(self, share: Share) -> None:
        """Run the command that mounts it."""
        credentials = _credentials_path(share)
        command = share.mount(str(credentials), is_writable=self._is_writable)
        self.set_command(command)

        def work() -> Outcome:
            if share.folder.is_mount():
                return Outcome(0)
            share.folder.mkdir(parents=True, exist_ok=True)
            if share.kind == "smb" and share.user:
                _write_secret(credentials, share.credentials().encode())
            try:
                return self.wizard.carry_out(command, given=share.secret())
            finally:
                credentials.unlink(missing_ok=True)

        self.in_background(work, lambda outcome: self._mounted(share, outcome))

    def _mounted(self, share: Share, outcome: Outcome) -> None:
        if outcome.is_well:
            self._browse(share.folder)
        else:
            self.tell(f"{share} cannot be mounted: {outcome.message}", outcome.hint or "Network, on the first screen.")


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

        def accepted() -> None:
            known = folder_of(f"known-hosts-{share.server}-{share.port}")
            MOUNTS.mkdir(parents=True, exist_ok=True)
            known.write_text("".join(f"{line}\n" for line in found.values()))
            if share.path.endswith(".zst") and not share.password and not self._is_writable:
                self._picked(streamed(share, next(iter(found))))
                return
            try:
                key = _private_copy(share)
            except OSError as error:
                self.failed(f"the key {share.key} cannot be read: {error.strerror}", "Look at its path.")
            else:
                super(SshForm, self).attach(replace(share, known_hosts=str(known), key=key))

        self.wizard.push_screen(Accept("is this the right server?", about, shown, accepted))

    def _mounted(self, share: Share, outcome: Outcome) -> None:
        if share.key and not outcome.is_well:
            Path(share.key).unlink()
        super()._mounted(share, outcome)


def streamed(share: Share, fingerprint: str) -> Source:
    """An image on an SSH server as a stream, which goes on where the network broke off."""
    url = f"ssh://{share.user or 'root'}@{share.server}:{share.port}{share.path}"
    key = ("--key", share.key) if share.key else ()
    return Source(fetch=("recovery", "fetch", "--host-key", fingerprint, *key, url), name=url)


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
            self._picked(Source(fetch=("recovery", "fetch", url), name=url))
            return
        problem, digest = found
        source = Source(fetch=("recovery", "fetch", "--certificate", digest, url), name=url)
        about = f"No authority vouches for this server: {one_line(problem)}. Its certificate has this fingerprint."
        rows = [("SHA-256", f"{digest[:32]}\n{digest[32:]}")]
        self.wizard.push_screen(Accept("is this the right server?", about, rows, lambda: self._picked(source)))


def _credentials_path(share: Share) -> Path:
    return folder_of(f"credentials-{share.server}")


def _write_secret(path: Path, content: bytes) -> None:
    """A file that only we may read, from its first moment on."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)


def _private_copy(share: Share) -> str:
    """The key in a file that only we may read: on a FAT stick all may, and ssh refuses it.

    It stays in memory as long as the folder is mounted: sshfs logs in again with it when the network was gone.
    """
    if not share.key:
        return ""
    copy = folder_of(f"ssh-key-{share.server}-{share.port}")
    _write_secret(copy, Path(share.key).read_bytes())
    return str(copy)
