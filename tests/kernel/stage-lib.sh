# shellcheck shell=bash
# stage-lib.sh: what the tests share that drive the stage without make, in a tree that make built:
# the settings that kbuild exports, the stage itself, and the front end on one edited file.
# Wants src and obj.  Sourced after lib.sh, never run.
set -euo pipefail
: "${src:?}" "${obj:?}"

# Called by make once, for the settings that kbuild exports. The target is 7.3's.
note_settings() {
	cat >"$WORK/note" <<-END
		#!/bin/bash
		declare -p CC LD KBUILD_LDFLAGS srctree >"$WORK/settings"
		printf '%s\n' "\${@:2}" >"$WORK/archives"
		exec "$BIN" "\$@"
	END
	chmod +x "$WORK/note"
	km "$src" "$obj" "-j$JOBS" KTHINLTO="$WORK/note" vmlinux_a
}

# stage [DIR [CMD...]]: kthinlto in the object tree, or in DIR, which is a copy of it; run by CMD.
stage() (
	cd "${1:-$obj}"
	: >"$WORK/ran"
	# shellcheck source=/dev/null
	. "$WORK/settings"
	export CC LD KBUILD_LDFLAGS srctree
	# shellcheck disable=SC2046
	"${@:2}" "$BIN" build $(cat "$WORK/archives") "-j$JOBS"
)

# compile_edited FILE EXPRESSION: the front end's recorded command on FILE as sed makes it; the source
# tree stays as it is.
compile_edited() (
	cd "$obj"
	object=${1%.c}.o
	source=$(readlink -f "$src/$1")
	sed "$2" "$source" >"$WORK/edited.c"
	if cmp -s "$source" "$WORK/edited.c"; then echo "the edit changes nothing" && exit 1; fi
	cat >"$WORK/overlay" <<-END
		{"version": 0, "use-external-names": false, "roots": [
		  {"type": "file", "name": "$source", "external-contents": "$WORK/edited.c"}]}
	END
	# shellcheck disable=SC2016 # make's $, not the shell's
	command=$(sed -n -E '1s/^(saved)?cmd_[^ ]* := //p' "$(dirname "$object")/.$(basename "$object").cmd" |
		sed 's/\$(pound)/#/g; s/\$\$/$/g')
	eval "${command%% ;*} -ivfsoverlay $WORK/overlay"
)

# by_executor HOW [CMD...]: every backend of $obj again, by one executor; run by CMD.  What it says of
# itself is in $WORK/verbose.
by_executor() {
	find "$obj" \( "${NATIVES[@]}" -o "${COMMANDS[@]}" \) -delete
	rm -rf "$obj/.kthinlto" "$obj/vmlinux.a"
	KTHINLTO_EXECUTOR=$1 KBUILD_VERBOSE=1 stage "$obj" "${@:2}" >"$WORK/verbose" 2>&1 || {
		tail -n 5 "$WORK/verbose"
		return 1
	}
}

# forked: the last run's backends were copies that a fork server made, to the last one.
forked() {
	grep 'a fork server of .* runs the backends' "$WORK/verbose"
	if grep -E 'no fork server|plain processes' "$WORK/verbose"; then return 1; fi
}

# spared: most of the last run's backends did not begin in the compiler's driver.
spared() {
	local began all
	began=$(sed -n "s/^# \([0-9]*\) backends begin at cc1, past the compiler's driver$/\1/p" "$WORK/verbose")
	all=$(wc -l <"$obj/vmlinux.thinlto-index")
	echo "${began:-0} of $all"
	[ $((${began:-0} * 2)) -gt "$all" ]
}
