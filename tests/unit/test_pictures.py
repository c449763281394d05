# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from imager.extents import Extents
from imager.layout import Content, Gap, Identity, Layout, Partition, Table
from imager.pictures.bar import Style, disk_bar, share_bar
from imager.pictures.sizes import duration_text, size_text
from imager.pictures.svg import disk_map

MIB, GIB = 2**20, 2**30


def partition(number: int, start: int, end: int, kind: str, copied: int, label: str = "") -> Partition:
    return Partition(number, start, end, content=Content("filesystem", kind, label, mapped_bytes=copied))


LAYOUT = Layout(
    identity=Identity("/dev/sda", "Model <&>", "S1"),
    size_bytes=16 * GIB,
    logical_sector_bytes=512,
    physical_sector_bytes=512,
    table=Table("gpt"),
    partitions=(
        partition(1, MIB, GIB, "vfat", GIB // 2),
        partition(2, GIB, 9 * GIB, "ext4", 2 * GIB, "<root>"),
        partition(3, 9 * GIB, 16 * GIB - MIB, "xfs", 7 * GIB - MIB),
    ),
    gaps=(Gap(0, MIB, MIB), Gap(16 * GIB - MIB, 16 * GIB, MIB)),
)
USED = Extents.of([(0, GIB // 2), (GIB, 3 * GIB), (9 * GIB, 16 * GIB)])


@pytest.mark.parametrize("columns", [20, 40, 80, 120])
def test_the_bar_is_as_wide_as_asked(columns):
    assert len(disk_bar(LAYOUT, Style(columns))) == columns


def test_the_bar_is_plain_ascii_without_escapes_by_default():
    bar = disk_bar(LAYOUT, Style(80))
    assert bar.isascii()
    assert "\x1b" not in bar


def test_partitions_keep_order_and_proportion_and_show_their_share():
    first, second, third = disk_bar(LAYOUT, Style(80)).strip("|").split("|")
    assert (first[0], second[0], third[0]) == ("1", "2", "3")
    assert 35 <= len(second) <= 42
    assert 0.2 <= second.count("#") / len(second) <= 0.3
    assert "." not in third


def test_a_bar_for_hundreds_of_partitions_does_not_fail():
    many = tuple(partition(n, n * MIB, (n + 1) * MIB, "ext4", MIB) for n in range(1, 300))
    layout = Layout(LAYOUT.identity, 300 * MIB, 512, 512, Table("gpt"), many)
    assert disk_bar(layout, Style(80)).count("|") == 300


def test_share_bar_shows_even_the_smallest_share():
    assert share_bar(0.0001, 10, Style()) == "#........."
    assert share_bar(0.0, 10, Style()) == ".........."
    assert share_bar(1.0, 10, Style()) == "##########"


def test_the_svg_is_well_formed_and_names_no_other_file():
    text = disk_map(LAYOUT, USED, "a <disk> & more")
    root = ET.fromstring(text)  # noqa: S314  # our own output
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.search(r"href|url\(|<script|@import", text)


def test_the_svg_tells_the_share_of_each_cell():
    text = disk_map(LAYOUT, USED, "disk")
    titles = re.findall(r"<title>(\d+)-(\d+): (\d+) %</title>", text)
    copied = sum((int(end) - int(start)) * int(percent) / 100 for start, end, percent in titles)
    assert int(titles[-1][1]) == LAYOUT.size_bytes
    assert copied == pytest.approx(USED.total_bytes, rel=0.01)


def test_an_empty_disk_can_be_drawn():
    layout = Layout(Identity(), 0, 512, 512, Table("none"), content=Content("blank", "blank"))
    assert ET.fromstring(disk_map(layout, Extents(), "empty")) is not None  # noqa: S314  # our own output


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (9000, "9000 B"),
        (10240, "10.0 KiB"),
        (MIB, "1.0 MiB"),
        (1023 * MIB, "1.0 GiB"),
        (5 * 2**40, "5.0 TiB"),
    ],
)
def test_sizes(count, text):
    assert size_text(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")])
def test_durations(seconds, text):
    assert duration_text(seconds) == text
