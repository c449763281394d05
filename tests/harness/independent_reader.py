# SPDX-License-Identifier: GPL-3.0-or-later
"""A second reader of images, written from docs/reference/image-format.md alone; it shares no line with imager.

It keeps the whole file in memory and is strict: whatever the specification says MUST be so is checked. Zero frames are
decompressed, not compared. Where it and imager disagree, the specification decides who is wrong, and it may be
the specification.

    python -m tests.harness.independent_reader IMAGE [RAW]
"""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path

import zstandard
from blake3 import blake3

FULL_ZERO = 64 << 20


class Refused(Exception):
    """The image breaks a rule of the specification."""


@dataclass
class Seen:
    """What an image says."""

    header: dict = field(default_factory=dict)
    header_json: dict = field(default_factory=dict)
    final_json: dict = field(default_factory=dict)
    extents: list[tuple[int, int]] = field(default_factory=list)
    chunks: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    """Number, offset in the file, size of the frame, digest."""
    frames: list[tuple[int, int]] = field(default_factory=list)
    root_digest: bytes = b""


def must(holds: object, rule: str) -> None:
    if not holds:
        raise Refused(rule)


def digest(content: bytes) -> bytes:
    return blake3(content).digest()


class Reader:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0
        self.seen = Seen()
        self.payload = b""

    def take(self, size: int) -> bytes:
        must(self.at + size <= len(self.content), f"the file ends at {len(self.content)}")
        self.at += size
        return self.content[self.at - size : self.at]

    def numbers(self, kind: str, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}{kind}", self.take(struct.calcsize(f"<{count}{kind}")))

    def record(self, magic: int, letters: bytes) -> int:
        """Pass other makers' frames; stand behind the letters of the next record; where its payload ends."""
        while True:
            found, size = struct.unpack("<II", self.take(8))
            must(0x184D2A50 <= found <= 0x184D2A5F, f"{found:#x} is no skippable frame")
            self.seen.frames.append((size + 8, 0))
            if found in (0x184D2A5C, 0x184D2A5D, 0x184D2A5E):
                break
            self.take(size)
        must(found == magic, f"{found:#x} instead of {magic:#x}")
        end = self.at + size
        self.payload = self.content[self.at : end]
        must(len(self.payload) == size and self.take(8) == letters, f"no {letters!r}")
        return end

    def sealed(self, end: int) -> bytes:
        must(self.at + 32 == end, "the record's length")
        must(digest(self.payload[:-32]) == self.take(32), "the record's digest")
        return self.payload[-32:]

    # Header.

    def read_header(self) -> None:
        end = self.record(0x184D2A5D, b"BMRIHEAD")
        self.header_payload = self.payload
        names = ["version", "prefix_size", "reserved", "incompatible", "compatible"]
        head = dict(zip(names, struct.unpack("<HHIQQ", self.take(24)), strict=True))
        must(
            digest(self.payload[: head["prefix_size"] - 32])
            == self.payload[head["prefix_size"] - 32 : head["prefix_size"]],
            "prefix_digest",
        )
        must(head["version"] == 1 and head["prefix_size"] == 256, "too new")
        must(head["incompatible"] == 0 and head["reserved"] == 0, "too new")
        for name, size in (("image_id", 16), ("set_id", 16), ("parent_id", 16), ("parent_root_digest", 32)):
            head[name] = self.take(size)
        must(not any(head["parent_id"] + head["parent_root_digest"]), "parent")
        (head["disk_size"],) = self.numbers("Q", 1)
        head["chunk_size"], head["sector_size"] = self.numbers("I", 2)
        head["chunk_count"], head["extent_count"] = self.numbers("Q", 2)
        head["json_size"], head["extents_size"] = self.numbers("I", 2)
        must(self.take(8) == bytes(8), "reserved_2")
        json_digest, extents_digest = self.take(32), self.take(32)
        self.prefix_digest = self.take(32)
        must(1 <= head["disk_size"] < 2**63 and 1 <= head["sector_size"] <= 1 << 20, "limits")
        must(head["chunk_size"] in [1 << bits for bits in range(16, 27)], "chunk_size")
        must(head["extent_count"] <= 1_000_000 and head["json_size"] <= 4 << 20, "limits")
        text, columns = self.take(head["json_size"]), self.take(head["extents_size"])
        must(self.at == end and digest(text) == json_digest and digest(columns) == extents_digest, "digests")
        self.seen.header, self.seen.header_json = head, json.loads(text)
        must(self.seen.header_json["layout"]["size_bytes"] == head["disk_size"], "layout size")
        must(len(self.seen.header_json.get("answers", "").encode()) <= 65536, "answers")
        members = self.seen.header_json.get("set_members", [])
        must(len(members) <= 1024 and all({"image", "identity", "size_bytes"} <= set(each) for each in members), "set")
        self.read_extents(columns)

    def read_extents(self, columns: bytes) -> None:
        count, position = self.seen.header["extent_count"], 0
        planes = zstandard.ZstdDecompressor().decompress(columns)
        must(len(planes) == 16 * count, "columns")
        gaps, lengths = (
            [sum(planes[base + plane * count + i] << 8 * plane for plane in range(8)) for i in range(count)]
            for base in (0, 8 * count)
        )
        for i, (gap, length) in enumerate(zip(gaps, lengths, strict=True)):
            must((gap or not i) and length, "empty range")
            self.seen.extents.append((position + gap, position + gap + length))
            position += gap + length
        must(position <= self.seen.header["disk_size"], "ranges inside the disk")
        size = self.seen.header["chunk_size"]
        self.used = {n for start, end in self.seen.extents for n in range(start // size, (end - 1) // size + 1)}

    # Groups.

    def read_groups(self) -> None:
        head, self.covered, number = self.seen.header, 0, 0
        while number == 0 or len(self.seen.chunks) < head["chunk_count"]:
            end = self.record(0x184D2A5D, b"BMRIGRUP")
            must(self.take(16) == head["image_id"] and self.numbers("Q", 1) == (number,), "group of this image")
            count, reserved = self.numbers("I", 2)
            (trailing_size,) = self.numbers("Q", 1)
            must(count <= 32 and not reserved and (count or not head["chunk_count"]), "chunk_count")
            rows = list(zip(self.numbers("Q", count), self.numbers("Q", count), self.numbers("I", count), strict=True))
            digests = [self.take(32) for _ in range(count)]
            self.sealed(end)
            for (chunk, zero_size, frame_size), wanted in zip(rows, digests, strict=True):
                must(chunk in self.used and chunk * head["chunk_size"] >= self.covered, "ascending used chunks")
                self.read_zeros(chunk * head["chunk_size"] - self.covered, zero_size)
                self.covered = min((chunk + 1) * head["chunk_size"], head["disk_size"])
                length = self.covered - chunk * head["chunk_size"]
                must(frame_size <= length + length // 256 + 64, "frame_size")
                self.seen.chunks.append((chunk, self.at, frame_size, wanted))
                self.seen.frames.append((frame_size, length))
                content = zstandard.ZstdDecompressor().decompress(self.take(frame_size), allow_extra_data=False)
                must(len(content) == length and digest(content) == wanted, f"content of chunk {chunk}")
            last = len(self.seen.chunks) == head["chunk_count"]
            self.read_zeros(head["disk_size"] - self.covered if last else 0, trailing_size)
            number += 1
        must(len(self.seen.chunks) == head["chunk_count"], "chunk_count")

    def read_zeros(self, gap: int, size: int) -> None:
        end = self.at + size
        while gap:
            length = min(gap, FULL_ZERO)
            blocks = -(-(length - 1) // 131072)
            frame = self.take(4 + 1 + 1 + 4 + 4 + 4 * blocks + 4)
            must(frame[:10] == bytes.fromhex("28b52ffd8438") + struct.pack("<I", length), "zero frame")
            must(not any(zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)), "zeros")
            self.seen.frames.append((len(frame), length))
            gap -= length
        must(self.at == end, "zero_size")

    # The end.

    def read_index(self) -> bytes:
        digests, told, expected = b"", [], len(self.seen.chunks)
        self.index_offset = self.index_end = self.at
        for number in range(-(-expected // 16384)):
            end = self.record(0x184D2A5D, b"BMRIINDX")
            self.index_offset = self.index_offset if number else end - len(self.payload) - 8
            must(self.take(16) == self.seen.header["image_id"], "segment of this image")
            found, count = self.numbers("I", 2)
            must(found == number and count == min(16384, expected - len(told)), "segment")
            columns = self.numbers("Q", count), self.numbers("Q", count), self.numbers("I", count)
            told += list(zip(*columns, [self.take(32) for _ in range(count)], strict=True))
            digests += self.sealed(end)
            self.index_end = self.at
        must(told == self.seen.chunks, "index and groups agree")
        return digests

    def read_end(self) -> None:
        segment_digests = self.read_index()
        self.record(0x184D2A5C, b"BMRIHEAD")
        must(self.payload == self.header_payload, "copy")
        self.take(len(self.payload) - 8)
        end = self.record(0x184D2A5D, b"BMRITRLR")
        start = end - len(self.payload) - 8
        must(self.take(16) == self.seen.header["image_id"], "trailer of this image")
        must(self.numbers("Q", 2) == (self.index_offset, self.index_end - self.index_offset), "index place")
        segments, json_size = self.numbers("I", 2)
        must(segments == len(segment_digests) // 32 and not any(self.take(24)), "trailer fields")
        must(self.take(32) == digest(self.content[:start]), "file_digest")
        self.seen.root_digest = self.take(32)
        text = self.take(json_size)
        must(digest(self.prefix_digest + segment_digests + digest(text)) == self.seen.root_digest, "root_digest")
        must(self.take(12) == struct.pack("<I", end - start) + b"BMRITAIL", "tail")
        self.sealed(end)
        self.seen.final_json = json.loads(text)
        self.check_missing()
        entries = b"".join(struct.pack("<II", *sizes) for sizes in self.seen.frames)
        table = struct.pack("<II", 0x184D2A5E, len(entries) + 9) + entries
        table += struct.pack("<IBI", len(self.seen.frames), 0, 0x8F92EAB1)
        must(self.content[self.at :] == table, "seek table")

    def check_missing(self) -> None:
        size, disk_size = self.seen.header["chunk_size"], self.seen.header["disk_size"]
        for number in self.used - {chunk[0] for chunk in self.seen.chunks}:
            start, end = number * size, min((number + 1) * size, disk_size)
            named = any(a <= start and end <= b for a, b in self.seen.final_json["missing"])
            must(named, f"chunk {number} is missing")

    def read(self) -> Seen:
        self.read_header()
        self.read_groups()
        self.read_end()
        return self.seen


def read_image(path: Path) -> Seen:
    """What an image says, after everything was checked.

    Raises:
        Refused: It breaks a rule.
    """
    try:
        return Reader(path.read_bytes()).read()
    except (struct.error, zstandard.ZstdError, ValueError, KeyError) as error:
        raise Refused(str(error)) from error


def restore(path: Path, raw: Path) -> None:
    """Write the raw disk, used chunks only: the rest are holes."""
    seen, content = read_image(path), path.read_bytes()
    with raw.open("wb") as disk:
        disk.truncate(seen.header["disk_size"])
        for number, offset, size, _ in seen.chunks:
            disk.seek(number * seen.header["chunk_size"])
            disk.write(zstandard.ZstdDecompressor().decompress(content[offset : offset + size]))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        restore(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        print(read_image(Path(sys.argv[1])).header)
