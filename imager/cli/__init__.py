# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: the only part that knows typer and the only one that prints."""
