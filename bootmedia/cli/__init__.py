# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line of bootmedia: the only part of it that knows typer."""
