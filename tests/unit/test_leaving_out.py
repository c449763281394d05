# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a file may be left out: the rules that do not depend on the file system."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imager.blocks import MemoryReader, OutOfRange
from imager.cli.options import parse_file_names
from imager.errors import UsageError
from imager.extents import Extents
from imager.filesystems import leaving_out
from imager.filesystems.base import HIBERNATED, NotTrusted
from imager.filesystems.leaving_out import FilesToSkip, copied_anyway, leave_out
from imager.filesystems.root_files import Pieces, RootFile
from imager.layout import Content, LeftOut

KIB = 1024
SIZE = 1024 * KIB
ABOUT = Content("filesystem", "made up")
ALL, NONE = Extents.single(0, SIZE), Extents()


class Finder:
    """A file system with these files."""

    def __init__(self, files=None, error=None):
        self.files, self.error = files or {}, error

    def root_files(self, reader, names):
        if self.error:
            raise self.error
        return {name: self.files[name] for name in names if name in self.files}


@pytest.fixture
def decide(monkeypatch):
    """Leaves out files of a made-up file system."""

    def run(files=None, *, error=None, content=bytes(SIZE), used=ALL, kept=NONE, about=ABOUT, refused=""):
        monkeypatch.setitem(leaving_out.FINDERS, "made up", Finder(files, error))
        skip = FilesToSkip(tuple(files or ["swapfile"]), refused)
        left, found = leave_out(MemoryReader(content), about, used, kept, skip)
        return used - left, found

    return run


def file(*rows, size=512 * KIB, **more):
    return RootFile(size, 4 * KIB, Pieces.of(rows), **more)


ONE = file((0, 256 * KIB, 512 * KIB))


def test_all_but_the_first_64_kib_is_left_out(decide):
    gone, found = decide({"swapfile": ONE})
    assert gone == Extents.single(320 * KIB, 768 * KIB)
    assert found.left_out == (LeftOut("swapfile", 448 * KIB),)
    assert found.mapped_bytes == SIZE - 448 * KIB


def test_the_first_64_kib_are_those_of_the_file_wherever_they_lie(decide):
    pieces = file((0, 512 * KIB, 32 * KIB), (32 * KIB, 0, 96 * KIB), size=128 * KIB)
    assert decide({"swapfile": pieces})[0] == Extents.single(32 * KIB, 96 * KIB)


def test_a_partly_used_last_block_and_what_lies_beyond_the_end_stay(decide):
    gone, _ = decide({"swapfile": file((0, 0, 512 * KIB), size=200 * KIB + 1)})
    assert gone == Extents.single(64 * KIB, 200 * KIB)


def test_what_is_always_kept_stays(decide):
    gone, found = decide({"swapfile": ONE}, kept=Extents.single(400 * KIB, 2**40))
    assert gone == Extents.single(320 * KIB, 400 * KIB)
    assert found.left_out[0].left_out_bytes == 80 * KIB


def test_shared_blocks_stay(decide):
    gone, found = decide({"swapfile": file((0, 256 * KIB, 512 * KIB), shared=Extents.single(0, 700 * KIB))})
    assert gone == Extents.single(700 * KIB, 768 * KIB)
    assert "shares" in found.left_out[0].reason


def test_a_second_name_of_a_file_is_told(decide):
    gone, found = decide({"swapfile": ONE, "hard link": ONE})
    assert gone.total_bytes == 448 * KIB
    assert [each.left_out_bytes for each in found.left_out] == [448 * KIB, 0]
    assert found.left_out[1].reason


@pytest.mark.parametrize(
    "rows",
    [
        [(0, 0, 128 * KIB), (64 * KIB, 256 * KIB, 128 * KIB)],
        [(128 * KIB, 0, 128 * KIB), (0, 256 * KIB, 128 * KIB)],
        [(0, 0, 128 * KIB), (128 * KIB, 64 * KIB, 128 * KIB)],
        [(0, 960 * KIB, 128 * KIB)],
    ],
)
def test_a_file_that_cannot_be_is_copied(decide, rows):
    gone, found = decide({"swapfile": file(*rows)})
    assert len(gone) == 0
    assert found.left_out[0].reason


def test_a_file_in_free_blocks_is_copied(decide):
    gone, found = decide({"swapfile": ONE}, used=ALL - Extents.single(500 * KIB, 504 * KIB))
    assert len(gone) == 0
    assert "in use" in found.left_out[0].reason


MARKS = [(page - 20, b"SWAPSPACE2S1SUSPEND\0") for page in (4096, 16384, 65536)]
MARKS += [(0, bytes.fromhex("edc302e99856e50c")), (4096 - 10, b"LINHIB0001"), (0, b"hibr"), (0, b"RSTR"), (0, b"LINK")]


@pytest.mark.parametrize(("at", "mark"), MARKS)
def test_a_file_in_which_a_system_sleeps_is_copied_and_told(decide, at, mark):
    content = bytearray(SIZE)
    content[256 * KIB + at : 256 * KIB + at + len(mark)] = mark
    gone, found = decide({"swapfile": ONE}, content=bytes(content))
    assert len(gone) == 0
    assert "hibernated" in found.left_out[0].reason
    assert found.facts[HIBERNATED].startswith("swapfile")


@pytest.mark.parametrize("error", [NotTrusted("it is odd"), OutOfRange("it leads nowhere")])
def test_what_cannot_be_read_leaves_nothing_out(decide, error):
    gone, found = decide(error=error)
    assert len(gone) == 0
    assert str(error) in found.left_out[0].reason


def test_of_a_whole_volume_nothing_is_left_out(decide):
    gone, found = decide({"swapfile": ONE}, about=Content("filesystem", "made up", whole_reason="it is dirty"))
    assert len(gone) == 0
    assert "whole" in found.left_out[0].reason


def test_a_sleeping_system_elsewhere_forbids_all(decide):
    gone, found = decide({"swapfile": ONE}, refused="somebody sleeps")
    assert len(gone) == 0
    assert found.left_out == (LeftOut("swapfile", reason="somebody sleeps"),)


def test_names_mean_nothing_to_other_file_systems():
    skip = FilesToSkip(("swapfile",))
    assert leave_out(MemoryReader(b""), Content("filesystem", "vfat"), ALL, ALL, skip)[1].left_out == ()


def test_what_a_whole_member_carries_is_copied_at_any_depth():
    volume = Content("filesystem", "ext4", left_out=(LeftOut("swapfile", 5),))
    member = Content("encrypted", "crypto_LUKS", inside=(Content("volume-manager", "LVM2_member", inside=(volume,)),))
    assert copied_anyway(member) == member
    whole = copied_anyway(Content("raid", "linux_raid_member", whole_reason="one is missing", inside=(member,)))
    told = whole.inside[0].inside[0].inside[0].left_out[0]
    assert told.left_out_bytes == 0
    assert "whole" in told.reason


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), max_size=20), st.integers(0, 300), st.integers(0, 300)
)
def test_clipped_pieces_are_the_same_bytes_of_the_file(steps, start, end):
    rows, offset = [], 0
    for number, (gap, length) in enumerate(steps):
        rows.append((offset + gap, 1000 * number, length))
        offset += gap + length
    whole, part = Pieces.of(rows), Pieces.of(rows).clip(start, end)

    def bytes_of(pieces):
        rows = zip(pieces.offsets.tolist(), pieces.places.tolist(), pieces.lengths.tolist(), strict=True)
        return {(at + step, place + step) for at, place, length in rows for step in range(length)}

    assert bytes_of(part) == {(at, place) for at, place in bytes_of(whole) if start <= at < end}
    assert whole.is_in_order
    assert np.all(part.lengths > 0)


def test_names_are_taken_with_commas_and_once():
    assert parse_file_names(["pagefile.sys, hiberfil.sys", "swapfile,pagefile.sys"]) == (
        "pagefile.sys",
        "hiberfil.sys",
        "swapfile",
    )
    assert parse_file_names(None) == ()


@pytest.mark.parametrize("text", ["", "a,,b", "/swapfile", "c:\\pagefile.sys", ".", "..", "x" * 256, "a\nb", "a\udcff"])
def test_what_is_no_name_is_refused(text):
    with pytest.raises(UsageError):
        parse_file_names([text])


def test_too_many_names_are_refused():
    with pytest.raises(UsageError, match="65"):
        parse_file_names([",".join(map(str, range(65)))])
