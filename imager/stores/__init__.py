# SPDX-License-Identifier: GPL-3.0-or-later
"""Where image bytes live."""

from imager.stores.base import Input, Output
from imager.stores.opening import open_input, open_output

__all__ = ["Input", "Output", "open_input", "open_output"]
