//! Jobs that copy a file, by a small compiler: what runs jobs can be tested with them in milliseconds.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use kthinlto::environment::Environment;
use kthinlto::exec::action::Action;
use kthinlto::exec::process::Invocation;
use kthinlto::exec::remote::Remote;
use kthinlto::exec::remote::settings::Settings;
use kthinlto::inputs::File;
use kthinlto::store::Digest;
use tempfile::TempDir;

/// A client of a server, with more settings.
pub fn client(url: &str, more: &[(&str, &str)]) -> Remote {
    let variables = more.iter().copied().chain([("KTHINLTO_REMOTE", url)]);
    let settings = Settings::read(None, &Environment::from_iter(variables));
    Remote::start(settings.unwrap().unwrap()).unwrap()
}

/// A folder with files to copy.
pub struct Copies {
    dir: TempDir,
    tools: Arc<[File]>,
}

/// The compiler, made once.
fn program() -> &'static PathBuf {
    static PLACE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, place) = PLACE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (source, place) = (dir.path().join("copier.c"), dir.path().join("copier"));
        fs::write(&source, include_str!("copier.c")).unwrap();
        let mut command = Command::new(super::common::tool("clang"));
        command.arg("-O1").arg(&source).arg("-o").arg(&place);
        super::common::good(command);
        (dir, place)
    });
    place
}

fn file(name: &str, bytes: &[u8]) -> File {
    File { name: name.to_owned(), digest: Digest::of(bytes), size: bytes.len() as u64 }
}

impl Copies {
    /// An empty folder.
    pub fn new() -> Self {
        let mut command = Command::new("ldd");
        command.arg(program());
        let listed = super::common::good(command);
        let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
        let names = [program().to_str().unwrap()].into_iter().chain(libraries);
        let tools = names.map(|name| file(name, &fs::read(name).unwrap())).collect();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lib")).unwrap();
        Copies { dir, tools }
    }

    /// Where its files are.
    pub fn folder(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// A job that copies a file with these bytes, by a name of its own.
    pub fn job(&self, name: &str, bytes: &[u8], options: &[&str]) -> Action {
        let (input, output) = (format!("lib/{name}.o"), format!("lib/.tmp_{name}.o"));
        fs::write(self.dir.path().join(&input), bytes).unwrap();
        let words = [program().to_str().unwrap()].into_iter().chain(options.iter().copied());
        let words = words.chain(["-o", &output, &input]);
        Action {
            command: Invocation::new(words, self.dir.path()),
            environment: Arc::new([]),
            inputs: Arc::new([file(&input, bytes)]),
            tools: self.tools.clone(),
            outputs: vec![output],
        }
    }

    /// Whether a job's output is what it should be; `None` without one.
    pub fn is_right(&self, job: &Action) -> Option<bool> {
        let read = |name: &str| fs::read(self.dir.path().join(name)).ok();
        let made = read(&job.outputs[0])?;
        Some(made == [b"copied\n", &read(&job.inputs[0].name).unwrap()[..]].concat())
    }

    /// Bytes of a job's input and of its output.
    pub fn sizes(&self, job: &Action) -> Option<(u64, u64)> {
        let size = |name: &str| fs::metadata(self.dir.path().join(name)).map(|found| found.len());
        Some((size(&job.inputs[0].name).ok()?, size(&job.outputs[0]).ok()?))
    }

    /// Names of files that are neither inputs nor outputs.
    pub fn rests(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path().join("lib")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| !name.ends_with(".o")).collect()
    }
}
