# SPDX-License-Identifier: GPL-3.0-or-later
"""The full-screen wizard of the medium: a front end of the commands, and nothing else.

It reads with the library and with `--json`, and does everything by a command that it shows, so whatever it does can be
done by hand. What is chosen and what follows from it is pure (`choice`, `images`, `targets`, `volumes`, `network`,
`health`); `running` carries commands out; `screens` shows both, and is the only part that knows textual.
"""
