# SPDX-License-Identifier: GPL-3.0-or-later
"""Captures of raw files with a used map that the test chooses: in this process, or in one that can be killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imager.capture.job import CaptureOptions, CaptureResult, capture
from imager.devices.opening import open_source
from imager.extents import Extents
from imager.layout import Content, Identity, Layout, Partition, Table
from imager.stores import open_output
from imager.survey import Survey

Range = tuple[int, int]
MIB = 1 << 20
IMAGE_ID = uuid.UUID("6f0c9ad2-8d0f-4d8a-9f52-3c1a6a7b8c9d")


def raw_file(path: Path, size: int, *, seed: int = 1) -> Path:
    """A disk of text-like and random stretches, none of it zero."""
    source = random.Random(seed)
    content = bytearray()
    while len(content) < size:
        stretch = source.randbytes(source.randrange(1000, 30_000))
        content += stretch if source.random() < 0.3 else stretch[:64].replace(b"\0", b"\1") * (len(stretch) // 64)
    path.write_bytes(content[:size])
    return path


def survey_of(path: Path, used: Sequence[Range], size: int | None = None) -> Survey:
    """A survey of a disk in a file, with one partition from the first MiB on."""
    disk_size = path.stat().st_size if size is None else size
    parts = (Partition(1, MIB, disk_size, content=Content("filesystem", "ext4")),) if disk_size > MIB else ()
    layout = Layout(Identity(path=os.fspath(path)), disk_size, 512, 512, Table("gpt"), parts)
    return Survey(layout, Extents.of(used))


def capture_file(
    path: Path,
    image: Path | str,
    used: Sequence[Range],
    *,
    overwrite: bool = False,
    progress: Any = None,
    **options: Any,
) -> CaptureResult:
    """Capture what is used of a raw file; id and time are fixed unless the options name others."""
    chosen = {"image_id": IMAGE_ID, "created": "2026-01-02T03:04:05Z", "threads": 2, "chunk_size": 256 * 1024}
    wanted = CaptureOptions(**(chosen | options))
    with open_source(os.fspath(path), exclusive_check=False, sector_size=512) as source:
        output = open_output(os.fspath(image), overwrite=overwrite, resume=wanted.resume)
        return capture(source, survey_of(path, used), output, wanted, progress)


def expected_content(path: Path, used: Sequence[Range]) -> bytes:
    """The raw file with its unused bytes zero."""
    content, expected = path.read_bytes(), bytearray(path.stat().st_size)
    for start, end in used:
        expected[start:end] = content[start:end]
    return bytes(expected)


def decompressed(image: Path) -> bytes:
    """What zstd itself makes of an image."""
    return subprocess.run(["zstd", "-dc", image], check=True, capture_output=True).stdout


def capture_in_child(path: Path, image: Path, used: Sequence[Range], **options: Any) -> subprocess.Popen[bytes]:
    """Start a capture in a process of its own; options are those of `capture_file`."""
    words = json.dumps({"path": os.fspath(path), "image": os.fspath(image), "used": list(used), "options": options})
    top = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.harness.capturing", words],
        cwd=top,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _child(words: str) -> None:
    def on_sigterm(_signal: int, _frame: object) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, on_sigterm)
    given = json.loads(words)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    capture_file(Path(given["path"]), given["image"], [tuple(pair) for pair in given["used"]], **given["options"])


if __name__ == "__main__":
    _child(sys.argv[1])
