# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports about layouts that nobody would make, with names that nobody should have: pages that parsers accept."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from imager.cli.output import to_json
from imager.errors import ImagerError, TargetFailed
from imager.layout import Content, Identity, Layout, Partition, Table
from imager.reports.model import DiskReport, Report
from imager.reports.page import html_page
from imager.reports.strip import strip
from imager.reports.text import text_report
from imager.restore.plan import make_plan
from imager.restore.steps import DoneStep
from tests.unit.test_restore_properties import PHASES, RULES, options_with, requests

MIB = 1024 * 1024
# What cannot be stored, what XML does not allow, what moves a cursor, and what ends an attribute or an element.
NAMES = st.text(st.sampled_from("a<>&\"'\0\x1b\x7f\x85\udcff\ufffe\uffff\u202e]"), max_size=12)

WORDS = """html head meta title style body main header footer section div h1 h2 h3 p b ol ul li dl dt dd span i
svg g rect text table thead tbody tr th td details summary pre code"""
ELEMENTS = set(WORDS.split())


def parsed(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))  # noqa: S314  our own page


def named(layout: Layout, name: str) -> Layout:
    content = Content("filesystem", name, label=name)
    parts = tuple(
        replace(entry, name=name, type=name, content=None if entry.kind == "extended" else content)
        for entry in layout.partitions
    )
    return replace(layout, identity=Identity(name, name, name, name, name), partitions=parts, content=content)


@settings(max_examples=80, phases=PHASES)
@given(requests(), RULES, NAMES)
def test_every_plan_and_every_end_of_it_is_a_page_a_text_and_facts(request, rule, name):
    description, final, target, scope = request
    description = replace(description, layout=named(description.layout, name), comment=name, created=name)
    if target.layout:
        target = replace(target, identity=Identity(name, name, name), layout=named(target.layout, name))
    try:
        plan = make_plan(description, final, target, scope, options_with(rule, scope))
    except ImagerError:
        return
    disk = DiskReport(name, description, plan)
    steps = (DoneStep(plan.steps[0].kind, name, name, 1.0, is_finished=False),)
    failed = replace(disk, error=TargetFailed(name), steps=steps, state=name, began="x")
    for each, is_plan in ((disk, True), (disk, False), (failed, False)):
        report = Report(name, name, {name: (name,)}, disks=(each,), error=each.error, is_plan=is_plan, log=(name,))
        page = html_page(report)
        page.encode()
        root = parsed(page)
        assert {element.tag for element in root.iter()} <= ELEMENTS
        assert text_report(report).encode()
        assert to_json(report.as_dict())


@settings(max_examples=40, phases=PHASES)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=300))
def test_the_pieces_of_a_strip_fill_it_and_touch(sizes):
    start, parts = 0, []
    for number, size in enumerate(sizes, 1):
        parts.append(Partition(number, start, start + size * MIB, content=Content("filesystem", "ext4")))
        start += size * MIB
    layout = Layout(Identity(), start, 512, 512, Table("gpt"), tuple(parts))
    drawn = [
        each for each in parsed(strip(layout, start, "x")).iter("rect") if each.get("class", "").startswith("free")
    ]
    edge = 0
    for each in drawn:
        assert int(each.get("x", "")) == edge
        assert int(each.get("width", "")) > 0
        edge += int(each.get("width", ""))
    assert edge == 1000
    assert len(drawn) == len(sizes)
