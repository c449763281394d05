#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the RAID members anew in a small guest: make.sh LINUX_IMAGE_DEB WORK_FOLDER [RESULT_FOLDER]. Needs what ../guest/make.sh
# needs, and mdadm.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../guest/make.sh" --kernel "$1" --work "$2" --cases "$here/cases.sh" --result "${3:-$here}" \
	--module 'md_mod raid0 raid1' --program 'mdadm mke2fs mdmon' --file /etc/mke2fs.conf --space 200M --seconds 400
