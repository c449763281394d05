# SPDX-License-Identifier: GPL-3.0-or-later
"""LUKS2 containers that the kernel wrote: opened, mapped back, and refused where anything is unknown."""

from __future__ import annotations

import ctypes
import hashlib
import pickle
import resource
from pathlib import Path

import pytest

from imager.blocks import MemoryReader, OutOfRange, Slice
from imager.devices.mappings import live_mapping
from imager.devices.sysfs import System
from imager.errors import SourceUnusable, UsageError
from imager.extents import Extents
from imager.volumes import luks
from imager.volumes.base import Member
from imager.volumes.luks import keys
from imager.volumes.luks.model import Kdf, NotOpenable
from tests.harness import machines
from tests.harness.luks import CASES, HDR_SIZE, container, expected, with_checksums, with_metadata

IMAGE = container("luks2-512")
SMALL = container("luks2-lvm")
PASSPHRASE = b"correct horse"
PR_GET_DUMPABLE = 3
OFFSET = {"luks2-512": 2097152, "luks2-4096": 2097152, "luks2-lvm": 1048576, "luks2-cbc-4096": 1048576}


def member(image, key=1):
    return Member(key, MemoryReader(image), "partition 1 of disk.img")


def open_case(case):
    reader = MemoryReader(container(case))
    return luks.opened(Member(1, reader), luks.unlock(reader, PASSPHRASE))


@pytest.mark.parametrize("case", CASES)
def test_the_plain_text_is_what_the_kernel_read(case):
    (reader,) = open_case(case).readers
    assert reader.size == expected(case)["payload_bytes"]
    assert hashlib.sha256(reader.read(0, reader.size)).hexdigest() == expected(case)["payload_sha256"]


@pytest.mark.parametrize("case", CASES)
def test_plain_text_is_encrypted_to_what_the_kernel_wrote(case):
    image = container(case)
    reader = MemoryReader(image)
    opened = open_case(case)
    sealer = luks.Sealer(opened.place, luks.unlock(reader, PASSPHRASE))
    plain, place = opened.readers[0], opened.place
    assert sealer.sealed(0, plain.read(0, place.size)) == image[place.offset : place.end]
    first, length = place.size // 2 // 4096 * 4096, 3 * 4096
    sealed = sealer.sealed(first, plain.read(first, length))
    assert sealed == image[place.offset + first : place.offset + first + length]


@pytest.mark.parametrize("case", CASES)
def test_any_part_can_be_read_alone(case):
    (reader,) = open_case(case).readers
    whole = reader.read(0, reader.size)
    for offset, length in ((0, 1), (511, 2), (4095, 4098), (1234, 0), (reader.size - 1, 1), (262000, 600000)):
        assert reader.read(offset, length) == whole[offset : offset + length]
    with pytest.raises(OutOfRange):
        reader.read(reader.size - 1, 2)


@pytest.mark.parametrize(("passphrase", "slot"), [(b"correct horse", 0), (b"battery staple", 1)])
def test_each_passphrase_opens_its_slot(passphrase, slot):
    assert luks.unlock(MemoryReader(IMAGE), passphrase).slot == slot


def test_a_wrong_passphrase_says_how_many_slots_were_tried():
    with pytest.raises(UsageError, match="none of the 2 key slots") as caught:
        luks.unlock(MemoryReader(IMAGE), b"correct horse\n")
    assert caught.value.facts["slots_tried"] == 2


def test_a_container_says_what_it_is():
    content = luks.describe(MemoryReader(IMAGE))
    assert (content.kind, content.type, content.label) == ("encrypted", "crypto_LUKS", "small-sectors")
    assert content.uuid == "11111111-2222-4333-8444-555555555512"
    assert content.facts == {
        "version": "2",
        "cipher": "aes-xts-plain64",
        "encryption sectors": "512",
        "key slots": "2",
        "data_offset_bytes": "2097152",
        "state": "locked",
    }


@pytest.mark.parametrize(("case", "grain"), [("luks2-512", 512), ("luks2-4096", 4096)])
def test_used_bytes_become_whole_sectors_of_ciphertext(case, grain):
    used = Extents.of([(0, 1), (10000, 10001)])
    first = 10000 // grain * grain
    assert open_case(case).back(used)[1] == Extents.of([(0, grain), (first, first + grain)]).shift(OFFSET[case])


def test_headers_and_what_lies_behind_the_data_are_the_containers_own():
    image = with_metadata(SMALL, lambda it: it["segments"]["0"].update(size=str(4 * 2**20)))
    with luks.unlock(MemoryReader(image), PASSPHRASE) as key:
        found = luks.Containers((key,)).assemble([member(image)])
    assert found.own == {1: Extents.of([(0, 2**20), (5 * 2**20, len(image))])}
    assert found.contents[1].facts["state"] == "unlocked"
    assert found.volumes[0].readers[0].size == 4 * 2**20


def test_without_a_key_a_container_is_copied_whole():
    found = luks.assemble([member(SMALL)])
    assert found.whole == {1: "it is encrypted and locked"}
    assert not found.volumes
    assert found.contents[1].facts["state"] == "locked"


def test_the_iv_tweak_shifts_the_numbers_of_sectors():
    whole = open_case("luks2-lvm").readers[0]
    segment = {"offset": str(2**20 + 8 * 512), "iv_tweak": "8"}
    image = with_metadata(SMALL, lambda it: it["segments"]["0"].update(segment))
    (part,) = luks.opened(member(image), luks.unlock(MemoryReader(image), PASSPHRASE)).readers
    assert part.read(0, 70000) == whole.read(4096, 70000)


def test_a_partition_that_ends_in_the_middle_of_a_sector_loses_nothing():
    odd = Slice(MemoryReader(container("luks2-4096")), 0, len(container("luks2-4096")) - 1000)
    with luks.unlock(odd, PASSPHRASE) as key:
        found = luks.Containers((key,)).assemble([Member(1, odd)])
    assert found.own[1].ends[-1] == odd.size
    assert found.volumes[0].readers[0].size % 4096 == 0


# --- What is not known here -----------------------------------------------------------------------------------------


def set_in(*path, to):
    def change(found):
        for step in path[:-1]:
            found = found[step]
        found[path[-1]] = to

    return change


REFUSED = {
    "requirement": (set_in("config", "requirements", to={"mandatory": ["new-thing"]}), "requires .* new-thing"),
    "reencryption": (
        set_in("config", "requirements", to={"mandatory": ["online-reencrypt-v2"]}),
        "re-encryption of it is under way",
    ),
    "offline reencryption": (
        set_in("config", "requirements", to={"mandatory": ["offline-reencrypt"]}),
        "re-encryption of it is under way",
    ),
    "another kind of requirement": (set_in("config", "requirements", to={"strange": []}), "unknown kind"),
    "flag": (set_in("config", "flags", to=["inside-out"]), "inside-out"),
    "integrity": (set_in("segments", "0", "integrity", to={"type": "hmac(sha256)"}), "integrity"),
    "linear": (set_in("segments", "0", "type", to="linear"), "1 segments of linear"),
    "hardware": (set_in("segments", "0", "type", to="hw-opal-crypt"), "hw-opal-crypt"),
    "no segment": (set_in("segments", to={}), "0 segments"),
    "segment flag": (set_in("segments", "0", "flags", to=["backup-final"]), "backup-final"),
    "sector size": (set_in("segments", "0", "sector_size", to=513), "sectors of 513"),
    "size": (set_in("segments", "0", "size", to="99999999488"), "data end at"),
    "odd size": (set_in("segments", "0", "size", to="513"), "whole sectors"),
    "no number": (set_in("segments", "0", "size", to="many"), "no number"),
    "detached": (set_in("segments", "0", "offset", to="0"), "detached"),
    "data in key slots": (set_in("segments", "0", "offset", to="65536"), "key slots end"),
    "beyond the end": (set_in("segments", "0", "offset", to="9007199254740992"), "whole sectors"),
    "cipher": (set_in("segments", "0", "encryption", to="serpent-xts-plain64"), "serpent-xts-plain64"),
    "slot type": (set_in("keyslots", "0", "type", to="reencrypt"), "re-encryption"),
    "slot of the future": (set_in("keyslots", "0", "type", to="luks3"), "luks3"),
    "slot area": (set_in("keyslots", "0", "area", "offset", to="9000000"), "key slot 0 lies"),
    "slot area too small": (set_in("keyslots", "0", "area", "size", to="512"), "needs 128000 bytes"),
    "stripes": (set_in("keyslots", "0", "af", "stripes", to=10**9), "stripes"),
    "key size": (set_in("keyslots", "0", "key_size", to=31), "no keys of 31"),
    "salt": (set_in("keyslots", "0", "kdf", "salt", to="%%%"), "base64"),
    "digest": (set_in("digests", "0", "digest", to="AAAA"), "only 3 bytes"),
    "digest cost": (set_in("digests", "0", "iterations", to=10**12), "iterations"),
    "no digest": (set_in("digests", to={}), "0 key digests"),
    "erased": (set_in("digests", "0", "keyslots", to=[]), "key was erased"),
    "no object": (set_in("keyslots", to=[]), "JSON area"),
    "terminal": (set_in("segments", "0", "type", to="\x1b[2J"), r"\?\[2J"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_copied_whole_with_the_reason(name):
    change, reason = REFUSED[name]
    image = with_metadata(SMALL, change)
    found = luks.assemble([member(image)])
    assert not found.volumes
    with pytest.raises(SourceUnusable, match=reason):
        luks.unlock(MemoryReader(image), PASSPHRASE)
    assert found.whole[1] == luks.obstacle(MemoryReader(image))
    assert luks.describe(MemoryReader(image)).type == "crypto_LUKS"


def test_a_damaged_second_header_is_only_a_warning():
    image = bytearray(SMALL)
    image[HDR_SIZE + 5000] ^= 1
    assert luks.describe(MemoryReader(bytes(image))).warnings == ("its second header is damaged",)
    assert luks.unlock(MemoryReader(bytes(image)), PASSPHRASE).slot == 0


def test_a_lone_second_header_may_be_a_leftover():
    image = bytes(HDR_SIZE) + SMALL[HDR_SIZE:]
    assert "first header is damaged" in luks.obstacle(MemoryReader(image))
    assert luks.describe(MemoryReader(image)).uuid == "11111111-2222-4333-8444-555555555555"


def test_the_newer_of_two_headers_counts():
    image = with_metadata(SMALL, set_in("keyslots", "0", "priority", to=2), copies=(0,))
    newer = bytearray(image)
    newer[16:24] = (99).to_bytes(8)
    assert luks.unlock(MemoryReader(with_checksums(newer)), PASSPHRASE).slot == 0


def test_headers_that_differ_about_the_data_are_not_believed():
    image = with_metadata(SMALL, set_in("segments", "0", "size", to="4096"), copies=(1,))
    assert "do not say the same" in luks.obstacle(MemoryReader(image))


def test_what_is_no_container_at_all_is_not_opened():
    for image in (b"", b"LUKS\xba\xbe\0\1", b"LUKS\xba\xbe\0\2" * 1000, bytes(10**6)):
        assert luks.obstacle(MemoryReader(image))
        assert luks.assemble([member(image)]).whole


# --- Costs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kdf",
    [
        Kdf("pbkdf2", b"", "sha256", 10**9),
        Kdf("pbkdf2", b"", "sha256", 0),
        Kdf("pbkdf2", b"", "whirlpool", 1000),
        Kdf("argon2id", b"", "", 4, 2**24, 4),
        Kdf("argon2id", b"", "", 10**6, 2**20, 4),
        Kdf("argon2id", b"", "", 4, 16, 4),
        Kdf("argon2i", b"", "", 4, 1024, 0),
        Kdf("argon2i", b"", "", 0, 1024, 1),
        Kdf("argon2d", b"", "", 4, 1024, 1),
        Kdf("scrypt", b"", "", 4, 1024, 1),
    ],
)
def test_absurd_or_unknown_costs_are_refused(kdf):
    with pytest.raises(NotOpenable):
        keys.check_cost(kdf)


def test_more_memory_than_there_is_is_refused(monkeypatch):
    monkeypatch.setattr(keys, "_available_kib", lambda: 500_000)
    with pytest.raises(NotOpenable, match="1024 MiB of memory, and 488 MiB are available"):
        keys.check_cost(Kdf("argon2id", b"", "", 4, 2**20, 4))


def test_a_slot_that_costs_too_much_does_not_keep_others_from_being_tried():
    image = with_metadata(IMAGE, set_in("keyslots", "0", "kdf", "memory", to=2**30))
    assert luks.unlock(MemoryReader(image), b"battery staple").slot == 1
    with pytest.raises(UsageError, match="none of the 1 key slots") as caught:
        luks.unlock(MemoryReader(image), PASSPHRASE)
    assert "key slot 0 was not tried" in caught.value.hint


# --- Secrets --------------------------------------------------------------------------------------------------------


def test_a_key_shows_itself_to_nobody():
    key = luks.unlock(MemoryReader(SMALL), PASSPHRASE)
    secret = bytes(key.content)
    for text in (repr(key), str(key), f"{key}", repr(luks.opened(member(SMALL), key))):
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_a_wiped_key_opens_nothing_any_more():
    with luks.unlock(MemoryReader(SMALL), PASSPHRASE) as key:
        volume = luks.opened(member(SMALL), key)
        held = key.content
        assert volume.readers[0].read(0, 10)
    assert bytes(held) == bytes(len(held))
    with pytest.raises(SourceUnusable, match="was closed"):
        volume.readers[0].read(0, 10)
    assert luks.Containers((key,)).assemble([member(SMALL)]).whole == {1: luks.LOCKED}


def test_a_key_opens_no_other_container():
    key = luks.unlock(MemoryReader(SMALL), PASSPHRASE)
    with pytest.raises(SourceUnusable, match="does not open"):
        luks.opened(member(IMAGE), key)


def test_a_key_does_not_open_another_container_of_the_same_uuid():
    key = luks.unlock(MemoryReader(SMALL), PASSPHRASE)
    twin = with_metadata(SMALL, set_in("digests", "0", "salt", to="AAAAAAAAAAAAAAAAAAAAAA=="))
    with pytest.raises(SourceUnusable, match="does not open"):
        luks.opened(member(twin), key)


def test_unlocking_forbids_core_files():
    with pytest.raises(UsageError):
        luks.unlock(MemoryReader(SMALL), b"wrong")
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
    assert ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0


# --- What the system has open ---------------------------------------------------------------------------------------

UUID = "01234567-89ab-cdef-0000-000000000000"


@pytest.fixture
def laptop(tmp_path):
    mapping = machines.LAPTOP.disks[1]
    own = {**mapping.own, "dm/uuid": f"CRYPT-LUKS2-{UUID.replace('-', '')}-nvme0n1p3_crypt", "dm/suspended": "0"}
    disks = [machines.Disk(**{**vars(disk), "own": own}) if disk is mapping else disk for disk in machines.LAPTOP.disks]
    return System(machines.build(machines.Machine(disks), tmp_path))


def test_the_mapping_of_a_container_is_found(laptop):
    assert live_mapping(UUID, ["/dev/nvme0n1"], laptop) == Path("/dev/mapper/nvme0n1p3_crypt")
    assert live_mapping(UUID, ["/dev/nvme0n1p3"], laptop) == Path("/dev/mapper/nvme0n1p3_crypt")


def test_no_mapping_of_another_container_or_disk_is_taken(laptop):
    assert live_mapping(UUID.replace("1", "2"), ["/dev/nvme0n1"], laptop) is None
    assert live_mapping(UUID[:8], ["/dev/nvme0n1"], laptop) is None
    assert live_mapping(UUID, ["/dev/nvme0n1p1"], laptop) is None
    assert live_mapping(UUID, [], laptop) is None
    assert live_mapping("", ["/dev/nvme0n1"], laptop) is None


def test_a_suspended_mapping_is_not_read(laptop):
    (laptop.block("dm-0") / "dm/suspended").write_text("1\n")
    assert live_mapping(UUID, ["/dev/nvme0n1"], laptop) is None


def test_a_container_is_read_through_its_mapping():
    plain = open_case("luks2-lvm").readers[0]
    asked = []
    found = luks.Containers(find_mapping=lambda uuid: asked.append(uuid) or plain).assemble([member(SMALL)])
    assert asked == ["11111111-2222-4333-8444-555555555555"]
    assert found.volumes[0].readers == (plain,)
    assert found.volumes[0].back(Extents.single(0, 1)) == {1: Extents.single(2**20, 2**20 + 512)}


def test_a_mapping_of_another_size_is_not_believed():
    short = MemoryReader(bytes(4096))
    found = luks.Containers(find_mapping=lambda _: short).assemble([member(SMALL)])
    assert "has 4096 bytes" in found.whole[1]


def test_of_two_containers_with_one_uuid_none_is_read_through_a_mapping():
    plain = open_case("luks2-lvm").readers[0]
    twins = [member(SMALL, 1), member(SMALL, 2)]
    assert set(luks.Containers(find_mapping=lambda _: plain).assemble(twins).whole) == {1, 2}
