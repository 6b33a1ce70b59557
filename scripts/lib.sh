# Shell helpers for the scripts here; source it, do not run it.
#
# Owns: messages, the packages and tools a script needs, cold caches, printed commands.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# rustup installs cargo where a shell that is not a login shell does not look; setcap and mkfs
# live in sbin, where an ordinary user's shell does not look either.
PATH="$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:/usr/local/sbin:/usr/sbin:/sbin"
export PATH

say() { printf '%s\n' "$*" >&2; }

# fail MESSAGE [HINT]: says so in the same two lines as coffre itself, and ends the script.
fail() {
    printf '%s: error: %s\n' "$(basename "$0")" "$1" >&2
    [ $# -lt 2 ] || printf '%s: hint: %s\n' "$(basename "$0")" "$2" >&2
    exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# need_packages PACKAGE:PROOF …: installs the Debian packages whose proof is missing. A proof is
# the command that the package brings, or a file, given by its full path.
need_packages() {
    local pair proof missing=()
    for pair in "$@"; do
        proof=${pair#*:}
        case $proof in
            /*) [ -e "$proof" ] || missing+=("${pair%%:*}") ;;
            *) command -v "$proof" >/dev/null || missing+=("${pair%%:*}") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    local by_hand="install these by hand: ${missing[*]}"
    command -v apt-get >/dev/null || fail "missing packages, and this is not Debian" "$by_hand"
    local as_root=()
    if ! is_root; then
        command -v sudo >/dev/null || fail "missing packages, and neither root nor sudo" "$by_hand"
        as_root=(sudo)
    fi
    say "installing ${missing[*]}"
    # A fresh container has no package lists at all, and an old machine has stale ones.
    if [ -z "${apt_updated:-}" ]; then
        "${as_root[@]}" apt-get update -qq >&2 || fail "apt-get update failed" "$by_hand"
        apt_updated=yes
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 ||
        fail "apt-get could not install ${missing[*]}" "$by_hand"
}

# need_cargo: a cargo as new as Cargo.toml asks for. Debian 12's own is not.
need_cargo() {
    local hint="install Rust from https://rustup.rs, or run: rustup update stable"
    command -v cargo >/dev/null || fail "cargo is not installed" "$hint"
    local wanted have
    wanted=$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$root/Cargo.toml")
    have=$(cd "$root" && cargo --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ] ||
        fail "cargo is $have, and Coffre needs $wanted" "$hint"
}

# need_fuse: a mount needs the kernel's side of it. A container has it only when it is told to.
need_fuse() {
    local hint="load the module with: modprobe fuse; in a container add: --device /dev/fuse --cap-add SYS_ADMIN"
    [ -c /dev/fuse ] || fail "/dev/fuse is missing, and nothing can be mounted" "$hint"
    (exec 3<>/dev/fuse) 2>/dev/null ||
        fail "/dev/fuse cannot be opened by $(id -un), and nothing can be mounted" \
            "run this as root, or give everyone access: chmod 0666 /dev/fuse; $hint"
}

# release_dir: where cargo puts what it builds with --release.
release_dir() { printf '%s/release\n' "${CARGO_TARGET_DIR:-$root/target}"; }

# drop_caches: what is read next comes from the disk. Returns 1 where only root could do it.
drop_caches() {
    sync
    is_root && { echo 3 >/proc/sys/vm/drop_caches; } 2>/dev/null
}

# quoted WORD …: the words as one would type them.
quoted() {
    local word line=''
    for word in "$@"; do
        case $word in
            '' | *[!A-Za-z0-9_./:=@%+,~-]*) line+=" '${word//\'/\'\\\'\'}'" ;;
            *) line+=" $word" ;;
        esac
    done
    printf '%s' "${line# }"
}

# seconds_since START: with START taken from $EPOCHREALTIME. A locale may write it with a comma.
seconds_since() {
    local now=${EPOCHREALTIME/[.,]/} start=${1/[.,]/}
    printf '%d.%02d' $(((now - start) / 1000000)) $(((now - start) / 10000 % 100))
}

# run COMMAND …: prints the command like a terminal, runs it, and prints how long it took.
# The exit code is the command's. run_with FILE COMMAND …: the same, with FILE as its input.
run() { run_with '' "$@"; }
run_with() {
    local input=$1 start=$EPOCHREALTIME code=0
    shift
    printf '\n$ %s%s\n' "$(quoted "$@")" "${input:+ < $input}"
    if [ -n "$input" ]; then "$@" <"$input" || code=$?; else "$@" || code=$?; fi
    printf '  [%s s' "$(seconds_since "$start")"
    [ "$code" -eq 0 ] || printf ', exit code %d' "$code"
    printf ']\n'
    return "$code"
}
