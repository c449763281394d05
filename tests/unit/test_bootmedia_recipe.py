# SPDX-License-Identifier: GPL-3.0-or-later
"""What a medium is made from: recipe, package sources, boot menu, what is kept for the next build."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from bootmedia.base import packages_unavailable
from bootmedia.cache import Cache, key_of, mounts_below, remove, require_room
from bootmedia.errors import PackagesUnavailable, RecipeError, ToolFailed
from bootmedia.kernels import DEBIANS
from bootmedia.menu import filled, make_menu
from bootmedia.recipes import RECIPE, UnitChange, apply_unit_changes, firmware_packages, profiles, read_recipe
from bootmedia.sources import sources_text
from bootmedia.tree import Tree
from imager.errors import StoreError

TOP = Path(__file__).parents[2]
MENU = {"medium_id": "0123abcd", "title": 'A "new" disk', "timeout_seconds": 3}


@pytest.fixture
def folder(tmp_path):
    """A small recipe that tests can spoil."""
    for name, text in {
        "profiles/one.txt": "# a comment\nzstd\n\nlinux-image-amd64   # why\n",
        "leave-out.txt": "/usr/share/man/*\n!/usr/share/doc/*/copyright\n",
        "units.txt": "enable a.service multi-user.target\nmask b@x.timer\n",
        "initrd/modules.txt": "fs/isofs/*\n",
        "initrd/network-modules.txt": "drivers/net/virtio_net.ko\n",
        "boot/options.txt": "id=@ID@\nquiet  # less\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_comments_are_no_part_of_a_recipe(folder):
    recipe = read_recipe("one", folder=folder)
    assert recipe.packages == ("linux-image-amd64", "zstd")
    assert recipe.kernel_options == ("id=@ID@", "quiet")
    assert recipe.unit_changes[0] == UnitChange("enable", "a.service", "multi-user.target")


def test_a_package_can_be_added(folder):
    assert read_recipe("one", more_packages=["memtester=4.6.0-1"], folder=folder).packages[1] == "memtester=4.6.0-1"


@pytest.mark.parametrize("name", ["", "Zstd", "a", "--simulate", "zstd,zip", "zstd;reboot", "../x"])
def test_what_is_no_package_is_refused(folder, name):
    with pytest.raises(RecipeError, match="not the name of a Debian package"):
        read_recipe("one", more_packages=[name], folder=folder)


def test_an_unknown_profile_is_told_with_those_that_there_are(folder):
    with pytest.raises(RecipeError) as error:
        read_recipe("two", folder=folder)
    assert error.value.hint == "There are: one."


@pytest.mark.parametrize("line", ["enable a.service", "mask", "start a.service", "mask ../a.service", "mask a"])
def test_what_is_no_change_of_a_unit_is_refused(folder, line):
    (folder / "units.txt").write_text(line)
    with pytest.raises(RecipeError, match="is not a change of a unit"):
        read_recipe("one", folder=folder)


def test_units_are_links_that_systemd_reads():
    tree = Tree()
    tree.add_file("etc/systemd/system/own.service", b"")
    changes = [UnitChange("enable", name, "x.target") for name in ("own.service", "debians.service")]
    apply_unit_changes(tree, [*changes, UnitChange("mask", "not.timer")])
    links = {path: entry.content.decode() for path, entry in tree if entry.is_link}
    assert links == {
        "etc/systemd/system/x.target.wants/own.service": "/etc/systemd/system/own.service",
        "etc/systemd/system/x.target.wants/debians.service": "/usr/lib/systemd/system/debians.service",
        "etc/systemd/system/not.timer": "/dev/null",
    }


@pytest.mark.parametrize("profile", profiles())
def test_all_that_imager_needs_is_on_the_medium(profile):
    """Each dependency in pyproject.toml comes from Debian or from python.txt, at least in the version it asks for."""
    debian = {"msgspec", "numpy", "pyudev", "tqdm", "zstandard"}
    packages = read_recipe(profile).packages
    assert {f"python3-{name}" for name in debian} | {"python3-parted"} <= set(packages)
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", (RECIPE / "python.txt").read_text(), re.MULTILINE))
    for wanted in tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["dependencies"]:
        name, _, least = wanted.partition(">=")
        if name not in {*debian, "pyparted"}:
            assert [int(part) for part in pinned[name].split(".")] >= [int(part) for part in least.split(".")], name


def test_every_python_package_is_named_by_its_digest():
    lines = [line for line in (RECIPE / "python.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w-]+==\S+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)


# --- Package sources --------------------------------------------------------------------------------------------

DEB822 = """\
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Types: deb
URIs: https://other.example/node
Suites: nodistro
Components: main
Signed-By: /etc/apt/keyrings/node.gpg
"""


def test_this_machines_sources_are_rewritten_to_the_suite():
    text = sources_text("trixie", mirror=None, files={"debian.sources": DEB822})
    key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    assert text.splitlines() == [
        f"deb {key} http://mirror.example/debian trixie main",
        f"deb {key} http://mirror.example/debian trixie-updates main",
        f"deb {key} http://mirror.example/debian-security trixie-security main",
    ]


def test_one_line_sources_are_read_too():
    text = (
        "# old\ndeb [arch=amd64 signed-by=/k.gpg] http://m/debian bookworm main non-free # mine\ndeb-src http://m b c"
    )
    assert sources_text("trixie", mirror=None, files={"sources.list": text}) == (
        "deb [signed-by=/k.gpg] http://m/debian trixie main\n"
    )


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"a.list": "deb http://archive.ubuntu.com/ubuntu noble main"},
        {"a.sources": DEB822.replace("Types: deb\n", "Types: deb\nEnabled: no\n").replace("deb deb-src", "deb-src")},
        {"a.list": "deb http://m/debian bookworm contrib"},
    ],
    ids=["none", "other distribution", "switched off", "without main"],
)
def test_without_debians_own_sources_a_mirror_has_to_be_named(files):
    with pytest.raises(PackagesUnavailable, match="trixie") as caught:
        sources_text("trixie", mirror=None, files=files)
    assert "--mirror" in caught.value.hint


def test_a_user_without_user_namespaces_is_told_what_lacks():
    """In the words of mmdebstrap 1.3.5."""
    said = ["I: automatically chosen format: tar", "E: unable to pick chroot mode automatically (use --mode)"]
    error = packages_unavailable(ToolFailed("mmdebstrap", 1, said), "deb http://m/d trixie main")
    assert "chroot mode" in error.message
    assert "Build as root" in error.hint
    assert "/etc/subuid" in error.hint


def test_a_named_mirror_is_the_only_source():
    text = sources_text("trixie", mirror="http://snapshot.example/x", files={"debian.sources": DEB822})
    assert text.splitlines() == [
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://snapshot.example/x trixie main"
    ]


def test_firmware_comes_from_the_sources_that_offer_it():
    offered = DEB822.replace("main contrib", "main contrib non-free-firmware")
    text = sources_text("trixie", mirror=None, files={"debian.sources": offered}, firmware=True)
    key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
    assert text.splitlines() == [
        f"deb {key} http://mirror.example/debian trixie main non-free-firmware",
        f"deb {key} http://mirror.example/debian trixie-updates main non-free-firmware",
        f"deb {key} http://mirror.example/debian-security trixie-security main",
    ]
    assert "non-free" not in sources_text("trixie", mirror=None, files={"debian.sources": offered})


def test_two_lines_of_one_source_are_one_without_firmware():
    files = {"a.list": "deb http://m/d bookworm main\ndeb http://m/d bookworm main non-free-firmware"}
    assert len(sources_text("trixie", mirror=None, files=files).splitlines()) == 1


def test_firmware_that_is_not_offered_is_told():
    with pytest.raises(PackagesUnavailable, match="does not offer non-free-firmware") as caught:
        sources_text("trixie", mirror=None, files={"debian.sources": DEB822}, firmware=True)
    assert "--mirror" in caught.value.hint
    assert "main non-free-firmware" in sources_text("trixie", mirror="http://m/d", files={}, firmware=True)


def test_all_firmware_packages_are_names_of_packages():
    assert all(name.startswith("firmware-") for name in firmware_packages())


def test_another_kernel_takes_the_place_of_debians():
    packages = read_recipe("rescue").with_packages(["linux-image-rt-amd64"], instead_of=DEBIANS).packages
    assert [name for name in packages if name.startswith("linux-image")] == ["linux-image-rt-amd64"]


def test_a_key_inside_a_source_is_replaced_by_debians_keyring():
    inside = DEB822.replace("/usr/share/keyrings/debian-archive-keyring.gpg", "\n -----BEGIN PGP\n .\n abc")
    assert "BEGIN" not in sources_text("trixie", mirror=None, files={"debian.sources": inside})


# --- Boot menu --------------------------------------------------------------------------------------------------


def test_the_menu_looks_for_its_own_medium():
    menu = make_menu(read_recipe("rescue"), **MENU)
    assert "/bootmedia/id-0123abcd" in menu.grub
    assert "/bootmedia/id-0123abcd" in menu.efi
    assert "bootmedia.id=0123abcd" in menu.grub
    assert "@" not in menu.grub + menu.efi


def test_a_title_cannot_end_its_quotes():
    assert "menuentry \"A 'new' disk\" {" in make_menu(read_recipe("rescue"), **MENU).grub


def test_an_unknown_word_in_a_template_is_told():
    with pytest.raises(RecipeError, match="@NAME@ is not known"):
        filled("a @NAME@", {"ID": "1"}, "boot/grub.cfg")


# --- What is kept -----------------------------------------------------------------------------------------------


def test_a_key_depends_on_every_input_its_order_and_its_end():
    keys = {key_of("a", "b"), key_of("b", "a"), key_of("ab"), key_of("a", "b", ""), key_of("", "ab")}
    assert len(keys) == 5


def test_what_was_made_is_found_again(tmp_path):
    calls = []

    def make(place):
        calls.append(place)
        (place / "x").write_text(str(len(calls)))

    cache = Cache(tmp_path)
    assert cache.find_or_make("base", "1", make) == cache.find_or_make("base", "1", make)
    assert len(calls) == 1
    assert (cache.find_or_make("base", "1", make, anew=True) / "x").read_text() == "2"
    assert (cache.find_or_make("base", "2", make) / "x").read_text() == "3"


@pytest.mark.parametrize("problem", [OSError("full"), KeyboardInterrupt()])
def test_what_was_not_finished_is_not_there(tmp_path, problem):
    def make(place):
        (place / "x").write_text("half")
        raise problem

    with pytest.raises(type(problem)):
        Cache(tmp_path).find_or_make("base", "1", make)
    assert [path.name for path in tmp_path.iterdir()] == [".base.lock"]


def test_what_a_killed_build_left_is_taken_away(tmp_path):
    (tmp_path / ".base-abc" / "made").mkdir(parents=True)
    Cache(tmp_path).find_or_make("base", "1", lambda folder: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".base.lock", "base-1"]


MOUNTINFO = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /dev/shm rw - tmpfs tmpfs rw
41 22 0:25 / {0}/.base-x/root/dev/shm rw - tmpfs tmpfs rw
42 22 0:25 / {0}/.base-x/a\\040b rw - tmpfs tmpfs rw
43 22 0:25 / {0}/.base-xy rw - tmpfs tmpfs rw
"""


def test_mounts_in_a_folder_are_found(tmp_path):
    text, left = MOUNTINFO.format(tmp_path), tmp_path / ".base-x"
    assert mounts_below(left, text) == [left / "root/dev/shm", left / "a b"]
    assert mounts_below(tmp_path / ".base-xy", text) == [tmp_path / ".base-xy"]
    assert mounts_below(tmp_path / "other", text) == []


def test_nothing_is_deleted_where_something_is_mounted(tmp_path, monkeypatch):
    """A killed mmdebstrap may leave this machine's /dev/shm in its half-made root."""
    shared = tmp_path / ".base-x" / "root" / "dev" / "shm"
    shared.mkdir(parents=True)
    (shared / "of somebody else").touch()
    (tmp_path / "mountinfo").write_text(MOUNTINFO.format(tmp_path))
    monkeypatch.setattr("bootmedia.cache._MOUNTS", tmp_path / "mountinfo")
    Cache(tmp_path).find_or_make("base", "1", lambda folder: None)
    remove(tmp_path / ".base-x")
    assert (shared / "of somebody else").exists()


def test_an_old_one_stays_when_its_replacement_fails(tmp_path):
    cache = Cache(tmp_path)
    place = cache.find_or_make("base", "1", lambda folder: (folder / "x").touch())
    with pytest.raises(ZeroDivisionError):
        cache.find_or_make("base", "1", lambda folder: 1 // 0, anew=True)
    assert (place / "x").exists()


def test_missing_room_is_told_before_anything_is_made(tmp_path):
    with pytest.raises(StoreError, match="MiB free, 1099511627776 MiB are needed for all"):
        require_room(tmp_path, 1 << 60, "for all")
