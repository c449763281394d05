# SPDX-License-Identifier: GPL-3.0-or-later
"""Arrays and LUKS containers get new UUIDs, and both disks are opened side by side, by their own tools.

The medium's own system does all of it, in one guest: mdadm, cryptsetup and lvm on Debian's kernel. A system on the disk
names all of it in its files; its programs are scripts, as nothing is started here.
"""

from __future__ import annotations

import re

import pytest

from bootmedia.guest import Guest
from bootmedia.machine import Disk
from tests.harness.disks import MIB, Part, gpt_disk, listed
from tests.harness.loop import needs_root
from tests.harness.programs import call
from tests.harness.stacks import LINUX, lay_in
from tests.harness.systems import made_system, with_shell
from tests.vm.conftest import blank
from tests.vm.shell import ran, shell

pytestmark = [pytest.mark.slow, needs_root]
SIZE = 700 * MIB
RAID = "A19D880F-05FC-4D3B-A006-743F0F84911E"
LUKS = "CA7D7CCB-63ED-4C53-861C-1742536059CC"
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
OTHERS = {"CLONE": SIZE, "HALF": 64 * MIB, "TARGET": 64 * MIB}
PARTS = (
    *(Part(96 * MIB, type=RAID), Part(96 * MIB, type=RAID)),  # RAID 1, of metadata 1.2: ext4
    *(Part(64 * MIB, type=RAID), Part(64 * MIB, type=RAID)),  # RAID 0, of metadata 1.0: a container, locked
    Part(96 * MIB, type=LUKS),  # LUKS2: ext4
    Part(96 * MIB, type=LUKS),  # LUKS1: a volume group with ext4
    *(Part(24 * MIB, type=RAID), Part(24 * MIB, type=RAID)),  # RAID 1, of metadata 0.90: swap
    Part(64 * MIB, type=LINUX),  # a system
    Part(MIB, type=BIOS_BOOT),
)
OLD = {
    "mirror": "11111111-2222-4333-8444-555555555551",
    "stripe": "11111111-2222-4333-8444-555555555552",
    "ancient": "11111111-2222-4333-8444-555555555553",
    "inner": "11111111-2222-4333-8444-555555555554",
    "two": "11111111-2222-4333-8444-555555555555",
    "one": "11111111-2222-4333-8444-555555555556",
    "files": "11111111-2222-4333-8444-555555555557",
    "vault": "11111111-2222-4333-8444-555555555558",
    "volume": "11111111-2222-4333-8444-555555555559",
    "swap": "11111111-2222-4333-8444-55555555555a",
    "root": "11111111-2222-4333-8444-55555555555b",
}
CHEAP = "cryptsetup luksFormat -q --pbkdf-force-iterations 1000"
MAKE = f"""
printf word > /tmp/key
mdadm --create /dev/md/mirror --run --level=1 --raid-devices=2 --metadata=1.2 --bitmap=internal \
    --uuid={OLD["mirror"]} --assume-clean /dev/vda1 /dev/vda2
mdadm --create /dev/md/stripe --run --level=0 --raid-devices=2 --metadata=1.0 --uuid={OLD["stripe"]} \
    /dev/vda3 /dev/vda4
mdadm --create /dev/md/ancient --run --level=1 --raid-devices=2 --metadata=0.90 --uuid={OLD["ancient"]} \
    --assume-clean /dev/vda7 /dev/vda8
{CHEAP} --type luks2 --pbkdf pbkdf2 --uuid {OLD["inner"]} /dev/md/stripe /tmp/key
{CHEAP} --type luks2 --pbkdf pbkdf2 --uuid {OLD["two"]} /dev/vda5 /tmp/key
{CHEAP} --type luks1 --uuid {OLD["one"]} /dev/vda6 /tmp/key
cryptsetup open --key-file /tmp/key /dev/md/stripe inner
cryptsetup open --key-file /tmp/key /dev/vda5 two
cryptsetup open --key-file /tmp/key /dev/vda6 one
pvcreate -q /dev/mapper/one && vgcreate -q vg-c /dev/mapper/one && lvcreate -q -y -n data -L 64M vg-c
mkswap -q -U {OLD["swap"]} /dev/md/ancient
mkfs.ext4 -q -U {OLD["files"]} /dev/md/mirror
mkfs.ext4 -q -U {OLD["vault"]} /dev/mapper/two
mkfs.ext4 -q -U {OLD["volume"]} /dev/vg-c/data
mkfs.ext4 -q /dev/mapper/inner
for each in md/mirror mapper/two vg-c/data mapper/inner; do
    mount /dev/$each /mnt && cp -a /usr/share/doc/bash /mnt && echo $each > /mnt/mark
    (cd /mnt && find . -type f -exec sha256sum {{}} + | sort > /tmp/sums-${{each##*/}}); umount /mnt
done
vgchange -q -an vg-c && cryptsetup close inner && cryptsetup close two && cryptsetup close one
udevadm settle; mdadm --stop --scan && test -s /tmp/sums-inner
"""
MAKE_PAIR = """
truncate -s 64M /tmp/other /tmp/other-target && losetup /dev/loop7 /tmp/other
mdadm --create /dev/md/pair --run --assume-clean --level=1 --raid-devices=2 --metadata=1.2 --bitmap=none \
    /dev/vdc /dev/loop7
mkfs.ext4 -q -F /dev/md/pair && mount /dev/md/pair /mnt && cp -a /usr/share/doc/bash /mnt
(cd /mnt && find . -type f -exec sha256sum {} + | sort > /tmp/sums-pair); umount /mnt
udevadm settle; mdadm --stop /dev/md/pair && test -s /tmp/sums-pair
"""
FSTAB = f"""\
UUID={OLD["root"]} / ext4 defaults 0 1
UUID={OLD["files"]} /srv ext4 defaults 0 2
/dev/disk/by-uuid/{OLD["vault"]} /vault ext4 defaults 0 2
/dev/vg-c/data /data ext4 defaults 0 2
UUID={OLD["swap"]} none swap sw 0 0
"""
CRYPTTAB = f"""\
two UUID={OLD["two"]} none luks
one /dev/disk/by-uuid/{OLD["one"]} none luks
inner UUID={OLD["inner"]} none luks
"""


def as_mdadm(text: str) -> str:
    plain = text.replace("-", "")
    return ":".join(plain[at : at + 8] for at in range(0, 32, 8))


MDADM_CONF = "".join(
    f"ARRAY /dev/md/{name}{' metadata=1.2' if name == 'mirror' else ''} UUID={as_mdadm(OLD[name])}\n"
    for name in ("mirror", "stripe", "ancient")
)
FILES = {"etc/fstab": FSTAB, "etc/crypttab": CRYPTTAB, "etc/mdadm/mdadm.conf": MDADM_CONF}


@pytest.fixture(scope="module")
def guest(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    source = gpt_disk(folder / "source.img", SIZE, PARTS)
    holds = "#!/bin/sh\nfor each in virtio_blk virtio_pci; do echo usr/lib/modules/x/$each.ko; done\n"
    system = with_shell(made_system(folder / "system", "debian", {**FILES, "usr/sbin/lsinitramfs": holds}))
    root = blank(folder / "root.img", 64 * MIB)
    call("mke2fs", "-q", "-t", "ext4", "-U", OLD["root"], "-d", system, root)
    lay_in(source, root, listed(source)[8].start)
    others = (Disk(blank(folder / name, size), serial=name) for name, size in OTHERS.items())
    with shell(prepared.medium, folder, (Disk(source, serial="SOURCE"), *others)) as guest:
        ran(guest, MAKE)
        guest.old_digest = ran(guest, "sha256sum < /dev/vda")
        unlock = "--unlock 5:/tmp/key --unlock 6:/tmp/key"
        guest.told = ran(guest, f"imager clone --new-ids {unlock} /dev/vda /dev/vdb --yes 2>&1")
        print(guest.told)
        ran(guest, "udevadm settle")
        yield guest


def identifiers(guest: Guest, disk: str) -> dict[str, str]:
    """What blkid and mdadm say is on each partition."""
    found = {}
    for number in range(1, len(PARTS)):
        said = ran(guest, f"blkid -p -o export /dev/{disk}{number}")
        found[f"{number}"] = re.search(r"^UUID=(\S+)$", said, re.MULTILINE)[1]
    return found


def test_nothing_failed_and_nothing_is_left_open(guest):
    assert "FAILED" not in guest.told
    assert "No devices found" in ran(guest, "dmsetup ls")
    assert "active" not in ran(guest, "cat /proc/mdstat")
    assert ran(guest, "sha256sum < /dev/vda") == guest.old_digest


def test_members_and_containers_have_other_uuids(guest):
    old, new = identifiers(guest, "vda"), identifiers(guest, "vdb")
    assert not set(old.values()) & set(new.values())
    for disk in (old, new):  # the members of an array have one in common
        assert disk["1"] == disk["2"] != disk["3"] == disk["4"] != disk["7"] == disk["8"]
    for number in (5, 6):
        assert ran(guest, f"cryptsetup luksUUID /dev/vda{number}").strip() == old[f"{number}"]
        assert ran(guest, f"cryptsetup luksUUID /dev/vdb{number}").strip() == new[f"{number}"]


def test_arrays_of_both_are_assembled_side_by_side(guest):
    """mdadm looks at all partitions at once, as a system that starts does, and tells them apart by their UUIDs."""
    ran(guest, "mdadm --examine --scan > /tmp/found.conf; cat /tmp/found.conf")
    assert ran(guest, "grep -c ^ARRAY /tmp/found.conf").strip() == "6"
    for disk, number in (("vda", 0), ("vdb", 10)):
        for at, member in enumerate((1, 3, 7)):
            uuid = re.search(r"UUID : ([0-9a-f:]+)", ran(guest, f"mdadm --examine /dev/{disk}{member}"))[1]
            ran(guest, f"mdadm --assemble /dev/md{number + at} --uuid={uuid} --config=partitions")
            below = ran(guest, f"ls /sys/block/md{number + at}/slaves").split()
            assert below == [f"{disk}{member}", f"{disk}{member + 1}"]
    for array in ("md0", "md10", "md2", "md12"):
        ran(guest, f"echo check > /sys/block/{array}/md/sync_action; mdadm --wait /dev/{array}; true")
        assert ran(guest, f"cat /sys/block/{array}/md/mismatch_cnt").strip() == "0"
    assert ran(guest, "blkid -p -o value -s UUID /dev/md2").strip() == OLD["swap"]
    assert ran(guest, "blkid -p -o value -s UUID /dev/md12").strip() != OLD["swap"]
    assert ran(guest, "cryptsetup luksUUID /dev/md1").strip() == OLD["inner"]
    assert ran(guest, "cryptsetup luksUUID /dev/md11").strip() != OLD["inner"]
    ran(guest, "for each in 1 11; do cryptsetup open --key-file /tmp/key /dev/md$each inner$each; done")
    same_files(guest, "mirror", "/dev/md0", "/dev/md10")
    same_files(guest, "inner", "/dev/mapper/inner1", "/dev/mapper/inner11", is_same=True)  # it was locked
    ran(guest, "cryptsetup close inner1 && cryptsetup close inner11 && udevadm settle && mdadm --stop --scan")


def test_containers_of_both_are_open_at_once(guest):
    for disk in ("vda", "vdb"):
        for number in (5, 6):
            ran(guest, f"cryptsetup open --key-file /tmp/key /dev/{disk}{number} {disk}-{number}")
    same_files(guest, "two", "/dev/mapper/vda-5", "/dev/mapper/vdb-5")
    groups = ran(guest, "vgs --noheadings -o vg_name").split()
    (other,) = [name for name in groups if name != "vg-c"]
    assert other.startswith("vg-c_")
    ran(guest, "vgchange -q -ay")
    same_files(guest, "data", "/dev/vg-c/data", f"/dev/{other}/data")
    ran(guest, "vgchange -q -an && for each in /dev/mapper/vd*; do cryptsetup close $each; done")


def same_files(guest: Guest, name: str, old: str, new: str, *, is_same: bool = False) -> None:
    """Both are mounted at once, each has what was written, fsck is content, and blkid says whether they are one."""
    ran(guest, f"mkdir -p /tmp/a /tmp/b; e2fsck -fn {old} && e2fsck -fn {new}")
    ran(guest, f"mount -o ro {old} /tmp/a && mount -o ro {new} /tmp/b")
    for place in "ab":
        ran(guest, f"cd /tmp/{place} && find . -type f -exec sha256sum {{}} + | sort | cmp - /tmp/sums-{name}; cd /")
    ran(guest, "umount /tmp/a /tmp/b")
    one, two = (ran(guest, f"blkid -p -o value -s UUID {device}").strip() for device in (old, new))
    assert (one == two) is is_same


def test_files_of_the_system_name_what_is_there(guest):
    """Each name of the source became one of the clone, in the tools' own spelling, and none is left over."""
    ran(guest, "mount -o ro /dev/vdb9 /mnt")
    new = {path: ran(guest, f"cat /mnt/{path}") for path in FILES}
    ran(guest, "umount /mnt")
    for path, text in new.items():
        assert not [name for name, uuid in OLD.items() if uuid in text or as_mdadm(uuid) in text], path
        assert len(text.splitlines()) == len(FILES[path].splitlines()), path
    there = identifiers(guest, "vdb")
    for number in "137":
        assert f"UUID={as_mdadm(there[number])}" in new["etc/mdadm/mdadm.conf"]
    assert f"two UUID={there['5']} none luks" in new["etc/crypttab"]
    assert re.search(r"^/dev/vg-c_[0-9a-f]{4}/data /data ", new["etc/fstab"], re.MULTILINE)


@pytest.fixture
def mirror(guest):
    """A mirror on two disks without a table; it is stopped."""
    ran(guest, MAKE_PAIR)
    yield
    ran(guest, "mdadm --stop --scan; losetup -d /dev/loop7; wipefs -q -a /dev/vdc /dev/vdd")


def test_half_of_a_mirror_keeps_what_it_has(guest, mirror):
    """With a new UUID it would be no member any more; the plan says so, and nothing is started on it."""
    said = ran(guest, "imager clone --new-ids /dev/vdc /dev/vdd --yes 2>&1")
    uuid = re.search(r"^UUID=(\S+)$", ran(guest, "blkid -p -o export /dev/vdc"), re.MULTILINE)[1]
    assert f"KEPT: disk: linux_raid_member keeps {uuid}, and so does what is in it: only 1 of its 2 parts" in said
    assert ran(guest, "mdadm --examine --export /dev/vdc") == ran(guest, "mdadm --examine --export /dev/vdd")
    assert "vdd" not in ran(guest, "cat /proc/mdstat")


def test_both_halves_become_another_mirror(guest, mirror):
    ran(guest, "losetup /dev/loop8 /tmp/other-target && imager capture --quiet /dev/vdc /dev/loop7 /tmp/set")
    first, second = sorted(ran(guest, "ls /tmp/set/*.img.zst").split(), key=lambda name: "HALF" not in name)
    said = ran(guest, f"imager restore --new-ids --to {first}=/dev/vdd --to {second}=/dev/loop8 --yes 2>&1")
    assert "KEPT" not in said
    ran(guest, "udevadm settle; mdadm --assemble /dev/md0 /dev/vdc /dev/loop7")
    ran(guest, "mdadm --assemble /dev/md10 /dev/vdd /dev/loop8")
    one, two = (ran(guest, f"mdadm --detail --export {array} | grep MD_UUID") for array in ("/dev/md0", "/dev/md10"))
    assert one != two
    same_files(guest, "pair", "/dev/md0", "/dev/md10")
    ran(guest, "mdadm --stop --scan; losetup -d /dev/loop8")
