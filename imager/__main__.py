# SPDX-License-Identifier: GPL-3.0-or-later
"""The program `imager`, and `python -m imager`."""

from __future__ import annotations

from imager.interrupts import end_at_once


def main() -> None:
    """Entry point of the program."""
    end_at_once()
    from imager.cli.app import main as run  # not on top: it takes longest

    run()


if __name__ == "__main__":
    main()
