# SPDX-License-Identifier: GPL-3.0-or-later
"""What the wizard makes of choices: command lines, what will be destroyed, what must be typed. No terminal."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from bootmedia.recovery.choose import Candidate
from bootmedia.wizard.choice import Choice, Step
from bootmedia.wizard.images import ImageFacts, entries, is_image
from bootmedia.wizard.outcomes import result_lines
from bootmedia.wizard.pair import Pair
from bootmedia.wizard.pipeline import Pipeline
from bootmedia.wizard.running import Moved, Outcome, Runner, Said, heard_in
from bootmedia.wizard.screens.work import progress_text
from bootmedia.wizard.shares import Share, refusal
from bootmedia.wizard.source import Source
from bootmedia.wizard.terminal import ability
from bootmedia.wizard.volumes import FileSystem, mount_local
from imager.layout import Content, Identity, Layout, Partition, Table

GIB = 1 << 30
SECRET = "p,w="  # noqa: S105  no secret
EXAMPLE = Path(__file__).parent.parent / "corpus/image/example/image.img.zst"
PARTS = (
    Partition(1, GIB, 2 * GIB, content=Content("filesystem", "vfat")),
    Partition(2, 2 * GIB, 60 * GIB, content=Content("filesystem", "ext4")),
)
LAYOUT = Layout(Identity(model="Old", serial="S1"), 64 * GIB, 512, 512, Table("gpt"), PARTS)
IMAGE = ImageFacts("id", "2026-01-01T00:00:00Z", "imager 0", "", LAYOUT, 10 * GIB)
DISK = Candidate("/dev/sdb", model="New Disk", serial="XYZ123", size_bytes=128 * GIB, partitions={1: GIB, 2: 58 * GIB})
PAIR = Pair(Source(path="/mnt/a b.img.zst"), IMAGE, DISK)
CHOICE = Choice((PAIR,))


def test_the_command_is_what_was_chosen_and_can_be_pasted_into_a_shell() -> None:
    chosen = replace(CHOICE, grow="last", repair_boot=True, accept_damage=True)
    assert str(chosen.restore()) == (
        "imager restore --yes --progress lines --json --grow last --repair-boot --verify --accept-damage "
        "'/mnt/a b.img.zst' /dev/sdb"
    )


def test_a_system_for_the_other_firmware_is_made_to_start_and_that_repairs_it() -> None:
    chosen = replace(CHOICE, firmware="uefi", repair_boot=True)
    assert str(chosen.restore()).endswith("--json --to-uefi --verify '/mnt/a b.img.zst' /dev/sdb")
    assert "--to-uefi" not in str(replace(chosen, partition=2, onto=2).restore())


def test_new_identifiers_are_for_whole_disks_and_look_into_what_is_unlocked() -> None:
    chosen = replace(CHOICE, new_ids=True, unlock={2: "/run/key"})
    assert str(chosen.restore()).endswith("--unlock 2:/run/key --new-ids --verify '/mnt/a b.img.zst' /dev/sdb")
    assert "--new-ids" not in str(replace(chosen, partition=2, onto=2).restore())


def test_another_target_forgets_the_partition_and_keeps_all_else() -> None:
    chosen = replace(CHOICE, partition=2, onto=2, grow="last", new_ids=True, verify=False)
    assert chosen.with_target(0, DISK) == chosen
    elsewhere = chosen.with_target(0, replace(DISK, path="/dev/sdc"))
    assert (elsewhere.partition, elsewhere.onto, elsewhere.grow, elsewhere.new_ids) == (None, None, "last", True)
    assert elsewhere.destroyed().endswith("(/dev/sdc)")


def test_an_encrypted_partition_is_unlocked_only_where_the_command_looks_into_it() -> None:
    chosen = replace(CHOICE, unlock={2: "/run/key"})
    assert "--unlock" not in str(chosen.restore())
    assert "--grow last --unlock 2:/run/key" in str(replace(chosen, grow="last").restore())
    assert "--unlock" not in str(
        replace(chosen, grow="last", pairs=(replace(PAIR, source=Source(fetch=("fetch", "x"))),)).restore()
    )
    assert "--unlock" not in str(replace(chosen, repair_boot=True, partition=2, onto=2).restore())


def test_a_stream_is_piped_into_the_command() -> None:
    source = Source(fetch=("recovery", "fetch", "http://x/a.img.zst"), name="http://x/a.img.zst")
    assert str(Choice((replace(PAIR, source=source),), verify=False).dry_run()) == (
        "recovery fetch http://x/a.img.zst | imager restore --dry-run - /dev/sdb"
    )
    assert str(Choice.of(source).info()) == "recovery fetch http://x/a.img.zst | imager info --json -"


def test_one_partition_is_neither_grown_nor_repaired() -> None:
    chosen = replace(CHOICE, partition=2, onto=2, grow="last", repair_boot=True)
    assert str(chosen.restore()).endswith("--json --partition 2 --onto 2 --verify '/mnt/a b.img.zst' /dev/sdb")


def test_nothing_is_destroyed_before_a_target_is_chosen() -> None:
    assert Choice((replace(PAIR, target=None),)).destroyed() == ""


def test_what_is_destroyed_names_the_disk_by_model_serial_and_size() -> None:
    assert CHOICE.destroyed() == "EVERYTHING on New Disk, serial XYZ123, 128 GiB (/dev/sdb)"
    part = replace(CHOICE, partition=2, onto=2)
    assert part.destroyed() == "partition 2 (58.0 GiB) of New Disk, serial XYZ123, 128 GiB (/dev/sdb)"


@pytest.mark.parametrize(
    ("typed", "agrees"),
    [
        ("sdb", True),
        ("/dev/sdb", True),
        (" XYZ123 ", True),
        ("sda", False),
        ("", False),
        ("y", False),
        ("yes", False),
        ("xyz", False),
    ],
)
def test_only_the_disks_name_agrees(typed: str, agrees: bool) -> None:
    assert CHOICE.agreed_by(typed) is agrees


def test_a_disk_without_serial_number_is_not_agreed_to_by_an_empty_line() -> None:
    assert not Choice((replace(PAIR, target=replace(DISK, serial="")),)).agreed_by("")


def test_disks_that_must_not_be_written_come_last_with_the_reason() -> None:
    small = Candidate("/dev/sda", size_bytes=8 * GIB)
    stick = Candidate("/dev/sdc", size_bytes=512 * GIB, kept="holds the recovery stick")
    busy = Candidate("/dev/sdd", size_bytes=512 * GIB, obstacle="/dev/sdd1 is mounted at /mnt")
    rows = Choice((replace(PAIR, target=None),)).offered([small, stick, busy, DISK])
    assert [(row.disk.path, row.may_be_written) for row in rows] == [
        ("/dev/sdb", True),
        ("/dev/sda", False),
        ("/dev/sdc", False),
        ("/dev/sdd", False),
    ]
    reasons = [row.refusal for row in rows[1:]]
    assert reasons[0].startswith("has 8.0 GiB, and the image needs 60")
    assert reasons[1:] == ["holds the recovery stick", "cannot be written now: /dev/sdd1 is mounted at /mnt"]


def test_a_disk_that_holds_the_partitions_moved_together_is_offered_for_that() -> None:
    disk = Candidate("/dev/sdb", size_bytes=61 * GIB)  # the last partition ended behind it
    wide = replace(
        LAYOUT, partitions=(PARTS[0], Partition(2, 4 * GIB, 62 * GIB, content=Content("filesystem", "ext4")))
    )
    pair = replace(PAIR, image=replace(IMAGE, layout=wide), target=disk)
    assert pair.fitting
    assert [row.may_be_written for row in Choice((pair,)).offered([disk])] == [True]
    assert "--fit" in str(Choice((pair,)).restore())
    tiny = replace(disk, size_bytes=58 * GIB)
    assert not replace(pair, target=tiny).fitting
    assert [row.may_be_written for row in Choice((pair,)).offered([tiny])] == [False]


def test_a_disk_that_is_enough_for_what_is_used_is_offered_for_that() -> None:
    disk = Candidate("/dev/sdb", size_bytes=40 * GIB)
    used = Content("filesystem", "ext4", used_bytes=10 * GIB, size_bytes=58 * GIB)
    layout = replace(LAYOUT, partitions=(PARTS[0], replace(PARTS[1], content=used)))
    pair = replace(PAIR, image=replace(IMAGE, layout=layout), target=disk)
    assert [row.may_be_written for row in Choice((pair,)).offered([disk])] == [True]
    assert pair.fitting_words() == "made smaller: 2 (--fit)"
    large_sectors = replace(disk, size_bytes=80 * GIB, sector_bytes=4096)
    assert "sectors of 4096 bytes" in replace(pair, target=large_sectors).fitting_words()


def test_a_partition_that_is_too_small_says_so() -> None:
    assert PAIR.partition_refusal(2, 2) == ""
    assert "58.0 GiB are needed" in PAIR.partition_refusal(2, 1)
    assert PAIR.partition_refusal(2, 9) == "has no partition 9"


def test_steps_are_numbered() -> None:
    assert Step.PLACE.title() == "Restore, step 1 of 9: where the image is"
    assert [step.number for step in Step] == list(range(1, 10))


# --- Images in folders --------------------------------------------------------------------------------------------


def test_images_are_known_by_their_beginning_and_not_by_their_name(tmp_path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(EXAMPLE.read_bytes())
    (tmp_path / "server.img.zst").write_bytes(b"no image at all")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    found = [(entry.path.name, entry.is_folder, entry.is_image) for entry in entries(tmp_path)]
    assert found == [
        ("folder", True, False),
        ("holiday.jpg", False, True),
        ("gone", False, False),
        ("server.img.zst", False, False),
    ]


def test_the_parts_of_a_split_image_are_one(tmp_path) -> None:
    whole = EXAMPLE.read_bytes()
    (tmp_path / "a.img.zst.000").write_bytes(whole[:1000])
    (tmp_path / "a.img.zst.001").write_bytes(whole[1000:])
    (tmp_path / "notes.001").write_bytes(b"of something else")
    found = {entry.path.name: (entry.is_image, entry.size_bytes) for entry in entries(tmp_path)}
    assert found == {"a.img.zst": (True, len(whole)), "notes.001": (False, 17)}


def test_a_file_that_is_short_is_no_image(tmp_path) -> None:
    (tmp_path / "short").write_bytes(b"]*M\x18")
    assert not is_image(tmp_path / "short")


# --- Commands that run --------------------------------------------------------------------------------------------


def test_progress_errors_and_words_are_told_apart() -> None:
    line = b'{"phase":"p","done_bytes":1,"total_bytes":null,"rate_bytes_per_second":2,"eta_seconds":null,"ended":true}'
    assert heard_in(line) == Moved("p", 1, None, 2, None, True)
    assert heard_in(b'{"phase":"restore","note":"slow \\u001b[2J"}') == Said("slow \\x1b[2J")
    assert heard_in(b'{"error":"StoreError","message":"m"}') == {"error": "StoreError", "message": "m"}
    assert heard_in(b"mount: no such device\n") == Said("mount: no such device")
    assert heard_in(b'["a"]\n') == Said('["a"]')
    assert heard_in(b"\n") is None


def test_a_pipeline_passes_its_bytes_on_and_ends_well_when_the_reader_has_enough() -> None:
    endless = Pipeline.of("yes").into("head", "-c", "4")
    assert Runner(endless).run() == Outcome(0, b"y\ny\n")


def test_the_first_error_counts_and_not_what_follows_from_it() -> None:
    script = """echo '{"error":"X","message":"the cause","hint":"do this","exit_status":5}' >&2; exit 5"""
    outcome = Runner(Pipeline.of("sh", "-c", script).into("sh", "-c", "cat; echo later >&2; exit 4")).run()
    assert (outcome.status, outcome.message, outcome.hint) == (5, "the cause", "do this")


def test_what_became_of_the_disk_is_told_beside_the_cause() -> None:
    first = """echo '{"error":"X","message":"the server is gone","hint":"h","exit_status":5}' >&2; exit 5"""
    facts = '"facts":{"state":"/dev/sdb is incomplete"}'
    error = f'{{"error":"Y","message":"no end; /dev/sdb is incomplete",{facts},"exit_status":4}}'
    then = f"cat; echo '{error}' >&2; exit 4"
    outcome = Runner(Pipeline.of("sh", "-c", first).into("sh", "-c", then)).run()
    assert (outcome.status, outcome.message, outcome.state) == (5, "the server is gone", "/dev/sdb is incomplete")
    assert "The disk: /dev/sdb is incomplete." in list(result_lines(outcome, []))
    alone = Runner(Pipeline.of("sh", "-c", then)).run()
    assert (alone.message, alone.state) == ("no end; /dev/sdb is incomplete", "")


def test_a_rate_and_a_time_left_are_not_promised_when_nothing_moves() -> None:
    moved = Moved("restore", 10 << 20, 20 << 20, 1 << 20, 10.0)
    assert "1.0 MiB/s" in progress_text(moved, "20 s", "#.+!", 70, still_seconds=2).plain
    still = progress_text(moved, "20 s", "#.+!", 70, still_seconds=61).plain
    assert "nothing has moved for 1 min 01 s" in still
    assert "MiB/s" not in still


def test_a_command_that_fails_in_its_own_words_is_told_with_them() -> None:
    outcome = Runner(Pipeline.of("sh", "-c", "echo no such share >&2; exit 32")).run()
    assert (outcome.status, outcome.message) == (32, "no such share")


def test_a_program_that_is_missing_is_an_outcome_and_no_crash() -> None:
    outcome = Runner(Pipeline.of("no-such-program")).run()
    assert not outcome.is_well
    assert "no-such-program is not installed" in outcome.message


def test_a_command_is_ended_from_outside() -> None:
    runner = Runner(Pipeline.of("sleep", "1000"))
    runner.told = lambda _event: None
    import threading

    timer = threading.Timer(0.3, runner.cancel)
    timer.start()
    outcome = runner.run()
    timer.join()
    assert outcome.cancelled
    assert outcome.status == 128 + 15


def test_words_for_standard_input_reach_the_first_program_only() -> None:
    assert Runner(Pipeline.of("cat").into("tr", "a-z", "A-Z"), given=b"secret\n").run().output == b"SECRET\n"


# --- Files --------------------------------------------------------------------------------------------------------


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root meets it on an NFS server that takes it for nobody."""
    tmp_path.chmod(0o755)
    (tmp_path / "server.img.zst").write_bytes(b"secret")
    (tmp_path / "server.img.zst").chmod(0)
    was = os.geteuid()
    monkeypatch.chdir(tmp_path)  # what is above may be for its owner only
    try:
        os.seteuid(65534 if was == 0 else was)
        (entry,) = entries(Path())
    finally:
        os.seteuid(was)
    assert (entry.path.name, entry.is_image, entry.trouble) == ("server.img.zst", False, "Permission denied")


# --- Places -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["smb", "nfs"])
def test_a_share_whose_server_is_lost_ends_in_an_error_and_hangs_nobody(kind: str) -> None:
    words = Share(kind, "nas", "/images").mount().stages[0]
    assert "soft" in words[words.index("-o") + 1].split(",")


def test_passwords_stand_in_no_command_line() -> None:
    for kind in ("smb", "ssh"):
        share = Share(kind, "nas", "/images", user="u", password=SECRET)
        assert SECRET not in str(share.mount("/run/x/credentials"))
    assert Share("smb", "nas", "b", user="u", password=SECRET, domain="D").credentials() == (
        "username=u\npassword=p,w=\ndomain=D\n"
    )
    assert Share("ssh", "nas", "/b", password=SECRET).secret() == b"p,w=\n"


@pytest.mark.parametrize(
    ("share", "fault"),
    [
        (Share("smb", "nas", "backup"), ""),
        (Share("nfs", "nas", "srv"), "The folder begins with a /."),
        (Share("smb", "", "backup"), "The server is a name or an address, such as 192.168.1.10."),
        (Share("smb", "-oProxy", "backup"), "The server is a name or an address, such as 192.168.1.10."),
        (Share("smb", "nas", ""), "The name of the share is missing."),
        (Share("smb", "nas", "backup", password=SECRET), "Whose password is it? The user is missing."),
        (Share("ssh", "nas", "/srv", port=0), "The port is a number; SSH servers mostly have 22."),
    ],
)
def test_words_that_make_no_share_are_refused(share: Share, fault: str) -> None:
    assert share.fault() == fault


def test_a_domain_may_stand_before_the_user_as_windows_shows_it() -> None:
    assert Share("smb", "nas", "b", user=r"OFFICE\ann", password=SECRET).credentials() == (
        "username=ann\npassword=p,w=\ndomain=OFFICE\n"
    )


def test_a_share_as_windows_writes_it_is_understood() -> None:
    assert str(Share("smb", "nas", "backup\\images")) == "//nas/backup/images"


def test_what_is_not_the_same_is_mounted_at_another_place() -> None:
    first = Share("smb", "nas", "a/b")
    others = [
        Share("smb", "nas", "a_b"),
        Share("nfs", "nas", "/a/b"),
        Share("smb", "nas", "a/b", user="ann"),
        Share("smb", "nas", "a/b", user="ann", domain="OFFICE"),
        Share("smb", "nas", "a/b", is_writable=True),
        Share("ssh", "nas", "/a/b", port=2222),
    ]
    assert len({share.folder for share in (first, *others)}) == 7
    assert str(first.folder) == "/run/recovery-wizard/smb-nas_a_b"
    assert Share("nfs", "nas", "/..").folder.parent == first.folder.parent


@pytest.mark.parametrize(
    ("share", "said", "meant"),
    [
        # What mount.cifs 7.4, mount.nfs 2.8 and sshfs 3.7 said, of Samba 4.17, nfs-ganesha 4.3 and OpenSSH 9.2.
        (Share("smb", "nas", "b", user="u"), "mount error(13): Permission denied Refer to the", "refuses this user"),
        (Share("smb", "nas", "b"), "mount error(13): Permission denied Refer to the", "wants a user"),
        (Share("smb", "nas", "b"), "mount error(2): No such file or directory Refer to", "no such share"),
        (Share("smb", "nas", "b"), "mount error(113): could not connect to 192.0.2.99", "does not answer"),
        (Share("smb", "nas", "b"), "mount error(115): could not connect to 198.51.100.1", "does not answer"),
        (Share("smb", "nas", "b"), "Try mounting with vers=1.0. mount error(112): Host is down", "SMB 1 only"),
        (Share("smb", "nas", "b"), "mount error: could not resolve address for nas: Unknown error", "nobody knows"),
        (Share("nfs", "nas", "/b"), "mount.nfs: access denied by server while mounting nas:/b", "does not export"),
        (Share("nfs", "nas", "/b"), "mount.nfs: No route to host for nas:/b on /run/x", "does not answer"),
        (Share("nfs", "nas", "/b"), "mount.nfs: Connection timed out for nas:/b on /run/x", "does not answer"),
        (Share("nfs", "nas", "/b"), "mount.nfs: Resource temporarily unavailable for nas:/b on", "nobody knows"),
        (Share("ssh", "nas", "/b"), "read: Connection reset by peer", "refuses this user"),
        (Share("ssh", "nas", "/b"), "root@nas:/b: No such file or directory", "no such folder"),
        (Share("ssh", "nas", "/b"), "fuse: device not found", "fuse: device not found"),
    ],
)
def test_a_servers_refusal_is_told_in_words(share: Share, said: str, meant: str) -> None:
    assert meant in refusal(share, said)[0]


def test_disks_are_mounted_so_that_nothing_is_written_to_them() -> None:
    words = str(mount_local(FileSystem("/dev/sdb1", "ext4")))
    assert words == "mount --mkdir -o ro,nosuid,nodev,noexec,noload -- /dev/sdb1 /run/recovery-wizard/dev_sdb1"


# --- Terminals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "encoding", "expected"),
    [
        ({"TERM": "xterm-256color"}, "utf-8", (True, True, True)),
        ({"TERM": "linux"}, "utf-8", (True, True, True)),
        ({"TERM": "linux"}, "ascii", (True, True, False)),
        ({"TERM": "xterm", "NO_COLOR": "1"}, "utf-8", (True, False, True)),
        ({"TERM": "vt100"}, "utf-8", (True, False, False)),
        ({"TERM": "vt220"}, "utf-8", (True, False, False)),
        ({"TERM": "dumb"}, "utf-8", (False, False, False)),
        ({}, "utf-8", (False, False, False)),
    ],
)
def test_what_a_terminal_can_show(environment: dict[str, str], encoding: str, expected: tuple[bool, ...]) -> None:
    shows = ability(environment, encoding)
    assert (shows.full_screen, shows.colour, shows.blocks) == expected
