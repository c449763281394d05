#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the corpus anew in a small guest: make.sh LINUX_IMAGE_DEB WORK_FOLDER HFSPROGS_FOLDER [RESULT_FOLDER]. HFSPROGS_FOLDER holds
# mkfs.hfsplus, fsck.hfsplus and hfsbootdata (see ABOUT.md). Needs what ../guest/make.sh needs. Takes about a minute with TCG.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../guest/make.sh" --kernel "$1" --work "$2" --cases "$here/cases.sh" --result "${4:-$here}" \
	--module 'hfsplus nls_utf8 nls_iso8859-1' --program "$3/mkfs.hfsplus $3/fsck.hfsplus" \
	--file "$3/mkfs.hfsplus=/usr/sbin/mkfs.hfsplus $3/fsck.hfsplus=/usr/sbin/fsck.hfsplus" \
	--file "$3/hfsbootdata=/usr/share/misc/hfsbootdata"
