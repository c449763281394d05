#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the corpus anew in a small guest: make.sh LINUX_IMAGE_DEB WORK_FOLDER APFS_FOLDER [RESULT_FOLDER]. APFS_FOLDER holds apfs.ko, built
# for that kernel, mkapfs, apfsck and apfs-snap (see ABOUT.md). Needs what ../guest/make.sh needs. Takes about a minute with TCG.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
programs=(mkapfs apfsck apfs-snap)
exec "$here/../guest/make.sh" --kernel "$1" --work "$2" --cases "$here/cases.sh" --result "${4:-$here}" \
	--module libcrc32c --program "${programs[*]/#/$3/}" \
	--file "$3/apfs.ko=/apfs.ko $3/mkapfs=/usr/sbin/mkapfs $3/apfsck=/usr/sbin/apfsck $3/apfs-snap=/usr/sbin/apfs-snap"
