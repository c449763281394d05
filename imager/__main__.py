# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m imager`."""

from __future__ import annotations

from imager.cli.app import main

if __name__ == "__main__":
    main()
