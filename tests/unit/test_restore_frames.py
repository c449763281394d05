# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import random

import pytest
import zstandard
from blake3 import blake3

from imager.errors import ImageDamaged
from imager.image.frames import decode_chunk, new_decompressor

CONTENT = random.Random(1).randbytes(40_000) * 3


def decode(frame, **options):
    buffer = memoryview(bytearray(len(CONTENT)))
    return decode_chunk(frame, len(CONTENT), blake3(CONTENT).digest(), new_decompressor(), buffer, **options)


def frame_of(content):
    return bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(content))


@pytest.mark.parametrize("keeps_frame", [True, False])
@pytest.mark.parametrize("make", [bytes, memoryview])
def test_content_comes_out_with_and_without_the_frames_own_checksum(make, keeps_frame):
    assert decode(make(frame_of(CONTENT)), keeps_frame=keeps_frame) == CONTENT


def test_flipped_checksum_is_found_when_the_frame_is_judged():
    frame = frame_of(CONTENT)
    frame[-1] ^= 1
    with pytest.raises(ImageDamaged):
        decode(memoryview(frame))
    assert decode(memoryview(frame), keeps_frame=False) == CONTENT


@pytest.mark.parametrize("keeps_frame", [True, False])
def test_other_content_is_found_by_its_digest(keeps_frame):
    other = bytearray(CONTENT)
    other[77] ^= 1
    with pytest.raises(ImageDamaged, match="BLAKE3"):
        decode(memoryview(frame_of(bytes(other))), keeps_frame=keeps_frame)
