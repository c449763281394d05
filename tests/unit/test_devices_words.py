# SPDX-License-Identifier: GPL-3.0-or-later
"""Text and bits of the kernel and of other programs, understood or left out, but never stumbled over."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imager.devices import claims, mounts
from imager.devices.hidden import read_dco, read_hpa, read_opal
from imager.devices.sysfs import System
from imager.devices.usage import Use, refuse_if_in_use
from imager.errors import SourceBusy, TargetRefused

# `hdparm -N` and `hdparm --dco-identify` of version 9.65, as its manual and source (hdparm.c, dco.c) word them.
NO_HPA = "/dev/sda:\n max sectors   = 3907029168/3907029168, HPA is disabled\n"
HPA = "/dev/sda:\n max sectors   = 3907020000/3907029168, HPA is enabled\n"
STRANGE = "/dev/sda:\n max sectors   = 0/1, HPA setting seems invalid (buggy kernel device driver?)\n"
DCO = "/dev/sda:\nDCO Revision: 0x0002\nThe following features can be disabled:\n\tReal max sectors: {}\n"


@pytest.mark.parametrize(
    ("said", "warnings", "unknowns"), [(NO_HPA, 0, 0), (HPA, 1, 0), (STRANGE, 0, 1), ("", 0, 1), ("rubbish", 0, 1)]
)
def test_a_host_protected_area_is_a_warning_and_silence_is_an_unknown(said, warnings, unknowns):
    found = read_hpa(said)
    assert (len(found.warnings), len(found.unknowns)) == (warnings, unknowns)


def test_the_size_of_the_hidden_areas_is_told():
    assert "9168 sectors" in read_hpa(HPA).warnings[0]
    assert "1000 sectors" in read_dco(DCO.format(3907030168), HPA).warnings[0]


@pytest.mark.parametrize(("real", "unknowns"), [("3907029168", 0), ("1", 0), ("", 1)])
def test_an_overlay_that_hides_nothing_is_no_warning(real, unknowns):
    found = read_dco(DCO.format(real), HPA)
    assert (found.warnings, len(found.unknowns)) == ((), unknowns)


@pytest.mark.parametrize(
    ("flags", "words"),
    [(0, []), (0x01, []), (0x0F, ["locked"]), (0x17, ["shadow MBR"]), (0x37, []), (0x1F, ["locked", "shadow MBR"])],
)
def test_the_state_of_a_self_encrypting_drive(flags, words):
    warnings = read_opal(flags).warnings
    assert [word in text for word, text in zip(words, warnings, strict=True)] == [True] * len(words)


def test_a_line_of_mountinfo():
    line = (
        r"36 35 98:0 /sub\040dir /mnt\011a\134b rw,noatime master:1 shared:7 - ext3 /dev/my\040disk ro,errors=continue"
    )
    (mount,) = mounts.parse(line)
    assert (mount.major, mount.minor, mount.root, mount.point) == (98, 0, "/sub dir", "/mnt\ta\\b")
    assert (mount.type, mount.source, mount.is_writable) == ("ext3", "/dev/my disk", False)
    assert mount.options == ("ro", "errors=continue")


def test_a_mount_point_with_an_odd_line_separator_is_one_line():
    (mount,) = mounts.parse("36 35 98:0 / /mnt\x85\u2028x rw - ext3 /dev/sda rw")
    assert mount.point == "/mnt\x85\u2028x"


@given(st.lists(st.text(alphabet="0123456789:/ -\\abrwo,=\n\x00é")).map(" - ".join))
def test_nonsense_in_mountinfo_is_left_out(text):
    for mount in mounts.parse(text):
        assert mount.major >= 0


def test_swap_areas(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/swaps").write_text(
        "Filename\t\tType\t\tSize\tUsed\tPriority\n/dev/sda2   partition\t8\t0\t-2\n/swap\\040file file\t8\t0\t-3\n\n"
    )
    assert mounts.swaps(System(tmp_path)) == [mounts.Swap("/dev/sda2", False), mounts.Swap("/swap file", True)]


def test_the_hint_frees_from_the_top_down(monkeypatch):
    uses = (
        Use("crypt", "/dev/sda1", "secret", True),
        Use("mounted", "/dev/mapper/secret", "/mnt", True),
        Use("process", "/dev/sda", "dd (process 7)", True),
    )
    monkeypatch.setattr("imager.devices.usage.uses_of", lambda path: uses)
    with pytest.raises(TargetRefused) as refused:
        refuse_if_in_use("/dev/sda", for_writing=True)
    order = [refused.value.hint.index(word) for word in ("end the programs", "umount /mnt", "cryptsetup close secret")]
    assert order == sorted(order)
    assert refused.value.facts["uses"][0] == {"kind": "crypt", "who": "/dev/sda1", "detail": "secret"}


def test_the_running_system_is_told_to_start_from_elsewhere(monkeypatch):
    monkeypatch.setattr("imager.devices.usage.uses_of", lambda path: (Use("mounted", "/dev/sda1", "/", True),))
    with pytest.raises(SourceBusy) as refused:
        refuse_if_in_use("/dev/sda", for_writing=False)
    assert "boot medium" in refused.value.hint


def test_claims_are_counted(tmp_path):
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    number = os.fstat(fd).st_rdev
    claims.add(fd)
    claims.add(fd)
    claims.remove(fd)
    held = claims.is_ours(number)
    claims.remove(fd)
    os.close(fd)
    assert (held, claims.is_ours(number)) == (True, False)


def test_a_full_disk_under_a_file_is_not_a_fault_of_the_file(tmp_path, monkeypatch):
    from imager.devices.target import open_target

    def full(fd, content, offset):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with open_target(tmp_path / "new", create_size=4096) as target:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(Exception, match="No space left") as failed:
            target.write(0, b"x")
    assert failed.value.hint.startswith("Make room")
