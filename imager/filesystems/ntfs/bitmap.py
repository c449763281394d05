# SPDX-License-Identifier: GPL-3.0-or-later
"""NTFS's $Bitmap: a bit for each cluster, set when it is in use.

A volume of 16 TiB with clusters of 4 KiB has 512 MiB of it, so it is read in pieces, and of a piece only the 64-bit
words are looked into in which something changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from imager.extents import Extents, Int64Array
from imager.filesystems.base import NotTrusted
from imager.filesystems.collecting import RangeCollector
from imager.filesystems.ntfs.streams import Stream

_PIECE_BYTES: Final = 512 * 1024
_REFUSED_RUNS: Final = 2**24
"""No real volume is in so many pieces, and the work must end some day."""


@dataclass(frozen=True)
class UsedClusters:
    """What $Bitmap says.

    Attributes:
        clusters: Numbers of the used clusters, or a superset when they are in too many pieces.
        count: How many there are, exactly.
    """

    clusters: Extents
    count: int


def read_bitmap(bitmap: Stream, cluster_count: int) -> UsedClusters:
    """Read which clusters are in use.

    Raises:
        NotTrusted: It is too short, or marks clusters past the end of the volume as free.
    """
    bitmap.check_plain()
    length = -(-cluster_count // 8)
    if bitmap.initialized_size < length:
        raise NotTrusted(f"$Bitmap has {bitmap.initialized_size} bytes for {cluster_count} clusters")
    _check_padding(bitmap, cluster_count)
    collector = RangeCollector()
    count = runs = 0
    for position in range(0, length, _PIECE_BYTES):
        piece = bitmap.read(position, min(_PIECE_BYTES, length - position))
        starts, ends = _set_runs(piece)
        first = position * 8
        starts, ends = starts + first, np.minimum(ends + first, cluster_count)
        runs += len(starts)
        if runs > _REFUSED_RUNS:
            raise NotTrusted(f"its free space is in more than {_REFUSED_RUNS} pieces")
        count += int((ends - starts).sum())
        if len(starts):
            collector.add(starts, ends)
    return UsedClusters(collector.extents(), count)


def _check_padding(bitmap: Stream, cluster_count: int) -> None:
    """The bits after the last cluster, up to the next multiple of 64, are set: there is nothing to allocate."""
    first_byte = cluster_count // 8
    end = min(-(-cluster_count // 64) * 8, bitmap.initialized_size)
    padding = int.from_bytes(bitmap.read(first_byte, end - first_byte), "little")
    bits = 8 * (end - first_byte)
    if padding >> cluster_count % 8 != (1 << bits) - 1 >> cluster_count % 8:
        raise NotTrusted(f"$Bitmap marks clusters after the last one, {cluster_count - 1}, as free")


def _set_runs(piece: bytes) -> tuple[Int64Array, Int64Array]:
    """First bit and the bit after the last one of each run of ones."""
    if piece.count(0) == len(piece):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    words = np.frombuffer(piece + bytes(-len(piece) % 8), dtype="<u8")
    changes = words << np.uint64(1)
    changes[1:] |= words[:-1] >> np.uint64(63)
    changes ^= words
    at = np.flatnonzero(changes)
    octets = changes[at].view(np.uint8)
    bits = np.flatnonzero(np.unpackbits(octets, bitorder="little"))
    edges = at[bits >> 6] * 64 + (bits & 63)
    if len(edges) % 2:
        edges = np.append(edges, len(words) * 64)
    return edges[0::2], edges[1::2]
