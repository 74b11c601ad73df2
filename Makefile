# Makefile: the few things one does with a clone.  The work is in scripts/; cargo builds the program.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

bindir := $(DESTDIR)$(PREFIX)/bin
sharedir := $(DESTDIR)$(PREFIX)/share/kthinlto
docdir := $(DESTDIR)$(PREFIX)/share/doc/kthinlto
docs := $(wildcard *.md COPYING* LICENSE*)

.PHONY: all build demo check bench install uninstall clean help
all: build

build:
	$(CARGO) build --release --locked

demo:
	scripts/demo

check:
	scripts/check

bench: build
	scripts/bench

# Does not build: "sudo make install" must not compile as root.  The program holds the patches.
install:
	@test -x $(TARGET)/release/kthinlto || { echo "run make first" >&2; exit 1; }
	install -d $(bindir) $(sharedir) $(docdir)
	install -m 755 $(TARGET)/release/kthinlto $(bindir)/
	install -m 644 kconfig/*.config $(sharedir)/
	$(if $(docs),install -m 644 $(docs) $(docdir)/)

uninstall:
	rm -f $(bindir)/kthinlto
	rm -rf $(sharedir) $(docdir)

clean:
	$(CARGO) clean

help:
	@echo 'make             build target/release/kthinlto'
	@echo 'make demo        build a tiny kernel through kthinlto and boot it (installs what is missing)'
	@echo 'make check       every test, on real kernels too (installs what is missing);'
	@echo '                 CHECK_EXTENDED=1 adds the long ones'
	@echo "make bench       mainline's makefile stage and kthinlto side by side"
	@echo 'make install     PREFIX=/usr/local DESTDIR='
	@echo 'make uninstall   the same PREFIX and DESTDIR'
	@echo 'make clean       remove target/'
	@echo 'Kernel sources and object trees: $${KTHINLTO_DEV_CACHE:-~/.cache/kthinlto}, safe to delete'
