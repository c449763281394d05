# SPDX-License-Identifier: GPL-3.0-or-later
"""recovery.toml: what is understood, and with which words the rest is refused."""

from __future__ import annotations

import contextlib
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootmedia.recovery.answers import Answers, words
from bootmedia.recovery.errors import AnswersWrong
from bootmedia.recovery.naming import filled, place_of, rule_of
from bootmedia.recovery.reading import read_answers

HOST_KEY = "SHA256:" + "A" * 43
SMALL = """
[match]
serial = "PF1ABC"
[[restore]]
image = "images/server.img.zst"
target = "largest"
"""
FULL = f"""
format = 1
after = "reboot"
wait_seconds = 0
[match]
serial = ["A1", "B2"]
mac = "52-54-00-AB-cd-01"
model = "*ThinkPad*"
[report]
url = "https://boss.example/report"
certificate = "{"ab:" * 31}cd"
log = "logs"
[[restore]]
image = "ssh://backup@nas.example:2222/srv/a.img.zst"
target = "serial=S4ENNX0N123456"
host_key = "{HOST_KEY}"
key = "keys/id_ed25519"
verify = true
[[restore]]
image = "label=BACKUP/b.img.zst"
target = "path=/dev/disk/by-path/pci-0000:00:17.0-ata-2"
partition = 2
onto = 3
accept_damage = true
"""


def refusal(text: str | bytes) -> AnswersWrong:
    with pytest.raises(AnswersWrong) as caught:
        read_answers(text if isinstance(text, bytes) else text.encode(), "r.toml")
    return caught.value


def test_the_smallest_file_asks_for_nothing_dangerous() -> None:
    answers = read_answers(SMALL.encode(), "r.toml")
    (restore,) = answers.restore
    assert words(answers.match.serial) == ("PF1ABC",)
    assert (answers.after, restore.verify, restore.accept_damage, restore.partition) == ("shell", False, False, None)


def test_every_key_can_be_given() -> None:
    tree = tomllib.loads(FULL)
    assert set(tree) == set(Answers.__struct_fields__)
    answers = read_answers(FULL.encode(), "r.toml")
    assert answers.restore[0].key == "keys/id_ed25519"
    assert (answers.restore[1].partition, answers.restore[1].onto) == (2, 3)


def test_notepads_mark_and_line_ends_do_no_harm() -> None:
    assert read_answers(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode(), "r.toml").restore


@pytest.mark.parametrize(
    ("line", "key", "number", "nearest"),
    [
        ("verfy = true\n", "verfy", 7, "verify"),
        ('Target = "only"\n', "Target", 7, "target"),
        ('host-key = "x"\n', "host-key", 7, "host_key"),
        ('"disk" = "x"\n', "disk", 7, ""),
        ("[reprot]\nurl = ''\n", "reprot", 7, "report"),
        ("[report]\nulr = ''\n", "ulr", 8, "url"),
    ],
)
def test_unknown_keys_are_refused_with_their_line_and_the_nearest_known(line, key, number, nearest) -> None:
    error = refusal(SMALL + line)
    assert f"line {number}: the key {key!r} is not known" in error.message
    assert error.facts["nearest"] == nearest
    assert nearest in error.hint


def test_an_unknown_key_of_an_inline_table_is_found() -> None:
    error = refusal('match = {any = true, sreial = "x"}\n' + SMALL.split('"PF1ABC"')[1])
    assert "'sreial' is not known" in error.message
    assert "serial" in error.hint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the key match is missing"),
        ("[match]\nany = true\n", "the key restore is missing"),
        ("restore = []\n[match]\nany = true\n", "restore: Expected `array` of length >= 1"),
        (SMALL.replace('serial = "PF1ABC"', ""), "[match] names no machine"),
        (SMALL.replace('serial = "PF1ABC"', "serial = []"), "[match] names no machine"),
        (SMALL.replace('"PF1ABC"', '" "'), "[match] has an empty value"),
        (SMALL.replace('serial = "PF1ABC"', 'mac = "52:54:00"'), "'52:54:00' is no MAC address"),
        (SMALL.replace("[match]", "[match]\nany = true"), "any = true and serial contradict each other"),
        (SMALL.replace('target = "largest"', ""), "restore 1: the key target is missing"),
        (SMALL.replace('"largest"', '"biggest"'), "restore 1: target: 'biggest' is none of largest"),
        (SMALL.replace('"largest"', '"serial="'), "is none of largest"),
        (SMALL.replace('"largest"', '"largest=sda"'), "is none of largest"),
        (SMALL.replace('"largest"', "5"), "restore 1.target: Expected `str`, got `int`"),
        (SMALL + "new_ids = true\npartition = 1\nonto = 1\n", "new_ids is for whole disks"),
        (SMALL + 'windows_drivers = "virtio-win"\n', "windows_drivers belongs to repair_boot"),
        (SMALL + "partition = 1\n", "partition and onto belong together"),
        (SMALL + "onto = 1\n", "partition and onto belong together"),
        (SMALL + "partition = 0\nonto = 1\n", "restore 1.partition: Expected `int` >= 1"),
        (SMALL + f'host_key = "{HOST_KEY}"\n', "host_key and key are for images at ssh://"),
        (SMALL + 'certificate = "00"\n', "certificate is for https:// only"),
        ('after = "halt"\n' + SMALL, "after: Invalid enum value 'halt'"),
        ("wait_seconds = -1\n" + SMALL, "wait_seconds: Expected `int` >= 0"),
        ("format = 2\n" + SMALL, "format 2 is not known here"),
        (SMALL + '[report]\nurl = "ftp://x/"\n', "is no URL that begins with http:// or https://"),
        (SMALL + '[report]\nurl = "http://[x/"\n', "'http://[x/' is no URL: Invalid IPv6 URL"),
        (SMALL + '[report]\nlog = "../../x"\n', "[report] log: '../../x' leads out of its folder"),
        (SMALL + '[report]\nlog = "logs/.."\n', "[report] log: 'logs/..' leads out of its folder"),
        (SMALL.replace("images/server.img.zst", "http://h:99999/y"), "Port out of range"),
        (SMALL.replace("images/server.img.zst", "https://[h/y"), "Invalid IPv6 URL"),
        (SMALL.replace("images/", "../"), "leads out of its folder"),
        (SMALL.replace('"images/server.img.zst"', '""'), "image is empty"),
        (SMALL.replace("images/server.img.zst", "label=X"), "a path is missing"),
        (SMALL.replace("images/server.img.zst", "ftp://x/y"), "is neither a path"),
        (SMALL.replace("images/server.img.zst", "http:///y"), "is neither a path"),
        (SMALL.replace("images/server.img.zst", "ssh://nas/a"), "host_key is missing"),
        (SMALL.replace("images/server.img.zst", "ssh://nas/a") + 'host_key = "MD5:00"\n', "is no fingerprint"),
        (SMALL.replace("images/server.img.zst", "ssh://-oProxyCommand=x/a"), "ssh would not take this"),
        (SMALL.replace("images/server.img.zst", "https://nas/a") + 'certificate = "zz"\n', "64 hexadecimal digits"),
        (SMALL + 'unlock = ["1:../key"]\n', "restore 1: unlock: '../key' leads out of its folder"),
        (SMALL + 'unlock = ["disk:http://nas/key"]\n', "restore 1: unlock: 'http://nas/key' must be a file, not a URL"),
        ("match", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        pytest.param("a = " + "9" * 5000, "more than 99 digits in line 1", id="5000 digits"),
        (b"#" * (1 << 20) + b"#", "has more than 1048576 bytes"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, told) -> None:
    error = refusal(text)
    assert told in error.message
    assert error.message.startswith("r.toml")
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [
        ("a/b.zst", "path", "a/b.zst"),
        ("/mnt/b.zst", "path", "/mnt/b.zst"),
        ("label=MY DISK/a/b.zst", "label", "a/b.zst"),
        ("https://h/b.zst?x=1", "http", "/b.zst"),
        ("ssh://h/b.zst", "ssh", "/b.zst"),
    ],
)
def test_places(text, kind, path) -> None:
    place = place_of(text)
    assert (place.kind, place.path) == (kind, path)


def test_ssh_without_a_name_is_root() -> None:
    assert (place_of("ssh://h/x").user, place_of("ssh://u@h:23/x").user, place_of("ssh://u@h:23/x").port) == (
        "root",
        "u",
        23,
    )


def test_rules() -> None:
    assert [str(rule_of(text)) for text in ("largest", " only ", "Serial = x y", "wwn=0x5")] == [
        "largest",
        "only",
        "serial=x y",
        "wwn=0x5",
    ]


def test_placeholders_are_filled_with_the_one_value_that_there_is() -> None:
    values = {"serial": ("A",), "mac": ("1", "2"), "model": ()}
    assert filled("http://x/{serial}.toml", values) == "http://x/A.toml"
    assert filled("{unknown}", values) == "{unknown}"
    assert filled("http://x/{serial}", {"serial": ("../a b",)}) == "http://x/..%2Fa%20b"
    assert filled("{serial}/a", {"serial": ("a b",)}) == "a b/a"
    for text, told in (("{mac}", "several: 1, 2"), ("{model}", "none")):
        with pytest.raises(ValueError, match=told):
            filled(text, values)


@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_any_bytes_are_answers_or_a_refusal(content) -> None:
    with contextlib.suppress(AnswersWrong):
        read_answers(content, "r.toml")


@settings(max_examples=30)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_image_and_target_are_answers_or_a_refusal(image, target) -> None:
    def quoted(text: str) -> str:
        return '"' + "".join(f"\\U{ord(c):08x}" for c in text if not 0xD800 <= ord(c) < 0xE000) + '"'

    text = f"[match]\nany = true\n[[restore]]\nimage = {quoted(image)}\ntarget = {quoted(target)}\n"
    with contextlib.suppress(AnswersWrong):
        read_answers(text.encode(), "r.toml")


@pytest.mark.parametrize("url", ["http://joe:hunter2@nas/a", "https://nas:hunter2@x/a", "ssh://joe:hunter2@nas/a"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    """Messages end up in logs and reports."""
    for text in (SMALL.replace("images/server.img.zst", url), f'{SMALL}[report]\nurl = "{url}"\n'):
        with pytest.raises(AnswersWrong, match=r"has a user or a password in it|is no URL that begins") as caught:
            read_answers(text.encode(), "recovery.toml")
        assert "hunter2" not in f"{caught.value.message} {caught.value.hint} {caught.value.facts}"
