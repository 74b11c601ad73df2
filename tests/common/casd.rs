//! A real server of the Remote Execution API, on loopback: buildbox-casd, which `scripts/setup check` puts into the
//! cache. Actions run in bubblewrap, with their input root as `/`.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running server, with a store of its own. Dropping it ends it.
pub struct Casd {
    child: Option<Child>,
    /// Where it listens.
    pub port: u16,
    /// Its store and its messages.
    pub folder: TempDir,
    arguments: Vec<String>,
    /// How often it was emptied.
    emptied: usize,
    /// What a shell does before it becomes the server.
    prelude: &'static str,
    /// Jobs at a time.
    jobs: usize,
    /// What does an action.
    runner: PathBuf,
}

/// Where buildbox is.
fn buildbox() -> PathBuf {
    let home = std::env::var("HOME").unwrap();
    let cache = std::env::var("XDG_CACHE_HOME").unwrap_or_else(|_| format!("{home}/.cache"));
    let cache = std::env::var("KTHINLTO_DEV_CACHE").unwrap_or_else(|_| format!("{cache}/kthinlto"));
    let folders = std::fs::read_dir(&cache).into_iter().flatten().filter_map(Result::ok);
    let is_it = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("buildbox-");
    let last =
        folders.map(|entry| entry.path()).filter(|path| path.file_name().is_some_and(is_it)).max();
    last.unwrap_or_default()
}

/// Whether the server can be run here; a sentence says if not.
pub fn is_there() -> bool {
    let there = buildbox().join("buildbox-casd").exists()
        && Command::new("bwrap").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there {
        eprintln!(
            "skipped: there is no buildbox-casd or no bwrap; scripts/setup check installs both"
        );
    }
    there
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

impl Casd {
    /// A server whose workers see the programs of this machine.
    pub fn start() -> Self {
        let binds = ["/usr:/usr", "/usr/lib:/lib", "/usr/lib64:/lib64", "/usr/bin:/bin"];
        Self::with(&binds, &[])
    }

    /// The same with more than two jobs at a time.
    pub fn with_jobs(jobs: usize) -> Self {
        let mut server = Self::start();
        server.kill();
        server.jobs = jobs;
        server.run();
        server
    }

    /// From now on its workers wait as long as an action says, and give this blob of its store as what was made:
    /// `sleeper.c` in `folder`, which takes no time of a processor, as a sandbox does.
    pub fn only_wait(&mut self, folder: &std::path::Path, made: &[u8]) {
        let (source, place) = (folder.join("sleeper.c"), folder.join("sleeper"));
        std::fs::write(&source, include_str!("sleeper.c")).unwrap();
        let mut command = Command::new(super::common::tool("clang"));
        command.args(["-O1", "-static"]).arg(&source).arg("-o").arg(&place);
        super::common::good(command);
        let copy = folder.join("made");
        std::fs::write(&copy, made).unwrap();
        let mut command = Command::new("sha256sum");
        command.arg(&copy);
        let sum = super::common::good(command);
        let sum = sum.split(' ').next().unwrap();
        self.kill();
        self.arguments = vec![
            format!("--runner-arg=--store={}", self.store().display()),
            format!("--runner-arg=--made={sum}/{}", made.len()),
        ];
        self.runner = place;
        self.run();
    }

    /// A server whose workers have a shell and nothing else.
    pub fn with_shell_only() -> Self {
        let mut command = Command::new("ldd");
        let shell = std::fs::canonicalize("/bin/sh").unwrap();
        let listed = command.arg(&shell).output().unwrap().stdout;
        let listed = String::from_utf8(listed).unwrap();
        let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
        let libraries = libraries.map(|library| format!("{library}:{library}"));
        let binds = [format!("{}:/bin/sh", shell.display())].into_iter().chain(libraries);
        let binds: Vec<String> = binds.collect();
        Self::with(&binds.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    }

    /// A server whose workers see these of this machine's folders, with more arguments.
    pub fn with(binds: &[&str], more: &[&str]) -> Self {
        let binds = binds.iter().map(|bind| format!("--runner-arg=--ro-bind-mount={bind}"));
        let arguments = binds.chain(more.iter().map(|&word| word.to_owned())).collect();
        let folder = tempfile::tempdir().unwrap();
        let (port, emptied, prelude, jobs) = (free_port(), 0, "", 2);
        let runner = buildbox().join("buildbox-run");
        let mut server =
            Casd { child: None, port, folder, arguments, emptied, prelude, jobs, runner };
        server.run();
        server
    }

    /// A server that can write no file of more than 2.5 MB, as on a full disk.
    pub fn full() -> Self {
        let mut server = Self::start();
        server.kill();
        server.emptied += 1;
        server.prelude = "trap '' XFSZ; ulimit -f 5000;";
        server.run();
        server
    }

    /// Starts it, on the port and with the store that it had.
    pub fn run(&mut self) {
        let folder = self.folder.path();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("{} exec \"$@\"", self.prelude), "sh"])
            .arg(buildbox().join("buildbox-casd"))
            .args(["--bind", &format!("127.0.0.1:{}", self.port), "--jobs"])
            .arg(self.jobs.to_string())
            .arg(format!("--buildbox-run={}", self.runner.display()))
            .args(["--cache-failures=false", "--quota-high=2G", "--reserved=100M"])
            .args(&self.arguments)
            .arg(self.store())
            .env("PATH", format!("{}:{}", buildbox().display(), std::env::var("PATH").unwrap()))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            // With its workers, which outlive it otherwise.
            .process_group(0)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            assert!(Instant::now() < until, "casd does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let group = rustix::process::Pid::from_child(&child);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            child.wait().unwrap();
            self.unmount();
        }
    }

    /// Takes away what workers that were killed left mounted in its store.
    fn unmount(&self) {
        let folder = self.folder.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounts = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for place in mounts.filter(|place| place.starts_with(&folder)) {
            let _ = Command::new("umount").args(["-l", place]).status();
        }
    }

    /// Where its store is.
    pub fn store(&self) -> PathBuf {
        self.folder.path().join(format!("store{}", self.emptied))
    }

    /// Changes the bytes of blobs in its store, without a change of their names; returns of how many.
    pub fn change(&self, from: &[u8], to: &[u8]) -> usize {
        let mut folders = vec![self.store().join("cas/objects")];
        let mut changed = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if std::fs::read(&path).is_ok_and(|bytes| bytes == from) {
                    let mode = std::fs::Permissions::from_mode(0o644);
                    std::fs::set_permissions(&path, mode).unwrap();
                    std::fs::write(&path, to).unwrap();
                    changed += 1;
                }
            }
        }
        changed
    }

    /// Forgets all that it stored; it must not run. Its workers may still have the old store mounted.
    pub fn empty(&mut self) {
        self.emptied += 1;
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.port)
    }
}

impl Drop for Casd {
    fn drop(&mut self) {
        self.kill();
    }
}
