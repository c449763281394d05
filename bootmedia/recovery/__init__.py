# SPDX-License-Identifier: GPL-3.0-or-later
"""Unattended recovery: a file says which machine gets which image onto which disk, and this carries it out.

`reading` turns the file into `answers`, whose words `naming` explains and `contradictions` doubts; `facts` looks at the
machine, `choose` picks the disk or refuses, `fetch` brings the image, `plan` puts these together, `job` carries the
plan out, and `cli` is the command `recovery`. It stands on imager alone, so that a medium needs nothing else of
bootmedia.
"""
