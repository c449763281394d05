# SPDX-License-Identifier: GPL-3.0-or-later
"""Unattended restores from end to end, onto disks in files: where answers and images come from, and what stops them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from bootmedia.recovery import cli, job
from bootmedia.recovery.errors import AnswersWrong, NoAnswers, NotThisMachine, Unreachable
from bootmedia.recovery.facts import MachineFacts
from bootmedia.recovery.job import Recovery, end_with
from bootmedia.recovery.places import DATA_LABEL, Surroundings, Volume
from bootmedia.recovery.report import Log
from imager.devices.sysfs import System
from imager.errors import (
    ContentIncomplete,
    ImageDamaged,
    ImageIncomplete,
    ImagerError,
    Interrupted,
    StoreError,
    TargetRefused,
    TargetTooSmall,
)
from imager.extents import Extents
from imager.image.description import FinalFacts
from imager.process import ProgramFailed
from imager.stores import open_output
from tests.harness.images import KIB, MIB, describe, disk_of, make_image, write_image
from tests.harness.web import serving

SIZE = 6 * MIB
USED = Extents.of([(0, MIB), (2 * MIB, 3 * MIB + 100 * KIB)])
FACTS = MachineFacts(("SN1",), ("52:54:00:00:00:01",), ("QEMU Standard PC",))


@dataclass
class Bench:
    """A stick with a data partition and an image, a target, and a machine around them."""

    folder: Path
    content: bytes = b""
    said: list[str] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)
    facts: MachineFacts = FACTS

    @property
    def medium(self) -> Path:
        return self.folder / "run/bootmedia/medium"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def target(self) -> Path:
        return self.folder / "target.raw"

    def around(self, **others: object) -> Surroundings:
        values: dict[str, object] = {
            "medium": self.medium,
            "mounts": self.folder / "mounts",
            "volumes": lambda: self.volumes,
            "waits": (0.0, 0.0),
            "said": self.said.append,
        }
        return Surroundings(**(values | others))  # type: ignore[arg-type]

    def recovery(self, **others: object) -> Recovery:
        recovery = Recovery.of(self.around(**others))
        recovery.facts = self.facts
        return recovery

    def answers(self, image: str = "images/a.zst", more: str = "", head: str = "", match: str = "any = true") -> str:
        return (
            f"wait_seconds = 0\n{head}\n[match]\n{match}\n"
            f'[[restore]]\nimage = "{image}"\ntarget = "path={self.target}"\n{more}\n'
        )

    def run(self, text: str, **others: object) -> dict[str, object]:
        path = self.data / "recovery.toml"
        path.write_text(text)
        return self.recovery(**others).run(None)

    def is_restored(self) -> bool:
        return self.target.read_bytes() == self.content


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    (bench.data / "images").mkdir(parents=True)
    bench.volumes = [Volume("/dev/sdz3", DATA_LABEL, str(bench.data))]
    bench.content, _ = make_image(bench.data / "images/a.zst", USED, SIZE)
    bench.target.write_bytes(b"\x5a" * SIZE)
    return bench


@pytest.fixture
def web(bench):
    with serving() as server:
        server.files["/a.zst"] = (bench.data / "images/a.zst").read_bytes()
        yield server


def is_untouched(bench: Bench) -> bool:
    return bench.target.read_bytes() == b"\x5a" * SIZE


# --- Restores that work -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verify", ["verify = true", ""])
def test_from_the_stick(bench, verify) -> None:
    report = bench.run(bench.answers(more=verify))
    assert bench.is_restored()
    assert report["outcome"] == "done"
    assert report["results"][0]["verified"] == bool(verify)
    assert any(line.startswith(f"chosen   {bench.target}") for line in map(str.strip, bench.said))


def test_by_the_label_of_a_disk_that_is_not_mounted(bench) -> None:
    other = bench.folder / "other"
    (bench.data / "images").rename(other)
    bench.volumes.append(Volume("/dev/sdy1", "BACK UP", ""))

    def mount(volume: Volume, folder: Path, *, is_writable: bool) -> None:
        assert (volume.path, is_writable) == ("/dev/sdy1", False)
        folder.parent.mkdir()
        folder.symlink_to(other)

    bench.run(bench.answers("label=BACK UP/a.zst"), mount=mount)
    assert bench.is_restored()


def test_over_http(bench, web) -> None:
    bench.run(bench.answers(f"{web.url}/a.zst", "verify = true"))
    assert bench.is_restored()
    assert any("nobody proves who sends it" in line for line in bench.said)
    assert "restore: 100 %" in bench.said


def test_over_http_that_breaks_off_in_the_middle(bench, web) -> None:
    size = len(web.files["/a.zst"])
    web.breaks_at = [size, size // 2, 1000]  # the first answer is for the plan
    bench.run(bench.answers(f"{web.url}/a.zst"))
    assert bench.is_restored()
    assert f"bytes={size // 2}-" in [asked for _, _, asked in web.asked]
    assert any("next attempt in 0 s" in line for line in bench.said)


def test_two_images_onto_two_disks(bench) -> None:
    second = bench.folder / "second.raw"
    second.write_bytes(bytes(SIZE))
    more = f'[[restore]]\nimage = "images/a.zst"\ntarget = "path={second}"\n'
    report = bench.run(bench.answers(more=more))
    assert bench.is_restored()
    assert second.read_bytes() == bench.content
    assert len(report["results"]) == 2


def test_an_image_with_unreadable_sectors_is_restored_when_that_is_accepted_and_nothing_follows(bench) -> None:
    disk, description = disk_of(USED, SIZE), describe(USED, SIZE)
    final = FinalFacts(unreadable=Extents.of([(4096, 8192)]))
    write_image(open_output(str(bench.data / "images/bad.zst")), disk, description, final=final)
    with pytest.raises(ImagerError, match="lacks content") as refusal:
        bench.run(bench.answers("images/bad.zst"))
    assert "accept_damage = true" in refusal.value.hint
    assert is_untouched(bench)
    with pytest.raises(ContentIncomplete, match="everything was restored that the images have") as caught:
        bench.run(bench.answers("images/bad.zst", "accept_damage = true"))
    assert caught.value.exit_code == 7
    assert bench.target.read_bytes() == disk


# --- Where answers come from --------------------------------------------------------------------------------------


def commanded(bench: Bench, line: str) -> System:
    """The real machine, but for its kernel's command line."""

    class Commanded(System):
        @property
        def is_real(self) -> bool:
            return False

    path = bench.folder / "machine/proc/cmdline"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"quiet {line}\n")
    return Commanded(bench.folder / "machine")


def test_the_kernels_command_line_comes_before_the_stick(bench, web) -> None:
    web.files["/SN1.toml"] = bench.answers(f"{web.url}/a.zst").encode()
    (bench.data / "recovery.toml").write_text("broken")
    system = commanded(bench, f"recovery=nothing recovery={web.url}/{{serial}}.toml")
    assert bench.recovery(system=system).decide(None).found.name == f"{web.url}/SN1.toml"


def test_a_path_on_the_kernels_command_line_is_one_on_the_stick(bench) -> None:
    (bench.data / "one").mkdir()
    (bench.data / "one/x.toml").write_text(bench.answers())
    found = bench.recovery(system=commanded(bench, "recovery=one/x.toml")).decide(None).found
    assert found.name == str(bench.data / "one/x.toml")


def test_a_fingerprint_on_the_kernels_command_line_must_be_one(bench) -> None:
    system = commanded(bench, "recovery=https://127.0.0.1:1/x recovery.certificate=nonsense")
    with pytest.raises(AnswersWrong, match="'nonsense' is no SHA-256 fingerprint"):
        bench.recovery(system=system).decide(None)


def test_answers_are_waited_for_and_then_given_up(bench, web) -> None:
    web.statuses = [503, 503, 503]
    with pytest.raises(Unreachable, match=r"503.*3 times in a row"):
        bench.recovery().run(f"{web.url}/r.toml")
    assert is_untouched(bench)


def test_the_data_partition_comes_before_the_medium(bench) -> None:
    bench.medium.mkdir(parents=True)
    (bench.medium / "recovery.toml").write_text(bench.answers())
    assert bench.recovery().decide(None).found.name == str(bench.medium / "recovery.toml")
    (bench.data / "recovery.toml").write_text(bench.answers())
    assert bench.recovery().decide(None).found.name == str(bench.data / "recovery.toml")


def test_beside_the_images_each_machine_finds_its_own(bench) -> None:
    for serial in ("SN1", "SN2"):
        folder = bench.data / "images" / serial
        folder.mkdir()
        (folder / "d.zst").write_bytes((bench.data / "images/a.zst").read_bytes())
        (folder / "recovery.toml").write_text(bench.answers("d.zst", match=f'serial = "{serial}"'))
    plan = bench.recovery().decide(None)
    assert plan.tasks[0].source.path == bench.data / "images/SN1/d.zst"
    bench.facts = MachineFacts(("SN3",))
    with pytest.raises(NotThisMachine, match="none of 2 files"):
        bench.recovery().decide(None)


def test_two_files_for_one_machine_are_refused(bench) -> None:
    for name in ("x", "y"):
        (bench.data / "images" / name).mkdir()
        (bench.data / "images" / name / "recovery.toml").write_text(bench.answers())
    with pytest.raises(AnswersWrong, match="2 files are for this machine"):
        bench.recovery().decide(None)


def test_no_answers_anywhere(bench) -> None:
    with pytest.raises(NoAnswers, match=r"there is no recovery\.toml") as caught:
        bench.recovery().run(None)
    assert caught.value.exit_code == 5


# --- What stops it ------------------------------------------------------------------------------------------------


def refused(bench: Bench, text: str, kind: type[ImagerError], told: str) -> None:
    with pytest.raises(kind, match=told):
        bench.run(text)
    assert is_untouched(bench)


def test_another_machine(bench) -> None:
    refused(bench, bench.answers(match='serial = "SN2"'), NotThisMachine, "this machine has SN1")


def test_an_image_that_is_not_there(bench) -> None:
    refused(bench, bench.answers("images/b.zst"), StoreError, "there is no .*data/images/b.zst")


def test_a_label_that_two_have(bench) -> None:
    bench.volumes += [Volume("/dev/sdx1", "B", "/x"), Volume("/dev/sdy1", "B", "/y")]
    refused(bench, bench.answers("label=B/a.zst"), StoreError, "label B is needed; /dev/sdx1, /dev/sdy1")


def test_a_disk_that_nobody_has(bench) -> None:
    text = bench.answers().replace(f"path={bench.target}", "serial=NO-SUCH-DISK")
    refused(bench, text, TargetRefused, "no disk fits the rule serial=NO-SUCH-DISK")


def test_a_target_that_is_too_small_for_the_second_image_stops_the_first(bench) -> None:
    second = bench.folder / "second.raw"
    second.write_bytes(bytes(MIB))
    more = f'[[restore]]\nimage = "images/a.zst"\ntarget = "path={second}"\n'
    refused(bench, bench.answers(more=more), TargetTooSmall, "has 1.0 MiB, and the image needs 6.0 MiB")


def test_two_restores_onto_one_disk(bench) -> None:
    more = f'[[restore]]\nimage = "images/a.zst"\ntarget = "path={bench.target}"\n'
    refused(bench, bench.answers(more=more), TargetRefused, "restore 1 and restore 2 would both be written")


def test_the_image_itself_as_target(bench) -> None:
    image = bench.data / "images/a.zst"
    text = bench.answers().replace(f"path={bench.target}", f"path={image}")
    before = image.read_bytes()
    with pytest.raises((TargetRefused, TargetTooSmall)):
        bench.run(text)
    assert image.read_bytes() == before


def test_a_server_that_names_too_small_a_length(bench, web) -> None:
    web.claims = len(web.files["/a.zst"]) // 2
    with pytest.raises(ImageIncomplete, match="incomplete and has no partition table: run the restore again"):
        bench.run(bench.answers(f"{web.url}/a.zst"))
    assert bench.target.read_bytes()[:MIB] == bytes(MIB)


def test_a_server_that_names_too_large_a_length(bench, web) -> None:
    web.claims = len(web.files["/a.zst"]) + 1
    with pytest.raises(StoreError, match="run the restore again"):
        bench.run(bench.answers(f"{web.url}/a.zst"))
    assert bench.target.read_bytes()[:MIB] == bytes(MIB)


def test_a_network_that_goes_away_in_the_middle(bench, web) -> None:
    size = len(web.files["/a.zst"])
    web.breaks_at = [size, size // 2, *[0] * 20]
    with pytest.raises(Unreachable, match=r"3 times in a row; .*run the restore again"):
        bench.run(bench.answers(f"{web.url}/a.zst"))
    assert bench.target.read_bytes()[:MIB] == bytes(MIB)


def test_an_image_that_is_damaged_on_the_server(bench, web) -> None:
    content = bytearray(web.files["/a.zst"])
    content[len(content) // 2] ^= 1
    web.files["/a.zst"] = bytes(content)
    with pytest.raises(ImageDamaged, match="run the restore again"):
        bench.run(bench.answers(f"{web.url}/a.zst"))


def test_an_image_that_was_replaced_after_the_plan(bench) -> None:
    (bench.data / "recovery.toml").write_text(bench.answers())
    recovery = bench.recovery()
    recovery.decide(None)
    make_image(bench.folder / "new.zst", USED, SIZE, image_id=uuid4())
    (bench.folder / "new.zst").replace(bench.data / "images/a.zst")
    with pytest.raises(StoreError, match="was replaced since the plan was made"):
        recovery._carry_out(recovery.plan)
    assert is_untouched(bench)


def test_ctrl_c_before_it_begins(bench, monkeypatch) -> None:
    sleep = job.time.sleep

    def pressed(seconds: float) -> None:
        if seconds == 5:
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(job.time, "sleep", pressed)
    with pytest.raises(Interrupted):
        bench.run(bench.answers().replace("wait_seconds = 0", "wait_seconds = 5"))
    assert is_untouched(bench)
    assert any("This begins in 5 s; Ctrl-C stops it" in line for line in bench.said)


# --- Who is told --------------------------------------------------------------------------------------------------


def test_the_report_arrives_and_lies_beside_the_log(bench, web) -> None:
    bench.run(bench.answers(more=f'[report]\nurl = "{web.url}/done"'))
    ((path, kind, body),) = web.sent
    told = json.loads(body)
    assert (path, kind) == ("/done", "application/json")
    assert (told["outcome"], told["exit_status"], told["machine"]["serial"]) == ("done", 0, ["SN1"])
    assert told["results"][0]["written_bytes"] > 0
    assert told["plan"]["restores"][0]["target"]["path"] == str(bench.target)
    (log,) = (bench.data / "logs").glob("recovery-SN1-*.log")
    assert "restore: 100 %" in log.read_text()
    assert json.loads(log.with_suffix(".json").read_text())["report_delivered"] is True


def test_a_failure_is_reported_with_message_and_next_step(bench, web) -> None:
    with pytest.raises(StoreError):
        bench.run(bench.answers("images/no.zst", f'[report]\nurl = "{web.url}/done"'))
    told = json.loads(web.sent[0][2])
    assert (told["outcome"], told["exit_status"], told["error"]) == ("failed", 5, "StoreError")
    assert "images/no.zst" in told["message"]
    assert told["hint"]
    assert any("FAILED: there is no" in line for line in told["log"])


def test_a_report_that_nobody_takes_does_not_undo_a_restore(bench, web) -> None:
    web.statuses = [403]
    report = bench.run(bench.answers(more=f'[report]\nurl = "{web.url}/done"'))
    assert bench.is_restored()
    assert report["report_delivered"] is False
    assert any("the report was not delivered" in line for line in bench.said)


def test_a_log_that_cannot_be_kept_is_said_once_and_stops_nothing(bench) -> None:
    (bench.data / "logs").write_text("a file where the folder should be")
    bench.run(bench.answers())
    assert bench.is_restored()
    assert len([line for line in bench.said if "no log can be kept" in line]) == 1


def test_a_log_may_name_a_folder_and_a_machine_without_a_serial_number(tmp_path) -> None:
    log = Log()
    log.add("first")
    log.keep_in(tmp_path / "a/b", MachineFacts((), ("52:54:00:00:00:01",)))
    log.add("second\x1b[2J")
    log.close()
    assert log.path is not None
    assert log.path.name.startswith("recovery-52_54_00_00_00_01-")
    assert [line.split(" ", 1)[1] for line in log.path.read_text().splitlines()] == ["first", "second\\x1b[2J"]


# --- The command --------------------------------------------------------------------------------------------------


@pytest.fixture
def command(bench, monkeypatch):
    monkeypatch.setattr(cli, "surroundings", bench.around)
    (bench.data / "recovery.toml").write_text(bench.answers(head='after = "reboot"'))
    return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])


def test_a_dry_run_says_all_and_writes_nothing(bench, command) -> None:
    done = command("run", "--dry-run")
    assert done.exit_code == 0
    for told in ("this machine", "its disks", "images/a.zst", f"chosen   {bench.target}", "because its name is"):
        assert told in done.stdout
    assert f"the same by hand: imager restore {bench.data}/images/a.zst {bench.target}" in done.stdout
    assert "then     the machine starts again" in done.stdout
    assert is_untouched(bench)
    assert not (bench.data / "logs").exists()


def test_the_plan_is_json_on_request(bench, command) -> None:
    plan = json.loads(command("run", "--dry-run", "--json").stdout)["plan"]
    assert plan["restores"][0]["image"] == "images/a.zst"
    assert plan["after"] == "reboot"


def test_the_command_restores_and_leaves_a_system_running_that_is_no_medium(bench, command, monkeypatch) -> None:
    monkeypatch.setattr(job, "run", lambda words: pytest.fail(f"would have called {words}"))
    done = command("run")
    assert done.exit_code == 0
    assert f"done: {bench.target}; the log is" in done.stdout
    assert "left running: no reboot" in done.stderr
    assert bench.is_restored()


def test_exit_statuses_are_those_of_the_errors(bench, command) -> None:
    assert command("run", bench.folder / "none.toml").exit_code == 5
    (bench.data / "recovery.toml").write_text("[match]\nany = true\nserail = 1\n")
    wrong = command("run", "--dry-run")
    assert wrong.exit_code == 2
    assert "line 3: the key 'serail' is not known" in wrong.stderr
    assert "Is serial meant?" in wrong.stderr


def test_show_prints_this_machine(command) -> None:
    assert command("show").stdout.startswith("[match]\n")
    assert set(json.loads(command("show", "--json").stdout)["machine"]) == {"serial", "mac", "model"}


def test_a_machine_that_was_started_from_the_medium_is_started_again(bench, monkeypatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(job, "run", calls.append)
    bench.medium.parent.mkdir(parents=True)
    for after in ("reboot", "poweroff", "shell"):
        end_with(after, bench.around())
    assert calls == [["systemctl", "reboot"], ["systemctl", "poweroff"]]


def test_a_reboot_that_fails_does_not_look_like_a_restore_that_failed() -> None:
    with (
        pytest.raises(ProgramFailed, match="everything is restored, but reboot did not work"),
        job.told_as_failure("reboot"),
    ):
        raise ProgramFailed("no systemd")
