# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives what lies on a restored disk new identifiers, so that it can live beside the disk that it is a copy of.

What is given is drawn when the restore is planned, so the plan shows it. Then the files of the systems on the disk that
name the old identifiers get the new ones.
"""
