#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes the corpus anew: make.sh LINUX_IMAGE WORK_FOLDER. ../guest/ABOUT.md says what is needed; beside it, jfsutils.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../guest/make.sh" --kernel "$1" --work "$2" --cases "$here/cases.sh" --result "$here" \
	--module 'jfs nls_utf8' --program mkfs.jfs
