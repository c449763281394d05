# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether NTFS's log says that the volume was cleanly unmounted.

The log begins with two restart pages, which Windows writes in turn. The newer one, by its log sequence number, says
whether a client still has the log in use. On a clean unmount Windows writes both, alike.

Log version 2.0 is what Windows 8 and later use while a volume is mounted; they go back to 1.1 when they unmount it.
So 2.0 on a disk means that Windows did not unmount it, or will wake up and go on from what it has in memory ("fast
restart"): what is on disk is then out of date, whatever its flags say.

A log that holds nothing but 0xff was made so by mkntfs, ntfsfix or chkdsk, and has nothing to replay.

References:
    Linux 6.6, fs/ntfs/logfile.h and ntfs-3g 2022.10.3, libntfs-3g/logfile.c: RESTART_PAGE_HEADER, RESTART_AREA.
    libfsntfs, New Technologies File System (NTFS) format specification, "Transaction journal".
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from imager.filesystems.base import NotTrusted
from imager.filesystems.ntfs.records import FIXUP_STRIDE, undo_fixups
from imager.filesystems.ntfs.streams import Stream

_PAGE_BYTES: Final = tuple(1 << bits for bits in range(9, 17))
_LOOKED_AT_BYTES: Final = 64 * 1024
_RESTART: Final = b"RSTR"
_CHECKED: Final = b"CHKD"
"""Written by chkdsk; its log sequence number then stands in the page's header."""
_NO_CLIENT: Final = 0xFFFF
_VOLUME_IS_CLEAN: Final = 0x0002
_PLAIN_VERSIONS: Final = ((1, 0), (1, 1))
_FAST_RESTART: Final = (2, 0)

_HEADER: Final = Struct("<4sHHQIIHhh")
_AREA: Final = Struct("<QHHHHIHHq")


class _Header(NamedTuple):
    magic: bytes
    usa_ofs: int
    usa_count: int
    chkdsk_lsn: int
    system_page_size: int
    log_page_size: int
    restart_area_offset: int
    minor_ver: int
    major_ver: int


class _Area(NamedTuple):
    current_lsn: int
    log_clients: int
    client_free_list: int
    client_in_use_list: int
    flags: int
    seq_number_bits: int
    restart_area_length: int
    client_array_offset: int
    file_size: int


@dataclass(frozen=True)
class _Page:
    lsn: int
    version: tuple[int, int]
    is_in_use: bool
    is_flagged_clean: bool


@dataclass(frozen=True)
class LogState:
    """What the log says.

    Attributes:
        reason: Why the volume's metadata on disk cannot be relied on; empty when it is clean.
        summary: For people.
    """

    reason: str
    summary: str


def read_log_state(log: Stream) -> LogState:
    """Judge $LogFile by its restart pages.

    Raises:
        NotTrusted: They are damaged.
    """
    log.check_plain()
    head = log.read(0, min(_LOOKED_AT_BYTES, log.data_size))
    if head and head.count(0xFF) == len(head):
        return LogState("", "reset")
    header = _header(head, 0)
    first = _page(head, 0, header.system_page_size)
    second_at = header.system_page_size
    # Two pages are always written, but a second one that never was cannot be newer than the first.
    is_blank = head[second_at : second_at + 4] in (b"\xff" * 4, bytes(4))
    second = first if is_blank else _page(head, second_at, header.system_page_size)
    newer = first if first.lsn >= second.lsn else second
    return _judge(newer, is_same_version=first.version == second.version)


def _judge(page: _Page, *, is_same_version: bool) -> LogState:
    version = f"{page.version[0]}.{page.version[1]}"
    if page.version == _FAST_RESTART or not is_same_version:
        return LogState("Windows still has it mounted, or keeps its metadata for a fast start", f"{version}, in use")
    if page.version not in _PLAIN_VERSIONS:
        raise NotTrusted(f"its $LogFile has the version {version}, which is not known")
    if page.is_in_use and not page.is_flagged_clean:
        return LogState("it was not cleanly unmounted: Windows has changes in its log to replay", f"{version}, in use")
    return LogState("", f"{version}, clean")


def _header(head: bytes, at: int) -> _Header:
    if at + FIXUP_STRIDE > len(head):
        raise NotTrusted(f"its $LogFile has {len(head)} bytes, too few for two restart pages")
    header = _Header(*_HEADER.unpack_from(head, at))
    if header.magic not in (_RESTART, _CHECKED):
        raise NotTrusted(f"a restart page of its $LogFile begins with {header.magic!r}")
    if header.system_page_size not in _PAGE_BYTES:
        raise NotTrusted(f"its $LogFile has restart pages of {header.system_page_size} bytes")
    return header


def _page(head: bytes, at: int, page_bytes: int) -> _Page:
    header = _header(head, at)
    content = head[at : at + page_bytes]
    if header.system_page_size != page_bytes or len(content) != page_bytes:
        raise NotTrusted("the two restart pages of its $LogFile have different sizes")
    if header.usa_count or header.magic == _RESTART:
        content = undo_fixups(content, header.magic, "a restart page of its $LogFile")
    offset = header.restart_area_offset
    if offset % 8 or offset < _HEADER.size or offset + _AREA.size > page_bytes:
        raise NotTrusted(f"a restart page of its $LogFile has its restart area at {offset}")
    area = _Area(*_AREA.unpack_from(content, offset))
    if area.client_in_use_list != _NO_CLIENT and area.client_in_use_list >= area.log_clients:
        raise NotTrusted(f"its $LogFile is said to be in use by client {area.client_in_use_list}")
    return _Page(
        lsn=header.chkdsk_lsn if header.magic == _CHECKED else area.current_lsn,
        version=(header.major_ver, header.minor_ver),
        is_in_use=area.client_in_use_list != _NO_CLIENT,
        is_flagged_clean=bool(area.flags & _VOLUME_IS_CLEAN),
    )
