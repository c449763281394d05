# SPDX-License-Identifier: GPL-3.0-or-later
"""Reports of real restores: what is in them, whatever the end was, and whatever a disk is called."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.harness.disks import Part, gpt_disk, needs_table_tools
from tests.harness.images import make_image
from tests.harness.loop import loop_device, needs_root
from tests.harness.programs import call
from tests.integration.test_cli import imager
from tests.integration.test_recovery_run import SIZE, USED, Bench, bench  # noqa: F401

pytestmark = needs_table_tools
MIB = 1024 * 1024
DISK = 48 * MIB
HOSTILE = "<script>alert(1)</script>&\"'"
FORMS = {".html", ".json", ".log", ".txt"}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT disk whose labels try to get out of the page."""
    path = gpt_disk(tmp_path_factory.mktemp("disk") / "disk", DISK, [Part(24 * MIB), Part(8 * MIB)])
    call("sgdisk", "--change-name", "2:a<b>&'\"", path)
    call("mke2fs", "-q", "-t", "ext4", "-L", "<i>&\"'x", "-E", f"offset={MIB}", path, "24576k")
    return path


@pytest.fixture(scope="module")
def image(disk: Path) -> Path:
    path = disk.with_name("disk.img.zst")
    done = imager("capture", "--comment", HOSTILE, disk, path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = gpt_disk(tmp_path / "<u>target", DISK + 16 * MIB, [Part(40 * MIB, name="<old>")])
    call("mke2fs", "-q", "-t", "ext4", "-L", "<s>old", "-E", f"offset={MIB}", path, "40960k")
    return path


def files(folder: Path) -> dict[str, Path]:
    """The files of the only report, by suffix; they share a name."""
    paths = [
        path for path in folder.iterdir() if not path.name.startswith("restored-")
    ]  # a mark of recovery run --once
    found = {path.suffix: path for path in paths}
    assert len(found) == len(paths)
    assert len({path.stem for path in found.values()}) == 1
    return found


def page_of(folder: Path) -> ElementTree.Element:
    """The page, as an XML parser reads it."""
    return ElementTree.fromstring(  # noqa: S314  our own page
        files(folder)[".html"].read_text().removeprefix("<!DOCTYPE html>")
    )


def words(element: ElementTree.Element) -> str:
    return " ".join(element.itertext())


def headline(folder: Path) -> str:
    return words(next(page_of(folder).iter("h1")))


def assert_nothing_but_a_page(page: ElementTree.Element) -> None:
    """No scripts, nothing from elsewhere, nothing that a label brought along."""
    names = {element.tag for element in page.iter()}
    assert not names & {"script", "link", "img", "iframe", "object", "a", "i>", "u", "s", "old"}
    attributes = {key for element in page.iter() for key in element.attrib}
    assert not [key for key in attributes if key.startswith("on") or key in ("src", "href", "style", "action")]
    assert "url(" not in words(page)
    assert "@import" not in words(page)
    policies = [element.get("content", "") for element in page.iter("meta") if element.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_a_restore_leaves_a_page_a_text_facts_and_a_log(disk: Path, image: Path, target: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made/reports"
    done = imager("restore", "--yes", "--verify", "--report", folder, image, target)
    assert done.returncode == 0, done.stderr
    found = files(folder)
    assert set(found) == FORMS
    assert f"report: {found['.html']}" in done.stderr.decode()
    page = page_of(folder)
    assert_nothing_but_a_page(page)
    told = words(page)
    for expected in (
        "Restored",
        str(target),
        str(image),
        "<i>&\"'x",
        "a<b>&'\"",
        "<s>old",
        HOSTILE,
        "all of it was read back",
        "exit status 0",
        "✓ done",
    ):
        assert expected in told, expected
    assert "✗" not in told
    assert len(list(page.iter("svg"))) == 2
    text = found[".txt"].read_text()
    assert text.startswith("RESTORED\n")
    assert "[x] read everything back past the cache" in text
    log = found[".log"].read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line) for line in log)
    assert any("restore: 100 %" in line for line in log)
    assert any("now on it, and lost" in line for line in log)


def test_the_facts_are_those_of_the_work(disk: Path, image: Path, target: Path, tmp_path: Path) -> None:
    done = imager("restore", "--yes", "--json", "--report", tmp_path / "r", image, target)
    printed = json.loads(done.stdout)
    told = json.loads(files(tmp_path / "r")[".json"].read_text())
    assert printed["report"] == str(files(tmp_path / "r")[".html"])
    assert (told["outcome"], told["exit_status"]) == ("done", 0)
    assert told["command"].startswith("imager restore --yes --json --report")
    (of_disk,) = told["disks"]
    assert of_disk["plan"]["target_size_bytes"] == target.stat().st_size
    planned = [step["kind"] for step in of_disk["plan"]["steps"]]
    assert [step["kind"] for step in of_disk["steps"]] == planned
    assert all(step["finished"] for step in of_disk["steps"])
    rounded = 0.001 * len(planned)
    assert sum(step["seconds"] for step in of_disk["steps"]) <= of_disk["seconds"] + rounded


def test_the_pictures_have_the_partitions_in_proportion(image: Path, target: Path, tmp_path: Path) -> None:
    """Against sfdisk: partition 1 of the source is so many of the target's bytes wide."""
    imager("restore", "--yes", "--report", tmp_path / "r", image, target)
    table = json.loads(call("sfdisk", "--json", target))["partitiontable"]
    sizes = [entry["size"] * 512 for entry in table["partitions"]]
    _, after = page_of(tmp_path / "r").iter("svg")
    drawn = [(each.get("class", ""), int(each.get("width", 0))) for each in after.iter("rect")]
    assert sum(width for name, width in drawn if name.startswith("free")) == 1000
    widths = [width for name, width in drawn if name.startswith("free c")]
    for size, width in zip(sizes, widths, strict=True):
        assert width == pytest.approx(1000 * size / target.stat().st_size, abs=8)


def test_a_failure_tells_what_was_done_and_what_state_the_target_is_in(image: Path, target: Path, tmp_path) -> None:
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 0xFF
    broken = tmp_path / "broken.zst"
    broken.write_bytes(content)
    done = imager("restore", "--yes", "--report", tmp_path / "r", broken, target)
    assert done.returncode == 4
    page = page_of(tmp_path / "r")
    assert_nothing_but_a_page(page)
    assert headline(tmp_path / "r") == "Not restored"
    told = words(page)
    assert "is incomplete and has no partition table: run the restore again" in told
    assert "exit status 4" in told
    marks = [words(each) for each in page.iter("span") if "mark" in each.get("class", "")]
    assert marks.index("✗ failed") > marks.index("✓ done")
    assert marks[-1] == "not done"
    facts = json.loads(files(tmp_path / "r")[".json"].read_text())
    assert (facts["outcome"], facts["exit_status"], facts["error"]) == ("failed", 4, "ImageDamaged")
    assert "FAILED: " in files(tmp_path / "r")[".log"].read_text()


def test_a_refusal_is_reported_as_nothing_written(image: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(bytes(MIB))
    done = imager("restore", "--yes", "--report", tmp_path / "r", image, small)
    assert done.returncode == 6
    assert headline(tmp_path / "r") == "Not begun: nothing was written"
    assert "too small" in files(tmp_path / "r")[".txt"].read_text()


def test_nobody_agreed(image: Path, target: Path, tmp_path: Path) -> None:
    done = imager("restore", "--report", tmp_path / "r", image, target)
    assert done.returncode == 9
    assert headline(tmp_path / "r") == "Stopped: nothing was written"


def test_a_dry_run_is_a_plan_with_both_pictures(image: Path, target: Path, tmp_path: Path) -> None:
    before = target.read_bytes()
    done = imager("restore", "--dry-run", "--report", tmp_path / "r", image, target)
    assert done.returncode == 0
    page = page_of(tmp_path / "r")
    assert headline(tmp_path / "r") == "Plan: nothing was written"
    assert len(list(page.iter("svg"))) == 2
    assert "✓" not in words(page)
    assert target.read_bytes() == before


def test_a_report_that_cannot_be_written_is_a_warning(disk: Path, image: Path, target: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = imager("restore", "--yes", "--report", tmp_path / "file", image, target)
    assert done.returncode == 0
    assert b"warning: no log can be kept" in done.stderr
    assert b"warning: the report" in done.stderr
    assert "No problems found" in call("sgdisk", "--verify", target)


def test_a_script_is_told_of_a_report_that_cannot_be_written(image: Path, target: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = imager("restore", "--yes", "--json", "--report", tmp_path / "file", image, target)
    assert done.returncode == 0
    notes = [json.loads(line)["note"] for line in done.stderr.splitlines()]
    assert len(notes) == 3
    assert all("cannot be written" in note for note in notes)


@needs_root
def test_a_report_on_a_full_file_system_is_a_warning(image: Path, target: Path, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", folder)
    try:
        done = imager("restore", "--yes", "--report", folder, image, target)
    finally:
        call("umount", folder)
    assert done.returncode == 0
    assert b"cannot be written: No space left on device" in done.stderr


def test_sigterm_in_the_middle_is_reported(tmp_path: Path) -> None:
    image = tmp_path / "big.zst"
    source = tmp_path / "source"
    source.write_bytes(b"\x01" * (64 * MIB))
    assert imager("capture", "--all-blocks", source, image).returncode == 0
    command = [sys.executable, "-m", "imager", "restore", "--yes", "--report", tmp_path / "r", "-", tmp_path / "new"]
    with image.open("rb") as file:
        start = file.read(image.stat().st_size // 2)
    process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(start)
    process.stdin.flush()
    while not (tmp_path / "new").exists() or not (tmp_path / "new").stat().st_blocks:  # content is being written
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    assert headline(tmp_path / "r") == "Stopped before its end"
    assert "is incomplete" in files(tmp_path / "r")[".txt"].read_text()


def test_a_result_that_nobody_reads_is_no_failure(image: Path, target: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "imager", "restore", "--yes", "--report", tmp_path / "r", image, target]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(list(map(str, command)), stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert done.returncode == 141, done.stderr
    assert headline(tmp_path / "r") == "Restored"


def test_several_disks_are_on_one_page(disk: Path, image: Path, target: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    pair = [f"--to={image}={target}", f"--to={image}={other}"]
    done = imager("restore", "--yes", "--mixed", "--report", tmp_path / "r", *pair)
    assert done.returncode == 0, done.stderr
    told = words(page_of(tmp_path / "r"))
    assert "Disk 1 of 2" in told
    assert "Disk 2 of 2" in told
    assert "A new file." in told


def test_a_clone_is_reported_too(disk: Path, target: Path, tmp_path: Path) -> None:
    done = imager("clone", "--yes", "--report", tmp_path / "r", disk, target, tmp_path / "second")
    assert done.returncode == 0, done.stderr
    assert set(files(tmp_path / "r")) == FORMS
    assert headline(tmp_path / "r") == "Cloned"
    assert files(tmp_path / "r")[".log"].name.startswith("clone-")


def test_a_repair_of_the_boot_is_reported_too(disk: Path, tmp_path: Path) -> None:
    done = imager("repair-boot", "--dry-run", "--report", tmp_path / "r", "--progress", "lines", disk)
    assert set(files(tmp_path / "r")) == FORMS
    if done.returncode:  # there is no system on it
        assert headline(tmp_path / "r") == "Not begun: nothing was written"
    else:
        assert headline(tmp_path / "r") == "Plan: nothing was written"
    assert_nothing_but_a_page(page_of(tmp_path / "r"))


def test_accepted_damage_is_no_plain_success(tmp_path: Path) -> None:
    image = tmp_path / "image.zst"
    make_image(image, USED, SIZE)
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "broken").write_bytes(content)
    assert imager("salvage", tmp_path / "broken", tmp_path / "saved.zst").returncode in (0, 7)
    words_of_command = ("restore", "--yes", "--accept-damage", "--report", tmp_path / "r")
    done = imager(*words_of_command, tmp_path / "saved.zst", tmp_path / "new")
    assert done.returncode == 7
    assert headline(tmp_path / "r") == "Restored, but content is missing"
    assert "fsck" in files(tmp_path / "r")[".txt"].read_text()


@needs_root
def test_a_device_is_named_by_its_path_and_a_partition_is_drawn_in_its_place(image: Path, tmp_path: Path) -> None:
    backing = gpt_disk(tmp_path / "backing", DISK, [Part(4 * MIB), Part(30 * MIB)])
    with loop_device(backing) as device:
        words_of_command = ("restore", "--yes", "--report", tmp_path / "r", "--partition", "1", "--onto", "2")
        done = imager(*words_of_command, image, device)
        assert done.returncode == 0, done.stderr
    told = words(page_of(tmp_path / "r"))
    assert str(device) in told
    assert "2, ext4" in told


def test_an_unattended_recovery_leaves_the_same_set(bench: Bench) -> None:  # noqa: F811
    bench.run(bench.answers())
    found = files(bench.data / "logs")
    assert set(found) == FORMS
    page = page_of(bench.data / "logs")
    assert_nothing_but_a_page(page)
    assert headline(bench.data / "logs") == "Restored"
    assert "SN1" in words(page)


def test_an_unattended_recovery_that_fails_tells_it_on_the_page(bench: Bench) -> None:  # noqa: F811
    path = bench.data / "images/a.zst"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(Exception, match="run the restore again"):
        bench.run(bench.answers())
    assert headline(bench.data / "logs") == "Not restored"
