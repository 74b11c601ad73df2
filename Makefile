# Makefile: the few things one does with a clone.  The work is in scripts/; cargo builds the program.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

bindir := $(DESTDIR)$(PREFIX)/bin
share := $(DESTDIR)$(PREFIX)/share
made := $(TARGET)/release/share
completions := bash-completion/completions/kthinlto zsh/site-functions/_kthinlto \
	fish/vendor_completions.d/kthinlto.fish
# With all that they link to.
documents := README.md DESIGN.md CHANGELOG.md CONTRIBUTING.md SECURITY.md $(wildcard docs/*.md) patches/README.md \
	kconfig/README.md tests/kernel/README.md examples/phases.rs

.PHONY: all build demo check check-kernels bench install uninstall clean help
all: build

# Paths that someone names may have blanks: each is one word of the shell.
build:
	$(CARGO) build --release --locked
	rm -rf "$(made)"
	for file in $(completions); do mkdir -p "$(made)/$${file%/*}" || exit; done
	"$(TARGET)/release/kthinlto" generate man "$(made)/man/man1"
	"$(TARGET)/release/kthinlto" generate bash >"$(made)/bash-completion/completions/kthinlto"
	"$(TARGET)/release/kthinlto" generate zsh >"$(made)/zsh/site-functions/_kthinlto"
	"$(TARGET)/release/kthinlto" generate fish >"$(made)/fish/vendor_completions.d/kthinlto.fish"

demo:
	scripts/demo

check:
	scripts/check

# Goals beside it are names of parts, or list.
ifneq ($(filter check-kernels,$(MAKECMDGOALS)),)
parts := $(filter-out check-kernels,$(MAKECMDGOALS))
.PHONY: $(parts)
$(parts): check-kernels
	@:
endif
check-kernels: build
	tests/kernel/run $(if $(filter list,$(parts)),--list,$(parts))

bench: build
	scripts/bench

# Does not build: "sudo make install" must not compile as root.  The program holds the patches.
install:
	@test -d "$(made)" || { echo "run make first" >&2; exit 1; }
	install -D -m 755 "$(TARGET)/release/kthinlto" "$(bindir)/kthinlto"
	install -d "$(share)/man/man1"
	install -m 644 "$(made)"/man/man1/*.1 "$(share)/man/man1/"
	for file in $(completions); do install -D -m 644 "$(made)/$$file" "$(share)/$$file" || exit; done
	install -d "$(share)/kthinlto"
	install -m 644 kconfig/*.config "$(share)/kthinlto/"
	find patches -name '*.patch' -exec install -D -m 644 {} "$(share)/kthinlto/{}" \;
	for file in $(documents); do install -D -m 644 $$file "$(share)/doc/kthinlto/$$file" || exit; done

uninstall:
	rm -f "$(bindir)/kthinlto" "$(share)"/man/man1/kthinlto.1 "$(share)"/man/man1/kthinlto-*.1
	for file in $(completions); do rm -f "$(share)/$$file" || exit; done
	rm -rf "$(share)/kthinlto" "$(share)/doc/kthinlto"

clean:
	$(CARGO) clean

help:
	@echo 'make             build target/release/kthinlto'
	@echo 'make demo        build a tiny kernel with kthinlto and boot it (installs what is missing)'
	@echo 'make check       the gate: lints, all Rust tests, packages, one real kernel (installs what is'
	@echo '                 missing)'
	@echo 'make check-kernels [PART...]'
	@echo '                 the tests on real kernels, all or some; make check-kernels list prints all parts,'
	@echo '                 what they cost, and their last results'
	@echo "make bench       mainline's makefiles, the linker's own ThinLTO and kthinlto side by side"
	@echo '                 (installs what is missing); docs/BENCHMARKS.md'
	@echo 'make install     PREFIX=/usr/local DESTDIR='
	@echo 'make uninstall   the same PREFIX and DESTDIR'
	@echo 'make clean       remove target/'
	@echo 'Kernel sources and object trees: $${KTHINLTO_DEV_CACHE:-~/.cache/kthinlto}, safe to delete'
