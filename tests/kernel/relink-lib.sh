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
