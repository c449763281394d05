# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder with one of everything that a copy may lose."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path

from tests.harness.programs import call

MIB = 2**20


def make_odd_files(top: Path, *, reflink: bool, projects: bool = True) -> None:
    """Fill a folder of a mounted file system."""
    _names(top)
    _contents(top, reflink=reflink)
    _specials(top)
    _attributes(top)
    if projects:
        _projects(top)
    _flags(top)


def _names(top: Path) -> None:
    names = top / "names"
    names.mkdir()
    for name in (
        b"new\nline",
        b"n" * 255,
        b"not \xff utf-8",
        "Grüße ☃".encode(),
        b" -rf *",
        b".hidden",
        b"back\\slash",
    ):
        Path(os.fsdecode(os.path.join(os.fsencode(names), name))).write_bytes(name)
    deep = top / "deep"
    for _ in range(60):
        deep = deep / ("d" * 40)
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("deep")


def _contents(top: Path, *, reflink: bool) -> None:
    contents = top / "contents"
    contents.mkdir()
    (contents / "empty").touch()
    (contents / "small").write_text("small")
    (contents / "plain").write_bytes(os.urandom(3 * MIB + 5))
    call("dd", "if=/dev/zero", f"of={contents / 'zeros'}", "bs=1M", "count=2", "status=none")
    with (contents / "holes").open("wb") as file:
        for place in (0, 9 * MIB, 30 * MIB):
            file.seek(place)
            file.write(os.urandom(70_000))
        file.truncate(40 * MIB)
    call("fallocate", "-l", "4M", contents / "reserved")
    (contents / "one name").write_bytes(os.urandom(100_000))
    os.link(contents / "one name", top / "another name")
    os.link(contents / "one name", contents / "a third name")
    os.link(contents / "holes", contents / "a link to holes")
    if reflink:
        for number in range(4):
            call("cp", "--reflink=always", contents / "plain", contents / f"shared {number}")
        with (contents / "shared 2").open("r+b") as file:
            file.seek(MIB)
            file.write(os.urandom(300_000))
        call("xfs_io", "-c", f"reflink {contents / 'plain'} 0 1m 2m", contents / "shared 3")
        os.link(contents / "shared 1", contents / "a link to shared 1")
    os.utime(contents / "small", ns=(123_456_789, 987_654_321_123_456_789))
    os.utime(contents / "plain", ns=(981_173_106_000_000_001, -5_000_000_001))


def _specials(top: Path) -> None:
    specials = top / "specials"
    specials.mkdir()
    os.mknod(specials / "block", 0o640 | stat.S_IFBLK, os.makedev(7, 300))
    os.mknod(specials / "character", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mkfifo(specials / "fifo")
    here = os.getcwd()
    os.chdir(specials)  # a socket's path has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind("socket")
    finally:
        os.chdir(here)
    (specials / "absolute").symlink_to("/etc/shadow")
    (specials / "upward").symlink_to("../../../../../etc/passwd")
    (specials / "loop").symlink_to("loop")
    (specials / "to a folder").symlink_to("../contents")
    os.link(specials / "fifo", specials / "fifo again")
    os.link(specials / "absolute", specials / "absolute again", follow_symlinks=False)


def _attributes(top: Path) -> None:
    attributes = top / "attributes"
    attributes.mkdir()
    shutil.copy("/bin/true", attributes / "setuid")
    os.chown(attributes / "setuid", 0, 12345)
    (attributes / "setuid").chmod(0o6755)
    shutil.copy("/bin/true", attributes / "capable")
    os.chown(attributes / "capable", 4_000_000_000, 4_000_000_001)
    call("setcap", "cap_net_raw,cap_net_bind_service+ep", attributes / "capable")
    (attributes / "sticky").mkdir(mode=0o1777)
    (attributes / "sticky").chmod(0o1777)
    (attributes / "acl").mkdir()
    call("setfacl", "-m", "u:1234:rwx,g:77:r,m:rx", "-d", "-m", "u:77:r,o:-", attributes / "acl")
    (attributes / "acl" / "inherits").touch()
    file = attributes / "named"
    file.touch(mode=0o000)
    os.setxattr(file, "user.empty", b"")
    os.setxattr(file, "user.binary", bytes(range(256)))
    os.setxattr(file, "user.rsync.%stat", b"100644 0,0 0:0")
    os.setxattr(file, "trusted.overlay.opaque", b"y")
    os.setxattr(file, "security.selinux", b"system_u:object_r:etc_t:s0\0")
    os.symlink("nowhere", attributes / "link")
    os.setxattr(attributes / "link", "trusted.of", b"a link", follow_symlinks=False)
    os.setxattr(attributes / "sticky", "user.of", b"a folder")
    os.lchown(attributes / "link", 5, 6)


def _projects(top: Path) -> None:
    project = top / "project"
    project.mkdir()
    call("chattr", "-p", "4711", "+P", project)
    (project / "inherits").write_text("project")
    (project / "folder").mkdir()
    (top / "of a project").touch()
    call("chattr", "-p", "4294967294", top / "of a project")


def _flags(top: Path) -> None:
    flags = top / "flags"
    flags.mkdir()
    for flag in "iaAdS":
        (flags / flag).write_text(flag)
        call("chattr", f"+{flag}", flags / flag)
    (flags / "folder").mkdir()
    (flags / "folder" / "in it").write_text("in it")
    call("chattr", "+i", flags / "folder")
