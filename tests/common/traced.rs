//! What a run and all that it starts write, make, rename and remove, by strace(1): each path as the
//! kernel took it, with links resolved. For tests that say where nothing may change.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::Beside;

/// Calls that change a file or a folder, and those that say where a relative path begins. A
/// question mark is for calls that this strace or this machine may not have.
const CALLS: &str = "?open,openat,?openat2,?creat,?unlink,unlinkat,?rename,?renameat,renameat2,\
    ?mkdir,mkdirat,?rmdir,?link,linkat,?symlink,symlinkat,?mknod,mknodat,?chmod,fchmod,fchmodat,\
    ?fchmodat2,?chown,?lchown,fchown,fchownat,truncate,ftruncate,?utime,?utimes,?futimesat,\
    utimensat,setxattr,lsetxattr,fsetxattr,removexattr,lremovexattr,fremovexattr,bind,mount,\
    ?umount2,chdir,fchdir,clone,?clone3,?fork,?vfork";

/// A change that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The call, as strace shows it.
    pub line: String,
    /// What it changed.
    pub path: PathBuf,
}

/// Whether strace is here and may trace; says so where not.
pub fn can_trace() -> bool {
    let tried = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output();
    let can = tried.is_ok_and(|out| out.status.success());
    if !can {
        eprintln!("passed over: strace is not installed, or may not trace here");
    }
    can
}

/// Runs a command under strace to its end; what it said, and all changes. Relative paths begin in
/// `folder`, where the command runs. `links` are links that are there before the run, and what they
/// lead to: when the log is read, they may be gone.
pub fn traced(command: &Command, folder: &Path, links: &[(PathBuf, PathBuf)]) -> Traced {
    let logs = tempfile::tempdir().unwrap();
    let mut strace = Command::new("strace");
    // A log for each process: no call is interrupted by another's.
    strace.args(["-ff", "-y", "-qq", "-e", "signal=none", "-e"]).arg(format!("trace={CALLS}"));
    strace.arg("-o").arg(logs.path().join("log")).arg("--");
    strace.arg(command.get_program()).args(command.get_args());
    strace.current_dir(folder).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    let out = Beside::start(strace).end();
    let mut reader =
        Reader { logs: read_logs(logs.path()), links: links.to_vec(), changes: Vec::new() };
    let begin = fs::canonicalize(folder).unwrap();
    // Whoever nobody started is the command itself: strace starts it in `folder`.
    let started: Vec<u32> =
        reader.logs.values().flat_map(|log| log.lines().filter_map(child)).collect();
    let first: Vec<u32> =
        reader.logs.keys().copied().filter(|pid| !started.contains(pid)).collect();
    assert_eq!(first.len(), 1, "one process is the first: {first:?}");
    reader.process(first[0], begin);
    assert!(reader.logs.is_empty(), "all logs were read: {:?}", reader.logs.keys());
    Traced { out, changes: reader.changes }
}

/// A run that was traced.
pub struct Traced {
    pub out: Output,
    pub changes: Vec<Change>,
}

impl Traced {
    /// Changes of what is in none of these folders, and is none of these files.
    pub fn elsewhere(&self, allowed: &dyn Fn(&Path) -> bool) -> Vec<&Change> {
        self.changes.iter().filter(|change| !allowed(&change.path)).collect()
    }
}

fn read_logs(folder: &Path) -> BTreeMap<u32, String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| {
        let pid = path.extension().unwrap().to_str().unwrap().parse().unwrap();
        (pid, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned())
    };
    entries.map(read).collect()
}

/// The process that a call started.
fn child(line: &str) -> Option<u32> {
    let (name, _) = line.split_once('(')?;
    let starts = matches!(name, "clone" | "clone3" | "fork" | "vfork");
    starts.then(|| line.rsplit_once(" = ")?.1.trim().parse().ok())?
}

struct Reader {
    logs: BTreeMap<u32, String>,
    links: Vec<(PathBuf, PathBuf)>,
    changes: Vec<Change>,
}

impl Reader {
    /// Reads a process and all that it started, each from the folder where its parent was then.
    fn process(&mut self, pid: u32, begin: PathBuf) {
        let Some(log) = self.logs.remove(&pid) else {
            return; // a thread, or one that made no such call
        };
        let mut folder = begin;
        for line in log.lines() {
            if let Some(pid) = child(line) {
                self.process(pid, folder.clone());
            }
            self.call(line, &mut folder);
        }
    }

    fn call(&mut self, line: &str, folder: &mut PathBuf) {
        let Some((call, result)) = line.rsplit_once(" = ") else {
            return; // what a killed process was about to do
        };
        let Some((name, arguments)) =
            call.split_once('(').filter(|_| !result.starts_with(['-', '?']))
        else {
            return;
        };
        let words = words(arguments.trim_end().trim_end_matches(')'));
        let at = |number: usize| -> PathBuf {
            match &words[number] {
                Word::Folder(path) => path.clone(),
                other => panic!("{other:?} is no folder: {line}"),
            }
        };
        let named = |number: usize| -> &Path {
            match &words[number] {
                Word::Text(path) => path,
                other => panic!("{other:?} is no path: {line}"),
            }
        };
        let here = folder.clone();
        // The last part of a name as itself, or as what it leads to.
        let itself = |from: &Path, name: &Path| self.resolve(&from.join(name), false);
        let behind = |from: &Path, name: &Path| self.resolve(&from.join(name), true);
        let paths: Vec<PathBuf> = match name {
            "chdir" => {
                *folder = behind(&here, named(0));
                return;
            }
            "fchdir" => {
                *folder = at(0);
                return;
            }
            "open" | "openat" | "openat2" | "creat" => {
                let writes = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_TMPFILE"];
                let flags = arguments.rsplit_once('"').map_or("", |(_, flags)| flags);
                if name != "creat" && !writes.iter().any(|flag| flags.contains(flag)) {
                    return;
                }
                // What the kernel says that it opened: no link is left in that.
                vec![described(result)]
            }
            "unlink" | "rmdir" | "mkdir" | "mknod" | "lchown" | "lsetxattr" | "lremovexattr" => {
                vec![itself(&here, named(0))]
            }
            "unlinkat" | "mkdirat" | "mknodat" => vec![itself(&at(0), named(1))],
            "rename" | "link" => vec![itself(&here, named(0)), itself(&here, named(1))],
            "renameat" | "renameat2" | "linkat" => {
                vec![itself(&at(0), named(1)), itself(&at(2), named(3))]
            }
            "symlink" | "symlinkat" => {
                let made = match name {
                    "symlink" => itself(&here, named(1)),
                    _ => itself(&at(1), named(2)),
                };
                // It may be gone again when this is read.
                let folder = made.parent().unwrap_or(Path::new("/"));
                let target = self.resolve(&folder.join(named(0)), true);
                self.links.push((made.clone(), target));
                vec![made]
            }
            "chmod" | "chown" | "truncate" | "utime" | "utimes" | "setxattr" | "removexattr" => {
                vec![behind(&here, named(0))]
            }
            "fchmod" | "fchown" | "ftruncate" | "fsetxattr" | "fremovexattr" => vec![at(0)],
            "fchmodat" | "fchmodat2" | "fchownat" | "futimesat" | "utimensat" => match &words[1] {
                Word::Text(name) if !name.as_os_str().is_empty() => match call {
                    _ if arguments.contains("AT_SYMLINK_NOFOLLOW") => vec![itself(&at(0), name)],
                    _ => vec![behind(&at(0), name)],
                },
                _ => vec![at(0)],
            },
            "bind" => match arguments.split_once("sun_path=\"") {
                Some((_, rest)) => vec![itself(&here, Path::new(rest.split('"').next().unwrap()))],
                None => return, // no socket that has a name in a folder
            },
            "mount" | "umount2" => panic!("nothing here may mount: {line}"),
            _ => return,
        };
        // Neither in a folder nor to be found by anyone.
        let is_nameless =
            |path: &Path| path.to_string_lossy().starts_with("/memfd:") || !path.is_absolute();
        let found = paths.into_iter().filter(|path| !is_nameless(path));
        let found: Vec<Change> = found.map(|path| Change { line: line.to_owned(), path }).collect();
        self.changes.extend(found);
    }

    /// A path without links in its folders, nor at its end if that is followed.
    fn resolve(&self, path: &Path, follow: bool) -> PathBuf {
        let mut resolved = PathBuf::new();
        let parts: Vec<Component<'_>> = path.components().collect();
        for (number, part) in parts.iter().enumerate() {
            match part {
                Component::ParentDir => {
                    resolved.pop();
                }
                Component::CurDir => {}
                part => resolved.push(part),
            }
            let is_last = number + 1 == parts.len();
            if is_last && !follow {
                break;
            }
            let planted = self.links.iter().find(|(link, _)| *link == resolved);
            if let Some((_, target)) = planted {
                resolved = target.clone();
            } else if let Ok(target) = fs::read_link(&resolved) {
                let folder = resolved.parent().unwrap_or(Path::new("/")).to_path_buf();
                resolved = self.resolve(&folder.join(target), true);
            }
        }
        resolved
    }
}

/// An argument of a call, as far as it matters.
#[derive(Debug)]
enum Word {
    /// A string.
    Text(PathBuf),
    /// A descriptor, as what it is open on.
    Folder(PathBuf),
    Other,
}

/// The arguments of a call, of which strings may hold commas.
fn words(arguments: &str) -> Vec<Word> {
    let (mut words, mut rest) = (Vec::new(), arguments);
    while !rest.is_empty() {
        let end = end_of_word(rest);
        let word = rest[..end].trim();
        words.push(match word {
            text if text.starts_with('"') => Word::Text(unescaped(text.trim_matches('"'))),
            text if text.ends_with('>') || text.ends_with(">(deleted)") => {
                Word::Folder(described(text))
            }
            _ => Word::Other,
        });
        rest = rest[end..].strip_prefix(',').unwrap_or("");
    }
    words
}

fn end_of_word(text: &str) -> usize {
    let (mut in_string, mut depth, mut skip) = (false, 0, false);
    for (place, c) in text.char_indices() {
        match c {
            _ if skip => skip = false,
            '\\' => skip = true,
            '"' => in_string = !in_string,
            // What strace writes within a descriptor's path has no bare bracket of this kind.
            '<' | '[' | '{' if !in_string => depth += 1,
            '>' | ']' | '}' if !in_string => depth -= 1,
            ',' if !in_string && depth == 0 => return place,
            _ => {}
        }
    }
    text.len()
}

/// The path of a descriptor: `3</a/b>`, `AT_FDCWD</a>`, `4</a/b>(deleted)`.
fn described(text: &str) -> PathBuf {
    let path = text.split_once('<').and_then(|(_, rest)| Some(rest.rsplit_once('>')?.0));
    unescaped(path.unwrap_or_else(|| panic!("no path in `{text}`")))
}

/// Undoes what strace does to what is not printable.
fn unescaped(text: &str) -> PathBuf {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let short: HashMap<u8, u8> =
        HashMap::from([(b'n', b'\n'), (b't', b'\t'), (b'r', b'\r'), (b'f', 12), (b'v', 11)]);
    let (mut bytes, mut input) = (Vec::new(), text.bytes().peekable());
    while let Some(byte) = input.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match input.next() {
            Some(digit @ b'0'..=b'7') => {
                let mut value = u32::from(digit - b'0');
                for _ in 0..2 {
                    if let Some(digit) = input.next_if(|byte| matches!(byte, b'0'..=b'7')) {
                        value = value * 8 + u32::from(digit - b'0');
                    }
                }
                bytes.push(value as u8);
            }
            Some(byte) => bytes.push(short.get(&byte).copied().unwrap_or(byte)),
            None => {}
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}
