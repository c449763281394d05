# SPDX-License-Identifier: GPL-3.0-or-later
"""XFS volumes in memory, made without mkfs.xfs: trees of any height, and every field open to damage.

Only what tells free space from used is there: superblock, AG headers, the two trees of free space, and a log that
holds an unmount record.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from imager.blocks import BlockReader, MemoryReader
from imager.crc import CRC32C
from imager.filesystems.xfs.structs import AGF, AGFL, AGI, SUPERBLOCK

AG_BYTES = 2**24
UUID = bytes(range(16))
NULL = 0xFFFFFFFF
LOG_BYTES = 2**20
SECTOR = 512

Extent = tuple[int, int]


class _LiveReader(MemoryReader):
    """Bytes that may change later: they are copied only where they are read."""

    def _read(self, offset: int, length: int) -> bytes:
        return bytes(super()._read(offset, length))


@dataclass
class Volume:
    """A volume under construction; places are bytes.

    Attributes:
        sums: Where checksums are: first byte, length, offset of the checksum.
        places: First byte and length of every structure, by name.
    """

    version: int = 5
    block_size: int = 1024
    free: tuple[tuple[Extent, ...], ...] = (((14000, 100),), ((12000, 50), (13000, 7)))
    fill: int = 1000
    """Most records, or children, of a block of a tree."""
    content: bytearray = field(default_factory=bytearray)
    sums: list[tuple[int, int, int]] = field(default_factory=list)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.content = bytearray(AG_BYTES * len(self.free))
        for number in range(len(self.free)):
            self._make_group(number)
        self._make_superblock()
        self._make_log()
        self.fix_checksums()

    def reader(self) -> BlockReader:
        return _LiveReader(self.content)

    @property
    def ag_blocks(self) -> int:
        return AG_BYTES // self.block_size

    @property
    def log_block(self) -> int:
        """In the middle of the first AG."""
        return self.ag_blocks // 2

    def put(self, name: str, offset: int, dtype: np.dtype, **values: object) -> None:
        """Write fields of a structure, which is at offset."""
        record = np.zeros(1, dtype)
        for key, value in values.items():
            record[0][key] = np.void(value) if isinstance(value, bytes) else value
        self.content[offset : offset + dtype.itemsize] = record.tobytes()
        self.places[name] = (offset, dtype.itemsize)

    def number(self, name: str, dtype: np.dtype, key: str, value: int) -> None:
        """Change one field; its checksum stays as it is."""
        kind, at = dtype.fields[key][:2]
        offset = self.places[name][0] + at
        self.content[offset : offset + kind.itemsize] = np.array([value]).astype(kind).tobytes()

    def fix_checksums(self) -> None:
        if self.version < 5:
            return
        for start, length, at in self.sums:
            self.content[start + at : start + at + 4] = bytes(4)
            crc = CRC32C.of(bytes(self.content[start : start + length])) ^ 0xFFFFFFFF
            self.content[start + at : start + at + 4] = crc.to_bytes(4, "little")

    def _make_superblock(self) -> None:
        log2 = self.block_size.bit_length() - 1
        self.put(
            "superblock",
            0,
            SUPERBLOCK,
            sb_magicnum=b"XFSB",
            sb_blocksize=self.block_size,
            sb_dblocks=self.ag_blocks * len(self.free),
            sb_uuid=UUID,
            sb_logstart=self.log_block,
            sb_agblocks=self.ag_blocks,
            sb_agcount=len(self.free),
            sb_logblocks=LOG_BYTES // self.block_size,
            sb_versionnum=0xB4A0 | self.version,
            sb_sectsize=SECTOR,
            sb_blocklog=log2,
            sb_sectlog=9,
            sb_agblklog=(self.ag_blocks - 1).bit_length(),
            sb_features2=0x18A if self.version == 5 else 0x8A,
        )
        self.sums.append((0, SECTOR, 0xE0))

    def _make_group(self, number: int) -> None:
        base, free = number * AG_BYTES, sorted(self.free[number])
        self._next = -(-4 * SECTOR // self.block_size)
        first = self._next
        bno, bno_level = self._make_tree(number, free, b"AB3B" if self.version == 5 else b"ABTB")
        by_length = sorted(free, key=lambda extent: (extent[1], extent[0]))
        cnt, cnt_level = self._make_tree(number, by_length, b"AB3C" if self.version == 5 else b"ABTC")
        tree_blocks = self._next - first
        listed = [self._allocate() for _ in range(4)]
        self.put(
            f"AGF {number}",
            base + SECTOR,
            AGF,
            agf_magicnum=b"XAGF",
            agf_versionnum=1,
            agf_seqno=number,
            agf_length=self.ag_blocks,
            agf_bno_root=bno,
            agf_cnt_root=cnt,
            agf_bno_level=bno_level,
            agf_cnt_level=cnt_level,
            agf_flfirst=100,
            agf_fllast=103,
            agf_flcount=4,
            agf_freeblks=sum(count for _, count in free),
            agf_longest=max((count for _, count in free), default=0),
            agf_btreeblks=tree_blocks - 2,
            agf_uuid=UUID,
        )
        self.put(
            f"AGI {number}",
            base + 2 * SECTOR,
            AGI,
            agi_magicnum=b"XAGI",
            agi_versionnum=1,
            agi_seqno=number,
            agi_length=self.ag_blocks,
            agi_root=self._allocate(),
            agi_uuid=UUID,
        )
        self._make_free_list(number, base + 3 * SECTOR, listed)
        self.sums += [(base + SECTOR, SECTOR, 0xD8), (base + 2 * SECTOR, SECTOR, 0x138)]

    def _make_free_list(self, number: int, offset: int, listed: list[int]) -> None:
        header = 36 if self.version == 5 else 0
        if self.version == 5:
            self.put(f"AGFL {number}", offset, AGFL, agfl_magicnum=b"XAFL", agfl_seqno=number, agfl_uuid=UUID)
            self.sums.append((offset, SECTOR, 0x20))
        at = offset + header + 4 * 100
        self.content[at : at + 16] = np.array(listed, dtype=">u4").tobytes()
        self.places[f"AGFL {number}"] = (offset, SECTOR)

    def _allocate(self) -> int:
        self._next += 1
        return self._next - 1

    def _make_tree(self, number: int, records: list[Extent], magic: bytes) -> tuple[int, int]:
        """The root and how many levels there are."""
        level, entries = 0, [(record, -1) for record in records]
        while True:
            parts = [entries[at : at + self.fill] for at in range(0, len(entries), self.fill)] or [[]]
            blocks = [self._allocate() for _ in parts]
            for index, (block, part) in enumerate(zip(blocks, parts, strict=True)):
                left = blocks[index - 1] if index else NULL
                right = blocks[index + 1] if index + 1 < len(blocks) else NULL
                self._put_block(number, block, part, (magic, level, left, right))
            level += 1
            if len(blocks) == 1:
                return blocks[0], level
            entries = [(part[0][0], block) for part, block in zip(parts, blocks, strict=True)]

    def _put_block(
        self, number: int, block: int, entries: list[tuple[Extent, int]], header: tuple[bytes, int, int, int]
    ) -> None:
        magic, level, left, right = header
        offset = number * AG_BYTES + block * self.block_size
        raw = magic + level.to_bytes(2, "big") + len(entries).to_bytes(2, "big")
        raw += left.to_bytes(4, "big") + right.to_bytes(4, "big")
        if self.version == 5:
            raw += (offset // 512).to_bytes(8, "big") + bytes(8) + UUID + number.to_bytes(4, "big") + bytes(4)
            self.sums.append((offset, self.block_size, 0x34))
        keys = b"".join(start.to_bytes(4, "big") + count.to_bytes(4, "big") for (start, count), _ in entries)
        self.content[offset : offset + len(raw) + len(keys)] = raw + keys
        if level:
            at = offset + len(raw) + (self.block_size - len(raw)) // 12 * 8
            pointers = b"".join(child.to_bytes(4, "big") for _, child in entries)
            self.content[at : at + len(pointers)] = pointers
        self.places[f"{magic.decode()} {number} {level} {block}"] = (offset, self.block_size)

    def _make_log(self) -> None:
        """An unmount record at the start of the log, in its first cycle."""
        at = self.log_block * self.block_size
        header = np.zeros(128, dtype=">u4")
        header[:4] = 0xFEEDBABE, 1, 2, 512
        header[4:6] = 1, 0
        header[10] = 1
        header[0x140 // 4] = 32768
        self.content[at : at + 512] = header.tobytes()
        self.content[at + 0x130 : at + 0x140] = UUID
        self.content[at + 512 : at + 524] = bytes((0, 0, 0, 1, 0, 0, 0, 8, 0xAA, 0x20, 0, 0))
        self.places["log"] = (at, 1024)
