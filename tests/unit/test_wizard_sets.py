# SPDX-License-Identifier: GPL-3.0-or-later
"""What the wizard makes of several disks that are restored together. No terminal."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bootmedia.recovery.choose import Candidate
from bootmedia.wizard.choice import Choice
from bootmedia.wizard.pair import Pair
from bootmedia.wizard.sets import find_members
from bootmedia.wizard.source import Source
from imager.image.description import SetMember
from imager.layout import Identity
from tests.unit.test_wizard_model import CHOICE, DISK, GIB, IMAGE, PAIR

OTHER = Candidate("/dev/sdc", model="Other", serial="WD 77", size_bytes=64 * GIB)
SET = Choice((replace(PAIR, source=Source(path="/mnt/a.img.zst")), Pair(Source(path="/mnt/b.img.zst"), IMAGE, OTHER)))


def test_a_set_is_one_command_with_a_target_for_each_image() -> None:
    assert str(replace(SET, grow="last", new_ids=True).restore()) == (
        "imager restore --yes --progress lines --json --grow last --new-ids --verify "
        "--to /mnt/a.img.zst=/dev/sdb --to /mnt/b.img.zst=/dev/sdc"
    )
    assert SET.destroyed() == "EVERYTHING on 2 disks: /dev/sdb, /dev/sdc"
    tight = replace(DISK, size_bytes=64 * GIB)
    assert "--grow" not in str(replace(SET.with_target(0, tight), grow="last").restore())


@pytest.mark.parametrize(
    ("typed", "agrees"),
    [
        ("sdb sdc", True),
        (" /dev/sdb   /dev/sdc ", True),
        ("XYZ123, WD 77", True),
        ("sdc sdb", False),
        ("sdb", False),
        ("sdbsdc", False),
        ("sdb sdc sdd", False),
        ("", False),
    ],
)
def test_only_the_names_of_all_disks_in_their_order_agree(typed: str, agrees: bool) -> None:
    assert SET.agreed_by(typed) is agrees
    assert SET.expected_words() == "sdb sdc"


def test_a_disk_of_a_set_is_taken_once_and_changing_it_asks_again() -> None:
    rows = {row.disk.path: row.refusal for row in SET.offered([DISK, OTHER], 1)}
    assert rows == {"/dev/sdb": "is for a.img.zst", "/dev/sdc": ""}
    swapped = SET.with_target(0, OTHER)
    assert [pair.target_path for pair in swapped.pairs] == ["/dev/sdc", ""]
    assert swapped.destroyed() == ""
    assert not swapped.agreed_by("sdc ")


def test_a_disk_of_a_set_that_is_too_small_is_not_offered_for_its_partitions() -> None:
    tiny = replace(DISK, size_bytes=8 * GIB)
    assert [row.may_be_written for row in CHOICE.offered([tiny])] == [True]
    (row,) = SET.offered([tiny])
    assert row.refusal.startswith("has 8.0 GiB, and the image needs 60")


def test_one_disk_of_a_set_alone_keeps_its_target() -> None:
    alone = SET.with_pairs((replace(SET.pairs[1], target=None),))
    assert [pair.target_path for pair in alone.pairs] == ["/dev/sdc"]
    assert SET.with_pairs(tuple(replace(pair, target=None) for pair in SET.pairs)) == SET


def test_a_stream_has_nothing_beside_it() -> None:
    members = tuple(SetMember(name, Identity(serial=name), GIB) for name in ("a", "b"))
    layout = replace(IMAGE.layout, identity=Identity(serial="b"), size_bytes=GIB)
    image = replace(IMAGE, layout=layout, set_id="x", set_members=members)
    assert image.is_of_set
    own = Pair(Source(fetch=("recovery", "fetch", "http://x/b"), name="http://x/b"), image)
    first, second = find_members(own, lambda _source: IMAGE)
    assert (first.pair, second.pair) == (None, own)
    assert first.trouble == "cannot be reached: a stream is read once, and alone"
