# SPDX-License-Identifier: GPL-3.0-or-later
"""APFS: which blocks of a container are in use, by all of its volumes and snapshots.

The space manager of the newest checkpoint says so. APFS never overwrites what the newest checkpoint uses, and marks a
block as free only when no checkpoint that may still be mounted needs it. Superblock copies, checkpoint areas and the
space manager's own blocks are marked there like files, and a map that does not know of them is not trusted.

Decisions: an encrypted container's map could be read, because the space manager is not encrypted; but none could be
tested here, so it is copied whole. So is one whose block 0 is older than its newest checkpoint, which is what a crash
leaves: the newest checkpoint would be right, but macOS may have written behind it what no tool here can judge.

References:
    Apple File System Reference (2020). Field names are its own.
    apfsprogs 0.2, apfsck, for what a sound container is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from uuid import UUID

from imager.blocks import BlockReader
from imager.extents import Extents
from imager.filesystems.apfs.container import Checkpoint, Superblock, read_checkpoint, read_superblock
from imager.filesystems.apfs.spaceman import UsedBlocks, read_used_blocks
from imager.filesystems.apfs.volumes import Volumes, read_volumes
from imager.filesystems.base import NotTrusted, ParserDoc, UsedMap
from imager.layout import Content

DOC: Final = ParserDoc(
    name="APFS",
    types=("apfs",),
    handled=(
        "containers of version 2, with blocks of 4096 to 65536 bytes and any number of volumes",
        "space managers with chunk-info blocks, and with address blocks of these (from 8 TiB on)",
        "snapshots, clones, sparse and compressed files, sealed system volumes",
        "blocks in the free queues, which count as used",
        "containers smaller than their partition",
    ),
    whole_when=(
        ("the container or one of its volumes is encrypted", "no encrypted container could be tested"),
        ("Fusion drives", "blocks are spread over two disks"),
        ("it was not cleanly unmounted", "its newest checkpoint is not the one that block 0 shows"),
        ("unknown features or flags, or version 1", "they may keep data where no bit is set"),
        ("its checkpoint areas are in pieces", "this is not handled"),
        ("it is being made smaller, encrypted or decrypted", "blocks are being moved"),
        ("a checksum, address or count is wrong", "the container is damaged"),
        ("the free blocks are not as many as each chunk and the space manager count", "the container is damaged"),
        ("checkpoint areas or the space manager are marked free", "the container is damaged"),
    ),
    references=(
        "https://developer.apple.com/support/downloads/Apple-File-System-Reference.pdf",
        "https://github.com/linux-apfs/apfsprogs",
    ),
)


def probe(reader: BlockReader) -> Content | None:
    """Recognise a container by the superblock in block 0."""
    superblock = read_superblock(reader)
    return _describe(superblock) if superblock else None


def used_map(reader: BlockReader) -> UsedMap:
    """The blocks that the space manager of the newest checkpoint marks.

    Raises:
        NotTrusted: The container is encrypted, not clean, or its structures say what cannot be.
    """
    first = read_superblock(reader)
    if first is None:
        raise NotTrusted("it has no APFS container superblock")
    checkpoint = read_checkpoint(reader, first)
    superblock = checkpoint.superblock
    volumes = read_volumes(reader, checkpoint)
    found = read_used_blocks(reader, checkpoint)
    _check_certain(found, superblock, volumes)
    size = superblock.nx_block_size
    described = _describe(superblock)
    content = replace(
        described,
        used_bytes=(superblock.nx_block_count - found.free_count) * size,
        facts={**described.facts, **_facts(checkpoint, found, volumes)},
    )
    return UsedMap(Extents(found.blocks.starts * size, found.blocks.ends * size), content)


def _check_certain(found: UsedBlocks, superblock: Superblock, volumes: Volumes) -> None:
    """Refuse bitmaps that do not know of what is certainly in use."""
    single = [0, *volumes.blocks, *([superblock.nx_efi_jumpstart] if superblock.nx_efi_jumpstart else [])]
    certain = Extents.of((superblock.descriptor_area, superblock.data_area, *((block, block + 1) for block in single)))
    missing = (certain | found.own) - found.blocks
    if len(missing):
        raise NotTrusted(f"its bitmaps mark block {int(missing.starts[0])}, which holds a system structure, as free")


def _describe(superblock: Superblock) -> Content:
    return Content(
        kind="filesystem",
        type="apfs",
        uuid=str(UUID(bytes=superblock.nx_uuid)) if any(superblock.nx_uuid) else "",
        block_size_bytes=superblock.nx_block_size,
        size_bytes=superblock.size_bytes,
        facts={"volumes_count": str(len(superblock.volume_oids()))},
    )


def _facts(checkpoint: Checkpoint, found: UsedBlocks, volumes: Volumes) -> dict[str, str]:
    return {
        "volumes": ", ".join(volumes.names),
        "checkpoint": str(checkpoint.xid),
        "blocks_waiting_to_be_freed": str(found.waiting_count),
    }
