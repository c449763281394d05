# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows parts of an image or disk to other programs as files that they may change, and the image never changes.

    with ScratchStore.anonymous(folder, size) as store:
        view = View("partition-2", Base.of_image(path, [(start, size)]), store)
        with shown([view]) as there:
            run(["e2fsck", "-f", "-p", there.path("partition-2")])
            after = there.after("partition-2")     # a BlockReader; after.dirty says what was written

Reads give the base's bytes except where something was written. Nothing is left behind, however this process ends: the
file system that holds the files is in no folder, the store has no name, and loop devices and mounts made with
`device` and `attached` go with the process that holds them.
"""

from imager.overlay.base import Base
from imager.overlay.devices import attached, device
from imager.overlay.showing import Shown, View, shown
from imager.overlay.store import Place, Seal, Store
from imager.overlay.view import Overlay

__all__ = ("Base", "Overlay", "Place", "Seal", "Shown", "Store", "View", "attached", "device", "shown")
