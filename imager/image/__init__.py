# SPDX-License-Identifier: GPL-3.0-or-later
"""The image file: its format, writing, reading, verifying, salvaging."""
