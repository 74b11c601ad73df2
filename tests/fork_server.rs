//! Backends through a fork server: the same bytes, the same manners as plain processes, and a
//! plain process wherever there is a doubt, with one line that says why.

#![cfg(feature = "program")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use common::{Beside, Tree, assert_holds, assert_same, bad, good, tool, until, warnings};
use rustix::process::{Pid, Signal};

/// Backends of the tree.
const BACKENDS: usize = 12;

/// A build that prints its notes.
fn command(tree: &Tree, compiler: &str, executor: &str) -> Command {
    let mut command = tree.kthinlto();
    command.arg("-v").env("CC", compiler).env("KTHINLTO_EXECUTOR", executor);
    command
}

/// What the verbose log says of executors.
fn notes(out: &str) -> Vec<String> {
    let lines = out.lines().filter_map(|line| line.strip_prefix("# "));
    lines.filter(|line| line.contains("fork server")).map(str::to_owned).collect()
}

/// The process number in a note.
fn server_in(text: &str) -> Option<i32> {
    let (_, rest) = text.split_once("fork server of")?.1.split_once("(process ")?;
    rest.split(')').next()?.parse().ok()
}

/// A stand-in that notes for each backend whether it is a copy, then is clang.
fn noting(tree: &Tree, begin: &str, main: &str) -> String {
    noting_with(tree, "", begin, main)
}

/// The same, compiled with more options.
fn noting_with(tree: &Tree, options: &str, begin: &str, main: &str) -> String {
    let log = tree.dir().join("kinds");
    let note = format!(
        "if (argc > 2) {{ FILE *log = fopen(\"{}\", \"a\"); \
         fprintf(log, forked ? \"copy\\n\" : \"plain\\n\"); fclose(log); }}\n{main}",
        log.display()
    );
    tree.program("clang-noting", &tool("clang"), options, begin, &note)
}

/// A stand-in whose copies wait until a file is removed.
fn holding(tree: &Tree) -> (PathBuf, String) {
    let hold = tree.dir().join("hold");
    fs::write(&hold, "").unwrap();
    let main = format!("while (forked && !access(\"{}\", F_OK)) usleep(1000);", hold.display());
    (hold, noting(tree, "", &main))
}

/// How many backends ran as copies, and how many as plain processes.
fn kinds(tree: &Tree) -> (usize, usize) {
    let log = fs::read_to_string(tree.dir().join("kinds")).unwrap_or_default();
    let count = |kind| log.lines().filter(|line| *line == kind).count();
    (count("copy"), count("plain"))
}

#[test]
fn both_executors_give_the_same_bytes() {
    for executor in ["auto", "fork-server", "process"] {
        let tree = Tree::new();
        let out = good(command(&tree, &tool("clang"), executor));
        assert_same(&tree.outputs(), &tree.want());
        match executor {
            "process" => assert!(notes(&out).is_empty(), "{out}"),
            "auto" if notes(&out).is_empty() => {} // all have ended before it was ready
            _ => {
                assert_eq!(notes(&out).len(), 1, "{out}");
                assert_holds(&notes(&out)[0], &["a fork server of clang", "runs the backends"]);
            }
        }
    }
}

#[test]
fn copies_are_what_plain_processes_are() {
    // What a process can see of itself, from a stand-in that writes it down for each backend.
    let seen = |executor: &str| {
        let tree = Tree::new();
        let log = tree.dir().join("seen");
        let script = tree.compiler(
            "see",
            &format!(
                "ls -l /proc/$$/fd > {0}.fd.$$\n\
                 {{ tr '\\0' '\\n' < /proc/$$/environ | sort; \
                 sed -n 's/.* \\([0-9]*\\) -> \\([^:]*\\).*/\\1 \\2/p' {0}.fd.$$ | sed 's/[0-9]*$//'; \
                 grep -E '^(SigBlk|SigIgn|CapEff|Umask)' /proc/self/status; \
                 cut -d' ' -f5 /proc/$$/stat | sed s/$$/own-group/; pwd; \
                 printf '%s\\n' \"$@\"; }} > {0}.$$; rm {0}.fd.$$; mv {0}.$$ {0}.$(basename $object)\n\
                 exec {1} \"$@\"",
                log.display(),
                tool("clang")
            ),
        );
        let cc = tree.program("clang-see", &script, "", "", "");
        good(command(&tree, &cc, executor));
        let dir = tree.dir().to_string_lossy().into_owned();
        let text = tree.shell(&format!("cat {}.*", log.display()));
        assert!(text.contains("own-group"), "{text}");
        text.replace(&dir, "").replace(executor, "")
    };
    let (copies, plain) = (seen("fork-server"), seen("process"));
    let differ = copies.lines().zip(plain.lines()).find(|(a, b)| a != b);
    assert_eq!(differ, None);
    assert_eq!(copies, plain);
}

#[test]
fn backends_run_while_a_server_gets_ready() {
    // It is not ready before a backend has run without it.
    let tree = Tree::new();
    let go = tree.dir().join("go").display().to_string();
    let begin =
        format!("if (getenv(\"KTHINLTO_FORK_SERVER\")) while (access(\"{go}\", 0)) usleep(1000);");
    let main = format!("if (argc > 2 && !forked) close(creat(\"{go}\", 0600));");
    let cc = noting_with(&tree, "-D_GNU_SOURCE -include fcntl.h", &begin, &main);
    let out = good(command(&tree, &cc, "auto"));
    let (copies, plain) = kinds(&tree);
    assert!(copies > 0 && plain > 0 && copies + plain == BACKENDS, "{copies}, {plain}: {out}");
    assert_same(&tree.outputs(), &tree.clean_outputs(&|_| {}));
}

#[test]
fn few_backends_are_not_worth_a_server() {
    let tree = Tree::new();
    good(command(&tree, &tool("clang"), "auto"));
    fs::remove_file(tree.objects.join("lib/w0.thinlto-native.o")).unwrap();
    let out = good(command(&tree, &tool("clang"), "auto"));
    assert_holds(&out, &["1 rebuilt"]);
    assert!(notes(&out).is_empty(), "{out}");
    fs::remove_file(tree.objects.join("lib/w0.thinlto-native.o")).unwrap();
    let out = good(command(&tree, &tool("clang"), "fork-server"));
    assert_eq!(notes(&out).len(), 1, "one that is asked for is there: {out}");
}

#[test]
fn the_word_that_the_kernel_clears_need_not_be_the_threads_number() {
    // As in glibc 2.42 and later.
    let tree = Tree::new();
    let log = tree.dir().join("threads");
    let begin = "static int other = 2; syscall(218 /* set_tid_address */, &other);";
    let main = format!(
        "if (forked) {{ pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP; int *cleared;\n\
         pthread_mutex_lock(&lock); prctl(PR_GET_TID_ADDRESS, &cleared, 0, 0, 0);\n\
         FILE *log = fopen(\"{}\", \"a\"); fprintf(log, \"%d %d\\n\", \
         lock.__data.__owner == getpid(), *cleared); fclose(log); }}",
        log.display()
    );
    let cc = tree.program("clang-new", &tool("clang"), "-D_GNU_SOURCE", begin, &main);
    let out = good(command(&tree, &cc, "fork-server"));
    assert_same(&tree.outputs(), &tree.want());
    assert_holds(&notes(&out)[0], &["a fork server of", "runs the backends"]);
    assert_eq!(fs::read_to_string(log).unwrap(), "1 2\n".repeat(BACKENDS));
}

/// A compiler that cannot be a server: all is built, by processes, and one line says why.
fn falls_back(tree: &Tree, compiler: &str, why: &str) {
    // On one slot nothing runs before a server is ready, or cannot be.
    let mut alone = command(tree, compiler, "auto");
    alone.arg("-j1");
    let out = good(alone);
    assert_same(&tree.outputs(), &tree.want());
    let notes = notes(&out);
    assert_eq!(notes.len(), 1, "{out}");
    assert_holds(&notes[0], &["no fork server of", why, "backends run as processes"]);
    // Who asked for one reads it without -v.
    assert!(tree.shell("rm -rf .kthinlto; find . -name '*.thinlto-native.o' -delete").is_empty());
    let mut asked = tree.kthinlto();
    asked.env("CC", compiler).args(["--executor", "fork-server"]);
    let out = asked.output().unwrap();
    assert!(out.status.success());
    let warnings = warnings(&out);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_holds(&warnings[0], &["no fork server of", why]);
    assert_same(&tree.outputs(), &tree.want());
}

#[test]
fn a_wrapper_script_falls_back() {
    let tree = Tree::new();
    let script = tree.script("clang-22", &format!("exec {} \"$@\"", tool("clang")));
    falls_back(&tree, &script, "is a wrapper");
}

#[test]
fn a_wrapper_program_falls_back() {
    let tree = Tree::new();
    let wrapper = tree.program("ccache", &tool("clang"), "", "", "");
    // As ccache is used: by a link that has the compiler's name.
    let link = tree.dir().join("clang-22");
    std::os::unix::fs::symlink(wrapper, &link).unwrap();
    falls_back(&tree, &link.to_string_lossy(), "is a wrapper");
}

#[test]
fn a_wrapper_before_the_compiler_falls_back() {
    let tree = Tree::new();
    let wrapper = tree.script("distcc", "exec \"$@\"");
    falls_back(&tree, &format!("{wrapper} {}", tool("clang")), "is a wrapper");
}

#[test]
fn a_static_compiler_falls_back() {
    let tree = Tree::new();
    let program = tree.program("clang-static", &tool("clang"), "-static", "", "");
    falls_back(&tree, &program, "is linked statically");
}

#[test]
fn another_loader_falls_back() {
    let tree = Tree::new();
    let loader = tree.dir().join("ld-musl-x86_64.so.1");
    fs::copy("/lib64/ld-linux-x86-64.so.2", &loader).unwrap();
    let options = format!("-Wl,--dynamic-linker={}", loader.display());
    let program = tree.program("clang-musl", &tool("clang"), &options, "", "");
    falls_back(&tree, &program, "not glibc's");
}

#[test]
fn a_setuid_compiler_falls_back() {
    let tree = Tree::new();
    let program = tree.program("clang-setuid", &tool("clang"), "", "", "");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    falls_back(&tree, &program, "another user's rights");
}

#[test]
fn a_compiler_with_threads_falls_back() {
    let tree = Tree::new();
    let begin = "pthread_t thread; pthread_create(&thread, 0, sleeps, 0);";
    let program = tree.program("clang-threads", &tool("clang"), "-pthread", begin, "");
    falls_back(&tree, &program, "starts threads before main");
}

#[test]
fn a_sanitizer_build_falls_back() {
    let tree = Tree::new();
    let options = "-rdynamic -include extra.h";
    tree.write_object("extra.h", "void __asan_init(void); void __asan_init(void) {}\n");
    let program = tree.program("clang-asan", &tool("clang"), options, "", "");
    falls_back(&tree, &program, "a sanitizer build");
}

#[test]
fn a_failed_handshake_falls_back() {
    let tree = Tree::new();
    // The library is loaded, and nobody comes to its `main`.
    let begin =
        "if (getenv(\"KTHINLTO_FORK_SERVER\")) { puts(\"no!\"); fflush(stdout); _exit(0); }";
    let program = tree.program("clang-shy", &tool("clang"), "", begin, "");
    falls_back(&tree, &program, "and said: no!");
    // It crashes only with the library before libc.
    let begin = "if (getenv(\"KTHINLTO_FORK_SERVER\")) abort();";
    let program = tree.program("clang-crash", &tool("clang"), "", begin, "");
    assert!(tree.shell("rm -rf .kthinlto; find . -name '*.thinlto-native.o' -delete").is_empty());
    falls_back(&tree, &program, "and said: nothing");
}

#[test]
fn a_seccomp_filter_falls_back() {
    let tree = Tree::new();
    // What prctl(2) is told not to do any more, as a container would: strict mode kills a
    // process at its first other system call, which is the handshake.
    let begin = "if (getenv(\"KTHINLTO_FORK_SERVER\")) prctl(PR_SET_SECCOMP, 1);";
    let program = tree.program("clang-strict", &tool("clang"), "", begin, "");
    falls_back(&tree, &program, "and said: nothing");
}

#[test]
fn a_job_that_only_fails_in_a_copy_is_run_again() {
    for how in ["abort();", "return 1;", "raise(SIGKILL);"] {
        let tree = Tree::new();
        let main = format!(
            "for (int i = 1; i < argc && forked; i++) if (!strcmp(argv[i], \"kernel/b.o\")) {how}"
        );
        let compiler = noting(&tree, "", &main);
        let out = good(command(&tree, &compiler, "fork-server"));
        assert_same(&tree.outputs(), &tree.want());
        let notes = notes(&out);
        assert_eq!(notes.len(), 2, "{out}");
        assert_holds(&notes[1], &["made a backend fail that a plain process could run"]);
        let (copies, plain) = kinds(&tree);
        assert_eq!(copies + plain, BACKENDS + 1, "one ran twice");
        assert!(copies >= 1 && plain >= 1);
    }
}

#[test]
fn a_real_failure_is_reported_once_and_takes_nobody_with_it() {
    for how in ["abort();", "fprintf(stderr, \"a real error\\n\"); return 1;"] {
        let tree = Tree::new();
        let main = format!(
            "for (int i = 1; i < argc; i++) if (!strcmp(argv[i], \"kernel/b.o\")) {{ {how} }}"
        );
        let compiler = noting(&tree, "", &main);
        let mut command = command(&tree, &compiler, "fork-server");
        command.arg("-k");
        let out = bad(command, 1, "1 of 12 backends failed");
        let error = common::text(&out.stderr);
        assert_eq!(error.matches("the backend of kernel/b.o failed").count(), 1, "{error}");
        assert!(error.matches("a real error").count() <= 1, "{error}");
        assert_eq!(kinds(&tree), (BACKENDS, 1), "the server went on");
    }
}

#[test]
fn a_server_that_dies_costs_no_job() {
    let tree = Tree::new();
    let (hold, compiler) = holding(&tree);
    let log = fs::File::create(tree.dir().join("out")).unwrap();
    let mut command = command(&tree, &compiler, "fork-server");
    command.stdout(log);
    let mut child = command.spawn().unwrap();
    let out = || fs::read_to_string(tree.dir().join("out")).unwrap();
    until("two copies", || kinds(&tree).0 == 2);
    let server = server_in(&out()).unwrap();
    rustix::process::kill_process(Pid::from_raw(server).unwrap(), Signal::KILL).unwrap();
    fs::remove_file(hold).unwrap();
    assert!(child.wait().unwrap().success());
    assert_same(&tree.outputs(), &tree.want());
    assert_eq!(kinds(&tree), (2, BACKENDS - 2), "copies that ran went on");
    assert_holds(&notes(&out())[1], &["the other backends ran as plain processes"]);
}

#[test]
fn a_server_without_room_for_a_copy_costs_no_job() {
    let tree = Tree::new();
    // As where a user may have no more processes; the filter is in the server alone.
    let begin = "if (getenv(\"KTHINLTO_FORK_SERVER\")) { \
         struct sock_filter filter[] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), \
             BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 1), \
             BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EAGAIN), \
             BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) }; \
         struct sock_fprog program = { 4, filter }; \
         prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); prctl(PR_SET_SECCOMP, 2, &program); }";
    let options = "-include linux/filter.h -include linux/seccomp.h -include sys/syscall.h \
         -include errno.h";
    let compiler = noting_with(&tree, options, begin, "");
    let out = good(command(&tree, &compiler, "fork-server"));
    assert_eq!(notes(&out).len(), 1, "it may have room again: {out}");
    assert_eq!(kinds(&tree), (0, BACKENDS));
    assert_same(&tree.outputs(), &tree.want());
}

#[test]
fn a_run_whose_server_does_not_answer_can_be_interrupted() {
    let tree = Tree::new();
    let (hold, compiler) = holding(&tree);
    let log = tree.dir().join("out");
    let mut command = command(&tree, &compiler, "fork-server");
    common::heed_signals();
    command.stdout(fs::File::create(&log).unwrap());
    let mut kthinlto = command.spawn().unwrap();
    until("two copies", || kinds(&tree).0 == 2);
    let server = server_in(&fs::read_to_string(&log).unwrap()).unwrap();
    rustix::process::kill_process(Pid::from_raw(server).unwrap(), Signal::STOP).unwrap();
    fs::remove_file(hold).unwrap();
    // Their results are kept, and two more are asked for.
    let find = "find . -name '*.thinlto-native.o'";
    until("two results", || tree.shell(find).lines().count() == 2);
    rustix::process::kill_process(Pid::from_child(&kthinlto), Signal::INT).unwrap();
    assert_eq!(kthinlto.wait().unwrap().code(), Some(130));
    until("the end of the server", || is_gone(&server.to_string()));
}

#[test]
fn nobody_outlives_kthinlto() {
    let tree = Tree::new();
    let pids = tree.dir().join("pids");
    let main = format!(
        "if (argc > 2) {{ FILE *log = fopen(\"{}\", \"a\"); fprintf(log, \"%d %d\\n\", getpid(), born); \
         fclose(log); for (;;) pause(); }}",
        pids.display()
    );
    let compiler = tree.program("clang-waits", &tool("clang"), "", "", &main);
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let _ = fs::remove_file(&pids);
        let kthinlto = Beside::start(command(&tree, &compiler, "fork-server"));
        let seen = || fs::read_to_string(&pids).unwrap_or_default();
        until("two copies", || seen().lines().count() == 2 && seen().ends_with('\n'));
        kthinlto.signal(signal);
        assert_eq!(kthinlto.end().status.code(), code);
        let numbers = seen();
        for number in numbers.split_whitespace() {
            until("the end of a copy and its server", || is_gone(number));
        }
    }
}

fn is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn arguments_that_no_packet_holds_go_to_a_process() {
    let tree = Tree::new();
    let record = tree.objects.join("kernel/.b.o.cmd");
    // 300 kB of flags, in words that exec still takes.
    let long = format!(" -DLONG={}", "x".repeat(100_000)).repeat(3);
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, format!("{}{long}\n", text.trim_end())).unwrap();
    let compiler = noting(&tree, "", "");
    good(command(&tree, &compiler, "fork-server"));
    assert_eq!(kinds(&tree), (BACKENDS - 1, 1));
}

#[test]
fn a_library_that_the_user_preloads_stays_preloaded() {
    let tree = Tree::new();
    let compiler = noting(
        &tree,
        "",
        "if (argc > 2) { char *p = getenv(\"LD_PRELOAD\"); \
         if (!p || strcmp(p, \"libm.so.6:libdl.so.2\")) return 1; \
         if (getenv(\"KTHINLTO_FORK_SERVER\")) return 1; }",
    );
    let mut command = command(&tree, &compiler, "fork-server");
    command.env("LD_PRELOAD", "libm.so.6:libdl.so.2");
    good(command);
    assert_eq!(kinds(&tree), (BACKENDS, 0));
    assert_same(&tree.outputs(), &tree.want());
}

/// A compiler with as much code as is worth huge pages, and functions of libc of its own.
fn large(tree: &Tree, functions: &str, main: &str) -> String {
    let source = format!(
        "#include <stddef.h>\n#include <stdarg.h>\n#include <string.h>\n#include <sys/mman.h>\n\
         #include <sys/syscall.h>\n#include <unistd.h>\n\
         __asm__(\".text\\n.globl much\\nmuch: .fill 6291456, 4, 0x01234567\\n\");\n{functions}\n"
    );
    tree.write_object("large.c", &source);
    let options = "-D_GNU_SOURCE -rdynamic large.c -Wl,-z,separate-code";
    let main = format!(
        "extern unsigned much[]; for (int i = 0; i < 6291456; i++)\n\
         if (much[i] != 0x01234567) return 1;\n{main}"
    );
    noting_with(tree, options, "", &main)
}

/// Has a large program find that it got huge pages, also where memory is in pieces too small for any.
fn all_huge(tree: &Tree) -> &'static str {
    tree.write_object("none", "AnonHugePages:         0 kB\n");
    tree.write_object("huge", "Rss: 1 kB\nAnonHugePages:   9999999 kB\nSwap: 1 kB\n");
    "int open(const char *path, int flags, ...) { \
        static int count; va_list more; va_start(more, flags); int mode = va_arg(more, int); va_end(more); \
        if (!strcmp(path, \"/proc/self/smaps_rollup\")) path = count++ % 2 ? \"huge\" : \"none\"; \
        return syscall(SYS_open, path, flags, mode); }"
}

#[test]
fn code_that_cannot_be_moved_stays_and_leaves_no_memory_behind() {
    // As SELinux answers.
    code_stays(
        "int mprotect(void *p, size_t n, int rights) { \
        if (n > 1 << 20 && (rights & PROT_EXEC)) return -1; \
        return syscall(SYS_mprotect, p, n, rights); }",
        true,
    );
}

/// Each fork would copy an entry for every small page: 4 ms for clang's code, where memory is full of
/// cached files.
#[test]
fn code_stays_where_there_are_no_huge_pages_for_it() {
    code_stays(
        "int madvise(void *p, size_t n, int advice) { \
        return syscall(SYS_madvise, p, n, advice == MADV_HUGEPAGE ? MADV_NOHUGEPAGE : advice); }",
        false,
    );
}

/// With these functions, a large program is served, and a copy is small.
fn code_stays(functions: &str, huge: bool) {
    let tree = Tree::new();
    let functions = format!("{functions}\n{}", if huge { all_huge(&tree) } else { "" });
    let main = "FILE *status = fopen(\"/proc/self/status\", \"r\"); char line[200]; long kib = 0;\n\
        while (status && fgets(line, sizeof line, status)) sscanf(line, \"RssAnon: %ld\", &kib);\n\
        if (forked && kib > 8 << 10) return 1;";
    let cc = large(&tree, &functions, main);
    let out = good(command(&tree, &cc, "fork-server"));
    assert_eq!(notes(&out).len(), 1, "no copy failed: {out}");
    assert_eq!(kinds(&tree), (BACKENDS, 0));
}

#[test]
fn code_that_is_lost_on_its_way_is_put_back() {
    // The kernel clears the place before it may find that it cannot move what is to go there.
    let fails = "void *mremap(void *from, size_t old, size_t size, int flags, ...) { \
        va_list more; va_start(more, flags); void *to = va_arg(more, void *); va_end(more); \
        (void)from; (void)old; if (flags & MREMAP_FIXED) munmap(to, size); return MAP_FAILED; }";
    let tree = Tree::new();
    let cc = large(&tree, &format!("{fails}\n{}", all_huge(&tree)), "");
    let out = good(command(&tree, &cc, "fork-server"));
    assert_eq!(notes(&out).len(), 1, "no copy failed: {out}");
    assert_eq!(kinds(&tree), (BACKENDS, 0));
    // Where even that fails, nobody is served by half a compiler.
    let tree = Tree::new();
    let none = format!(
        "{fails}\n{}\nvoid *mmap(void *p, size_t n, int rights, int flags, int file, off_t at) {{ \
         if (flags & MAP_FIXED) return MAP_FAILED; \
         return (void *)syscall(SYS_mmap, p, n, rights, flags, file, at); }}",
        all_huge(&tree)
    );
    let cc = large(&tree, &none, "");
    falls_back(&tree, &cc, "its code could not be moved in memory");
}

#[test]
fn malloc_of_a_copy_keeps_freed_pieces_at_hand() {
    let tree = Tree::new();
    // glibc counts pieces that a thread keeps as in use; by itself it keeps few of a size.
    // mallinfo2 is there since 2.33.
    let compiler = noting(
        &tree,
        "",
        "if (argc > 2) { void *volatile pieces[100]; size_t before; \
         for (int i = 0; i < 100; i++) pieces[i] = malloc(200); \
         before = mallinfo2().uordblks; \
         for (int i = 0; i < 100; i++) free(pieces[i]); \
         if (getenv(\"GLIBC_TUNABLES\") || before - mallinfo2().uordblks > 200) return 1; }",
    );
    let mut command = command(&tree, &compiler, "fork-server");
    command.env_remove("GLIBC_TUNABLES");
    good(command);
    assert_eq!(kinds(&tree), (BACKENDS, 0));
}

#[test]
fn the_users_settings_of_malloc_are_left_alone() {
    let tree = Tree::new();
    let compiler = noting(
        &tree,
        "",
        "if (argc > 2) { char *set = getenv(\"GLIBC_TUNABLES\"); \
         if (!set || strcmp(set, \"glibc.malloc.perturb=0\")) return 1; \
         if (getenv(\"LD_BIND_NOW\")) return 1; }",
    );
    let mut command = command(&tree, &compiler, "fork-server");
    command.env("GLIBC_TUNABLES", "glibc.malloc.perturb=0").env_remove("LD_BIND_NOW");
    good(command);
    assert_eq!(kinds(&tree), (BACKENDS, 0));
}
