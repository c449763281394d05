# SPDX-License-Identifier: GPL-3.0-or-later
"""What a capture is told, and what it tells when it is done."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from imager.capture.work import Level
from imager.damage import DamagedPart
from imager.extents import Extents
from imager.image.description import SetMember


@dataclass(frozen=True)
class CaptureOptions:
    """What a person can choose.

    Attributes:
        level: 1 to 19, or "fast".
        threads: None for as many as there are cores to run on.
        chunk_size: Step of the chunk grid in bytes; it grows where the image would have too many frames.
        rescue: Go on when sectors cannot be read; they become zeros and are recorded.
        retries: With rescue, how often a sector that is missing is tried once more.
        rate_limit_bytes_per_second: None for as fast as it goes.
        comment: For people.
        image_id: None for a new one.
        set_id: Of images that were taken together; None when there is only one.
        resume: Continue what the output holds, if it can be continued.
        created: When, as RFC 3339 in UTC; None for now, or the time that SOURCE_DATE_EPOCH says.
        recorded: Further choices that shaped the image (gaps, exclude, ...), for people.
        set_members: All disks of the set, this one too.
        answers: A recovery.toml that the image carries.
    """

    level: Level = 3
    threads: int | None = None
    chunk_size: int = 1 << 20
    rescue: bool = False
    retries: int = 1
    rate_limit_bytes_per_second: int | None = None
    comment: str = ""
    image_id: uuid.UUID | None = None
    set_id: uuid.UUID | None = None
    resume: bool = False
    created: str | None = None
    recorded: dict[str, str] = field(default_factory=dict)
    set_members: tuple[SetMember, ...] = ()
    answers: str = ""


@dataclass(frozen=True)
class CaptureResult:
    """What a capture did.

    Attributes:
        image_id: Of the image.
        root_digest: What names its content.
        file_digest: BLAKE3 of the file's bytes before the trailer.
        bytes_read: Used bytes of the source.
        bytes_written: Size of the image.
        chunk_count: Chunks with data.
        resumed_chunks: How many of them were there already.
        unreadable: Used ranges that could not be read and are zeros in the image.
        damage: The same by partition.
        seconds: How long it took.
    """

    image_id: uuid.UUID
    root_digest: bytes
    file_digest: bytes
    bytes_read: int
    bytes_written: int
    chunk_count: int
    resumed_chunks: int
    unreadable: Extents
    damage: tuple[DamagedPart, ...]
    seconds: float

    @property
    def lacks_content(self) -> bool:
        """Whether bytes that were in use are not in the image."""
        return bool(len(self.unreadable))

    def as_dict(self) -> dict[str, object]:
        """The result for JSON."""
        return {
            "image_id": str(self.image_id),
            "root_digest": self.root_digest.hex(),
            "file_digest": self.file_digest.hex(),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "chunk_count": self.chunk_count,
            "resumed_chunks": self.resumed_chunks,
            "unreadable": [[start, end] for start, end in self.unreadable],
            "damage": self.damage,
            "seconds": round(self.seconds, 3),
        }
