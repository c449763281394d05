# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps are tight: not larger than what the file system's own tool counts, but for a known little; see the report."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
MIB = 1024 * 1024
# What no count names: Btrfs' first MiB and superblocks, XFS' stock of free blocks, the block that F2FS writes next,
# both superblocks of NILFS2, 64 KiB of swap.
MORE_BYTES = {
    "Btrfs": MIB + 8192,
    "F2FS": 4096,
    "Linux swap": 60 * 1024,
    "NILFS2": 16 * 1024,
    "NTFS": 64 * 1024,
    "squashfs": 4096,
    "XFS": 128 * 1024,
}


def script(name: str) -> ModuleType:
    """A module of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


script("used_map_counts")
CASES = script("used_map_cases").CASES
REPORT = script("used_map_report")


def title(case) -> str:
    return f"{case.system}, {case.what}"


COUNTED = [case for case in CASES if case.count is not None]
FIRST = {case.system: title(case) for case in reversed(COUNTED)}


def parameter(case):
    """The first case of each file system is always run."""
    return pytest.param(case, id=title(case), marks=() if title(case) in FIRST.values() else pytest.mark.slow)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return REPORT.make_content(tmp_path_factory.mktemp("content"))


@pytest.mark.parametrize("case", [parameter(case) for case in COUNTED])
def test_map_is_what_the_file_system_counts_and_little_more(case, content: Path, tmp_path: Path):
    if case.missing():
        pytest.skip(f"not installed: {case.missing()}")
    row = REPORT.measure(replace(case, partclone=""), tmp_path, content)  # which takes its time
    if row.map_bytes is None:
        assert row.image_bytes == row.size_bytes
        assert row.whole_reason
    else:
        assert row.own_bytes <= row.map_bytes <= row.own_bytes + MORE_BYTES.get(case.system, 0)
        assert row.image_bytes <= row.map_bytes + 3 * MIB


def test_no_case_is_listed_twice():
    assert len({title(case) for case in CASES}) == len(CASES)
