# SPDX-License-Identifier: GPL-3.0-or-later
"""Registry files: what we read is what hivexml and reged read; what hivexsh changes; hives that are made to harm."""

from __future__ import annotations

import random
import shutil

import pytest

from imager.booting.windows.edits import RemoveKey, RemoveValue, SetValue, edit_hive, number, script, text, texts
from imager.booting.windows.registry import Hive, HiveDamaged, Key, Value
from imager.errors import VolumeFailed
from tests.harness.hives import Tree, binary, dword, make_hive, read_by_hivex, read_by_reged, string
from tests.harness.programs import missing_tools

pytestmark = pytest.mark.skipif(
    bool(missing_tools("hivexsh", "hivexml", "reged")), reason="needs libhivex-bin and chntpw"
)
TREE: Tree = {
    "ControlSet001": {
        "Services": {
            "storahci": {"Start": dword(3), "ImagePath": string("a\\b.sys", 2), "StartOverride": {"0": dword(3)}},
            "other": {},
            "third one": {"": string("default"), "big": binary(random.Random(1).randbytes(40000))},
        }
    },
    "MountedDevices": {"\\DosDevices\\C:": binary(b"123456789012"), "\\??\\Volume{x}": binary(b"")},
}


def everything(key: Key, where: str = "") -> dict[str, dict[str, tuple[int, bytes]]]:
    found = {where: {value.name: (value.type, value.data) for value in key.values()}}
    for each in key.subkeys():
        found |= everything(each, f"{where}\\{each.name}".strip("\\"))
    return found


@pytest.mark.parametrize("kind", ["lh", "lf", "li", "ri"])
def test_others_read_the_same(tmp_path, kind):
    path = tmp_path / "hive"
    path.write_bytes(make_hive(TREE, list_kind=kind))
    ours = everything(Hive(path.read_bytes(), "hive").root)
    assert ours == read_by_hivex(path)
    assert ours.keys() == read_by_reged(path, tmp_path).keys()
    assert len(ours) == 8


def test_names_are_found_in_any_case():
    hive = Hive(make_hive(TREE), "hive")
    key = hive.key("controlset001\\SERVICES\\StorAHCI")
    assert key is not None
    assert key.name == "storahci"
    assert key.value("start").number == 3
    assert hive.key("ControlSet001\\nothing\\at all") is None


def test_a_hive_that_was_not_closed_is_known():
    assert Hive(make_hive(TREE), "hive").is_clean
    assert not Hive(make_hive(TREE, sequences=(2, 1)), "hive").is_clean


EDITS = [
    SetValue("ControlSet001\\Services\\storahci", number("Start", 0)),
    RemoveKey("ControlSet001\\Services\\storahci\\StartOverride"),
    SetValue("ControlSet001\\Services\\viostor", text("ImagePath", 2, "System32\\drivers\\viostor.sys")),
    SetValue("ControlSet001\\Services\\viostor", number("Start", 0)),
    SetValue("DriverDatabase\\DriverInfFiles\\x.inf", texts("", 7, ["x.inf_boot"])),
    RemoveValue("MountedDevices", "\\??\\VOLUME{X}"),
    RemoveValue("MountedDevices", "not there"),
    RemoveKey("ControlSet001\\not there"),
]


def test_hivexsh_changes_what_is_wanted_and_nothing_else(tmp_path):
    path = tmp_path / "hive"
    path.write_bytes(make_hive(TREE))
    expected = read_by_hivex(path)
    edit_hive(path, EDITS, "hive")
    expected["ControlSet001\\Services\\storahci"]["Start"] = (4, bytes(4))
    del expected["ControlSet001\\Services\\storahci\\StartOverride"]
    expected["ControlSet001\\Services\\viostor"] = {
        "ImagePath": (2, "System32\\drivers\\viostor.sys\0".encode("utf-16-le")),
        "Start": (4, bytes(4)),
    }
    expected |= {"DriverDatabase": {}, "DriverDatabase\\DriverInfFiles": {}}
    expected["DriverDatabase\\DriverInfFiles\\x.inf"] = {"": (7, "x.inf_boot\0\0".encode("utf-16-le"))}
    del expected["MountedDevices"]["\\??\\Volume{x}"]
    assert read_by_hivex(path) == expected
    other = read_by_reged(path, tmp_path)
    assert other.keys() == expected.keys()
    assert other["ControlSet001\\Services\\storahci"]["Start"] == "dword:00000000"


def test_a_name_that_would_be_a_command_is_refused():
    hive = Hive(make_hive({"MountedDevices": {"a\ncommit": binary(b"1"), "b": binary(b"2")}}), "hive")
    with pytest.raises(VolumeFailed, match="cannot be given to hivexsh"):
        script(hive, [RemoveValue("MountedDevices", "b")])


def test_a_value_that_hivexsh_would_cut_is_refused():
    hive = Hive(make_hive({"k": {"long": binary(bytes(5000)), "b": binary(b"2")}}), "hive")
    with pytest.raises(VolumeFailed, match="too long"):
        script(hive, [RemoveValue("k", "b")])


def test_hivexsh_that_fails_is_told(tmp_path, monkeypatch):
    path = tmp_path / "hive"
    path.write_bytes(make_hive(TREE))
    false = shutil.which("false")
    (tmp_path / "hivexsh").symlink_to(false)
    monkeypatch.setattr("imager.process._PATH", str(tmp_path))
    with pytest.raises(VolumeFailed, match="could not be changed: hivexsh"):
        edit_hive(path, EDITS, "SYSTEM")


def test_what_hivexsh_did_not_do_is_seen(tmp_path, monkeypatch):
    path = tmp_path / "hive"
    path.write_bytes(make_hive(TREE))
    (tmp_path / "hivexsh").symlink_to(shutil.which("true"))
    monkeypatch.setattr("imager.process._PATH", str(tmp_path))
    with pytest.raises(HiveDamaged, match="does not have the values"):
        edit_hive(path, EDITS, "SYSTEM")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no registry file"),
        (b"MZ" + bytes(8190), "no registry file"),
        (make_hive(TREE)[:-4096], "cut short"),
        (make_hive(TREE)[:4000], "no registry file"),
        (make_hive(TREE, minor=9), "version 1.9"),
        (make_hive(TREE)[:508] + b"\1\2\3\4" + make_hive(TREE)[512:], "checksum"),
    ],
)
def test_what_is_no_hive_is_refused(raw, words):
    with pytest.raises(HiveDamaged, match=words):
        Hive(raw, "SYSTEM")


def test_a_key_that_is_its_own_child_ends():
    raw = bytearray(make_hive({"a": {"b": {}}}))
    at = raw.index(b"lh\1\0")
    root = int.from_bytes(raw[36:40], "little")
    second = raw.index(b"lh\1\0", at + 1)
    for place in (at, second):
        raw[place + 4 : place + 8] = root.to_bytes(4, "little")
    hive = Hive(bytes(raw), "hive")
    assert hive.key("a\\b\\c") is None
    assert [key.name[:7] for key in hive.root.subkeys()] == ["CsiTool"]


def test_damage_ends_in_an_error_and_nothing_else():
    """Bytes anywhere behind the first block are other ones; whatever is asked then, the answer is one or an error."""
    good = make_hive(TREE, list_kind="ri")
    rng = random.Random(5)
    outcomes = set()
    for _ in range(400):
        raw = bytearray(good)
        for _ in range(rng.randint(1, 40)):
            at = rng.randrange(4096, 4096 + 3000)
            raw[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        try:
            hive = Hive(bytes(raw), "hive")
            for path in ("ControlSet001\\Services\\storahci\\StartOverride", "MountedDevices"):
                key = hive.key(path)
                outcomes.add(bool(key and key.values()))
        except HiveDamaged:
            outcomes.add("damaged")
    assert outcomes == {True, False, "damaged"}


def test_a_value_keeps_its_text():
    assert Value("x", 1, "C:\\Windows\0rest".encode("utf-16-le")).text == "C:\\Windows"
    assert Value("x", 3, b"\1\0\0\0").number is None
