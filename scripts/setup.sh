#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes this checkout ready: Debian packages first, then a Python environment in .venv.
#
#   scripts/setup.sh base [test] [docs] [bench] [vm]
#
# Packages are listed in scripts/packages/GROUP.txt, Python packages in pyproject.toml (extra GROUP).
# What is there already is left alone, so that a second run ends at once.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
    say "$1"
    shift
    for line in "$@"; do printf '       %s\n' "$line" >&2; done
    exit 1
}

# The lines of a group's list that name packages, without comments.
entries() { sed -E 's/#.*//; /^[[:space:]]*$/d' "scripts/packages/$1.txt"; }

# A list line is "name [| other name]  [program]"; the names are one word each.
names_of() { sed -E 's/[[:space:]]*\|[[:space:]]*/|/g' <<<"$1" | awk '{print $1}' | tr '|' ' '; }
program_of() { sed -E 's/[[:space:]]*\|[[:space:]]*/|/g' <<<"$1" | awk '{print $2}'; }

has_program() { PATH="$PATH:/usr/sbin:/sbin:/usr/local/sbin" command -v "$1" >/dev/null; }

# --- Debian packages -------------------------------------------------------------------------------------------

# Prints the list lines of which no package is installed.
missing_entries() {
    local installed line name group found
    installed=" $(dpkg-query --show --showformat='${db:Status-Abbrev}${Package}\n' | sed -n 's/^ii //p' | tr '\n' ' ') "
    for group in "$@"; do
        while read -r line; do
            found=
            for name in $(names_of "$line"); do
                if [[ $installed == *" $name "* ]]; then found=yes; fi
            done
            [[ -n $found ]] || printf '%s\n' "$line"
        done < <(entries "$group")
    done
}

# Prints the first of the names that apt could install; nothing when it knows none of them.
installable() {
    local name policy
    for name in "$@"; do
        # Not through a pipe to `grep -q`, which ends early: the writer would fail of SIGPIPE, and with it the pipe.
        policy=$(LC_ALL=C apt-cache policy "$name" 2>/dev/null)
        if [[ $policy == *"Candidate: "[!\(]* ]]; then
            printf '%s\n' "$name"
            return
        fi
    done
}

# Fills `wanted` and `unknown` from the list lines in `missing`.
choose_names() {
    local line name
    wanted=()
    unknown=()
    for line in "${missing[@]}"; do
        # shellcheck disable=SC2046  # the names are words
        name=$(installable $(names_of "$line"))
        if [[ -n $name ]]; then wanted+=("$name"); else unknown+=("$(names_of "$line")"); fi
    done
}

as_root() {
    local words=(env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 "$@")
    if ((EUID == 0)); then
        "${words[@]}" </dev/null
    elif [[ -t 0 ]]; then
        sudo "${words[@]}"
    else
        sudo -n "${words[@]}" </dev/null
    fi
}

# Quiet when all is well; when it is not, everything it said is shown.
apt() {
    local said
    said=$(as_root apt-get --quiet=2 -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 "$@" 2>&1) && return
    printf '%s\n' "$said" >&2
    return 1
}

# Tests start these servers themselves, mostly in networks of their own. Where they were not installed before, Debian's
# are not to serve this machine: not now, and not when it starts the next time.
declare -A SERVERS=([nfs-ganesha]="nfs-ganesha nfs-ganesha-lock" [openssh-server]=ssh [rpcbind]=rpcbind
    [samba]="smbd nmbd samba-ad-dc")
POLICY=/usr/sbin/policy-rc.d # Debian asks it before it starts a unit (invoke-rc.d(8))

install_wanted() {
    local name unit units=()
    for name in "${wanted[@]}"; do
        # shellcheck disable=SC2206  # the units are words
        units+=(${SERVERS[$name]:-})
    done
    if ((!${#units[@]})); then
        apt install --no-install-recommends --yes "${wanted[@]}"
        return
    fi
    silently apt install --no-install-recommends --yes "${wanted[@]}" || return
    for unit in "${units[@]}"; do
        as_root systemctl --root=/ disable "$unit.service" >/dev/null 2>&1 || true # not every release has all of them
        as_root systemctl --root=/ disable "$unit.socket" >/dev/null 2>&1 || true
    done
}

# Runs something while none of `units` can be started; it is a subshell, so that Ctrl-C leaves nothing behind.
silently() (
    if [[ ! -e $POLICY ]]; then # else whoever made it has decided already
        trap 'as_root rm -f "$POLICY"' EXIT
        # shellcheck disable=SC2016  # expanded by the shells that get these words
        as_root sh -c 'printf "#!/bin/sh\ncase \"\${1%%.*}\" in %s) exit 101 ;; esac\n" "$1" >"$2" && chmod 755 "$2"' \
            sh "$(IFS='|' && printf '%s' "${units[*]}")" "$POLICY"
    fi
    "$@"
)

install_debian_packages() {
    local missing wanted unknown
    mapfile -t missing < <(missing_entries "$@")
    ((${#missing[@]})) || return 0
    choose_names
    if ((EUID != 0)) && ! has_program sudo; then
        missing_without_root "$@"
        return
    fi
    say "installing Debian packages$( ((EUID == 0)) || printf ' through sudo'), this can take a minute: ${wanted[*]} ${unknown[*]}"
    if ((${#unknown[@]})) || ! install_wanted; then
        # The package lists are missing or older than what the mirror has.
        apt update || { missing_without_root "$@"; return; }
        choose_names
        if ((${#unknown[@]})); then say "this system has no package: ${unknown[*]}"; fi
        install_wanted || missing_without_root "$@"
    fi
}

# Without what is in base nothing works; without the rest some tests are skipped and say so.
missing_without_root() {
    mapfile -t missing < <(missing_entries base)
    if ((${#missing[@]})); then
        choose_names
        die "Debian packages are missing that could not be installed from here. As root, run:" \
            "apt-get update && apt-get install --no-install-recommends ${wanted[*]} ${unknown[*]}"
    fi
    mapfile -t missing < <(missing_entries "$@")
    choose_names
    say "these Debian packages are missing, and what needs them is skipped: ${wanted[*]} ${unknown[*]}"
}

# --- Other systems ---------------------------------------------------------------------------------------------

check_programs() {
    local group line program lacking=()
    for group in "$@"; do
        while read -r line; do
            program=$(program_of "$line")
            [[ -z $program ]] || has_program "$program" || lacking+=("$program")
        done < <(entries "$group")
    done
    if has_program pkg-config && ! pkg-config --exists libparted; then
        lacking+=("libparted with its header files")
    fi
    ((${#lacking[@]})) || return 0
    die "this is not Debian or a relative of it, so packages are not installed here. Missing: ${lacking[*]}" \
        "Install what provides them, and run this again. The Debian names are in scripts/packages/."
}

# --- Python ----------------------------------------------------------------------------------------------------

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.14 /usr/bin/python3; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer is needed; python3 is $(python3 --version 2>/dev/null || echo missing)"
}

make_venv() {
    local python
    python=$(find_python)
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv ||
        die "$python cannot make a virtual environment: its module venv is missing or broken"
}

install_python_packages() {
    local group=$1 stamp=.venv/.ready-$1 key what=.
    # The path is part of it: a virtual environment does not survive being moved.
    key=$(cat pyproject.toml scripts/setup.sh <(pwd) | sha256sum)
    if [[ -f $stamp && $(<"$stamp") == "$key" ]]; then return; fi
    if ! .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then make_venv; fi
    if grep -q "^$group = \[" pyproject.toml; then what=".[$group]"; fi
    say "installing Python packages: $what"
    if ! .venv/bin/python -m pip --no-input --disable-pip-version-check install --editable "$what" \
        >.venv/pip.log 2>&1 </dev/null; then
        tail -n 30 .venv/pip.log >&2
        die "pip could not install the Python packages: its last lines are above, all of them in .venv/pip.log"
    fi
    printf '%s\n' "$key" >"$stamp"
}

main() {
    (($#)) || set -- base
    # Two runs at once would write the same .venv: the second waits.
    exec 9<scripts/setup.sh
    if has_program flock; then flock 9; fi
    if has_program dpkg-query && has_program apt-get; then
        install_debian_packages "$@"
    else
        check_programs "$@"
    fi
    local group
    for group in "$@"; do install_python_packages "$group"; done
}

main "$@"
