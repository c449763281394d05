# SPDX-License-Identifier: GPL-3.0-or-later
"""The block map of JFS: two bits for each block, set when it is in use.

The map is a file of pages: a control page, then the dmap pages, each for 8192 blocks, with summary pages of three
levels between them::

    page  0        1   2   3   4 .. 1027   1028  1029 ..        L0 before each 1024 dmaps, L1 before each 1024 L0,
          control  L2  L1  L0  dmaps       L0    dmaps          a single L2

The working map (wmap) says what the allocator sees, the persistent map (pmap) what is committed. They are the same in
a volume that was cleanly unmounted. The summary pages say nothing that the dmaps do not say, and are not read.

References:
    Linux fs/jfs: jfs_dmap.h, jfs_dmap.c (dbMount, dbSync).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from imager.extents import Extents, Int64Array, set_bit_runs
from imager.filesystems.base import NotTrusted
from imager.filesystems.collecting import RangeCollector
from imager.filesystems.jfs.structs import PSIZE, Superblock
from imager.filesystems.jfs.xtree import FileMap

BPERDMAP: Final = 8192
LPERCTL: Final = 1024
MAXAG: Final = 128
_L2BPERDMAP: Final = 13
_FIRST_DMAP_PAGE: Final = 4
_PIECE_PAGES: Final = 256
_REFUSED_RUNS: Final = 2**24
"""No real volume is in so many pieces, and the work must end some day."""

_DBMAP: Final = Struct("<qqiiiiiiiiii")
_AGFREE_OFFSET: Final = 56
_AGSIZE_OFFSET: Final = 1080
_DMAP: Final = np.dtype(
    {
        "names": ["nblocks", "nfree", "start", "wmap", "pmap"],
        "formats": ["<i4", "<i4", "<i8", "V1024", "V1024"],
        "offsets": [0, 4, 8, 2048, 3072],
        "itemsize": PSIZE,
    }
)

DmapArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Control:
    """struct dbmap, of which every field was checked that is used.

    Attributes:
        agfree: Free blocks of each allocation group.
        ag_dmaps: How many dmaps an allocation group has; a power of two.
    """

    mapsize: int
    nfree: int
    agfree: Int64Array
    ag_dmaps: int


def read_control(file: FileMap, sb: Superblock, map_blocks: int) -> Control:
    """Read the control page and hold it against the superblock.

    Raises:
        NotTrusted: They disagree, or a field has an impossible value.
    """
    page = file.read(0, 1)
    mapsize, nfree, l2nbperpage, numag, _, _, _, _, _, _, _, agl2size = _DBMAP.unpack_from(page)
    agsize = int.from_bytes(page[_AGSIZE_OFFSET : _AGSIZE_OFFSET + 8], "little")
    if mapsize != map_blocks:
        raise NotTrusted(f"its block map describes {mapsize} blocks, its superblock {map_blocks}")
    if l2nbperpage != 0 or not _L2BPERDMAP <= agl2size < 43 or agsize != 1 << agl2size or agsize != sb.s_agsize:
        raise NotTrusted("its block map has allocation groups of another size than its superblock")
    if numag != -(-mapsize // agsize) or numag > MAXAG:
        raise NotTrusted(f"its block map has {numag} allocation groups of {agsize} blocks for {mapsize} blocks")
    agfree = np.frombuffer(page, dtype="<i8", count=numag, offset=_AGFREE_OFFSET).astype(np.int64)
    return Control(mapsize, nfree, agfree, agsize // BPERDMAP)


def used_blocks(file: FileMap, control: Control) -> Extents:
    """Numbers of the blocks that are in use.

    Raises:
        NotTrusted: A page of the map is damaged, or counts disagree.
    """
    collector = RangeCollector()
    found = np.zeros(len(control.agfree), dtype=np.int64)
    runs = 0
    for first, dmaps in _dmap_pages(file, -(-control.mapsize // BPERDMAP)):
        numbers = np.arange(first, first + len(dmaps))
        _check_dmaps(dmaps, numbers, control.mapsize)
        np.add.at(found, numbers // control.ag_dmaps, dmaps["nfree"])
        starts, ends = _used_runs(dmaps)
        runs += len(starts)
        if runs > _REFUSED_RUNS:
            raise NotTrusted(f"its free space is in more than {_REFUSED_RUNS} pieces")
        origin = first * BPERDMAP
        collector.add(starts + origin, np.minimum(ends + origin, control.mapsize))
    if np.any(found != control.agfree):
        number = int(np.argmax(found != control.agfree))
        raise NotTrusted(
            f"allocation group {number} has {int(found[number])} free blocks, "
            f"the control page of the block map says {int(control.agfree[number])}"
        )
    if int(found.sum()) != control.nfree:
        raise NotTrusted(f"it has {int(found.sum())} free blocks, its block map counts {control.nfree}")
    return collector.extents()


def _dmap_pages(file: FileMap, count: int) -> Iterator[tuple[int, DmapArray]]:
    """Number of the first dmap, and some that follow each other."""
    for group in range(-(-count // LPERCTL)):
        first = group * LPERCTL
        page = _FIRST_DMAP_PAGE + first + group + group // LPERCTL
        end = min(first + LPERCTL, count)
        for number in range(first, end, _PIECE_PAGES):
            raw = file.read(page + number - first, min(_PIECE_PAGES, end - number))
            yield number, np.frombuffer(raw, dtype=_DMAP)


def _check_dmaps(dmaps: DmapArray, numbers: npt.NDArray[np.int_], mapsize: int) -> None:
    begins = numbers * BPERDMAP
    blocks = np.minimum(mapsize - begins, BPERDMAP)
    wmap, pmap = (_words(dmaps[name]) for name in ("wmap", "pmap"))
    free = BPERDMAP - np.bitwise_count(wmap).sum(axis=1, dtype=np.int64)
    for is_right, why in (
        ((dmaps["start"] == begins) & (dmaps["nblocks"] == blocks), "describes other blocks than it should"),
        ((wmap == pmap).all(axis=1), "has a working map that is not the persistent one"),
        (dmaps["nfree"] == free, "has another count of free blocks than bits that are clear"),
    ):
        if not is_right.all():
            raise NotTrusted(f"dmap {int(numbers[np.argmin(is_right)])} of the block map {why}")
    last = wmap[-1].astype(">u4").tobytes()
    padding = BPERDMAP - int(blocks[-1])
    if int.from_bytes(last, "big") & (1 << padding) - 1 != (1 << padding) - 1:
        raise NotTrusted(f"its block map marks blocks after the last one, {mapsize - 1}, as free")


def _words(field: DmapArray) -> npt.NDArray[np.uint32]:
    """The words of maps, a row for each dmap."""
    words: npt.NDArray[np.uint32] = np.ascontiguousarray(field).view("<u4").reshape(len(field), -1)
    return words


def _used_runs(dmaps: DmapArray) -> tuple[Int64Array, Int64Array]:
    """First block and the block after the last one of each run of used blocks, from the first dmap's first on."""
    words = _words(dmaps["wmap"])
    if not words.any():
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    # The first block of a word is its highest bit.
    return set_bit_runs(words.astype(">u4").tobytes(), bitorder="big")
