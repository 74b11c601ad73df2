# shellcheck shell=bash
# relink-lib.sh: `kthinlto relink` in the object tree $tree, and what make linked there.  Sourced after
# lib.sh, never run.
# shellcheck disable=SC2154 # the test sets tree

LINKED=(.tmp_initcalls.lds vmlinux.o .vmlinux.export.c .vmlinux.export.o vmlinux System.map
	modules.builtin modules.builtin.modinfo)

# relink: in $tree; what it printed is in $WORK/out.
relink() { (cd "$tree" && "$BIN" relink "-j$JOBS") >"$WORK/out"; }

# take: what make linked in $tree goes to $WORK/make.
take() {
	mkdir "$WORK/make"
	(cd "$tree" && cp -a --reflink=auto --parents -t "$WORK/make" "${LINKED[@]}" && rm "${LINKED[@]}")
	rm -f "$tree/vmlinux.unstripped"
}

# as_make_did: every linked file is the one that make made.
as_make_did() {
	local file
	for file in "${LINKED[@]}"; do cmp "$WORK/make/$file" "$tree/$file"; done
	echo "compared ${#LINKED[@]} files"
}

# nothing_to_do: a run that prints no step, and touches nothing.
nothing_to_do() {
	touch "$WORK/now"
	relink
	[ "$(grep -vc THINLTO "$WORK/out")" = 0 ] || { cat "$WORK/out" && return 1; }
	find "$tree" -newer "$WORK/now" -type f ! -path '*/.kthinlto/*' >"$WORK/newer"
	cat "$WORK/newer"
	[ ! -s "$WORK/newer" ]
}

# ours: linked again, this time without the kernel's script, which made the same the first time.
ours() {
	rm -rf "${LINKED[@]/#/$tree/}" "$tree/vmlinux.unstripped"
	KTHINLTO_LOG=debug relink 2>"$WORK/log"
	grep "final link is made by our own passes" "$WORK/log" || { cat "$WORK/log" && return 1; }
	# Had they failed, the script would have done it after all.
	if grep -ah "^kthinlto:" "$WORK/out" "$WORK/log" | grep -v "^kthinlto: debug:"; then return 1; fi
	as_make_did
}

# make_goes_on SRC TARGET: make takes the files as they are, and makes an image of them. Where only `make all`
# was run before, it has no record of vmlinux.symvers, and runs modpost.
make_goes_on() {
	local before
	before=$(sha256sum <"$tree/vmlinux")
	km "$1" "$tree" "-j$JOBS" KTHINLTO="$BIN" "$2" >"$WORK/make.log" 2>&1 || { cat "$WORK/make.log" && return 1; }
	if grep -E '^  (LD|CC|GEN|AR|OBJCOPY) +(\.tmp_initcalls|\.?vmlinux|modules\.|System)' "$WORK/make.log"; then
		return 1
	fi
	[ "$(sha256sum <"$tree/vmlinux")" = "$before" ]
}
