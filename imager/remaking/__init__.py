# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes file systems anew that cannot be made smaller, or cannot live with another sector size, and fills them.

`plan` says what will be made, by which program, and what will not be identical; it only reads. FAT, exFAT and swap are
laid out by `volumes` before anything is written: their new structures lie in a small scratch file, their content is
read from the image where it is. XFS, F2FS and ext are filled by `carry` on the target itself, file by file.
"""
