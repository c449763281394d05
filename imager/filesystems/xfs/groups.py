# SPDX-License-Identifier: GPL-3.0-or-later
"""Headers of all allocation groups (AGs) of XFS, read and checked together.

References:
    XFS Algorithms and Data Structures, 3rd edition: AG Free Space Management, AG Inode Management.
    xfsprogs 6.5: libxfs/xfs_alloc.c (verifiers of AGF and AGFL), libxfs/xfs_ialloc.c (of AGI).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.crc import Uint8Array
from imager.extents import Extents, Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.xfs.structs import (
    AGF,
    AGFL,
    AGI,
    FINOBT,
    REFLINK,
    RMAPBT,
    Geometry,
    Superblock,
    checksums_of,
    equal_bytes,
)

_PIECE_BYTES: Final = 8 * 2**20
_MAX_LEVELS: Final = 9
"""Of a free-space tree: the kernel's own limit."""

BoolArray = npt.NDArray[np.bool_]
Records = npt.NDArray[Any]


@dataclass(frozen=True)
class Groups:
    """What the headers of all AGs say.

    Attributes:
        lengths: Blocks of each AG.
        agf: The AGF of each AG, as records of the type AGF.
        own: Headers, roots of trees and free lists, in blocks in one row over all AGs: never free space.
    """

    lengths: Int64Array
    agf: Records
    own: Extents

    def column(self, name: str) -> Int64Array:
        """A field of all AGFs."""
        return self.agf[name].astype(np.int64)


def read_groups(reader: BlockReader, sb: Superblock, geometry: Geometry) -> Groups:
    """Read the headers of every AG.

    Raises:
        NotTrusted: One of them is damaged, or is not that of its AG.
    """
    lengths = geometry.ag_lengths()
    agfs, owned = [], []
    step = max(1, _PIECE_BYTES // (4 * geometry.sector_size))
    for first in range(0, geometry.ag_count, step):
        numbers = np.arange(first, min(first + step, geometry.ag_count))
        piece = _Piece(reader, sb, geometry, numbers, lengths[numbers])
        agfs.append(piece.agf)
        owned.append(piece.own())
    return Groups(lengths, np.concatenate(agfs), Extents.union_of(owned))


class _Piece:
    """The headers of some AGs in one row."""

    def __init__(
        self, reader: BlockReader, sb: Superblock, geometry: Geometry, numbers: Int64Array, lengths: Int64Array
    ) -> None:
        self._sb, self._geometry, self._numbers, self._lengths = sb, geometry, numbers, lengths
        header_bytes, ag_bytes = 4 * geometry.sector_size, geometry.ag_blocks * geometry.block_size
        raw = b"".join(reader.read(number * ag_bytes, header_bytes) for number in numbers.tolist())
        sectors = np.frombuffer(raw, dtype=np.uint8).reshape(len(numbers), 4, geometry.sector_size)
        self.agf, self._agi = _records(sectors[:, 1], AGF), _records(sectors[:, 2], AGI)
        self._check_sector(sectors[:, 1], self.agf, "agf", b"XAGF")
        self._check_sector(sectors[:, 2], self._agi, "agi", b"XAGI")
        if geometry.has_checksums:
            self._check_sector(sectors[:, 3], _records(sectors[:, 3], AGFL), "agfl", b"XAFL")
        self._check_agf()
        entries = np.ascontiguousarray(sectors[:, 3, geometry.agfl_offset :])[:, : 4 * geometry.agfl_size]
        self._free_list = np.ascontiguousarray(entries).view(">u4").astype(np.int64)

    def _require(self, is_right: BoolArray, name: str, why: str) -> None:
        """Refuse the first AG that is wrong."""
        if not is_right.all():
            number = int(self._numbers[np.flatnonzero(~is_right)[0]])
            raise NotTrusted(f"the {name.upper()} of allocation group {number} {why}")

    def _check_sector(self, sectors: Uint8Array, records: Records, name: str, magic: bytes) -> None:
        self._require(equal_bytes(records[f"{name}_magicnum"], magic), name, "has no magic number")
        if self._geometry.has_checksums:
            crc_offset = records.dtype.fields[f"{name}_crc"][1]  # type: ignore[index]
            is_right = checksums_of(sectors, crc_offset) == records[f"{name}_crc"]
            self._require(is_right, name, "has a wrong checksum")
            is_ours = equal_bytes(records[f"{name}_uuid"], self._geometry.uuid)
            self._require(is_ours, name, "belongs to another file system")
        self._require(records[f"{name}_seqno"] == self._numbers, name, "is that of another group")
        if name != "agfl":
            self._require(records[f"{name}_versionnum"] == 1, name, "has an unknown version")
            self._require(records[f"{name}_length"] == self._lengths, name, "disagrees with the size of its group")

    def _check_agf(self) -> None:
        """Every field of the AGF that is used as a count or a place."""
        agf, lengths, slots = self.agf, self._lengths, self._geometry.agfl_size
        for root in ("agf_bno_root", "agf_cnt_root"):
            self._require((agf[root] > 0) & (agf[root] < lengths), "agf", f"has an impossible {root}")
        for level in ("agf_bno_level", "agf_cnt_level"):
            self._require((agf[level] > 0) & (agf[level] <= _MAX_LEVELS), "agf", f"has an impossible {level}")
        for index in ("agf_flfirst", "agf_fllast"):
            self._require(agf[index] < slots, "agf", f"has an impossible {index}")
        self._require(agf["agf_flcount"] <= slots, "agf", "has an impossible agf_flcount")
        self._require(agf["agf_freeblks"] <= lengths, "agf", "has an impossible agf_freeblks")
        self._require(agf["agf_btreeblks"] <= lengths, "agf", "has an impossible agf_btreeblks")

    def _roots(self) -> list[Int64Array]:
        names = ["agf_bno_root", "agf_cnt_root"]
        names += ["agf_rmap_root"] if self._sb.has_ro_compat(RMAPBT) else []
        names += ["agf_refcount_root"] if self._sb.has_ro_compat(REFLINK) else []
        inode_names = ["agi_root"] + (["agi_free_root"] if self._sb.has_ro_compat(FINOBT) else [])
        roots = [(self.agf, "agf", name) for name in names] + [(self._agi, "agi", name) for name in inode_names]
        for records, sector, name in roots:
            self._require((records[name] > 0) & (records[name] < self._lengths), sector, f"has an impossible {name}")
        return [records[name].astype(np.int64) for records, _, name in roots]

    def _listed(self) -> tuple[Int64Array, Int64Array]:
        """AG and block of each block in a free list, a ring from agf_flfirst up to and with agf_fllast."""
        slots = np.arange(self._geometry.agfl_size)
        first = self.agf["agf_flfirst"].astype(np.int64)[:, None]
        last = self.agf["agf_fllast"].astype(np.int64)[:, None]
        count = self.agf["agf_flcount"].astype(np.int64)
        is_inside = np.where(first <= last, (slots >= first) & (slots <= last), (slots >= first) | (slots <= last))
        is_inside &= count[:, None] > 0
        self._require(is_inside.sum(axis=1) == count, "agfl", "disagrees with the count of its blocks")
        row, slot = np.nonzero(is_inside)
        blocks = self._free_list[row, slot]
        outside = np.zeros(len(self._numbers), dtype=bool)
        outside[row[(blocks == 0) | (blocks >= self._lengths[row])]] = True
        self._require(~outside, "agfl", "names blocks outside of the group")
        return row, blocks

    def own(self) -> Extents:
        """Headers, roots and free lists, in blocks in one row over all AGs."""
        bases = self._numbers * self._geometry.ag_blocks
        row, listed = self._listed()
        starts = np.concatenate([bases[row] + listed, *(bases + root for root in self._roots())])
        return Extents(
            np.concatenate([bases, starts]), np.concatenate([bases + self._geometry.header_blocks, starts + 1])
        )


def _records(sectors: Uint8Array, dtype: np.dtype[Any]) -> Records:
    return np.ascontiguousarray(sectors[:, : dtype.itemsize]).view(dtype)[:, 0]
