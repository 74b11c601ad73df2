# shellcheck shell=bash
# both-lib.sh: one configuration of 7.3 in $obj, made by mainline's own stage and by kthinlto from the same front-end
# objects, relinked, and booted.  Wants src, obj, log and kthinlto.  Sourced after lib.sh and relink-lib.sh, never run.
# shellcheck disable=SC2154 # the test sets them
set -euo pipefail

every=("${RESULT_FILES[@]}")

# results: all that both make; without loadable modules, there is no table of their symbols.
results() {
	RESULT_FILES=("${every[@]}")
	[ -e "$obj/Module.symvers" ] || mapfile -t RESULT_FILES < <(printf '%s\n' "${every[@]}" | grep -vx Module.symvers)
}

# by_both NAME [ARG...]: with arguments for make; modules is the number of those of vmlinux then.  False if any
# check failed.
by_both() {
	local name=$1 before=$failures
	shift
	rm -rf "$obj/.kthinlto"
	check "$name: it is built without kthinlto" logged "$log.log" km "$src" "$obj" "-j$JOBS" "$@" all
	[ "$failures" = "$before" ] || return 1
	results
	# shellcheck disable=SC2034 # for who called
	modules=$(wc -l <"$obj/vmlinux.thinlto-index")
	snapshot "$obj" "$WORK/reference"
	strip_stage "$obj"
	rm -f "$WORK/kthinlto.calls"
	check "$name: make with KTHINLTO" logged "$log-kthinlto.log" km "$src" "$obj" "-j$JOBS" "$@" KTHINLTO="$kthinlto" all
	[ "$failures" = "$before" ] || return 1
	check "$name: kthinlto was called" was_called
	same_results "$WORK/reference" "$obj" "$name"
	check "$name: it boots" boots "$src" "$obj" "$obj/arch/x86/boot/bzImage"
	rm -rf "$WORK/make"
	# shellcheck disable=SC2034 # for relink-lib.sh
	tree=$obj
	take
	check "$name: relink" relink
	check "$name: the bytes that make made" as_make_did
	check "$name: nothing to do" nothing_to_do
	[ "$failures" = "$before" ]
}
