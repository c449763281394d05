# SPDX-License-Identifier: GPL-3.0-or-later
"""An image and the disk that it goes onto: whether it fits there, how, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from bootmedia.recovery.choose import Candidate
from bootmedia.wizard.images import ImageFacts
from bootmedia.wizard.source import Source
from bootmedia.wizard.targets import name_of, need_of
from imager.errors import ImagerError
from imager.fitting.model import Fitting, Rule
from imager.fitting.planner import fit


@dataclass(frozen=True)
class Pair:
    """An image, and the disk that it goes onto; what is not known yet is None."""

    source: Source
    image: ImageFacts | None = None
    target: Candidate | None = None

    @property
    def name(self) -> str:
        """What the image is called, without its folder."""
        return PurePath(self.source.path).name or str(self.source)

    @property
    def target_path(self) -> str:
        """The device; "" as long as none was chosen."""
        return self.target.path if self.target else ""

    @property
    def encrypted(self) -> tuple[int, ...]:
        """The encrypted partitions in the image."""
        entries = self.image.layout.partitions if self.image else ()
        return tuple(each.number for each in entries if each.content and each.content.type == "crypto_LUKS")

    # --- Whether it fits ----------------------------------------------------------------------------------------------

    @property
    def room_bytes(self) -> int:
        """How much larger the target is than the image's disk."""
        if not self.target or not self.image:
            return 0
        return max(0, self.target.size_bytes - self.image.layout.size_bytes)

    @property
    def _shortfall(self) -> str:
        """Why the image does not fit as it is; "" when it does."""
        return need_of(self.image).shortfall(self.target) if self.target and self.image else ""

    @property
    def needs_fitting(self) -> bool:
        """Whether partitions have to be moved together or made smaller, and may be."""
        return self.fitting is not None or self.may_fit_unlocked

    @property
    def whole_refusal(self) -> str:
        """Why the whole disk cannot go onto the target, as a verb and what follows; "" when it can."""
        return "" if self.needs_fitting else self._shortfall

    def partition_refusal(self, number: int | None, onto: int) -> str:
        """Why a partition of the image cannot be written to one of the target's; "" when it can."""
        if not self.target or not self.image or number is None:
            return "nothing is chosen"
        return need_of(self.image, number, onto).shortfall(self.target)

    @cached_property
    def fitting(self) -> Fitting | None:
        """Where the partitions go on a target that the image does not fit onto as it is; None when they cannot."""
        return self._fitted(Rule("fit")) if self._shortfall else None

    @cached_property
    def may_fit_unlocked(self) -> bool:
        """Whether a target that is too small has room for all but what is encrypted, and may have it for that too."""
        if not self.image or not self.source.path or not self._shortfall:
            return False
        locked = frozenset(self.encrypted)
        others = {each.number for each in self.image.layout.partitions} - locked
        if not locked or not others:
            return bool(locked)
        return self._fitted(Rule("fit", leave_out=locked)) is not None

    def _fitted(self, rule: Rule) -> Fitting | None:
        if not self.target or not self.image:
            return None
        try:
            return fit(self.image.layout, self.target.size_bytes, rule, self.target.sector_bytes)
        except ImagerError:
            return None

    def fitting_words(self) -> str:
        """What the target costs the partitions, for people; "" when it costs nothing."""
        fitting = self.fitting
        if fitting is None and self.may_fit_unlocked:
            return "too small, unless what is encrypted fits: unlock it below (--fit)"
        if fitting is None or not self.target or not self.image:
            return ""
        smaller = ", ".join(str(place.number) for place in fitting.shrunk)
        words = f"made smaller: {smaller}" if smaller else "partitions are moved together"
        if self.target.sector_bytes != self.image.layout.logical_sector_bytes:
            words = f"fitted to sectors of {self.target.sector_bytes} bytes{f', {words}' if smaller else ''}"
        return f"{words} (--fit)"

    # --- What is lost -------------------------------------------------------------------------------------------------

    def destroyed(self) -> str:
        """The target by model, serial number and size; "" as long as none was chosen."""
        return name_of(self.target) if self.target else ""

    def names(self) -> tuple[str, ...]:
        """What names the target when somebody agrees: its device, or its serial number."""
        if self.target is None:
            return ()
        path, serial = self.target.path, self.target.serial
        return (path.removeprefix("/dev/"), *([serial] if len(serial) > 1 else []), path)

    def expected_words(self) -> str:
        """The same for people."""
        return " or ".join(self.names()[:-1])
