# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard's screens; the only part that knows textual. Each gets what was chosen before it, and starts the next."""
