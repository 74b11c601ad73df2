# shellcheck shell=bash
# lib.sh: what the scripts of this directory and of tests/kernel share: the
# cache's place, messages, and one way to call a kernel's make.  Sourced, never run.

# `make check -j2` leaves its flags and jobserver in the environment, and a shell
# that builds kernels may hold more; none of it may leak into the kernel's make.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES GNUMAKEFLAGS
unset ARCH CROSS_COMPILE CC LD AR NM LLVM O V KCFLAGS KBUILD_OUTPUT KBUILD_VERBOSE
unset KCONFIG_CONFIG KTHINLTO CDPATH

export LC_ALL=C

# With these fixed, two builds of one tree are byte-identical.
export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 2026'
export KBUILD_BUILD_USER=kthinlto KBUILD_BUILD_HOST=kthinlto KBUILD_BUILD_VERSION=1

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${KTHINLTO_DEV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kthinlto}
LOG=$CACHE/log/${ROOT##*/}-$(printf %s "$ROOT" | cksum | cut -d' ' -f1) # a folder for each clone
JOBS=${JOBS:-$(nproc)}
BIN=${KTHINLTO_BIN:-${CARGO_TARGET_DIR:-$ROOT/target}/release/kthinlto}
LLVM_SUFFIX=-22
KMAKE="make" # tests put another version of GNU make here
KARCH=''     # and another architecture than the machine's
export ROOT CACHE LOG JOBS BIN LLVM_SUFFIX KMAKE KARCH

# rustup's directory is in the PATH of login shells only.
command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

note() { printf '%s\n' "$*" >&2; }

die() {
	note "error: $*"
	exit 1
}

# lock NAME: waits until no other script holds it; held until this one ends.
lock() {
	mkdir -p "$CACHE/lock"
	exec 9>"$CACHE/lock/$1"
	flock 9
}

# km SRC OBJ ARG...: the kernel's make, in the object tree OBJ (in-tree if OBJ is SRC).
km() {
	local src=$1 obj=$2
	local -a arch=(${KARCH:+"ARCH=$KARCH"})
	shift 2
	if [ "$src" = "$obj" ]; then
		"$KMAKE" -C "$src" LLVM="$LLVM_SUFFIX" "${arch[@]}" "$@"
	else
		"$KMAKE" -C "$src" O="$obj" LLVM="$LLVM_SUFFIX" "${arch[@]}" "$@"
	fi
}

# series VERSION: the folder of the patches that are for it.
series() {
	case $1 in
	6.1) echo patches/linux-6.1-6.4 ;;
	6.12) echo patches/linux-6.5-6.12 ;;
	7.2 | 7.3) echo patches/linux-7.2 ;;
	*) die "no series for $1 is known to these scripts" ;;
	esac
}

# logged LOG CMD...: everything CMD prints goes to LOG; its tail is shown if CMD fails.
logged() {
	local log=$1 rc
	shift
	mkdir -p "$(dirname "$log")"
	# Not "CMD || rc=$?": that would switch -e off inside CMD where it is a function.
	set +e
	(set -e; "$@") >"$log" 2>&1 </dev/null
	rc=$?
	set -e
	[ "$rc" = 0 ] && return 0
	note "failed (exit code $rc): $*"
	note "the last lines of $log:"
	tail -n 40 "$log" >&2
	return "$rc"
}

# tiny_config SRC OBJ [FRAGMENT...]: tinyconfig, what a serial console needs, and FRAGMENTs.
tiny_config() {
	local src=$1 obj=$2
	shift 2
	mkdir -p "$obj"
	km "$src" "$obj" -s tinyconfig
	(cd "$obj" && "$src/scripts/kconfig/merge_config.sh" -m -O "$obj" "$obj/.config" \
		"$ROOT/kconfig/tiny-x86_64.config" "$@")
	km "$src" "$obj" -s olddefconfig
}

# cargo_build: the program under test, as $BIN.
cargo_build() { (cd "$ROOT" && cargo build --release --locked); }

# wants OBJ SYMBOL...: olddefconfig drops a symbol whose dependencies are not met without a word.
wants() {
	local obj=$1 symbol
	shift
	for symbol; do
		grep -qx "CONFIG_$symbol=y" "$obj/.config" || die "CONFIG_$symbol did not survive in $obj/.config"
	done
}

# tree_key SRC: names what a built tree was made from: the source, the fragments, the compiler.
tree_key() {
	{
		(cd "$ROOT" && find kconfig -type f -print0 | sort -z | xargs -0 sha256sum)
		"clang$LLVM_SUFFIX" --version
		"ld.lld$LLVM_SUFFIX" --version
		printf '%s\n' "$@"
	} | sha256sum | cut -c1-16
}
