# SPDX-License-Identifier: GPL-3.0-or-later
"""A Linux kernel in a guest mounts volumes whose unused blocks are garbage, and reads every file.

It needs a kernel with modules that most machines lack: IMAGER_GUEST_KERNEL names a linux-image package of Debian, or
the folder that one was unpacked to.
"""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest

from imager.filesystems import jfs, minix, nilfs2, reiserfs, ufs
from tests.harness import guest_cases
from tests.harness.files import FileReader
from tests.harness.poison import poison
from tests.harness.programs import call, missing_tools

KERNEL = os.environ.get("IMAGER_GUEST_KERNEL", "")
_MISSING = missing_tools("qemu-system-x86_64", "busybox", "depmod", "cpio")
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not KERNEL, reason="IMAGER_GUEST_KERNEL names no kernel for the guest"),
    pytest.mark.skipif(bool(_MISSING), reason=f"not installed: {_MISSING}"),
]

MOST_BYTES = 128 * 1024 * 1024

SCRIPT = """
new_image {case} 1M; losetup -d $DEVICE
gunzip -c /{case}.gz > /out/{case}/image; losetup $DEVICE /out/{case}/image
mount -t {kind} -o ro{options} $DEVICE /mnt && sums /mnt && umount /mnt
release; rm /out/{case}/image
"""


@pytest.mark.parametrize("parser", [jfs, minix, nilfs2, reiserfs], ids=lambda parser: parser.DOC.types[0])
def test_kernel_reads_every_file_of_poisoned_volumes(parser, tmp_path: Path):
    kind = parser.DOC.types[0]
    cases = {case: guest_cases.unpack(kind, case) for case in guest_cases.cases(kind) if not case.endswith("-crash")}
    # Garbage does not pack, and the guest has little memory.
    cases = {case: files for case, files in cases.items() if len(files["image"]) <= MOST_BYTES}
    images = {case: poisoned(parser, files["image"], tmp_path / case) for case, files in cases.items()}
    found = read_in_guest(tmp_path, kind, images)
    assert found == {case: guest_cases.sums(files["sums"]) for case, files in cases.items()}


@pytest.mark.skipif(bool(missing_tools("makefs")), reason="not installed: makefs")
def test_kernel_reads_every_file_of_poisoned_ufs(tmp_path: Path):
    tree, rng = tmp_path / "tree", random.Random(3)
    for number in range(40):
        path = tree / f"folder{number % 5}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 600, 5000, 90_000))))
    (tree / "large").write_bytes(rng.randbytes(2_500_000))
    images = {}
    for sizes in ("4096,512", "8192,1024", "16384,2048"):
        block, fragment = sizes.split(",")
        image = tmp_path / f"ufs-{block}"
        call("makefs", "-t", "ffs", "-s", "16m", "-o", f"bsize={block},fsize={fragment}", image, tree)
        images[image.name] = poisoned(ufs, image.read_bytes(), tmp_path / f"{image.name}-copy")
    found = read_in_guest(tmp_path, "ufs", images, ",ufstype=44bsd")
    wanted = {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tree.rglob("*")
        if path.is_file()
    }
    assert found == dict.fromkeys(images, wanted)


def read_in_guest(tmp_path: Path, kind: str, images: dict[str, Path], options: str = "") -> dict[str, dict[str, str]]:
    """The digests of all files of each image, which is packed by gzip."""
    script = "".join(SCRIPT.format(case=case, kind=kind, options=options) for case in images)
    (tmp_path / "cases.sh").write_text(script)
    words: list[object] = ["--kernel", KERNEL, "--work", tmp_path / "guest", "--cases", tmp_path / "cases.sh"]
    words += ["--result", tmp_path / "result", "--module", kind]
    for case, packed in images.items():
        words += ["--file", f"{packed}=/{case}.gz"]
    call(guest_cases.CORPUS / "guest" / "make.sh", *words)
    results = {case: guest_cases.unpack_file(tmp_path / "result" / f"{case}.tar.zst") for case in images}
    return {case: guest_cases.sums(files["sums"]) for case, files in results.items()}


def poisoned(parser, content: bytes, image: Path) -> Path:
    """A volume whose unused blocks are garbage, by gzip."""
    image.write_bytes(content)
    with FileReader(image) as reader:
        used = parser.used_map(reader).used
    target = image.with_name(f"{image.name}.poisoned")
    assert poison(image, target, used)
    call("gzip", "-1", target)
    return target.with_name(f"{target.name}.gz")
