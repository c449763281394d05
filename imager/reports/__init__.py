# SPDX-License-Identifier: GPL-3.0-or-later
"""What was done, for whoever reads it later: as a log, as text, as JSON, and as a page with pictures of the disks."""
