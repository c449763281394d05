# SPDX-License-Identifier: GPL-3.0-or-later
"""From disk to image: which chunks, in what order, and the worker pipeline."""
