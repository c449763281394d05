# SPDX-License-Identifier: GPL-3.0-or-later
"""A recovery.toml that travels inside of an image: put in by capture, read by others, followed by recovery."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bootmedia.recovery import cli
from bootmedia.recovery.errors import AnswersWrong, NoAnswers, NotThisMachine
from bootmedia.recovery.facts import MachineFacts
from imager.capture.resume import continued
from imager.errors import UsageError
from imager.image.reader import open_image
from tests.harness.images import describe, make_image
from tests.harness.independent_reader import read_image
from tests.harness.programs import call
from tests.integration.test_cli import imager
from tests.integration.test_recovery_run import SIZE, USED, Bench, bench, commanded, is_untouched  # noqa: F401

MIB = 1024 * 1024
ANSWERS = 'after = "reboot"\n[match]\nserial = "Prüfstand 1"\n[[restore]]\ntarget = "largest"\n'


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("disk") / "disk"
    path.write_bytes(b"some content " * 100_000)
    return path


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    path = tmp_path / "recovery.toml"
    path.write_text(ANSWERS)
    return path


# --- capture and info ---------------------------------------------------------------------------------------------


def test_another_reader_finds_the_text_and_zstd_still_gives_the_disk(disk: Path, answers: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.zst"
    assert imager("capture", "--answers", answers, disk, image).returncode == 0
    assert read_image(image).header_json["answers"] == ANSWERS
    copy = tmp_path / "copy"
    call("zstd", "-q", "-d", image, "-o", copy)
    assert copy.read_bytes() == disk.read_bytes()
    assert imager("info", "--answers", image).stdout.decode() == ANSWERS
    assert json.loads(imager("info", "--json", image).stdout)["answers"] == ANSWERS


def test_the_mark_and_the_line_ends_of_windows_are_not_part_of_the_text(disk: Path, answers: Path, tmp_path) -> None:
    answers.write_bytes(b"\xef\xbb\xbf" + ANSWERS.replace("\n", "\r\n").encode())
    assert imager("capture", "--answers", answers, disk, tmp_path / "image.zst").returncode == 0
    assert read_image(tmp_path / "image.zst").header_json["answers"] == ANSWERS


def test_the_same_answers_give_the_same_bytes_and_none_leave_no_trace(disk: Path, answers: Path, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    same = ("--image-id", "6f1d0a52-3c57-4c0e-9d6e-0123456789ab")
    for name, words in (("a", ("--answers", answers)), ("b", ("--answers", answers)), ("c", ())):
        assert imager("capture", *same, *words, disk, tmp_path / name).returncode == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert not {"answers", "set_members"} & set(read_image(tmp_path / "c").header_json)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"no toml", "is not TOML"),
        (b"a = \xff", "is not TOML"),
        (b"a = 1\n" + b"#" * 65536, "more than 65536 bytes"),
        (b"a = " + b"[" * 60000, "nested more than 32 deep in line 1"),
    ],
)
def test_what_is_no_answers_is_refused_before_anything_is_written(disk: Path, tmp_path: Path, content, told) -> None:
    (tmp_path / "x.toml").write_bytes(content)
    done = imager("capture", "--answers", tmp_path / "x.toml", disk, tmp_path / "image.zst")
    assert done.returncode == 2
    assert told in done.stderr.decode()
    assert not list(tmp_path.glob("image*"))


def test_an_image_without_answers_says_so(disk: Path, tmp_path: Path) -> None:
    assert imager("capture", disk, tmp_path / "image.zst").returncode == 0
    done = imager("info", "--answers", tmp_path / "image.zst")
    assert done.returncode == 2
    assert b"carries no recovery.toml" in done.stderr


def test_of_a_set_the_first_image_has_the_answers_and_each_names_all_disks(disk: Path, answers: Path, tmp_path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"y" * MIB)
    assert imager("capture", "--answers", answers, disk, other, tmp_path / "set").returncode == 0
    first, second = (read_image(tmp_path / "set" / f"{name}.img.zst") for name in ("disk", "other"))
    assert (first.header_json["answers"], second.header_json.get("answers")) == (ANSWERS, None)
    for seen in (first, second):
        members = [(each["image"], each["size_bytes"]) for each in seen.header_json["set_members"]]
        assert members == [("disk.img.zst", disk.stat().st_size), ("other.img.zst", MIB)]


def test_a_capture_with_other_answers_is_not_continued() -> None:
    partial, wanted = (describe(USED, SIZE, answers=text) for text in (ANSWERS, ANSWERS.replace("reboot", "shell")))
    with pytest.raises(UsageError, match="its file of answers is one with the SHA-256"):
        continued(partial, wanted, named_id=False, named_set=False)


# --- recovery -----------------------------------------------------------------------------------------------------


def carry(bench: Bench, name: str, text: str) -> Path:  # noqa: F811
    path = bench.data / "images" / name
    path.parent.mkdir(exist_ok=True)
    make_image(path, USED, SIZE, answers=text)
    return path


def inside(bench: Bench, match: str = "any = true", image: str = "") -> str:  # noqa: F811
    return f'wait_seconds = 0\n[match]\n{match}\n[[restore]]\n{image}\ntarget = "path={bench.target}"\n'


@pytest.mark.parametrize("image", ["", 'image = "self"', 'image = "a.zst"'])
def test_the_stick_has_nothing_but_an_image_that_says_what_to_do(bench, image) -> None:  # noqa: F811
    carry(bench, "inside.zst", inside(bench, image=image))
    report = bench.recovery().run(None)
    assert report["outcome"] == "done"
    assert bench.is_restored()


def test_each_machine_finds_the_image_that_is_for_it(bench) -> None:  # noqa: F811
    for serial in ("SN1", "SN2"):
        carry(bench, f"{serial}/disk.zst", inside(bench, f'serial = "{serial}"'))
    carry(bench, "wrong.zst", "nonsense = 1")
    assert bench.recovery().decide(None).tasks[0].source.path == bench.data / "images/SN1/disk.zst"
    assert any("wrong.zst" in line and "nonsense" in line for line in bench.said)
    bench.facts = MachineFacts(("SN3",))
    with pytest.raises(NotThisMachine, match="none of 2 files"):
        bench.recovery().decide(None)
    assert is_untouched(bench)


def test_files_on_the_stick_come_first(bench) -> None:  # noqa: F811
    carry(bench, "inside.zst", inside(bench))
    beside = bench.data / "images/recovery.toml"
    beside.write_text(bench.answers("a.zst"))
    assert bench.recovery().decide(None).found.name == str(beside)
    beside.write_text(bench.answers("a.zst", match='serial = "SN2"'))
    assert bench.recovery().decide(None).found.image == bench.data / "images/inside.zst"
    (bench.data / "recovery.toml").write_text(bench.answers(match='serial = "SN2"'))
    with pytest.raises(NotThisMachine):
        bench.recovery().decide(None)


def test_two_images_for_one_machine_are_refused_until_one_is_named(bench) -> None:  # noqa: F811
    carry(bench, "one.zst", inside(bench))
    named = carry(bench, "two.zst", inside(bench))
    with pytest.raises(AnswersWrong, match=r"2 files are for this machine: .*one\.zst .*two\.zst"):
        bench.recovery().run(None)
    assert is_untouched(bench)
    assert bench.recovery().decide(str(named)).tasks[0].source.path == named
    plan = bench.recovery(system=commanded(bench, "recovery=images/two.zst")).decide(None)
    assert plan.found.image == named


def test_only_an_image_may_leave_the_image_out(bench) -> None:  # noqa: F811
    (bench.data / "recovery.toml").write_text(inside(bench))
    with pytest.raises(AnswersWrong, match="the key image is missing"):
        bench.recovery().run(None)
    with pytest.raises(NoAnswers, match=r"carries no recovery\.toml"):
        bench.recovery().run(str(bench.data / "images/a.zst"))
    assert is_untouched(bench)


def test_a_split_image_carries_them_too(bench) -> None:  # noqa: F811
    whole = carry(bench, "inside.zst", inside(bench)).read_bytes()
    (bench.data / "images/inside.zst").unlink()
    for number in range(2):
        part = whole[number * len(whole) // 2 : (number + 1) * len(whole) // 2]
        (bench.data / f"images/inside.zst.{number:03d}").write_bytes(part)
    assert bench.recovery().run(None)["outcome"] == "done"
    assert bench.is_restored()
    assert bench.recovery().decide("images/inside.zst").found.image is not None


def test_answers_are_checked_before_they_are_needed(bench, tmp_path) -> None:  # noqa: F811
    def check(path: Path):
        return CliRunner().invoke(cli.app, ["check", str(path)])

    path = tmp_path / "recovery.toml"
    path.write_text(inside(bench))
    told = check(path)
    assert told.exit_code == 0
    assert "works only with imager capture --answers" in told.output
    assert check(carry(bench, "x.zst", inside(bench))).exit_code == 0
    path.write_text(inside(bench).replace("wait_seconds", "wait_second"))
    told = check(path)
    assert told.exit_code == 2
    assert "wait_seconds" in told.output
    assert check(bench.data / "images/a.zst").exit_code == 5
    assert check(tmp_path / "missing").exit_code == 5


def test_old_images_have_none() -> None:
    with open_image(str(Path(__file__).parents[1] / "corpus/image/version-1/image.img.zst")) as image:
        assert image.description.answers == ""
        assert image.description.set_members == ()
