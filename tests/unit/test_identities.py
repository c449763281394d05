# SPDX-License-Identifier: GPL-3.0-or-later
"""New identifiers: what gets one, what keeps its own and why, and what becomes of texts that name them."""

from __future__ import annotations

import re
import uuid

import pytest

from imager.booting.tree import Tree
from imager.identities.files import replaced, replacing_steps
from imager.identities.model import IdPlan
from imager.identities.planning import mapping, plan_ids, with_new_table
from imager.layout import Content, Identity, Layout, Partition, Table

MIB = 1024 * 1024
OLD = "c0ffee00-1111-4222-8333-444444444444"
NEW = "deadbe01-5555-4666-8777-888888888888"


def filesystem(kind: str, identifier: str, **more: object) -> Content:
    return Content("filesystem", kind, uuid=identifier, **more)  # type: ignore[arg-type]


def layout(kind: str, *contents: Content, disk_id: str = "") -> Layout:
    entries = tuple(
        Partition(number, number * MIB, (number + 1) * MIB, uuid=str(uuid.UUID(int=number)) if kind == "gpt" else "",
                  content=content)
        for number, content in enumerate(contents, 1)
    )  # fmt: skip
    table = Table(kind, disk_id or (str(uuid.UUID(int=99)) if kind == "gpt" else "0xdf4546ae"))  # type: ignore[arg-type]
    return Layout(Identity(), 100 * MIB, 512, 512, table, entries)


def planned(*layouts: Layout, missing: tuple[str, ...] = ()) -> IdPlan:
    return plan_ids(
        [(f"/dev/{number}", each) for number, each in enumerate(layouts)], is_installed=lambda name: name not in missing
    )


def test_every_kind_gets_what_looks_like_its_own():
    kinds = {"ext4": OLD, "vfat": "ABCD-1234", "ntfs": "0123456789ABCDEF", "xfs": OLD[::-1], "swap": NEW}
    plan = planned(layout("gpt", *(filesystem(kind, text) for kind, text in kinds.items())))
    assert not plan.kept
    forms = {"vfat": r"[0-9A-F]{4}-[0-9A-F]{4}", "ntfs": r"[0-9A-F]{16}"}
    for each in plan.of_kind("content"):
        assert re.fullmatch(
            forms.get(each.type, r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"), each.new
        )
        assert each.old == kinds[each.type]
    assert len(plan.of_kind("partition")) == 5
    assert len({each.new for each in plan.ids}) == len(plan.ids) == 11


def test_two_plans_draw_other_ones():
    disk = layout("mbr", filesystem("ext4", OLD))
    assert not {each.new for each in planned(disk).ids} & {each.new for each in planned(disk).ids}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (filesystem("f2fs", OLD), "no program gives it a new one"),
        (filesystem("apfs", OLD), "no program"),
        (filesystem("ntfs", "0123456789ABCDEF", facts={"hibernated": "hiberfil.sys"}), "a system sleeps in it"),
        (Content("encrypted", "BitLocker", uuid=OLD), "no program"),
    ],
)
def test_what_cannot_be_changed_is_told_before(content, words):
    plan = planned(layout("gpt", content))
    assert not plan.of_kind("content")
    assert words in plan.kept[0]
    assert f"KEPT: {plan.kept[0]}" in [*plan.lines()]


def test_a_program_that_is_not_there_is_told_before():
    plan = planned(layout("gpt", filesystem("xfs", OLD)), missing=("xfs_admin",))
    assert plan.kept == (f"partition 1: xfs keeps {OLD}: xfs_admin is not installed",)


def test_a_locked_container_keeps_what_is_in_it():
    plan = planned(layout("gpt", Content("encrypted", "crypto_LUKS", uuid=OLD)))
    assert [each.type for each in plan.of_kind("content")] == ["crypto_LUKS"]
    assert "--unlock 1" in plan.kept[0]


def test_no_option_is_told_that_would_not_unlock_it():
    """--unlock takes the number of a partition that is a container; that of a member of an array is none."""
    container = Content("encrypted", "crypto_LUKS", uuid=OLD, name="host:0")
    plan = planned(layout("gpt", Content("raid", "linux_raid_member", uuid=NEW, inside=(container,))))
    assert plan.kept == ("host:0: what is in it keeps its identifiers, as it is locked",)


def array_member(role: str, **facts: str) -> Content:
    inside = (filesystem("ext4", NEW, name="md/0"),)
    facts = {"members": "2", "role": role, **facts}
    return Content("raid", "linux_raid_member", uuid=OLD, facts=facts, inside=inside)


def test_what_lacks_a_part_keeps_everything_and_the_plan_says_so():
    """One half of a mirror, one device of a Btrfs, one physical volume: its tool needs all of them."""
    mirror = array_member("0")
    plan = planned(layout("gpt", mirror, array_member("none")))
    assert [each.kind for each in plan.ids] == ["disk", "partition", "partition"]
    assert plan.kept[0] == (
        f"partition 1: linux_raid_member keeps {OLD}, and so does what is in it: only 1 of its 2 parts are here"
    )
    group = {"volume_group": "vg", "volume_group_uuid": "x", "physical_volumes": "3"}
    for each in (
        filesystem("btrfs", OLD, facts={"device": "1 of 2"}),
        Content("volume-manager", "LVM2_member", uuid="a-b", facts=group, inside=(filesystem("ext4", NEW),)),
    ):
        plan = planned(layout("gpt", each))
        assert [found.kind for found in plan.ids] == ["disk", "partition"]
        assert "only 1 of its" in plan.kept[0]


def test_parts_on_several_disks_are_counted_together():
    plan = planned(layout("gpt", array_member("0")), layout("gpt", array_member("1")))
    assert [each.old for each in plan.of_kind("array", "content")] == [OLD, NEW]
    assert not plan.kept
    btrfs = [filesystem("btrfs", OLD, facts={"device": f"{number} of 2"}) for number in (1, 2)]
    assert [each.old for each in planned(*(layout("gpt", each) for each in btrfs)).of_kind("content")] == [OLD]


def test_a_group_on_an_array_is_seen_through_each_member_and_counted_once():
    group = {"volume_group": "vg", "volume_group_uuid": "x", "physical_volumes": "2"}
    pv = Content("volume-manager", "LVM2_member", uuid="a-b", facts=group, name="md/0")
    members = [Content("raid", "linux_raid_member", uuid=OLD, facts={"members": "2", "role": role}, inside=(pv,))
               for role in "01"]  # fmt: skip
    plan = planned(layout("gpt", *members))
    assert not plan.of_kind("group")
    assert "only 1 of its 2 parts" in plan.kept[0]


def member(pv: str) -> Content:
    inside = (filesystem("ext4", OLD, name="vg0/root"),)
    return Content("volume-manager", "LVM2_member", uuid=pv, facts={"volume_group": "vg0"}, inside=inside)


def test_what_cannot_be_looked_into_is_told_before():
    """A logical volume that is not followed may hold anything."""
    volume = Content("unknown", "cache", name="vg0/slow", whole_reason="dirty blocks lie in its cache")
    plan = planned(layout("gpt", Content("volume-manager", "LVM2_member", uuid="a-b", inside=(volume,))))
    assert "vg0/slow: what is in it keeps its identifiers: dirty blocks lie in its cache" in plan.kept


def test_a_copy_on_the_same_disk_is_told():
    plan = planned(layout("gpt", filesystem("ext4", OLD), filesystem("ext4", OLD)))
    assert [each.where for each in plan.of_kind("content")] == ["partition 1"]
    assert plan.kept == (f"partition 2: ext4 keeps {OLD}: it is the same as that of partition 1",)


def test_partitions_of_several_disks_are_told_apart():
    plan = planned(layout("gpt", filesystem("ext4", OLD)), layout("gpt", filesystem("ext4", NEW), disk_id=NEW))
    said = [line.partition(" becomes")[0] for line in plan.lines()]
    assert len(said) == len(set(said))
    assert f"partition 1 of /dev/1: partition GUID {uuid.UUID(int=1)}" in said


def test_a_group_on_two_disks_is_one_group():
    plan = planned(layout("gpt", member("a-b")), layout("mbr", member("c-d")))
    (group,) = plan.of_kind("group")
    assert group.old == "vg0"
    assert re.fullmatch(r"vg0_[0-9a-f]{4}", group.new)
    assert [each.name for each in plan.of_kind("content")] == ["vg0/root"]
    assert {each.disk for each in plan.of_kind("disk")} == {"/dev/0", "/dev/1"}


def test_a_disk_without_a_table_and_empty_partitions_have_nothing():
    assert not planned(layout("none")).ids
    plan = planned(layout("mbr", Content("blank", "blank"), Content("unknown", "unknown")))
    assert [each.kind for each in plan.ids] == ["disk"]
    assert not plan.kept


def test_partitions_of_an_mbr_are_named_by_the_signature():
    disk = layout("mbr", filesystem("ext4", OLD), filesystem("vfat", "ABCD-1234"))
    plan = planned(disk)
    (signature,) = [each.new for each in plan.of_kind("disk")]
    names = mapping(plan.ids, {"/dev/0": disk})
    text, _ = replaced("root=PARTUUID=df4546ae-02 /dev/disk/by-partuuid/df4546ae-01", names, {})
    assert text == f"root=PARTUUID={signature}-02 /dev/disk/by-partuuid/{signature}-01"
    assert with_new_table(disk, plan, "/dev/0").table.id == signature


def test_the_layout_with_the_new_table_has_the_guids_of_the_plan():
    disk = layout("gpt", filesystem("ext4", OLD))
    plan = planned(disk)
    changed = with_new_table(disk, plan, "/dev/0")
    assert [changed.table.id, changed.partitions[0].uuid] == [each.new for each in plan.of_kind("disk", "partition")]
    assert changed.partitions[0].content == disk.partitions[0].content


IDS = {OLD: NEW, "ABCD-1234": "1111-2222", "df4546ae": "01020304"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"UUID={OLD} / ext4", f"UUID={NEW} / ext4"),
        (f'UUID="{OLD.upper()}" /', f'UUID="{NEW.upper()}" /'),
        (f"rd.luks.uuid=luks-{OLD} x", f"rd.luks.uuid=luks-{NEW} x"),
        (f"/dev/mapper/luks-{OLD}", f"/dev/mapper/luks-{NEW}"),
        (f"gnulinux-6.1-advanced-{OLD}", f"gnulinux-6.1-advanced-{NEW}"),
        ("UUID=ABCD-1234 /boot/efi vfat", "UUID=1111-2222 /boot/efi vfat"),
        ("--fs-uuid abcd-1234", "--fs-uuid 1111-2222"),
        # A part of something longer is something else.
        ("UUID=00000000-abcd-1234-8000-000000000000", "UUID=00000000-abcd-1234-8000-000000000000"),
        (f"{OLD}0", f"{OLD}0"),
        (f"f{OLD}", f"f{OLD}"),
        ("xABCD-1234", "xABCD-1234"),
    ],
)
def test_only_whole_identifiers_become_others(text, expected):
    assert replaced(text, IDS, {})[0] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/dev/mapper/my--vg-root /", "/dev/mapper/my--vg_1-root /"),
        ("/dev/my-vg/root /", "/dev/my-vg_1/root /"),
        ("rd.lvm.lv=my-vg/root rd.lvm.vg=my-vg quiet", "rd.lvm.lv=my-vg_1/root rd.lvm.vg=my-vg_1 quiet"),
        ("/dev/mapper/my--vg--2-root", "/dev/mapper/my--vg--2-root"),
        ("/dev/mapper/my--vg2-root /dev/my-vg2/root", "/dev/mapper/my--vg2-root /dev/my-vg2/root"),
        ("my-vg is a name", "my-vg is a name"),
    ],
)
def test_a_group_is_renamed_where_it_is_one(text, expected):
    assert replaced(text, {}, {"my-vg": "my-vg_1"})[0] == expected


def test_files_that_others_keep_are_left_alone(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "boot/loader/entries").mkdir(parents=True)
    for name in ("etc/fstab", "etc/motd", "boot/loader/entries/a.conf", "boot/loader/entries/a.conf.bak"):
        (tmp_path / name).write_text(f"root=UUID={OLD}\n")
    steps = list(replacing_steps(Tree(tmp_path), {OLD: NEW}, {}))
    assert [step.path for step in steps] == ["/etc/fstab", "/boot/loader/entries/a.conf"]
    assert all(step.new_text == f"root=UUID={NEW}\n" for step in steps)


def test_grubs_environment_keeps_its_length(tmp_path):
    (tmp_path / "boot/grub2").mkdir(parents=True)
    before = f"# GRUB Environment Block\nkernelopts=root=/dev/mapper/vg-root resume=UUID={OLD}\n".ljust(1024, "#")
    (tmp_path / "boot/grub2/grubenv").write_text(before)
    (step,) = replacing_steps(Tree(tmp_path), {OLD: NEW}, {"vg": "vg_12ab"})
    assert len(step.new_text) == 1024
    assert step.new_text.rstrip("#") == before.rstrip("#").replace(OLD, NEW).replace("vg-root", "vg_12ab-root")


DEVICES = "/etc/lvm/devices/system.devices"
INNER = f"IDTYPE=crypt_uuid IDNAME=CRYPT-LUKS2-{OLD.replace('-', '')}-vault DEVNAME=/dev/dm-0 PVID=abc\n"
STRANGER = "IDTYPE=sys_serial IDNAME=WD-1234 DEVNAME=/dev/sdq PVID=abc\n"


@pytest.mark.parametrize(
    ("text", "ids", "groups", "is_put_aside"),
    [
        (INNER, {}, {"vg": "vg_12ab"}, True),  # the physical volume in it has another UUID, too
        (INNER, {OLD.replace("-", ""): NEW.replace("-", "")}, {}, True),
        (STRANGER, {OLD: NEW}, {}, False),
    ],
)
def test_lvm_is_not_kept_from_disks_with_new_identifiers(tmp_path, text, ids, groups, is_put_aside):
    """Fedora and RHEL list the disks that lvm may look at; on others it would find no volumes."""
    place = tmp_path / DEVICES.lstrip("/")
    place.parent.mkdir(parents=True)
    place.write_text(text)
    steps = [(step.kind, step.path) for step in replacing_steps(Tree(tmp_path), ids, groups)]
    assert steps == ([("put-aside", DEVICES)] if is_put_aside else [])
