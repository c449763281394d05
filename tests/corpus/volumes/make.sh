#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the corpus anew in a small guest: make.sh LINUX_IMAGE_DEB WORK_FOLDER [RESULT_FOLDER]. Needs what ../guest/make.sh needs, mdadm,
# lvm2 and thin-provisioning-tools. Takes five minutes with TCG.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../guest/make.sh" --kernel "$1" --work "$2" --cases "$here/cases.sh" --result "${3:-$here}" \
	--module 'md_mod raid0 raid1 raid10 raid456 linear dm_mod dm_raid dm_mirror dm_log dm_snapshot dm_thin_pool dm_cache dm_cache_smq' \
	--module 'dm_writecache xfs' \
	--program 'mdadm lvm mke2fs mkfs.xfs sfdisk dmsetup thin_check cache_check thin_dump' \
	--file "/etc/mke2fs.conf $here/lvm.conf=/etc/lvm/lvm.conf"
