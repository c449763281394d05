# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands as a person or a script runs them: exit statuses, messages, JSON, pipes and the question."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from imager.cli.app import app
from imager.cli.problems import EXIT_STATUSES
from tests.harness.disks import Part, gpt_disk, needs_table_tools

pytestmark = needs_table_tools
MIB = 1024 * 1024
COMMANDS = sorted(command.name for command in app.registered_commands if command.name)


def imager(*words: object, stdin: bytes = b"", cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a command without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "imager", *map(str, words)],
        input=stdin,
        capture_output=True,
        check=False,
        cwd=cwd,
        start_new_session=True,
        timeout=600,
    )


def on_terminal(typed: str, *words: object, stdin: object = None) -> tuple[int, str]:
    """Run a command on a terminal of its own, on which something is typed; its exit status and what it showed."""
    main, terminal = pty.openpty()
    script = "import fcntl, sys, termios; fcntl.ioctl(int(sys.argv.pop(1)), termios.TIOCSCTTY, 0);"
    script += "from imager.cli.app import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(terminal), *map(str, words)],
        stdin=stdin or terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=(terminal,),
    )
    os.write(main, typed.encode() + b"\n")
    shown, _ = process.communicate(timeout=600)
    shown += os.read(main, 4096)  # the question, and what was typed
    os.close(main)
    os.close(terminal)
    return process.returncode, shown.decode()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = gpt_disk(tmp_path_factory.mktemp("disk") / "disk", 96 * MIB, [Part(40 * MIB), Part(16 * MIB)])
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-E", f"offset={MIB}", path, "40960k"], check=True)
    return path


@pytest.fixture(scope="module")
def image(disk: Path) -> Path:
    path = disk.with_name("disk.img.zst")
    done = imager("capture", disk, path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_only_documented_exit_statuses(command):
    text = imager(command, "--help").stdout.decode()
    assert f"imager {command}" in text.split("Examples:")[1]
    listed = {int(line.split()[0]) for line in text.split("Exit status:")[1].splitlines() if line.strip()[:1].isdigit()}
    assert listed <= {code for code, _ in EXIT_STATUSES}


def test_version():
    assert imager("--version").stdout.decode().startswith("imager ")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["survey", "/nowhere/disk"], 3, "/nowhere/disk"),
        (["survey", "/dev/null"], 3, "/dev/null"),
        (["survey", "/"], 3, "/"),
        (["survey"], 2, "SOURCE"),
        (["capture", "/nowhere/disk", "x.img.zst"], 3, "/nowhere/disk"),
        (["info", "/nowhere/image"], 5, "/nowhere/image"),
        (["verify", "/dev/null"], 4, ""),
        (["capture", "--level", "20", "a", "b"], 2, "19"),
        (["capture", "--chunk-size", "3MiB", "a", "b"], 2, "power of two"),
        (["capture", "--level", "9" * 5000, "a", "b"], 2, "19"),
        (["capture", "--rate-limit", "9" * 5000, "a", "b"], 2, "not a size"),
        (["capture", "--split", "", "a", "b"], 2, "not a size"),
        (["survey", "--exclude", "9" * 5000, "a"], 2, "partition number"),
        (["survey", "--unlock", "9" * 5000, "a"], 2, "partition number"),
        (["capture", "--partition", "1", "--exclude", "2", "a", "b"], 2, "contradict"),
        (["capture", "--resume", "a", "-"], 2, "standard output"),
        (["restore", "x.img.zst"], 2, "TARGET"),
        (["restore", "--partition", "1", "x", "y"], 2, "--onto"),
        (["clone", "a", "a"], 6, "at once"),
        (["capture", "a", ""], 2, "empty"),
        (["capture", "", "b"], 2, "empty"),
        (["verify", "--against", "", "a"], 2, "empty"),
        (["verify", "--against", "-", "a"], 2, "stream"),
        (["restore", "a", "-"], 2, "stream"),
        (["restore", "--partition", "1", "--onto", "", "a"], 2, "empty"),
        (["clone", "a", "-"], 2, "stream"),
        (["salvage", "a", ""], 2, "empty"),
    ],
)
def test_wrong_words_end_in_a_sentence_and_a_documented_status(words, status, said, tmp_path):
    done = imager(*words, cwd=tmp_path)
    told = done.stderr.decode()
    assert done.returncode == status, told
    assert said in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


def test_an_image_of_noise_is_refused(tmp_path):
    path = tmp_path / "noise"
    path.write_bytes(bytes(range(1, 256)) * 1000)
    for command in (["info"], ["verify"], ["restore", "--yes"]):
        done = imager(command[0], *command[1:], path, *([tmp_path / "new"] if command[0] == "restore" else []))
        assert done.returncode == 4, done.stderr
    assert not (tmp_path / "new").exists()


def test_json_goes_to_standard_output_and_is_one_object(disk, image):
    for words in (
        ["survey", "--json", disk],
        ["info", "--json", image],
        ["verify", "--json", image],
        ["disks", "--json"],
    ):
        assert isinstance(json.loads(imager(*words).stdout), dict)


def test_errors_are_json_too(tmp_path):
    told = json.loads(imager("verify", "--json", tmp_path / "missing").stderr)
    assert (told["exit_status"], told["error"]) == (5, "StoreError")


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "--json", "--threads", "0", "x"],
        ["capture", "--json", "--nonsense", "a", "b"],
        ["restore", "--json"],
        ["info", "--json", ""],
        ["disks", "--json", "a"],
    ],
)
def test_wrong_words_are_json_too(words):
    told = json.loads(imager(*words).stderr)
    assert (told["exit_status"], told["error"]) == (2, "UsageError")


def test_a_target_that_is_none_is_the_targets_fault(image, disk, tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("/dev/null", tmp_path, tmp_path / "link", tmp_path / "pipe", tmp_path / ("x" * 300)):
        for words in (["restore", "--yes", "--json", image, name], ["clone", "--yes", "--json", disk, name]):
            done = imager(*words)
            assert done.returncode == 6, done.stderr
            told = json.loads(done.stderr)
            assert told["error"] == "TargetRefused"
            assert told["hint"]


def test_an_image_name_that_is_too_long_is_a_problem_of_the_place(disk, tmp_path):
    for name in ("x" * 300, "x" * 5000):
        done = imager("capture", disk, tmp_path / name)
        assert done.returncode == 5, done.stderr
        assert b"too long" in done.stderr


def test_a_disk_does_not_equal_an_image_that_has_lost_some_of_it(image, disk, tmp_path):
    (tmp_path / "cut").write_bytes(image.read_bytes()[:4000])
    assert imager("salvage", tmp_path / "cut", tmp_path / "saved").returncode == 7
    done = imager("verify", "--json", "--against", disk, tmp_path / "saved")
    assert done.returncode == 7, done.stderr
    told = json.loads(done.stdout)
    assert (told["equal"], told["differing"]) == (False, [])
    assert told["missing"]


def test_no_image_is_given_the_name_of_an_unfinished_one(disk, tmp_path):
    assert imager("capture", disk, tmp_path / "x.partial").returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_nobody_agrees_to_leaves_one_json_object(image, disk, tmp_path):
    for words in (["restore", "--json", image], ["clone", "--json", disk]):
        assert json.loads(imager(*words, tmp_path / "new").stderr)["error"] == "NotConfirmed"


def test_messages_that_cannot_be_written_change_no_exit_status(disk, tmp_path):
    with Path("/dev/full").open("wb") as full:

        def status(*words: object) -> int:
            command = [sys.executable, "-m", "imager", *map(str, words)]
            return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=full, check=False).returncode

        assert status("info", tmp_path / "missing") == 5
        assert status("info", "--json", tmp_path / "missing") == 5
        assert status("capture", "--skip-file-content", "nothing", disk, tmp_path / "image") == 0
        assert status("restore", "--yes", tmp_path / "image", tmp_path / "new") == 0


def test_help_that_cannot_be_written_ends_in_a_sentence():
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "imager", "--help"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 5
    assert b"Traceback" not in done.stderr
    assert b"cannot be written" in done.stderr


def test_extents_are_start_and_length_and_nothing_else(disk):
    lines = imager("survey", "--extents", disk).stdout.decode().splitlines()
    used = json.loads(imager("survey", "--json", disk).stdout)["disks"][0]
    pairs = [tuple(map(int, line.split("\t"))) for line in lines]
    assert pairs[0][0] == 0
    assert sum(length for _, length in pairs) == used["used_bytes"]


def test_an_existing_image_is_never_replaced_silently(disk, image):
    before = digest(image)
    done = imager("capture", disk, image)
    assert done.returncode == 5
    assert "--overwrite" in done.stderr.decode()
    assert digest(image) == before


def test_standard_output_gets_the_image_and_standard_error_the_json(disk, tmp_path):
    done = imager("capture", "--json", disk, "-")
    (tmp_path / "image").write_bytes(done.stdout)
    plain = subprocess.run(["zstd", "-dc", tmp_path / "image"], capture_output=True, check=True).stdout
    assert len(plain) == disk.stat().st_size
    assert json.loads(done.stderr)["images"][0]["image"] == "-"


def test_several_disks_go_into_a_folder_with_one_set_id(disk, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(disk.read_bytes())
    folder = tmp_path / "set"
    assert imager("capture", disk, other, folder).returncode == 0
    found = [json.loads(imager("info", "--json", path).stdout) for path in sorted(folder.iterdir())]
    assert len(found) == 2
    assert len({each["set_id"] for each in found}) == 1
    assert len({each["image_id"] for each in found}) == 2


def test_restore_without_a_terminal_and_without_yes_writes_nothing(image, tmp_path):
    done = imager("restore", image, tmp_path / "new")
    assert done.returncode == 9
    assert "--yes" in done.stderr.decode()
    assert not (tmp_path / "new").exists()


def test_the_targets_name_is_asked_for(image, disk, tmp_path):
    target = tmp_path / "new"
    status, shown = on_terminal("something else", "restore", image, target)
    assert status == 9
    assert not target.exists()
    status, shown = on_terminal(str(target), "restore", image, target)
    assert status == 0, shown
    assert imager("verify", "--against", target, image).returncode == 0


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_the_plan_is_shown_whenever_somebody_is_asked(image, disk, tmp_path, option):
    for command, source in (("restore", image), ("clone", disk)):
        status, shown = on_terminal("no", command, option, source, tmp_path / "new")
        assert status == 9
        assert "now on it, and lost" in shown


def test_the_names_of_all_targets_are_asked_for(image, tmp_path):
    targets = [tmp_path / "one", tmp_path / "two"]
    words = [word for target in targets for word in ("--to", f"{image}={target}")]
    status, shown = on_terminal(str(targets[0]), "restore", "--mixed", *words)
    assert status == 9
    assert "Type the names of the targets" in shown
    assert not any(target.exists() for target in targets)


@pytest.mark.parametrize("words", [("capture", "--overwrite"), ("survey", "--svg"), ("salvage", "--overwrite")])
def test_what_is_read_is_never_replaced(disk, image, tmp_path, words):
    source = tmp_path / "source"
    source.write_bytes((image if words[0] == "salvage" else disk).read_bytes())
    (tmp_path / "link").symlink_to(source)
    before = digest(source)
    done = imager(*words, source, tmp_path / "link")
    assert done.returncode == 2, done.stderr
    assert b"would be replaced" in done.stderr
    assert digest(source) == before


def test_a_picture_replaces_nothing_but_a_picture(disk, tmp_path):
    other, picture = tmp_path / "other", tmp_path / "map.svg"
    other.write_bytes(b"another disk")
    assert imager("survey", "--svg", other, disk).returncode == 5
    assert other.read_bytes() == b"another disk"
    assert [imager("survey", "--svg", picture, disk).returncode for _ in range(2)] == [0, 0]


def test_the_question_is_asked_on_the_terminal_when_the_image_comes_on_standard_input(image, tmp_path):
    target = tmp_path / "new"
    with image.open("rb") as stream:
        status, shown = on_terminal(str(target), "restore", "-", target, stdin=stream)
    assert status == 0, shown
    assert imager("verify", "--against", target, image).returncode == 0


def test_dry_run_writes_nothing(image, tmp_path):
    done = imager("restore", "--dry-run", image, tmp_path / "new")
    assert done.returncode == 0
    assert "partition 1" in done.stdout.decode()
    assert not (tmp_path / "new").exists()


def test_against_tells_which_partition_differs(image, disk, tmp_path):
    changed = tmp_path / "changed"
    changed.write_bytes(disk.read_bytes())
    with changed.open("r+b") as file:
        file.seek(MIB + 1024)
        file.write(b"changed!")
    done = imager("verify", "--json", "--against", changed, image)
    told = json.loads(done.stdout)
    assert done.returncode == 8
    assert [entry["number"] for entry in told["partitions"]] == [1]
    assert told["differing"][0][0] <= MIB + 1024 < told["differing"][0][1]


def test_clone_to_several_targets_and_one_of_them_fails(disk, image, tmp_path):
    good, small = tmp_path / "good", tmp_path / "small"
    small.write_bytes(bytes(10 * MIB))
    assert imager("clone", "--yes", disk, good, small).returncode == 6
    assert not good.exists()
    assert imager("clone", "--yes", "--verify", disk, good, tmp_path / "second").returncode == 0
    for target in (good, tmp_path / "second"):
        assert imager("verify", "--against", target, image).returncode == 0


def test_salvage_of_a_truncated_image_and_restore_of_what_is_left(image, tmp_path):
    broken, saved, target = tmp_path / "broken.zst", tmp_path / "saved.zst", tmp_path / "target"
    broken.write_bytes(image.read_bytes()[: image.stat().st_size * 2 // 3])
    assert imager("verify", broken).returncode == 4
    assert imager("salvage", broken, saved).returncode == 7
    assert imager("verify", saved).returncode == 7
    refused = imager("restore", "--yes", saved, target)
    assert refused.returncode == 4  # not 7, which says that it was done
    assert not target.exists()
    assert "--accept-damage" in refused.stderr.decode()
    assert imager("restore", "--yes", "--accept-damage", saved, target).returncode == 7


def test_a_reader_that_goes_away_is_no_traceback(disk):
    command = f"{sys.executable} -m imager survey --extents {disk} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    assert done.stdout.startswith(b"0\t")


@pytest.mark.parametrize("option", ["--table-only", "--boot-only"])
def test_a_part_that_the_image_does_not_have_is_refused(tmp_path, option):
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4 * MIB))
    assert imager("capture", disk, tmp_path / "image").returncode == 0
    (tmp_path / "target").write_bytes(bytes(4 * MIB))
    done = imager("restore", "--yes", option, tmp_path / "image", tmp_path / "target")
    assert done.returncode == 2
    assert "nothing to write" in done.stderr.decode()


def test_a_source_that_is_a_link_to_itself_is_told_in_a_sentence(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    done = imager("clone", "--yes", "loop", "new", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert not (tmp_path / "new").exists()


def test_closed_streams_are_no_defect_and_nothing_goes_where_it_should_not(disk, image):
    shell = f'"{sys.executable}" -m imager "$@"'

    def closed(redirections: str, *words: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["sh", "-c", f"{shell} {redirections}", "sh", *map(str, words)], capture_output=True)

    assert closed(">&-", "info", image).returncode == 0
    told = closed("2>&-", "info", "/nowhere/image")
    assert (told.returncode, told.stdout) == (5, b"")
    assert closed(">&-", "capture", disk, "-").returncode == 5
    assert closed("<&-", "verify", "-").returncode == 5


def test_a_plan_without_an_end_is_not_read_to_it(image, tmp_path):
    target = tmp_path / "target"
    done = imager("restore", "--plan", "/dev/zero", "--dry-run", image, target)
    assert done.returncode == 2
    assert b"/dev/zero has more than 1048576 bytes" in done.stderr
    assert not target.exists()
