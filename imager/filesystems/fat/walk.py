# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory tree of a FAT volume that was not cleanly unmounted: clusters that its entries point to.

A directory entry may have reached the disk while the FAT did not. The FAT then calls the file's first cluster free, but
drivers read it all the same. The tree is walked through the first FAT, and the first cluster of every entry counts.

References:
    fatgen103, "FAT Directory Structure": DIR_Attr, DIR_FstClusHI, DIR_FstClusLO.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.base import NotTrusted
from imager.filesystems.fat.boot import Geometry
from imager.filesystems.fat.files import next_cluster

_MOST_DIRECTORY_BYTES: Final = 256 * 1024 * 1024
_MOST_DIRECTORY_CLUSTERS: Final = 200_000
_ATTR_VOLUME_ID: Final = 0x08
_ATTR_DIRECTORY: Final = 0x10
_ENTRY: Final = np.dtype(
    [
        ("DIR_Name", "u1", 11),
        ("DIR_Attr", "u1"),
        ("skipped", "u1", 8),
        ("DIR_FstClusHI", "<u2"),
        ("times", "u1", 4),
        ("DIR_FstClusLO", "<u2"),
        ("DIR_FileSize", "<u4"),
    ]
)
"""A directory entry; the 8 bytes before DIR_FstClusHI and the 4 after it are times."""

Clusters = npt.NDArray[np.int64]


def clusters_in_tree(reader: BlockReader, geometry: Geometry) -> Extents:
    """Numbers of all directory clusters and of the first cluster of every file.

    Raises:
        NotTrusted: There are more directories than any real volume has.
    """
    root = reader.read(geometry.root_offset, geometry.root_bytes)
    found, pending = _children(root, geometry)
    if geometry.root_cluster:
        pending.append(geometry.root_cluster)
    parts = [found]
    visited: set[int] = set()
    while pending:
        cluster = pending.pop()
        if cluster in visited:
            continue
        visited.add(cluster)
        _check_effort(len(visited), geometry)
        content = reader.read(geometry.cluster_offset(cluster), geometry.cluster_bytes)
        found, directories = _children(content, geometry)
        parts.append(found)
        pending.extend(directories)
        following = next_cluster(reader, geometry, cluster)
        if 2 <= following < geometry.cluster_count + 2:
            pending.append(following)
    numbers = np.unique(np.concatenate([*parts, np.fromiter(visited, dtype=np.int64)]))
    return Extents(numbers, numbers + 1)


def _check_effort(directory_clusters: int, geometry: Geometry) -> None:
    most = min(_MOST_DIRECTORY_CLUSTERS, _MOST_DIRECTORY_BYTES // geometry.cluster_bytes)
    if directory_clusters > most:
        raise NotTrusted(f"it was not cleanly unmounted, and its directories take more than {most} clusters")


def _children(directory: bytes, geometry: Geometry) -> tuple[Clusters, list[int]]:
    """First clusters of everything that a piece of a directory names, and of the directories among it.

    Deleted entries and those after the end mark do not count: no driver follows them.
    """
    entries = np.frombuffer(directory, dtype=_ENTRY)
    first_byte = entries["DIR_Name"][:, 0]
    ended = np.flatnonzero(first_byte == 0)
    if ended.size:
        entries, first_byte = entries[: ended[0]], first_byte[: ended[0]]
    high = entries["DIR_FstClusHI"].astype(np.int64) if geometry.bits == 32 else np.int64(0)
    clusters = high << 16 | entries["DIR_FstClusLO"].astype(np.int64)
    attributes = entries["DIR_Attr"]
    # Parts of long names have the volume bit too.
    named = (first_byte != 0xE5) & (attributes & _ATTR_VOLUME_ID == 0)
    named &= (clusters >= 2) & (clusters < geometry.cluster_count + 2)
    directories = named & (attributes & _ATTR_DIRECTORY != 0)
    return clusters[named], np.unique(clusters[directories]).tolist()
