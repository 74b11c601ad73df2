# shellcheck shell=bash
# apt.sh: downloads Debian packages, of this release or another, without touching the system:
# no root, no change in /etc/apt, no package list outside the cache.  Sourced, never run.
#
# The archive is the one this machine already uses: its configured source is copied with only the
# suite changed, so mirrors, proxies and keys keep working and no host is named here.

# debian_source SUITE: prints, as a one-stanza .sources or one-line .list entry, this machine's
# source of the main Debian archive with SUITE for its suites.  The first line is the format.
debian_source() {
	local suite=$1 file codename entry
	# shellcheck disable=SC1091
	codename=$(. /etc/os-release && printf %s "$VERSION_CODENAME")
	for file in "${KTHINLTO_APT_ETC:-/etc/apt}"/sources.list.d/*.sources; do
		[ -f "$file" ] || continue
		entry=$(deb822_entry "$codename" "$suite" "$file")
		[ -z "$entry" ] || { printf 'sources\n%s\n' "$entry" && return; }
	done
	for file in "${KTHINLTO_APT_ETC:-/etc/apt}"/sources.list "${KTHINLTO_APT_ETC:-/etc/apt}"/sources.list.d/*.list; do
		[ -f "$file" ] || continue
		entry=$(oneline_entry "$codename" "$suite" "$file")
		[ -z "$entry" ] || { printf 'list\n%s\n' "$entry" && return; }
	done
	die "no apt source of this machine has the main Debian archive ($codename main)"
}

# Both readers take an entry only if its suites hold the release itself (not -security or
# -backports), its components hold main, and its path ends in /debian as the archive's does:
# other vendors' archives use Debian's suite names too.
deb822_entry() {
	awk -v codename="$1" -v suite="$2" '
		function value(name,  i, v) {
			for (i = 1; i <= NF; i++)
				if (tolower(substr($i, 1, length(name) + 1)) == tolower(name) ":") {
					v = substr($i, length(name) + 2)
					gsub(/[ \t]+/, " ", v)
					return v " "
				}
			return ""
		}
		BEGIN { RS = ""; FS = "\n" }
		value("Enabled") ~ /^ no / { next }
		value("Types") !~ / deb / || value("Components") !~ / main / { next }
		index(value("Suites"), " " codename " ") == 0 { next }
		value("URIs") !~ /\/debian\/? / { next }
		{
			for (i = 1; i <= NF; i++) {
				if (tolower($i) ~ /^suites:/) print "Suites: " suite
				else if (tolower($i) ~ /^components:/) print "Components: main"
				else if (tolower($i) ~ /^types:/) print "Types: deb"
				else if ($i !~ /^#/) print $i
			}
			exit
		}' "$3"
}

oneline_entry() {
	awk -v codename="$1" -v suite="$2" '
		$1 != "deb" { next }
		{
			at = 2
			if ($2 ~ /^\[/) while (at <= NF && $(at++) !~ /\]$/);
			if ($at !~ /\/debian\/?$/ || $(at + 1) != codename || $(at + 2) != "main") next
			out = $1
			for (i = 2; i <= at; i++) out = out " " $i
			print out, suite, "main"
			exit
		}' "$3"
}

# apt_fetch SUITE PKG DIR: downloads the newest PKG of SUITE into DIR; "-" is the system's own suites.
apt_fetch() (
	suite=$1 pkg=$2 dir=$3
	mkdir -p "$CACHE/tmp" "$dir"
	work=$(mktemp -d "$CACHE/tmp/apt.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	mkdir -p "$work/parts" "$work/lists/partial" "$work/archives/partial" "$work/get"
	opts=(-q -o Dir::State::Lists="$work/lists" -o Dir::Cache::archives="$work/archives"
		-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Acquire::Languages=none
		-o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null)
	if [ "$suite" != - ]; then
		entry=$(debian_source "$suite") || exit 1
		printf '%s\n' "${entry#*$'\n'}" >"$work/parts/only.${entry%%$'\n'*}"
		opts+=(-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$work/parts")
	fi
	# As root apt drops to a user of its own, which may not enter the cache.
	[ "$(id -u)" != 0 ] || opts+=(-o APT::Sandbox::User=root)
	cd "$work/get" || exit
	if ! { apt-get "${opts[@]}" update && apt-get "${opts[@]}" download "$pkg"; } >"$work/log" 2>&1; then
		tail -n 5 "$work/log" >&2
		return 1
	fi
	mv "$work/get/${pkg}_"*.deb "$dir/"
)

# cached_deb PKG SUITE...: the path of PKG's .deb, downloaded from the first suite that has it.
cached_deb() {
	local pkg=$1 suite deb
	shift
	deb=$(find "$CACHE/deb" -name "${pkg}_*.deb" 2>/dev/null | sort | tail -n 1)
	[ -z "$deb" ] || { printf '%s\n' "$deb" && return; }
	for suite; do
		note "fetching $pkg (suite ${suite/#-/of this machine})"
		apt_fetch "$suite" "$pkg" "$CACHE/deb" || continue
		find "$CACHE/deb" -name "${pkg}_*.deb" && return
	done
	die "$pkg is in none of the suites: $*"
}
