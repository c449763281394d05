# SPDX-License-Identifier: GPL-3.0-or-later
"""A restored system starts on its new machine: the firmware's boot entries, and repairs that were asked for.

Nothing inside of the restored system is changed unless somebody asked for it; the entries belong to the machine.
"""
