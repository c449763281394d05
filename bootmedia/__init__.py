# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds and tests the medium that a dead machine is started from, with imager on it.

`recipe/` says what is on it, in files for people; the modules beside it carry that out.
"""
