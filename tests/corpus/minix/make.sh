#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the corpus anew in a small guest: make.sh LINUX_IMAGE WORK_FOLDER [RESULT_FOLDER]. Needs what ../guest/make.sh needs, and mkfs.minix.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$2"
python3 "$here/make-blocks.py" "$2/v3-4k" $((12 * 1024 * 1024)) 4096
exec "$here/../guest/make.sh" --kernel "$1" --work "$2" --cases "$here/cases.sh" --result "${3:-$here}" --module minix \
	--file "$2/v3-4k=/v3-4k" --program 'mkfs.minix fsck.minix'
