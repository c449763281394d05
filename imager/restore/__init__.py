# SPDX-License-Identifier: GPL-3.0-or-later
"""From image to disk: the plan, and the only writer of targets."""
