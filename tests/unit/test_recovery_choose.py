# SPDX-License-Identifier: GPL-3.0-or-later
"""Which disk is written: one, beyond doubt, or none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootmedia.recovery.choose import Candidate, Choice, Need, choose, refuse_shared
from bootmedia.recovery.naming import rule_of
from imager.errors import TargetError, TargetRefused, TargetTooSmall

GIB = 1 << 30
NEED = Need(512, 100 * GIB, 80 * GIB)


def disk(name: str, gib: int, **others: object) -> Candidate:
    path = f"/dev/{name}"
    values: dict[str, object] = {"serial": name.upper(), "transport": "sata", "names": frozenset({path})} | others
    return Candidate(path, size_bytes=gib * GIB, **values)  # type: ignore[arg-type]


SDA, SDB, SDC = disk("sda", 90), disk("sdb", 120), disk("sdc", 500)


def refusal(rule: str, disks: list[Candidate], need: Need = NEED) -> TargetError:
    with pytest.raises(TargetError) as caught:
        choose(rule_of(rule), need, disks)
    return caught.value


@pytest.mark.parametrize(
    ("rule", "disks", "expected"),
    [
        ("largest", [SDA, SDB, SDC], "sdc"),
        ("largest", [SDB], "sdb"),
        ("smallest-that-fits", [SDC, SDB, SDA], "sda"),
        ("smallest-that-fits", [disk("sdx", 79), SDC], "sdc"),
        ("smallest-that-fits", [disk("sdx", 90, sector_bytes=4096), SDC], "sdc"),
        ("only", [SDB], "sdb"),
        ("only", [SDB, disk("sdu", 900, transport="usb")], "sdb"),
        ("only", [SDB, disk("sdm", 900, kept="holds the medium")], "sdb"),
        ("largest", [SDB, disk("sdu", 900, transport="usb")], "sdb"),
        ("largest", [SDB, disk("sdr", 900, is_removable=True)], "sdb"),
        ("largest", [SDB, disk("sdi", 900, transport="iscsi"), disk("nvme9n1", 901, transport="nvme-tcp")], "sdb"),
        ("largest", [SDB, disk("sdi", 900, kept="holds the image")], "sdb"),
        ("serial=sdB", [SDA, SDB, SDC], "sdb"),
        ("serial=USB 1", [SDB, disk("sdu", 900, transport="usb", serial="usb 1")], "sdu"),
        ("wwn=50014EE2B5B1C0F1", [SDB, disk("sdw", 900, wwn="0x50014ee2b5b1c0f1")], "sdw"),
        ("wwn=eui.0025388b01b2c3d4", [disk("nvme0n1", 900, wwn="eui.0025388b01b2c3d4")], "nvme0n1"),
        ("path=/dev/sdb", [SDA, SDB], "sdb"),
        ("path=/dev/disk/by-path/p1", [SDA, disk("sdp", 90, names=frozenset({"/dev/disk/by-path/p1"}))], "sdp"),
    ],
)
def test_the_disk_that_fits_is_taken(rule, disks, expected) -> None:
    choice = choose(rule_of(rule), NEED, disks)
    assert choice.disk.path == f"/dev/{expected}"
    assert choice.why


@pytest.mark.parametrize(
    ("rule", "disks", "told"),
    [
        ("largest", [], "no disk fits the rule largest"),
        ("largest", [SDA, disk("sdd", 500), SDC], "2 disks fit the rule largest"),
        ("smallest-that-fits", [SDB, disk("sdd", 120), SDC], "2 disks fit the rule smallest-that-fits"),
        ("smallest-that-fits", [disk("sdx", 10), disk("sdy", 20)], "no disk fits"),
        ("only", [SDA, SDB], "2 disks fit the rule only"),
        ("only", [disk("sdu", 900, transport="usb")], "no disk fits the rule only"),
        ("serial=NONE", [SDA, SDB], "no disk fits the rule serial=NONE"),
        ("serial=S", [disk("sda", 90, serial="S"), disk("sdb", 90, serial="s")], "2 disks fit the rule serial=S"),
        ("wwn=0x5", [SDA], "no disk fits"),
        ("path=/dev/sdz", [SDA], "no disk fits"),
        ("serial=SDM", [disk("sdm", 900, kept="holds the medium")], "holds the medium: it would be overwritten"),
        ("path=/dev/sdm", [disk("sdm", 900, kept="holds the image")], "holds the image: it would be overwritten"),
        ("largest", [SDA, disk("sdf", 900, obstacle="/dev/sdf1 is mounted at /mnt")], "is mounted at /mnt"),
        ("largest", [SDA, disk("sdf", 900, obstacle="is read-only")], "is read-only"),
        ("largest", [SDA, disk("sdk", 900, sector_bytes=4096)], "has sectors of 4096 bytes"),
    ],
)
def test_doubt_is_refused(rule, disks, told) -> None:
    error = refusal(rule, disks)
    assert told in error.message
    assert isinstance(error, TargetRefused)
    assert error.exit_code == 6
    assert error.hint


def test_too_small_is_said_with_both_sizes() -> None:
    error = refusal("largest", [disk("sda", 79)])
    assert isinstance(error, TargetTooSmall)
    assert "has 79.0 GiB, and the image needs 80.0 GiB" in error.message


def test_a_tie_names_the_disks_and_how_to_name_one() -> None:
    error = refusal("largest", [SDA, disk("sdd", 500), SDC])
    assert "serial SDD" in error.message
    assert "serial SDC" in error.message
    assert 'target = "serial=SDD"' in error.hint


def test_no_disk_lists_what_there_is_and_why_not() -> None:
    error = refusal("only", [disk("sdu", 900, transport="usb"), disk("sdm", 9, kept="holds the medium")])
    assert "/dev/sdu (serial SDU, usb, 900 GiB) which is taken only by serial=, wwn= or path=" in error.hint
    assert "/dev/sdm (serial SDM, sata, 9.0 GiB) which holds the medium" in error.hint


@pytest.mark.parametrize(
    ("partitions", "told"),
    [({1: 90 * GIB}, "has no partition 2"), ({2: 79 * GIB}, "has a partition 2 of 79.0 GiB"), ({2: 80 * GIB}, "")],
)
def test_a_partition_needs_one_of_that_number_and_size(partitions, told) -> None:
    need = Need(512, 80 * GIB, 80 * GIB, onto=2)
    assert told in need.shortfall(disk("sda", 500, partitions=partitions))
    assert bool(told) == bool(need.shortfall(disk("sda", 500, partitions=partitions)))


def test_a_last_piece_of_a_sector_does_not_count() -> None:
    assert Need(512, 2000, 1024).shortfall(Candidate("/dev/x", size_bytes=1023 + 512)) == ""
    assert Need(512, 2000, 1024).shortfall(Candidate("/dev/x", size_bytes=1023))


def test_only_what_is_fitted_may_have_other_sectors():
    disk = Candidate("/dev/x", size_bytes=100 * GIB, sector_bytes=4096)
    assert "sectors of 4096 bytes" in NEED.shortfall(disk)
    assert replace(NEED, is_fitted=True).shortfall(disk) == ""


def test_two_restores_may_not_meet() -> None:
    one, other = Choice(SDA, ""), Choice(SDB, "")
    refuse_shared([(one, None), (other, None)])
    refuse_shared([(one, 1), (one, 2), (other, None)])
    for pair in ([(one, None), (one, None)], [(one, None), (one, 2)], [(one, 2), (one, 2)]):
        with pytest.raises(TargetRefused, match="restore 1 and restore 2 would both be written to /dev/sda"):
            refuse_shared(pair)


# --- Whatever the machine is ---------------------------------------------------------------------------------------

SERIALS = st.sampled_from(["", "A", "B", "a"])
DISKS = st.lists(
    st.builds(
        Candidate,
        path=st.sampled_from([f"/dev/sd{letter}" for letter in "abcdefgh"]),
        serial=SERIALS,
        wwn=st.sampled_from(["", "0x5", "eui.5", "6"]),
        transport=st.sampled_from(["sata", "nvme", "usb", "iscsi", "virtio", "loop"]),
        size_bytes=st.sampled_from([0, 512, 79 * GIB, 80 * GIB, 80 * GIB + 1, 100 * GIB, 500 * GIB]),
        sector_bytes=st.sampled_from([512, 512, 512, 4096]),
        is_removable=st.booleans(),
        kept=st.sampled_from(["", "", "holds the medium", "holds the image"]),
        obstacle=st.sampled_from(["", "", "is read-only"]),
    ),
    max_size=6,
    unique_by=lambda each: each.path,
)
RULES = st.sampled_from(
    [rule_of(text) for text in ("largest", "smallest-that-fits", "only", "serial=A", "wwn=5", "path=/dev/sda")]
)


@settings(max_examples=100)
@given(RULES, DISKS)
def test_never_one_of_two_and_never_what_is_needed(rule, disks) -> None:
    try:
        chosen = choose(rule, NEED, disks).disk
    except TargetError:
        return
    assert not chosen.kept
    assert not chosen.obstacle
    assert chosen.sector_bytes == 512
    assert chosen.size_bytes >= 80 * GIB
    twin = Candidate(**{**{f: getattr(chosen, f) for f in chosen.__dataclass_fields__}, "path": "/dev/twin"})
    if rule.kind != "path":
        with pytest.raises(TargetRefused):
            choose(rule, NEED, [*disks, twin])


@settings(max_examples=50)
@given(RULES, DISKS, st.randoms())
def test_the_order_of_disks_does_not_matter(rule, disks, random) -> None:
    def chosen(of: list[Candidate]) -> str:
        try:
            return choose(rule, NEED, of).disk.path
        except TargetError as error:
            return type(error).__name__

    shuffled = list(disks)
    random.shuffle(shuffled)
    assert chosen(disks) == chosen(shuffled)


@settings(max_examples=50)
@given(st.sampled_from(["largest", "smallest-that-fits", "only"]), DISKS, DISKS)
def test_what_was_plugged_in_does_not_change_a_rule_by_size(rule, disks, plugged) -> None:
    outside = [
        Candidate(f"/dev/usb{number}", size_bytes=each.size_bytes, transport="usb", serial=each.serial)
        for number, each in enumerate(plugged)
    ]

    def chosen(of: list[Candidate]) -> str:
        try:
            return choose(rule_of(rule), NEED, of).disk.path
        except TargetError as error:
            return type(error).__name__

    assert chosen(disks) == chosen(disks + outside)
