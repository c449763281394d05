# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of a medium and of the machine that tries it: trees, initrd, layer, QEMU's words, stages of a boot."""

from __future__ import annotations

import io
import stat
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from typer.main import get_command

from bootmedia.build import apt_files, creation_time, included_files
from bootmedia.cli.app import app
from bootmedia.errors import RecipeError, ToolMissing
from bootmedia.initrd import _module, choose, names_module, plain, read_dependencies, with_dependencies
from bootmedia.kernels import given_kernel
from bootmedia.layer import Settings, layer_tree, ssh_keys
from bootmedia.machine import Bus, DirectBoot, Disk, Firmware, Machine
from bootmedia.programs import require_programs
from bootmedia.recipes import read_recipe
from bootmedia.tree import Tree
from bootmedia.trial import STAGES, Reached, Trial, _last_stage
from imager.errors import UsageError
from tests.harness.programs import call

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGh0b2 someone@example"
MODULES_DEP = """\
kernel/drivers/nvme/host/nvme.ko.xz: kernel/drivers/nvme/host/nvme-core.ko.xz
kernel/drivers/nvme/host/nvme-core.ko.xz:
kernel/fs/isofs/isofs.ko: kernel/drivers/cdrom/cdrom.ko
kernel/drivers/cdrom/cdrom.ko:
"""


# --- Trees ------------------------------------------------------------------------------------------------------


def a_tree(order):
    tree = Tree()
    for path in order:
        tree.add_file(path, path.encode(), mode=0o600)
    tree.add_link("etc/link", "/dev/null")
    return tree


def tar_of(tree):
    output = io.BytesIO()
    tree.write_tar(output, time=1000)
    return output.getvalue()


def test_the_order_of_adding_does_not_matter():
    one, two = a_tree(["b/x", "a"]), a_tree(["a", "b/x"])
    assert tar_of(one) == tar_of(two)
    assert one.digest() == two.digest()


def test_everything_belongs_to_root_and_has_the_same_time():
    with tarfile.open(fileobj=io.BytesIO(tar_of(a_tree(["b/x"])))) as archive:
        members = {member.name: member for member in archive}
        assert archive.extractfile("b/x").read() == b"b/x"
    assert list(members) == ["b", "b/x", "etc", "etc/link"]
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {(0, 0, 1000)}
    assert (members["b"].mode, members["b/x"].mode, members["etc/link"].linkname) == (0o755, 0o600, "/dev/null")


def test_a_change_of_a_mode_changes_the_digest():
    one, two = Tree(), Tree()
    one.add_file("a", b"", mode=0o644)
    two.add_file("a", b"", mode=0o755)
    assert one.digest() != two.digest()


def test_programs_of_a_folder_can_be_executed(tmp_path):
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "bin" / "tool").write_text("")
    (tmp_path / "usr" / "text").write_text("")
    tree = Tree()
    tree.add_all(tmp_path)
    modes = {path: stat.S_IMODE(entry.mode) for path, entry in tree if stat.S_ISREG(entry.mode)}
    assert modes == {"usr/bin/tool": 0o755, "usr/text": 0o644}


# --- Initrd -----------------------------------------------------------------------------------------------------


def test_modules_come_with_what_they_need():
    needs = read_dependencies(MODULES_DEP)
    chosen = choose(["drivers/nvme/host/nvme.ko", "fs/isofs/*"], needs)
    assert len(chosen) == 2
    assert with_dependencies(chosen, needs) == sorted(needs)


def test_a_pattern_can_take_out_again():
    assert choose(["drivers/*", "!drivers/nvme/*"], read_dependencies(MODULES_DEP)) == {"kernel/drivers/cdrom/cdrom.ko"}


def test_a_pattern_without_a_module_is_told():
    with pytest.raises(RecipeError, match=r"no module drivers/gone\.ko"):
        choose(["drivers/gone.ko"], read_dependencies(MODULES_DEP))


@pytest.mark.parametrize("tool", ["xz", "zstd", "gzip", None])
def test_modules_are_uncompressed_whatever_compressed_them(tmp_path, tool):
    path = tmp_path / "isofs.ko"
    path.write_bytes(b"module" * 1000)
    if tool:
        call(tool, "-q", path)
        path = next(tmp_path.glob("isofs.ko.*"))
    assert _module(path) == b"module" * 1000
    assert plain(path.name) == "isofs.ko"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("alias pci:v*d*sv*sd*bc01sc08i02* nvme", True),
        ("alias usb:v0781p*d* usb_storage", True),
        ("alias pci:v* e1000e", False),
        ("softdep usb-storage post: uas", True),
        ("softdep ext4 pre: nvme", False),
        ("# Aliases extracted from nvme", False),
        ("", False),
    ],
)
def test_tables_keep_lines_of_their_modules(line, kept):
    assert names_module(line, {"nvme", "usb_storage"}) is kept


# --- Layer ------------------------------------------------------------------------------------------------------


@dataclass
class FakeBase:
    keymaps: frozenset[str] = frozenset({"de", "us"})


def layer(tmp_path, **settings):
    return layer_tree(read_recipe("rescue"), FakeBase(), Settings("T", **settings), tmp_path)


def link(tree, path):
    return next((entry.content.decode() for name, entry in tree if name == path and entry.is_link), None)


def test_nothing_listens_without_a_key(tmp_path):
    tree = layer(tmp_path)
    assert link(tree, "etc/systemd/system/ssh.service") == "/dev/null"
    assert link(tree, "etc/systemd/system/ssh.socket") == "/dev/null"
    assert "root/.ssh/authorized_keys" not in tree


def test_with_a_key_ssh_starts(tmp_path):
    tree = layer(tmp_path, ssh_keys=ssh_keys(f"# mine\n{KEY}\n", "k.pub"))
    assert link(tree, "etc/systemd/system/ssh.service") is None
    assert link(tree, "etc/systemd/system/multi-user.target.wants/ssh.service") == "/usr/lib/systemd/system/ssh.service"
    modes = {path: stat.S_IMODE(entry.mode) for path, entry in tree}
    assert (modes["root/.ssh"], modes["root/.ssh/authorized_keys"]) == (0o700, 0o600)


def test_the_medium_carries_imager_and_not_its_own_maker(tmp_path):
    (tmp_path / "blake3").mkdir()
    (tmp_path / "blake3" / "__init__.py").touch()
    names = {path for path, _ in layer(tmp_path)}
    assert {"usr/lib/bootmedia/python/imager/cli/app.py", "usr/lib/bootmedia/python/blake3/__init__.py"} <= names
    assert "usr/lib/bootmedia/python/bootmedia/recovery/cli.py" in names
    assert not any("bootmedia/build" in path or "bootmedia/recipe" in path or "__pycache__" in path for path in names)


def test_an_unknown_keyboard_layout_is_told_with_those_that_there_are(tmp_path):
    assert "etc/bootmedia/keymap" in layer(tmp_path, keymap="de")
    with pytest.raises(RecipeError) as error:
        layer(tmp_path, keymap="klingon")
    assert error.value.hint == "There are: de, us."


@pytest.mark.parametrize("name", ["", "a b", "-a", "a.b", "x" * 64, "a\nb"])
def test_what_is_no_host_name_is_refused(name):
    with pytest.raises(RecipeError, match="not a host name"):
        Settings("T", host_name=name)


@pytest.mark.parametrize("text", ["", "-----BEGIN OPENSSH PRIVATE KEY-----\nabc", f"{KEY}\nnonsense"])
def test_what_is_no_public_key_is_refused(text):
    with pytest.raises(RecipeError, match="no public SSH key"):
        ssh_keys(text, "k")


# --- A kernel that is given --------------------------------------------------------------------------------------


def a_kernel(folder, version="6.6.1-mine"):
    """A file that begins as a bzImage does, and a folder of modules."""
    setup = bytearray(4096)
    setup[0x202:0x206] = b"HdrS"
    setup[0x20E:0x210] = (0x900 - 0x200).to_bytes(2, "little")
    text = f"{version} (me@here) #1 SMP".encode()
    setup[0x900 : 0x900 + len(text)] = text
    (folder / "vmlinuz").write_bytes(setup)
    modules = folder / version / "kernel"
    modules.mkdir(parents=True)
    (modules / "isofs.ko").touch()
    for table in ("modules.dep", "modules.alias", "modules.symbols", "modules.softdep", "modules.builtin"):
        (modules.parent / table).touch()
    return folder / "vmlinuz", modules.parent


def test_a_given_kernel_brings_its_modules(tmp_path):
    image, modules = a_kernel(tmp_path)
    kernel = given_kernel(image, modules)
    assert kernel.version == "6.6.1-mine"
    (modules / "build").symlink_to("/usr/src")
    packages = tmp_path / "packages"
    packages.mkdir()
    names = {path for path, _ in layer_tree(read_recipe("rescue"), FakeBase(), Settings("T"), packages, modules)}
    assert "usr/lib/modules/6.6.1-mine/kernel/isofs.ko" in names
    assert not any("build" in path for path in names if "modules" in path)


def test_a_kernel_does_not_get_the_modules_of_another(tmp_path):
    image, modules = a_kernel(tmp_path)
    with pytest.raises(RecipeError, match=r"is 6\.6\.1-mine, and the modules in .* are for 6\.6\.2"):
        given_kernel(image, modules.rename(tmp_path / "6.6.2"))


def test_what_is_no_kernel_and_no_folder_of_modules_is_refused(tmp_path):
    image, modules = a_kernel(tmp_path)
    with pytest.raises(RecipeError, match=r"has no modules\.dep") as error:
        given_kernel(image, tmp_path)
    assert "depmod" in error.value.hint
    image.write_bytes(b"MZ")
    with pytest.raises(RecipeError, match="no Linux kernel for x86"):
        given_kernel(image, modules)
    with pytest.raises(RecipeError, match="cannot be read"):
        given_kernel(tmp_path / "gone", modules)


# --- A build's inputs -------------------------------------------------------------------------------------------


def test_files_and_folders_are_included_by_their_paths(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    (tmp_path / "set" / "a" / "one.img.zst").touch()
    (tmp_path / "two.img.zst").touch()
    assert set(included_files([tmp_path / "set", tmp_path / "two.img.zst"])) == {"a/one.img.zst", "two.img.zst"}


def test_two_files_of_one_name_are_refused(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "i").touch()
    with pytest.raises(RecipeError, match="would both be images/i"):
        included_files([tmp_path / "x" / "i", tmp_path / "y"])


def test_what_is_not_there_cannot_be_included(tmp_path):
    with pytest.raises(RecipeError, match="is no file and no folder"):
        included_files([tmp_path / "gone"])


@pytest.mark.parametrize("value", ["yesterday", "-1", "4294967296"])
def test_a_wrong_time_is_refused(monkeypatch, value):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    with pytest.raises(UsageError, match="not seconds since 1970"):
        creation_time()


def test_a_machine_without_apt_has_no_sources(tmp_path):
    assert apt_files(tmp_path) == {}


def test_a_missing_program_is_told_with_its_package():
    with pytest.raises(ToolMissing) as error:
        require_programs("sh", "no-such-program-x")
    assert error.value.facts["missing"] == ["no-such-program-x"]


COMMANDS = get_command(app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_examples_and_statuses(name):
    command = COMMANDS[name]
    assert "--json" in {word for entry in command.params for word in entry.opts}
    assert "Examples:" in command.epilog
    assert "Exit status:" in command.epilog
    assert all(entry.help for entry in command.params)


# --- Machines ---------------------------------------------------------------------------------------------------

BIOS = Machine(firmware=Firmware.BIOS, medium=Path("/m.iso"))


def words(machine, tmp_path):
    return " ".join(machine.command(tmp_path))


def test_a_medium_is_a_cd_or_a_stick(tmp_path):
    assert "-device ide-cd,drive=medium,bootindex=0" in words(BIOS, tmp_path)
    assert "-device usb-storage,drive=medium,bootindex=0" in words(replace(BIOS, as_stick=True), tmp_path)
    assert "readonly=on,file=/m.iso" in words(BIOS, tmp_path)


def test_disks_hang_on_their_bus(tmp_path):
    disks = tuple(Disk(Path(f"/{bus.value}"), bus) for bus in Bus)
    said = words(replace(BIOS, disks=disks), tmp_path)
    for number, device in enumerate(("virtio-blk-pci", "ide-hd,bus=ide.2", "nvme", "usb-storage")):
        assert f"-device {device},drive=disk{number},serial=disk{number}" in said


def test_a_machine_has_a_screen_only_when_it_is_wanted(tmp_path):
    assert "-display none" in words(BIOS, tmp_path)
    assert "VGA" not in words(BIOS, tmp_path)
    said = words(replace(BIOS, screen="vnc=127.0.0.1:0"), tmp_path)
    assert "-display vnc=127.0.0.1:0 -device VGA" in said


def test_only_a_disk_that_is_thrown_away_is_kept_from_changes(tmp_path):
    assert "snapshot=on" not in words(replace(BIOS, disks=(Disk(Path("/d")),)), tmp_path)
    assert "snapshot=on" in words(replace(BIOS, disks=(Disk(Path("/d"), throw_away=True),)), tmp_path)


def test_a_comma_in_a_path_stays_in_the_path(tmp_path):
    assert "file=/a,,b.iso" in words(replace(BIOS, medium=Path("/a,b.iso")), tmp_path)


def test_a_kernel_from_outside_needs_no_boot_order(tmp_path):
    direct = DirectBoot(Path("/k"), Path("/i"), "quiet")
    said = words(replace(BIOS, direct_boot=direct), tmp_path)
    assert "-kernel /k -initrd /i -append quiet" in said
    assert "bootindex=0" not in said


# --- Stages of a boot -------------------------------------------------------------------------------------------


def test_a_later_stage_proves_those_before_it():
    assert _last_stage("") == 0
    assert _last_stage("SeaBIOS (version 1)") == 1
    assert _last_stage("[    0.000000] Linux version 6.12") == 3
    assert _last_stage("bootmedia: ready, 12 s") == len(STAGES)


def test_a_trial_names_the_stage_that_is_missing():
    trial = Trial(tuple(Reached(stage, 1.0) for stage in STAGES[:4]), secure_boot=False, said="")
    assert (trial.is_ready, trial.missing.name) == (False, "medium")
    whole = Trial(tuple(Reached(stage, 1.0) for stage in STAGES), secure_boot=False, said="")
    assert (whole.is_ready, whole.missing) == (True, None)
