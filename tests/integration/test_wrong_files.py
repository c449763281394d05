# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever names the wrong file, disk or folder is told what it is and what to do, before anything is written."""

import bz2
import contextlib
import gzip
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from tests.harness.capturing import MIB, raw_file
from tests.harness.disks import Part, gpt_disk, needs_table_tools
from tests.harness.loop import needs_root
from tests.harness.programs import call
from tests.integration.test_cli import imager

COMMANDS = (["info"], ["verify"], ["restore", "--dry-run"], ["plan"])


def told(done):
    """The error of a command with --json: all that is on standard error."""
    return json.loads(done.stderr)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return raw_file(tmp_path_factory.mktemp("disk") / "disk.raw", 2 * MIB)


@pytest.fixture(scope="module")
def image(disk):
    path = disk.with_name("image.img.zst")
    assert imager("capture", disk, path).returncode == 0
    return path


def made_by(kind):
    def make(path):
        call("qemu-img", "create", "-q", "-f", kind, path, "1M")

    return make


def iso(path):
    folder = path.with_name("folder")
    folder.mkdir()
    (folder / "file").write_text("x")
    call("xorriso", "-as", "mkisofs", "-quiet", "-o", path, folder)


OTHERS = {
    "empty": (lambda path: path.touch(), "is empty", "another copy"),
    "text": (lambda path: path.write_text("hello\n"), "is not an image: it begins with 68 65", "right file"),
    "gzip": (lambda path: path.write_bytes(gzip.compress(b"x" * 99)), "is a gzip file", "gzip -dc"),
    "xz": (lambda path: path.write_bytes(lzma.compress(b"x" * 99)), "is an xz file", "xz -dc"),
    "bzip2": (lambda path: path.write_bytes(bz2.compress(b"x" * 99)), "is a bzip2 file", "bzip2 -dc"),
    "zstd": (lambda path: path.write_bytes(zstandard.compress(b"x" * 99)), "an ordinary zstd file", "zstd -dc"),
    "qcow2": (made_by("qcow2"), "is a virtual disk (qcow2)", "imager clone"),
    "vmdk": (made_by("vmdk"), "is a virtual disk (vmdk)", "imager clone"),
    "vdi": (made_by("vdi"), "is a virtual disk (vdi)", "imager clone"),
    "vhdx": (made_by("vhdx"), "is a virtual disk (vhdx)", "imager clone"),
    "raw": (lambda path: gpt_disk(path, 8 * MIB, [Part(MIB)]), "is a raw disk", "imager clone"),
    "iso": (iso, "is an ISO file", "bootmedia write"),
}


@needs_table_tools
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_image_is_told_as_what_it_is(kind, tmp_path):
    make, message, hint = OTHERS[kind]
    missing = [name for name in ("qemu-img", "xorriso") if shutil.which(name) is None]
    if missing and kind in ("qcow2", "vmdk", "vdi", "vhdx", "iso"):
        pytest.skip(f"needs {missing}")
    make(tmp_path / "file")
    for command in COMMANDS:
        target = [tmp_path / "new"] if command[0] in ("restore", "plan") else []
        done = imager(*command, "--json", tmp_path / "file", *target)
        assert (done.returncode, message in told(done)["message"]) == (4, True), done.stderr
        assert hint in told(done)["hint"]


def test_a_stream_that_brings_nothing_is_told_as_that(tmp_path):
    done = imager("restore", "--json", "--yes", "-", tmp_path / "new", stdin=b"")
    assert done.returncode == 4
    assert "is empty" in told(done)["message"]
    assert "the program that sends it" in told(done)["hint"]
    assert not (tmp_path / "new").exists()


def test_an_image_that_was_cut_off_in_its_first_bytes_is_incomplete(image, tmp_path):
    for size in (1, 4, 11, 15, 400):
        (tmp_path / "cut").write_bytes(image.read_bytes()[:size])
        done = imager("info", "--json", tmp_path / "cut")
        assert (done.returncode, told(done)["error"]) == (4, "ImageIncomplete"), size


@pytest.mark.parametrize(
    "words",
    [
        ["survey", "IMAGE"],
        ["capture", "IMAGE", "NEW"],
        ["clone", "--yes", "IMAGE", "NEW"],
        ["verify", "--against", "IMAGE", "IMAGE"],
        ["restore", "--yes", "IMAGE", "OTHER"],
        ["clone", "--yes", "DISK", "OTHER"],
    ],
)
def test_an_image_is_neither_copied_as_a_disk_nor_written_over(words, image, disk, tmp_path):
    other = shutil.copy(image, tmp_path / "other.img.zst")
    places = {"IMAGE": image, "NEW": tmp_path / "new", "OTHER": other, "DISK": disk}
    done = imager(words[0], "--json", *(places.get(word, word) for word in words[1:]))
    assert done.returncode == (6 if "OTHER" in words else 2)
    assert "is an image, not a disk" in told(done)["message"]
    assert other.read_bytes() == image.read_bytes()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("words", [["restore", "--dry-run"], ["restore", "--yes"], ["plan"], ["clone", "--dry-run"]])
@pytest.mark.parametrize("target", ["/dev/no-such-disk", "/nowhere/at/all"])
def test_a_target_that_cannot_be_made_is_refused_with_the_plan(words, target, image, disk):
    done = imager(words[0], "--json", *words[1:], disk if words[0] == "clone" else image, target)
    assert done.returncode == 6
    assert "does not exist" in told(done)["message"] or "there is no folder /nowhere/at" in told(done)["message"]
    assert told(done)["hint"]


@needs_root
def test_a_target_where_this_user_may_not_write_is_refused_with_the_plan():
    code = (
        "import os, sys; from imager.errors import TargetRefused; from imager.restore.looking import look_at_target\n"
        "import imager.devices.target, imager.devices.opening, imager.survey\n"
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "try: look_at_target(sys.argv[1], image_files=[], sector_size=512, new_file_bytes=512)\n"
        "except TargetRefused as error: print(error.message, error.hint)"
    )
    said = subprocess.run([sys.executable, "-c", code, "/usr/new-disk"], check=True, capture_output=True)
    assert b"cannot be made: Permission denied" in said.stdout


@pytest.mark.parametrize("program", ["imager", "bootmedia"])
def test_the_list_of_commands_is_told_to_the_end_and_with_examples(program):
    done = subprocess.run([sys.executable, "-m", program, "--help"], capture_output=True, text=True, check=True)
    assert "IS LOST" in " ".join(done.stdout.split())
    assert "..." not in done.stdout.replace("[ARGS]...", "")
    assert f"    {program} " in done.stdout.partition("Examples:")[2]


def test_what_is_no_medium_is_told_before_it_is_started(tmp_path):
    (tmp_path / "text.iso").write_text("hello")
    words = [sys.executable, "-m", "bootmedia", "test", "--timeout", "1", "--bios", str(tmp_path / "text.iso")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "is no medium that bootmedia build made" in done.stderr


def test_an_unfinished_image_names_the_file_that_salvage_takes(image, tmp_path):
    shutil.copy(image, tmp_path / "a.img.zst.partial")
    done = imager("salvage", "--json", tmp_path / "a.img.zst", tmp_path / "new.img.zst")
    assert done.returncode == 4
    assert f"imager salvage {tmp_path}/a.img.zst.partial" in told(done)["hint"]


def test_a_repair_of_nothing_says_so_in_json_alone(disk):
    done = imager("repair-boot", "--json", "--yes", disk)
    if os.geteuid():
        pytest.skip("needs root")
    assert done.returncode == 10
    assert told(done)["error"] == "StageFailed"


@needs_root
def test_a_plan_that_does_not_fit_leaves_no_file_in_the_way(image, disk, tmp_path):
    target, place = tmp_path / "new", tmp_path / "place"
    place.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=4k", "none", place)
    try:
        with contextlib.suppress(OSError), (place / "filler").open("wb") as file:
            file.write(bytes(8192))
        done = imager("plan", "--json", "--write", place / "plan.toml", image, target)
        assert done.returncode == 5
        assert "No space left" in told(done)["message"]
        assert not (place / "plan.toml").exists()
    finally:
        call("umount", place)


@pytest.mark.parametrize("program", ["imager", "bootmedia"])
def test_ctrl_c_while_a_program_is_being_loaded_shows_no_traceback(program, image):
    for wait_seconds in (0, 0.1, 0.2):
        words = [sys.executable, "-m", program, "--help"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while not is_caught(process):  # until Python has begun, which takes the signal for itself
                time.sleep(0.001)
            while is_caught(process):  # until the program has given it back
                assert process.poll() is None
                time.sleep(0.001)
            time.sleep(wait_seconds)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate()
        assert b"Traceback" not in said, (wait_seconds, said)
        assert process.returncode in (0, -signal.SIGINT)


def is_caught(process):
    """Whether a process does anything of its own on SIGINT."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process.pid}/status").read_text()
        lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        return bool(int(lines.get("SigCgt", "0").strip(), 16) & 1 << signal.SIGINT - 1)
    return False


@pytest.mark.parametrize("name", ["capture"])
def test_ctrl_c_in_a_command_is_told_and_undone(name, disk, tmp_path):
    words = [sys.executable, "-m", "imager", name, "--json", "--rate-limit", "64KiB", disk, tmp_path / "new"]
    with subprocess.Popen([*map(str, words)], stderr=subprocess.PIPE) as process:
        while not (tmp_path / "new.partial").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert (process.returncode, json.loads(said)["error"]) == (130, "Interrupted")
    assert not (tmp_path / "new").exists()
