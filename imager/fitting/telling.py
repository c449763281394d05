# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person should know before agreeing to another table.

References:
    Microsoft, "Windows and GPT FAQ": Windows starts from a GPT disk only where the firmware is UEFI.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from imager.fitting.boxes import Box
from imager.fitting.model import NewPlace, Rule
from imager.fitting.sectors import verdict_of
from imager.fitting.ways import why_not
from imager.layout import Layout
from imager.partitions.shape import Shape
from imager.pictures.sizes import size_text


def table_sentences(layout: Layout, shape: Shape, rule: Rule, numbers: Mapping[int, int]) -> Iterator[str]:
    """What a person should know before agreeing to another table."""
    old, new = layout.logical_sector_bytes, shape.sector_bytes
    is_to_gpt = shape.kind != layout.table.kind
    if rule.to_gpt and not is_to_gpt:
        yield "the disk in the image has a GPT already: --to-gpt changes nothing"
    if old != new:
        yield (
            f"the target counts sectors of {new} bytes, the disk in the image sectors of {old}: "
            "the table is written in the new unit"
        )
        if new > old:
            yield (
                f"a BIOS cannot start a disk with sectors of {new} bytes: neither GRUB's BIOS loader nor any other "
                "works on it; the machine must start it by UEFI"
            )
    if is_to_gpt:
        yield (
            "the MBR becomes a GPT: partitions keep their numbers, and get other PARTUUIDs, which fstab, the kernel's "
            "command line or a boot loader may name; no entry is an extended partition any more"
        )
        yield (
            "a BIOS boot loader in front of the first partition is overwritten by the GPT and must be installed again: "
            "--repair-boot, for GRUB with a BIOS boot partition"
        )
        if any(
            entry.attributes == "80" and entry.content and entry.content.type == "ntfs" for entry in layout.partitions
        ):
            yield (
                "Windows starts from a GPT by UEFI only: it needs an EFI system partition, and bcdboot of its own "
                "installation medium"
            )
    for number in sorted(rule.leave_out):
        yield f"partition {number} of the image is left out: nothing of it is written"
    for number, there in numbers.items():
        if number != there:
            yield f"partition {number} of the image is partition {there} on the target"


def sector_sentences(boxes: Sequence[Box], layout: Layout, shape: Shape) -> Iterator[str]:
    """What sectors of another length mean for what lies in each partition."""
    for box in boxes:
        content = box.entry.content
        verdict = verdict_of(content if box.entry.captured else None, layout.logical_sector_bytes, shape.sector_bytes)
        if content and verdict.text:
            how = {"anew": "is made anew and filled with its files", "adapts": "is adapted"}.get(verdict.kind)
            told = f" {how}" if how else ""
            yield f"partition {box.number} ({content.type}){told}: {verdict.text}"


def new_words(added: Sequence[NewPlace]) -> Iterator[str]:
    """What is new."""
    made = {"none": "nothing is made in it", "swap": "swap is made in it"}
    for place in added:
        entry = place.entry
        about = made.get(place.part.filesystem, f"{place.part.filesystem} is made in it")
        named = f", {entry.uuid}" if entry.uuid else ""
        yield f"partition {entry.number} is new: {size_text(entry.size_bytes)} at byte {entry.start}{named}; {about}"


def least_sizes(boxes: Sequence[Box]) -> Iterator[str]:
    """How small everything could be, and what keeps its size and why: what would have to go."""
    sizes = [f"partition {box.number} {size_text(min(box.size, box.trait.minimum_bytes))}" for box in boxes]
    yield f"The smallest sizes are: {', '.join(sizes)}."
    reasons = [
        f"partition {box.number}: {why_not(content)}"
        for box in boxes
        if (content := box.entry.content) and content.kind not in ("blank", "unknown") and why_not(content)
    ]
    if reasons:
        yield f"What keeps its size: {'; '.join(reasons)}."
    yield "A plan can leave partitions out (imager plan --write)."
