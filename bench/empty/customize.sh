# SPDX-License-Identifier: GPL-3.0-or-later
# Run by mmdebstrap with the unpacked root as first word: a unit that says when everything else has started.
set -eu
root=$1
# An empty one gets a random id in memory; "uninitialized" would mean a first start, with its questions.
: >"$root/etc/machine-id"
cat >"$root/etc/systemd/system/bench-ready.service" <<'WORDS'
[Unit]
Description=Says that the system has started
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo "bench: ready" >/dev/ttyS0'
WORDS
mkdir -p "$root/etc/systemd/system/graphical.target.wants"
ln -s ../bench-ready.service "$root/etc/systemd/system/graphical.target.wants/"
