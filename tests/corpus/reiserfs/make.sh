#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the corpus anew: make.sh LINUX_IMAGE WORK_FOLDER. ../guest/ABOUT.md says what is needed; beside it, reiserfsprogs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
kernel=$(realpath "$1")
mkdir -p "$2"
work=$(realpath "$2")
truncate -s 100M "$work/old.img"
mkreiserfs -q -f -f "$work/old.img"
cd "$here/../../.."
python3 -m tests.harness.reiserfs_images "$work/old.img"
truncate -s 34M "$work/old.img" # what follows is empty
exec "$here/../guest/make.sh" --seconds 240 --kernel "$kernel" --work "$work" --cases "$here/cases.sh" --result "$here" \
	--module reiserfs --program mkreiserfs --file "$work/old.img=/old.img"
