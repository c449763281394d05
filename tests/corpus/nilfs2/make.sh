#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the corpus anew in a small guest: make.sh LINUX_IMAGE WORK_FOLDER [RESULT_FOLDER]. Needs what ../guest/make.sh needs, and nilfs-tools.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../guest/make.sh" --kernel "$1" --work "$2" --cases "$here/cases.sh" --result "${3:-$here}" --module nilfs2 \
	--file "$here/cleanerd.conf=/cleanerd.conf" --program 'mkfs.nilfs2 nilfs_cleanerd mkcp lscp lssu'
