# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens the volumes of a written disk for other programs, mounts them, and closes all of it again.

Everything that is opened here is closed in reverse order, whatever happens in between. What cannot be opened is listed
with the reason, and stops nothing else.
"""

from imager.opening.model import Opened, OpenVolume, Secrets, Unopened
from imager.opening.mounting import mounted
from imager.opening.walk import opened_volumes

__all__ = ("OpenVolume", "Opened", "Secrets", "Unopened", "mounted", "opened_volumes")
