#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the corpus anew in a small guest: make.sh LINUX_IMAGE_DEB WORK_FOLDER [RESULT_FOLDER]. Needs what ../guest/make.sh needs and
# f2fs-tools.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../guest/make.sh" --kernel "$1" --work "$2" --cases "$here/cases.sh" --result "${3:-$here}" \
	--module 'f2fs crc32_generic lz4 lz4_compress' --program mkfs.f2fs --space 3G
