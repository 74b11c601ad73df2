//! What stands below the options in `--help` and in the man pages: examples, exit codes,
//! environment. Text only. A heading begins at the left margin and ends with a colon; the
//! man pages make sections of them.

/// Below the list of commands. The README has the same exit codes.
pub const MAIN: &str = "\
Examples:
  kthinlto patch ~/linux                            once, before the first build
  make LLVM=1 KTHINLTO=kthinlto -j8                 in that tree: the kernel's make calls `build`
  kthinlto explain kernel/panic.o                   what an edit of it would cost, and why
  kthinlto COMMAND --help                           options and examples of one command

Environment:
  CC, LD, KBUILD_LDFLAGS, srctree, MAKEFLAGS, KBUILD_VERBOSE
                       what kbuild exports; each is the default of an option of `build`
  KTHINLTO_CACHE_DIR   share native objects between trees in this folder
  KTHINLTO_CACHE_SIZE  the largest size of that folder, such as 500M; 5G without it
  KTHINLTO_REMOTE      also run backends on this server (grpc://HOST:PORT), and share objects with all
                       who use it; `kthinlto remote --help` has more variables
  KTHINLTO_EXECUTOR    `process`: each backend is a process of its own; no fork server
  KTHINLTO_TOOL_DIGESTS
                       where trees share digests of compilers, by default ~/.cache/kthinlto; `no`
  KTHINLTO_STABLE_NAMES
                       `yes`: functions that ThinLTO makes global keep their names (LLVM 23.1)
  KTHINLTO_SCRATCH     `tree`: the thin link writes in the object tree, not in memory
  KTHINLTO_VERIFY      `1%`: in each build, check that share of the objects it did not compile
  KTHINLTO_FINAL_LINK  `script`: `relink` always runs scripts/link-vmlinux.sh
  KTHINLTO_PROGRESS    `never`: no progress on a terminal; NO_COLOR turns its colours off
  KTHINLTO_TIMINGS, KTHINLTO_TRACE, KTHINLTO_JSON
                       reports to write when `build` or `relink` ends, as the options of that name
  KTHINLTO_LOG         messages for developers: `debug`, `trace`

Exit codes:
  0    success
  1    the linker, a backend or a step of `relink` failed; `remote check` found something
  2    the command line or a setting cannot be used
  3    a file of the tree cannot be used (an archive, a member of one, a .cmd file)
  4    CC, LD or pahole is missing or too old
  5    a file could not be read or written (a full disk, a read-only tree)
  6    another kthinlto is running in the tree
  7    no patch series fits the kernel tree
  8    `symvers --check` found a difference
  9    `verify` found an object that differs from what its backend makes
  130  interrupted (SIGINT); 143: terminated (SIGTERM); other signals: 128 plus the number";

/// Below the options of `build`.
pub const BUILD: &str = "\
Examples:
  In a patched kernel tree, kbuild calls it:
    make LLVM=1 KTHINLTO=kthinlto -j8
  By hand, in an object tree that was built once:
    CC=clang-22 LD=ld.lld-22 KBUILD_LDFLAGS='-m elf_x86_64 -z noexecstack' \\
      srctree=../linux kthinlto build built-in.a lib/lib.a arch/x86/lib/lib.a
  What ran when, and why, for a browser:
    make LLVM=1 KTHINLTO=kthinlto KTHINLTO_TIMINGS=$PWD/timings.html -j8
  What would run, and why, without running it:
    make LLVM=1 KTHINLTO='kthinlto -n -vv' vmlinux_a
  The next build, on four processors, with a cache that other trees share:
    KTHINLTO_CACHE_DIR=~/.cache/native make LLVM=1 KTHINLTO=kthinlto -j4";

/// Below the options of `modules`.
pub const MODULES: &str = "\
Examples:
  In a patched kernel tree, kbuild calls it:
    make LLVM=1 KTHINLTO=kthinlto -j8 modules
  One module, after make has compiled its parts:
    make LLVM=1 KTHINLTO=kthinlto fs/xfs/xfs.o
  What would run, and why, without running it:
    CC=clang LD=ld.lld kthinlto modules -n -vv fs/xfs/xfs.o";

/// Below the options of `relink`.
pub const RELINK: &str = "\
Examples:
  make LLVM=1 kernel/panic.o && kthinlto relink    in the object tree
  kthinlto relink --compile                        the same, for all sources that changed
  kthinlto relink -C ~/build/x86 -j8
  kthinlto relink -n                               the steps that would run, with their commands
  kthinlto relink --until vmlinux.o                the steps up to that file, and no more
  kthinlto relink fs/xfs/xfs.ko                    that module, from its objects; --modules: all

Environment:
  KBUILD_BUILD_VERSION, KBUILD_BUILD_TIMESTAMP
                  number and date of the build, as for make; without them, one more than
                  the last, and now
  NM              only needed if the tree was not built with LLVM's tools
  PAHOLE          in a kernel with DEBUG_INFO_BTF, the program to run instead of pahole";

/// Below the options of `patch`.
pub const PATCH: &str = "\
Examples:
  kthinlto patch ~/linux            apply the series for that tree's version
  kthinlto patch --check ~/linux    only say whether it fits
  kthinlto patch --with initcalls ~/linux
                                    the same, and let kthinlto write the order of initcalls
  kthinlto patch --reverse ~/linux  remove the series again
  kthinlto patch --list             the kernel versions that there are series for";

/// Below the options of `explain`.
pub const EXPLAIN: &str = "\
Examples:
  kthinlto explain kernel/panic.o
  kthinlto explain -C ~/build/x86 kernel/sched/core.o";

/// Below the options of `verify`.
pub const VERIFY: &str = "\
Examples:
  kthinlto verify --sample 20                       twenty objects of the tree, at random
  kthinlto verify kernel/panic.o mm/slub.o
  kthinlto verify --cache                           all objects, also against the cache";

/// Below the options of `graph`.
pub const GRAPH: &str = "\
Examples:
  kthinlto graph                                    the most expensive edits
  kthinlto graph --format dot mm/slub.o | dot -Tsvg > slub.svg
  kthinlto graph --format json | jq '.modules[.most_expensive[0]].object'
  kthinlto graph --promoted                         functions with names of ThinLTO's making";

/// Below the options of `symvers`.
pub const SYMVERS: &str = "\
Examples:
  kthinlto symvers                  write vmlinux.symvers, from vmlinux.o and .vmlinux.objs
  kthinlto symvers --check          name each symbol without a version, or with a different one
  kthinlto symvers --modules -o -   print Module.symvers
  kthinlto symvers vmlinux.a        write .vmlinux.objs from vmlinux.a as well";

/// Below the options of `initcalls`.
pub const INITCALLS: &str = "\
Examples:
  kthinlto initcalls                write .tmp_initcalls.lds, from vmlinux.a
  kthinlto initcalls -o - vmlinux.a lib/lib.a
                                    print it, as scripts/generate_initcall_order.pl does";

/// Below the options of `cache`.
pub const CACHE: &str = "\
Examples:
  kthinlto cache stats                              the cache of $KTHINLTO_CACHE_DIR
  kthinlto cache prune --cache-size 2G              down to 2 GiB, the least recently used first
  kthinlto cache clear --cache-dir ~/.cache/native  all of another cache";

/// Below the options of `remote`.
#[cfg(feature = "remote")]
pub const REMOTE: &str = "\
Examples:
  kthinlto remote check --remote grpc://10.0.0.7:8980
  KTHINLTO_REMOTE=grpcs://engine.example.org \\
    KTHINLTO_REMOTE_HEADERS='authorization=Bearer $TOKEN' kthinlto remote check

Environment:
  KTHINLTO_REMOTE           the server: grpc://HOST:PORT, or grpcs://HOST:PORT for TLS
  KTHINLTO_REMOTE_INSTANCE  the name of the instance, if the server has more than one
  KTHINLTO_REMOTE_HEADERS   headers of each request, as in NAME=VALUE,NAME=VALUE; $VARIABLES in values
                            are looked up, so that no file has to hold a secret; $$ is a dollar sign
  KTHINLTO_REMOTE_CA        a PEM file with the certificates to trust instead of the system's
  KTHINLTO_REMOTE_CERT, KTHINLTO_REMOTE_KEY
                            PEM files with our own certificate and its key
  KTHINLTO_REMOTE_PLATFORM  properties that a worker must have, as in NAME=VALUE,NAME=VALUE
  KTHINLTO_REMOTE_COMPILER  `upload`: workers get the compiler from here (the default); `worker`: they
                            have it at the path that it has here, and each action compares its content
  KTHINLTO_REMOTE_EXECUTE   `no`: only the store of results is used
  KTHINLTO_REMOTE_LOCAL     `no`: what the server can run does not run here, as long as it is there
  KTHINLTO_REMOTE_UPLOAD    `no`: results of this machine are not given to the server
  KTHINLTO_REMOTE_JOBS      jobs that are with the server at a time; 32 without it
  KTHINLTO_REMOTE_TIMEOUT   seconds that a job may take with all its waiting; 600 without it";

/// Below the options of `clean`.
pub const CLEAN: &str = "\
Examples:
  kthinlto clean -n                 list what would be removed
  kthinlto clean -C ~/build/x86     the next build makes all of it again";

/// Below the options of `link-vmlinux`.
pub const LINK_VMLINUX: &str = "\
Examples:
  kthinlto link-vmlinux ld.lld '-m elf_x86_64' '-z max-page-size=0x200000' vmlinux vmlinux.o

Environment:
  srctree, KBUILD_LDS, CC, KBUILD_AFLAGS, …    as for scripts/link-vmlinux.sh";

/// Below the options of `generate`.
pub const GENERATE: &str = "\
Examples:
  kthinlto generate man /usr/local/share/man/man1
  kthinlto generate bash > ~/.local/share/bash-completion/completions/kthinlto
  kthinlto generate zsh > /usr/local/share/zsh/site-functions/_kthinlto
  kthinlto generate fish > ~/.config/fish/completions/kthinlto.fish";

/// A text's sections: each heading without its colon, and the lines below it.
pub fn sections(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        let heading = line.strip_suffix(':').filter(|line| !line.starts_with(' '));
        match (heading, found.last_mut()) {
            (Some(heading), _) => found.push((heading, Vec::new())),
            (None, Some((_, lines))) => lines.push(line),
            (None, None) => found.push(("", vec![line])),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_made_of_sections() {
        let all = [
            MAIN,
            BUILD,
            RELINK,
            PATCH,
            EXPLAIN,
            VERIFY,
            GRAPH,
            SYMVERS,
            INITCALLS,
            CACHE,
            #[cfg(feature = "remote")]
            REMOTE,
            CLEAN,
            GENERATE,
            LINK_VMLINUX,
        ];
        for (heading, lines) in all.into_iter().flat_map(sections) {
            assert!(["Examples", "Environment", "Exit codes"].contains(&heading), "{heading}");
            assert!(lines.iter().any(|line| line.starts_with("  ")), "{heading}");
        }
        assert_eq!(sections(MAIN).len(), 3);
    }
}
