# shellcheck shell=bash
# lib.sh: what the real-kernel tests share: counted checks, built object trees (trees.sh), the
# stage's outputs by name, and compilers that count.  Sourced, never run.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"

BY_HAND=$ROOT/tests/kernel/stage-by-hand
export BY_HAND
RESULTS=${RESULTS:-/dev/null} # one line for each check: "ok NAME" or "FAIL NAME"
failures=0

mkdir -p "$CACHE/tmp" "$CACHE/obj"
WORK=$(mktemp -d "$CACHE/tmp/test.XXXXXX")
trap 'rm -rf "$WORK"' EXIT

# check NAME CMD...: one counted check; CMD's output is shown only if it fails.
check() {
	local name=$1 rc=0
	shift
	# In a subshell with -e, so that a command failing halfway through a function counts.
	set +e
	(set -e; "$@") >"$WORK/check.out" 2>&1
	rc=$?
	set -e
	if [ "$rc" = 0 ]; then
		echo "  ok    $name$(sed -n 's/^compared /: /p' "$WORK/check.out")"
		echo "ok $name" >>"$RESULTS"
	else
		echo "  FAIL  $name"
		tail -n 25 "$WORK/check.out" | sed 's/^/        /'
		echo "FAIL $name" >>"$RESULTS"
		failures=$((failures + 1))
	fi
	return 0
}

# must NAME CMD...: a check the rest of the test cannot do without.
must() {
	local before=$failures
	check "$@"
	[ "$failures" = "$before" ] || exit 1
}

# done_testing: the exit code of a test script.
done_testing() { [ "$failures" = 0 ]; }

# ---- kernel trees --------------------------------------------------------------------------

# patched VERSION: the patched source; its absence ends the test.
patched() { "$ROOT/scripts/patched-kernel" "$1"; }

# shellcheck source=tests/kernel/trees.sh
. "$ROOT/tests/kernel/trees.sh"

# The stage's outputs, as find(1) expressions; every reader of them uses these.
INDEXES=(-name '*.thinlto.bc')
NATIVES=(-name '*.thinlto-native.o')
COMMANDS=(-name '.*.thinlto-native.o.cmd')

# What is compared between two builds, relative to the object tree. The last is the image.
RESULT_FILES=(built-in-fixup.a builtin.order vmlinux.thinlto-index vmlinux.a vmlinux.o vmlinux
	System.map Module.symvers arch/x86/boot/bzImage)

# strip_stage OBJ: removes all that the stage and the steps after it made; the front end's objects stay.
strip_stage() (
	cd "$1"
	find . \( "${INDEXES[@]}" -o "${NATIVES[@]}" -o "${COMMANDS[@]}" -o -name '*.o.imports' \) -delete
	rm -rf .kthinlto "${RESULT_FILES[@]}" .built-in-fixup.a.cmd .builtin.order.cmd vmlinux* .vmlinux* .tmp_vmlinux*
)

# snapshot OBJ DIR: copies the stage's outputs and all RESULT_FILES to DIR.
snapshot() (
	rm -rf "$2"
	mkdir -p "$2"
	cd "$1"
	find . \( "${INDEXES[@]}" -o "${NATIVES[@]}" -o "${COMMANDS[@]}" \) -print0 |
		xargs -0 cp -a --reflink=auto --parents -t "$2"
	cp -a --reflink=auto --parents -t "$2" "${RESULT_FILES[@]}"
)

# sums DIR FIND-EXPRESSION...: a line for each file: its hash and name.
sums() (
	cd "$1"
	shift
	find . -type f \( "$@" \) -print0 | sort -z | xargs -0r sha256sum
)

# same_files A B FIND-EXPRESSION...: the same names with the same bytes, and at least one.
same_files() {
	local a=$1 b=$2
	shift 2
	sums "$a" "$@" >"$WORK/a"
	sums "$b" "$@" >"$WORK/b"
	[ -s "$WORK/a" ] || { echo "no such file in $a" && return 1; }
	diff "$WORK/a" "$WORK/b"
	echo "compared $(wc -l <"$WORK/a") files"
}

# same_results A B: one check for each of RESULT_FILES and each kind of object.
same_results() {
	local a=$1 b=$2 what=$3 file
	check "$what: .thinlto.bc" same_files "$a" "$b" "${INDEXES[@]}"
	check "$what: .thinlto-native.o" same_files "$a" "$b" "${NATIVES[@]}"
	for file in "${RESULT_FILES[@]}"; do
		check "$what: $file" cmp "$a/$file" "$b/$file"
	done
}

# ---- the program under test ----------------------------------------------------------------

# kthinlto_logged: prints the path of a program that notes its arguments in $WORK/kthinlto.calls and
# becomes kthinlto: without the note, a make that fell back to its own rules would pass for ours.
kthinlto_logged() {
	cat >"$WORK/kthinlto" <<-END
		#!/bin/sh
		echo "\$@" >>"$WORK/kthinlto.calls"
		exec "$BIN" "\$@"
	END
	chmod +x "$WORK/kthinlto"
	printf '%s\n' "$WORK/kthinlto"
}

was_called() { grep -q '^build ' "$WORK/kthinlto.calls"; }

# counting_tools: puts clang and ld.lld first in PATH that note each thin link's and each backend's
# beginning and end in $WORK/ran, and are else the real ones under the same names.
counting_tools() {
	local tool
	mkdir -p "$WORK/bin"
	for tool in "clang$LLVM_SUFFIX" "ld.lld$LLVM_SUFFIX"; do
		cat >"$WORK/bin/$tool" <<-END
			#!/bin/sh
			case " \$* " in
			*" -### "*) exec "$(command -v "$tool")" "\$@" ;; # a question
			*" -fthinlto-index="*) kind=backend ;;
			*" --thinlto-index-only"*) kind=thinlink ;;
			*) exec "$(command -v "$tool")" "\$@" ;;
			esac
			echo "+\$kind" >>"$WORK/ran"
			"$(command -v "$tool")" "\$@"
			rc=\$?
			echo "-\$kind" >>"$WORK/ran"
			exit \$rc
		END
		chmod +x "$WORK/bin/$tool"
	done
	PATH=$WORK/bin:$PATH
	: >"$WORK/ran"
}

# ran KIND: how often.
ran() { grep -c "^+$1\$" "$WORK/ran" || true; }

# ran_is KIND N
ran_is() {
	echo "$(ran "$1") runs of the $1, expected $2"
	[ "$(ran "$1")" = "$2" ]
}

# at_most_at_once N: the most runs that overlapped.
at_most_at_once() {
	awk -v most="$1" '
		/^[+]/ { if (++now > max) max = now }
		/^-/ { now-- }
		END { print "compared " max " at once of " most; exit max > most || now }' "$WORK/ran"
}

# ---- what a built kernel must have ---------------------------------------------------------

# symvers_complete OBJ: each exported symbol of vmlinux has a version, and none is zero.
symvers_complete() {
	local exported
	# 6.1 has the versions there alone, one for each symbol.
	exported=$(grep -c '^KSYMTAB_' "$1/.vmlinux.export.c" || grep -c '^SYMBOL_CRC(' "$1/.vmlinux.export.c")
	exported=${exported##*$'\n'} # of a count of none and the other
	awk -v want="$exported" '
		$3 == "vmlinux" && $1 ~ /^0x[0-9a-f]+$/ { n++; if ($1 == "0x00000000") { print "no version: " $2; bad = 1 } }
		END { print "compared " n " of " want " symbols"; exit bad || n == 0 || n != want }' "$1/Module.symvers"
}

# same_initcalls OBJ SCRIPT ARCHIVE...: kthinlto initcalls prints what the kernel's script does.
same_initcalls() (
	cd "$1"
	NM="llvm-nm$LLVM_SUFFIX" objtree=. perl "$2" "${@:3}" >"$WORK/perl.lds"
	"$BIN" initcalls -o "$WORK/ours.lds" "${@:3}"
	cmp "$WORK/perl.lds" "$WORK/ours.lds"
	echo "compared $(grep -c '\*(' "$WORK/ours.lds") initcalls"
)

# boots SRC OBJ IMAGE: to an init, with the release the tree says it has.
boots() {
	"$ROOT/scripts/boot" "$3" "$(km "$1" "$2" -s --no-print-directory kernelrelease)"
}

# clean_leaves_nothing SRC OBJ: make clean, on a copy of the object tree.
clean_leaves_nothing() {
	cp -a --reflink=auto "$2" "$WORK/clean"
	km "$1" "$WORK/clean" clean
	find "$WORK/clean" \( -name '*thinlto*' -o -name builtin.order -o -name '*.a' -o -name '*.o.imports' \) >"$WORK/left"
	rm -rf "$WORK/clean"
	cat "$WORK/left"
	[ ! -s "$WORK/left" ]
}
