# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of disks: bars of characters for terminals, SVG for everything else. They return text and print nothing."""
