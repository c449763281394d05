# SPDX-License-Identifier: GPL-3.0-or-later
"""Partition tables: reading them, where their parts lie, and moving them."""
