# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans as files: what is understood, what is refused, and what the sizes in them come to."""

from __future__ import annotations

import contextlib
import re
import tomllib
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imager.errors import TargetTooSmall, UsageError
from imager.fitting.model import AT_END, BEFORE_FIRST, NewPart, Rule
from imager.fitting.plan_file import plan_text, read_plan
from imager.fitting.planner import fit
from imager.pictures.sizes import exact_size_text, size_of
from tests.harness.layouts import GIB, GROWING, MACHINES, MIB, gpt, machine, part

ID = UUID("6f0c9ad2-8d0f-4d8a-9f52-3c1a6a7b8c9d")
HEAD = f'format = 1\nimage = "{ID}"\n'


def plan(*rows):
    return read_plan((HEAD + "".join(f"[[partition]]\n{row}\n" for row in rows)).encode(), "p.toml").rule


def sizes(fitting):
    return {each.number: each.new_size for each in fitting.partitions if each.kind != "extended"}


# --- Reading and writing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("rule", [Rule("last"), Rule("proportional")])
def test_a_plan_that_nobody_changed_gives_what_it_was_made_from(name, rule):
    layout = machine(name)
    fitting = fit(layout, layout.size_bytes + 50 * GIB, rule)
    read = read_plan(plan_text(layout, fitting, ID).encode(), "p.toml")
    assert sizes(fit(layout, layout.size_bytes + 50 * GIB, read.rule)) == sizes(fitting)
    assert read.image_id == ID


def test_a_plan_says_what_each_partition_is():
    layout = machine("windows-11")
    text = plan_text(layout, None, ID)
    assert "number = 3  # ntfs, 237 GiB in the image" in text
    assert [row["number"] for row in tomllib.loads(text)["partition"]] == [1, 2, 3, 4]


def test_a_label_cannot_change_what_the_file_says():
    layout = gpt(GIB, part(1, MIB, 500 * MIB))
    entry = replace(layout.partitions[0], name='x\n[[partition]]\nnumber = 2\nsize = "rest"')
    text = plan_text(replace(layout, partitions=(entry,)), None, ID)
    assert len(tomllib.loads(text)["partition"]) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("format = 2\n" + HEAD.split("\n", 1)[1], "format 2 is not known"),
        (HEAD + "[[partition]]\nnumber = 1\nsiez = 5\n", "'siez' is not known"),
        (HEAD + "disk = 1\n", "'disk' is not known"),
        ("format = 1\n", "image"),
        ('image = "x"\n', "is not the id of an image"),
        (HEAD + '[[partition]]\nnumber = 0\nsize = "1 GiB"\n', ">= 1"),
        (HEAD + '[[partition]]\nnumber = 1\nsize = "large"\n', "partition 1: 'large' is not a size"),
        (HEAD + "[[partition]]\nnumber = 1\nsize = -5\n", ">= 0"),
        (HEAD + 2 * "[[partition]]\nnumber = 1\nsize = 5\n", "listed twice"),
        (HEAD + "".join(f'[[partition]]\nnumber = {n}\nsize = "rest"\n' for n in (1, 2)), "only one"),
        ("= 1", "not TOML"),
        ("\x00\xff", "not TOML"),
        pytest.param("a = " + "9" * 5000, "more than 99 digits in line 1", id="5000 digits"),
    ],
)
def test_what_is_not_understood_is_refused(text, told):
    with pytest.raises(UsageError, match=told):
        read_plan(text.encode("latin-1"), "p.toml")


def test_a_misspelt_key_comes_with_the_one_that_is_meant():
    with pytest.raises(UsageError) as caught:
        plan("number = 1\nsizes = 5")
    assert caught.value.hint == "Is size meant?"


def test_a_plan_for_another_image_is_refused():
    with pytest.raises(UsageError, match="was made for the image"):
        read_plan(HEAD.encode(), "p.toml").check_image(UUID(int=1))


@settings(max_examples=200)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: (HEAD + text).encode()))
def test_no_bytes_end_in_anything_but_a_plan_or_a_sentence(content):
    with contextlib.suppress(UsageError):
        read_plan(content, "p.toml")


@given(st.integers(0, 2**52))
def test_a_size_that_was_written_is_read_exactly(size):
    assert size_of(exact_size_text(size)) == size


# --- What the sizes come to ---------------------------------------------------------------------------------------


def test_sizes_are_taken_and_the_rest_goes_to_one():
    layout = machine("dual-boot")
    fitting = fit(layout, 1000 * GIB, plan('number = 3\nsize = "300 GiB"', 'number = 5\nsize = "rest"'))
    now = sizes(fitting)
    assert now[3] == 300 * GIB
    assert now[5] > 600 * GIB
    assert {number: now[number] for number in (1, 2, 4, 6)} == {
        number: layout.partition(number).size_bytes for number in (1, 2, 4, 6)
    }


def test_without_a_rest_nothing_moves_that_need_not():
    layout = gpt(10 * GIB, part(1, MIB, 2 * GIB), part(2, 4 * GIB, 5 * GIB), part(3, 5 * GIB, 6 * GIB))
    fitting = fit(layout, 20 * GIB, plan('number = 1\nsize = "3 GiB"', 'number = 2\nsize = "2 GiB"'))
    places = {each.number: (each.start, each.end) for each in fitting.partitions}
    assert places == {1: (MIB, 3 * GIB + MIB), 2: (4 * GIB, 6 * GIB), 3: (6 * GIB, 7 * GIB)}


def test_a_small_partition_like_boot_grows_when_the_plan_says_so():
    fitting = fit(machine("luks"), 1000 * GIB, plan('number = 2\nsize = "2 GiB"', 'number = 3\nsize = "rest"'))
    assert sizes(fitting)[2] == 2 * GIB


def test_sizes_are_rounded_down_to_whole_sectors():
    fitting = fit(machine("debian-uefi"), 100 * GIB, plan(f"number = 2\nsize = {50 * GIB + 1025}"))
    assert sizes(fitting)[2] == 50 * GIB + 1024


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (['number = 9\nsize = "1 GiB"'], "no partition 9"),
        (['number = 9\nsize = "rest"'], "no partition 9"),
        (['number = 3\nsize = "1 GiB"'], "cannot be smaller than"),
        (['number = 1\nsize = "2 GiB"'], "has its size for good"),
    ],
)
def test_what_a_partition_cannot_be_is_refused(rows, told):
    with pytest.raises(UsageError, match=told):
        fit(machine("server-bios-boot"), 200 * GIB, plan(*rows))


def test_sizes_that_do_not_fit_are_refused_with_what_is_too_much():
    with pytest.raises(TargetTooSmall) as caught:
        fit(machine("debian-uefi"), 100 * GIB, plan('number = 2\nsize = "110 GiB"'))
    assert 10 * GIB < caught.value.facts["missing_bytes"] < 11 * GIB


@settings(max_examples=150)
@given(st.sampled_from(MACHINES), st.integers(0, 200), st.lists(st.integers(0, 40 * 1024), min_size=6, max_size=6))
def test_whatever_the_sizes_nothing_overlaps_and_each_is_as_wanted(name, more_gib, more_mib):
    layout = machine(name)
    leaves = [entry for entry in layout.partitions if entry.kind != "extended"]
    wanted = {e.number: e.size_bytes // MIB * MIB + more * MIB for e, more in zip(leaves, more_mib, strict=False)}
    wanted = {number: max(size, layout.partition(number).size_bytes) for number, size in wanted.items()}
    target_size = layout.size_bytes + more_gib * GIB
    try:
        fitting = fit(layout, target_size, Rule("sizes", sizes=wanted))
    except (UsageError, TargetTooSmall):
        return
    before = 0
    for each in sorted((e for e in fitting.partitions if e.kind != "extended"), key=lambda each: each.start):
        assert each.start - each.lead >= before
        assert not each.distance or each.start % MIB == 0
        assert 0 <= wanted.get(each.number, each.old_size) - each.new_size < MIB
        before = each.end
    assert before <= fitting.usable_end


@pytest.mark.parametrize("text", ["", "x", "6f0c"])
def test_what_is_no_id_of_an_image_is_called_that(text):
    with pytest.raises(UsageError, match="is not the id of an image"):
        read_plan(f'image = "{text}"'.encode(), "p.toml")


def test_a_message_shows_no_more_of_a_long_value_than_fits():
    for text in (f'image = "{"x" * 10**5}"', HEAD + f"{'k' * 10**5} = 1"):
        with pytest.raises(UsageError) as caught:
            read_plan(text.encode(), "p.toml")
        assert len(caught.value.message) < 300


# --- Left out and new ---------------------------------------------------------------------------------------------


def test_partitions_are_left_out_in_either_way():
    head = HEAD + "leave_out = [2]\n"
    rule = read_plan((head + "[[partition]]\nnumber = 3\nleave_out = true\n").encode(), "p.toml").rule
    assert rule.leave_out == {2, 3}


NEW = '[[new]]\nsize = "2 GiB"\n'


def new(text):
    return read_plan((HEAD + NEW + text).encode(), "p.toml").rule.new[0]


def test_a_new_partition_has_a_type_that_fits_its_file_system():
    assert new("") == NewPart(2 * GIB, "0fc63daf-8483-4772-8e79-3d69d8477de4", AT_END)
    assert new('filesystem = "swap"\nafter = 2\nlabel = "s"') == NewPart(
        2 * GIB, "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f", 2, filesystem="swap", label="s"
    )
    assert new('type = "esp"\nfilesystem = "vfat"\nplace = "start"\nname = "EFI"').after == BEFORE_FIRST
    assert new('type = "8E"').type == "8e"
    assert new("number = 7").number == 7


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (NEW + 'type = "fat"\n', r"new partition 1: 'fat' is no partition type \(line 5: type = \"fat\"\)"),
        (NEW + 'place = "end"\nafter = 1\n', r"contradict each other \(line 6: after = 1\)"),
        (NEW + 'place = "middle"\n', r"Invalid enum value 'middle'.*\(line 5: place"),
        (NEW + 'filesystem = "vfat"\nlabel = "twelve chars"\n', r"at most 11 bytes \(line 6"),
        (NEW + 'label = "x"\n', "belongs to a filesystem"),
        (NEW + f'name = "{"n" * 37}"\n', "at most 36"),
        (NEW + 'plase = "end"\n', r"'plase' is not known \(line 5: plase"),
        ('[[new]]\nsize = "1 KiB"\nfilesystem = "ext4"\n', r"needs at least 16 MiB \(line 4: size"),
        ("[[new]]\nsize = 0\n", "needs at least"),
        ('[[new]]\nname = "x"\n', r"size.*\(line 3: \[\[new\]\]\)"),
        (2 * '[[new]]\nsize = "rest"\n', r'only one .*\(line 6: size = "rest"\)'),
        (NEW + 'filesystem = "vfat"\nlabel = "a:b"\n', r"none of .*\(line 6: label"),
        (NEW + 'filesystem = "vfat"\nlabel = "dätä"\n', r"ASCII.*\(line 6: label"),
        (NEW + 'filesystem = "swap"\nlabel = "\\n"\n', r"printable.*\(line 6: label"),
        (NEW + 'type = "00000000-0000-0000-0000-000000000000"\n', r"can be added \(line 5: type"),
        (NEW + 'type = "05"\n', r"'05' can be added"),
        (NEW + 'type = "EE"\n', r"'EE' can be added"),
        ("leave_out = [0]\n", r">= 1.*\(line 3: leave_out"),
        ('[[partition]]\nnumber = 1\nsize = "big"\n', r"'big' is not a size.*\(line 5: size = \"big\"\)"),
        (2 * "[[partition]]\nnumber = 4\nsize = 5\n", r"listed twice \(line 7: number = 4\)"),
    ],
)
def test_what_is_wrong_is_shown_with_its_line(text, told):
    with pytest.raises(UsageError, match=told):
        read_plan((HEAD + text).encode(), "p.toml")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (NEW + 'filesystem = "xfs"\n', "none, swap, vfat, ext4"),
        (NEW + 'place = "middle"\n', "start, end"),
        ("[partition]\nnumber = 1\n", r"\[\[partition\]\]"),
    ],
)
def test_what_is_meant_is_said_too(text, hint):
    with pytest.raises(UsageError) as caught:
        read_plan((HEAD + text).encode(), "p.toml")
    assert re.search(hint, caught.value.hint)


def test_a_size_that_is_too_small_is_told_as_it_was_written():
    layout = gpt(GIB, part(1, MIB, 500 * MIB))
    with pytest.raises(UsageError, match="80 B are wanted") as caught:
        fit(layout, GIB, plan('number = 1\nsize = "80"'))
    assert "80 GiB" in caught.value.hint


def test_a_new_partition_does_not_grow():
    layout = gpt(GIB, part(1, MIB, 500 * MIB))
    fitting = fit(layout, GIB, read_plan((HEAD + '[[new]]\nsize = "20 MiB"\n').encode(), "p.toml").rule)
    assert "everything fits as it is" in fitting.why
    assert not [text for text in fitting.why if "grow" in text]


def test_a_plan_with_all_of_it_comes_back_the_same():
    layout = machine("windows-11")
    rows = 'leave_out = [4]\n[[partition]]\nnumber = 3\nsize = "240 GiB"\n'
    text = HEAD + rows + NEW + 'after = 3\nfilesystem = "ext4"\nname = "dätä \\"x\\""\nlabel = "d"\n'
    first = fit(layout, 500 * GIB, read_plan(text.encode(), "p.toml").rule)
    again = read_plan(plan_text(layout, first, ID).encode(), "p.toml").rule
    assert again.leave_out == first.rule.leave_out
    second = fit(layout, 500 * GIB, again)
    assert [place.entry for place in second.new] == [place.entry for place in first.new]
    assert sizes(second) == sizes(first)


def test_a_plan_can_ask_for_a_gpt():
    layout = machine("dual-boot-mbr")
    size = layout.size_bytes + GIB
    text = plan_text(layout, fit(layout, size, Rule.only_to_gpt()), ID)
    rule = read_plan(text.encode(), "p.toml").rule
    assert rule.to_gpt
    assert fit(layout, size, rule).layout_on_target(layout).table.kind == "gpt"
