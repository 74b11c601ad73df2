# shellcheck shell=bash
# trees.sh: the built object trees that the tests start from.  Each is made once for a source, a
# configuration and a compiler, without the program under test, and is shared by all tests and
# clones; who tests gets a copy, at the path where the tree was built.  Sourced by lib.sh.
#
# A tree lies in $CACHE/base/NAME-KEY and is built, and used, at $CACHE/obj/NAME-KEY, over which
# it, or a copy of it, is mounted: where nobody else sees that, so that any number of tests may run.
set -euo pipefail

TREES=(7.3-tiny 7.3-modules 7.3-debug 7.3-arm64 7.3-arch-{arm64,riscv,loongarch,um} 7.3-clang-19 7.3-clang-23 7.2-tiny
	6.12-tiny 6.12-thin 6.12-in-tree 6.12-arch-arm64 6.1-tiny)
DEBUG=$ROOT/tests/kernel/debug.config
KALLSYMS=$ROOT/tests/kernel/kallsyms.config
SMP=$ROOT/tests/kernel/smp.config
MODULES=$ROOT/tests/kernel/modules.config
SMALL_MODULES=$ROOT/tests/kernel/small-modules.config
ARCHITECTURES=$ROOT/tests/kernel/architectures.config

# enter_room "$@": begins the test anew where its mounts are its own; root is not needed where
# users may have name spaces.
enter_room() {
	[ -z "${KTHINLTO_ROOM-}" ] || return 0
	local -a how=(unshare --mount --propagation private)
	[ "$(id -u)" = 0 ] || how+=(--user --map-root-user)
	"${how[@]}" true || die "this test needs a mount name space: run it as root, or see that users may have them (sysctl user.max_user_namespaces)"
	rm -rf "$WORK"
	KTHINLTO_ROOM=1 exec "${how[@]}" "$0" "$@"
}

# tree_source NAME: the source it is built from.
tree_source() {
	case $1 in
	7.3-*) patched 7.3 ;;
	7.2-tiny) patched 7.2 ;;
	6.12-tiny | 6.12-in-tree | 6.12-arch-*) patched 6.12 ;;
	6.12-thin) "$ROOT/scripts/fetch-kernel" 6.12 ;;
	6.1-tiny) patched 6.1 ;;
	*) die "no such tree: $1 (${TREES[*]})" ;;
	esac
}

# tree_suffix NAME, tree_make NAME: of the LLVM tools, and GNU make.
tree_suffix() { case $1 in *-clang-*) echo "-${1##*-}" ;; *) echo -22 ;; esac }
tree_make() { case $1 in 6.12-tiny) "$ROOT/scripts/fetch-make44" ;; *) echo make ;; esac }

# tree_arch NAME: the architecture, where it is not the machine's.
tree_arch() { case $1 in 7.3-arm64 | *-arch-*) echo "${1##*-}" ;; esac }

# tree_fragments NAME: what its configuration has over the tiny one, a file a line.
tree_fragments() {
	case $1 in
	7.3-tiny) printf '%s\n' "$ROOT/kconfig/thin_dist.config" "$KALLSYMS" ;;
	7.3-modules) printf '%s\n' "$ROOT/kconfig/thin_dist.config" "$MODULES" ;;
	*-arch-*) printf '%s\n' "$ROOT/kconfig/thin_dist.config" "$KALLSYMS" "$SMALL_MODULES" "$ARCHITECTURES" ;;
	7.3-debug | 7.3-arm64) printf '%s\n' "$ROOT/kconfig/thin_dist.config" "$DEBUG" ;;
	6.12-thin) printf '%s\n' "$ROOT/kconfig/thin.config" "$KALLSYMS" "$SMP" ;;
	*) printf '%s\n' "$ROOT/kconfig/thin_dist.config" ;;
	esac
}

# tree_wants NAME: options that have to survive.
tree_wants() {
	case $1 in
	7.3-tiny | 7.3-arch-um) echo LTO_CLANG_THIN_DIST MODVERSIONS KALLSYMS_ALL ;;
	*-arch-*) echo LTO_CLANG_THIN_DIST MODVERSIONS KALLSYMS_ALL EFI_STUB ;;
	7.3-debug | 7.3-arm64) echo LTO_CLANG_THIN_DIST MODVERSIONS KALLSYMS_ALL DEBUG_INFO_DWARF5 DEBUG_INFO_BTF ;;
	6.12-thin) echo LTO_CLANG_THIN MODVERSIONS SMP KALLSYMS_ALL ;;
	*) echo LTO_CLANG_THIN_DIST MODVERSIONS ;;
	esac
}

# tree_stage NAME: who makes vmlinux.a: the kernel's own makefiles where they can, else plain commands.
tree_stage() {
	case $1 in
	7.3-modules) printf 'KTHINLTO=%s\n' "$BY_HAND" ;;
	7.3-* | 7.2-* | 6.12-thin) ;;
	*) printf 'KTHINLTO=%s\n' "$BY_HAND" ;;
	esac
}

# tree_link NAME: more arguments of make. User-mode Linux is linked by the compiler with GNU ld, which has to read
# bitcode (.vmlinux.export.o, init/version-timestamp.o): without -flto, mainline's own link fails there.
tree_link() { case $1 in 7.3-arch-um) echo "LINK-y=-no-pie -flto=thin" ;; esac }

# name_tree NAME: sets src, obj, base, tree_name, suffix, maker and arch for it. What all trees have over
# tinyconfig is named after x86, but means the same to the others.
name_tree() {
	local key
	if [ "$1" = 7.3-clang-23 ]; then PATH=$("$ROOT/scripts/fetch-clang" 23):$PATH; fi
	tree_name=$1 suffix=$(tree_suffix "$1") maker=$(tree_make "$1") arch=$(tree_arch "$1")
	src=$(tree_source "$1")
	key=$({
		tree_fragments "$tree_name" | xargs cat "$ROOT/kconfig/tiny-x86_64.config"
		cat "$BY_HAND" "$ROOT/tests/kernel/modules-by-hand"
		"clang$suffix" --version
		"ld.lld$suffix" --version
		"$maker" --version
		case $tree_name in *-debug | 7.3-arm64) pahole --version ;; esac
		tree_stage "$tree_name" | wc -l
		tree_link "$tree_name"
		printf '%s\n' "$src"
	} | sha256sum | cut -c1-12)
	base=$CACHE/base/$tree_name-$key
	obj=$CACHE/obj/$tree_name-$key
	[ "$tree_name" != 6.12-in-tree ] || src=$obj
}

# copy_source: for a tree that is built in its own sources.
copy_source() {
	local from
	from=$(tree_source "$tree_name")
	[ -e "$from/Kbuild" ] || die "$from is no kernel source"
	cp -a --reflink=auto "$from/." "$obj/"
}

# make_tree: as name_tree said, in $obj.
make_tree() {
	local fragments wants stage
	mapfile -t fragments < <(tree_fragments "$tree_name")
	read -ra wants < <(tree_wants "$tree_name")
	mapfile -t stage < <(tree_stage "$tree_name" && tree_link "$tree_name")
	export LLVM_SUFFIX=$suffix KMAKE=$maker KARCH=$arch
	# Once: with a configuration that was written again make would compile all again.
	if [ ! -e "$base.configured" ]; then
		[ "$src" != "$obj" ] || copy_source
		tiny_config "$src" "$obj" "${fragments[@]}"
		wants "$obj" "${wants[@]}"
		touch "$base.configured"
	fi
	km "$src" "$obj" "-j$JOBS" "${stage[@]}" all
	case $tree_name in
	7.3-modules) ;;
	7.3-* | 7.2-*) grep -q 'thinlto-index-only' "$obj/.vmlinux.thinlto-index.cmd" ;; # mainline's rules made it
	esac
}

# need_tree NAME: has it built if it is not there; one that was begun goes on where make was.
# Until the test ends nobody removes it.
need_tree() {
	local held
	name_tree "$1"
	mkdir -p "$CACHE/lock" "$CACHE/base" "$obj"
	exec {held}>"$CACHE/lock/base-$(basename "$base")"
	if [ ! -e "$base.done" ]; then
		flock "$held"
		if [ ! -e "$base.done" ]; then
			mkdir -p "$base"
			mount --bind "$base" "$obj"
			must "$tree_name is built without kthinlto" logged "$LOG/$tree_name.log" make_tree
			umount "$obj"
			touch "$base.done"
			remove_old_trees
		fi
	fi
	flock -s "$held"
	touch "$base.done"
}

# borrow NAME: sets src, obj and base. The tree is in $base, and a copy to work in is at $obj.
borrow() {
	need_tree "$1"
	cp -a --reflink=auto "$base" "$WORK/$tree_name"
	mount --bind "$WORK/$tree_name" "$obj"
	export LLVM_SUFFIX=$suffix KMAKE=$maker KARCH=$arch
}

# borrow_again: another fresh copy, of the same tree.
borrow_again() {
	umount "$obj"
	rm -rf "${WORK:?}/$tree_name"
	cp -a --reflink=auto "$base" "$WORK/$tree_name"
	mount --bind "$WORK/$tree_name" "$obj"
}

# remove_old_trees: of the same name, for a week not used and not in use now.
remove_old_trees() {
	local mark old
	while read -r mark; do
		old=${mark%.done}
		(
			flock -n 8 || exit 0
			rm -rf "$old.done" "$old.configured" "$old" "$CACHE/obj/$(basename "$old")"
		) 8>"$CACHE/lock/base-$(basename "$old")"
	done < <(find "$CACHE/base" -maxdepth 1 -name "$tree_name-*.done" ! -path "$base.done" -mtime +7)
}
