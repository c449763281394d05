# SPDX-License-Identifier: GPL-3.0-or-later
"""A restored Windows starts on its new machine: storage drivers, drive letters and the boot menu, in files only.

None of its programs is run. What is changed lies in registry files, which are read here and written by hivexsh.
"""
