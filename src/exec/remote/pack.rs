//! A job as an action of the protocol, which is true by content: a folder with all that it reads, the compiler with its
//! libraries, and a command that runs in a folder of its own and looks at what it made. Equal jobs are equal actions in
//! any tree and on any machine. Must not know how actions are sent.
//!
//! In the root, what the job reads is below `tree`, as it is in the object tree; if names lead above that, there are
//! folders around it. An uploaded compiler is below `tools`, by the paths that its files have here. It is started by the
//! uploaded dynamic loader, by names that are relative to the working folder: so it does not matter whether the worker
//! makes the root its `/`. In that case a folder of the kernel, such as `lib`, must not be in the root itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::blobs::{Blob, Source};
use super::connection::For;
use super::digest::{Digest, Function};
use super::messages::{self, EnvironmentVariable, Platform, Property};
use super::protobuf::Message;
use super::retry::{Failure, Kind, Result};
use super::settings::{Compiler, Settings};
use super::tree::{Folder, parts, rises};
use crate::exec::action::Action;
use crate::inputs::File;
use crate::regular;
use crate::store;

/// A name space: actions of another version of this file are others.
const SALT: &[u8] = b"kthinlto 1";

/// Exit codes of our command that are none of a compiler's: a worker cannot compare files.
pub(super) const NO_SUMS: i32 = 119;
/// It has no compiler where ours is.
pub(super) const NO_COMPILER: i32 = 120;
/// A file, or the compiler, is not the one that was used here.
pub(super) const ANOTHER: i32 = 121;
/// The compiler left nothing.
pub(super) const EMPTY: i32 = 122;
/// Nothing can be written.
pub(super) const READ_ONLY: i32 = 123;

/// Runs its arguments behind the first, which is the file that they must make. A server would keep a result with exit
/// code 0 even if the file is empty.
const RUN: &str = "o=$1; shift; (: >\"$o\") 2>/dev/null || exit 123; \"$@\"; r=$?; \
                   [ $r = 0 ] || exit $r; [ -s \"$o\" ] || exit 122";

/// The same, after the files that a list names were compared with it, and the compiler among them looked for.
fn checked(list: &str, compiler: Option<&str>) -> String {
    let look = compiler.map(|file| format!("[ -x {} ] || exit 120; ", shell_words::quote(file)));
    let look = look.unwrap_or_default();
    format!(
        "{look}command -v sha256sum >/dev/null || exit 119; sha256sum -c {list} >/dev/null 2>&1 || exit 121; {RUN}"
    )
}

/// A file that an action writes.
#[derive(Debug, Clone)]
pub(super) struct Output {
    /// Its name in the working folder.
    pub name: String,
    /// Where it goes.
    pub place: PathBuf,
    /// Without it there is no result.
    pub required: bool,
}

/// An action that can be sent.
#[derive(Debug)]
pub(super) struct Packed {
    /// What names it.
    pub digest: Digest,
    /// All that the server must have, the action and its command as the last two.
    pub blobs: Vec<Blob>,
    pub outputs: Vec<Output>,
    pub purpose: For,
}

impl Packed {
    /// The action and its command alone.
    pub fn head(&self) -> &[Blob] {
        &self.blobs[self.blobs.len() - 2..]
    }
}

/// Digests of files that were read in this run, by those of the store.
#[derive(Default)]
pub(super) struct Hashes {
    known: RefCell<HashMap<store::Digest, [u8; 32]>>,
}

impl Hashes {
    async fn sha256(&self, path: &Path, file: &File) -> Result<[u8; 32]> {
        if let Some(hash) = self.known.borrow().get(&file.digest) {
            return Ok(*hash);
        }
        let bytes = regular::read(path)
            .map_err(|e| Failure::other(format!("cannot read {}: {e}", path.display())))?;
        if store::Digest::of(&bytes) != file.digest {
            return Err(Failure::other(format!("{} changed meanwhile", path.display())));
        }
        let hash = Sha256::digest(&bytes).into();
        self.known.borrow_mut().insert(file.digest, hash);
        // Other jobs may have waited for this thread.
        tokio::task::yield_now().await;
        Ok(hash)
    }

    async fn of(&self, function: Function, path: &Path, file: &File) -> Result<Digest> {
        let hash = match function {
            Function::Blake3 => *file.digest.as_bytes(),
            Function::Sha256 => self.sha256(path, file).await?,
        };
        Ok(Digest { hash, size: file.size })
    }
}

/// A job that only this machine can run.
fn unfit(text: String) -> Failure {
    Failure::new(Kind::Unsupported, text)
}

/// Makes an action of a job.
pub(super) async fn pack(
    action: &Action,
    settings: &Settings,
    function: Function,
    hashes: &Hashes,
) -> Result<Packed> {
    let program = Program::of(action)?;
    let outputs = outputs(action)?;
    let names = action.inputs.iter().map(|file| &file.name).chain(&action.outputs);
    let above = names.map(|name| rises(name)).max().unwrap_or_default();
    let mut root = Root::new(above, function, hashes);
    root.add_inputs(action).await?;
    root.add_folders(&outputs)?;
    root.add_tools(action, &program, settings.compiler).await?;

    let up = "../".repeat(above + 1);
    let script = match root.list.is_empty() {
        true => RUN.to_owned(),
        false => {
            root.add_list();
            let compiler = (settings.compiler == Compiler::Worker).then_some(program.file.as_str());
            checked(&format!("{up}files"), compiler)
        }
    };
    let mut arguments =
        ["/bin/sh", "-c", &script, "sh", &outputs[0].name].map(str::to_owned).to_vec();
    arguments.extend(program.words(settings.compiler, &format!("{up}tools")));
    arguments.extend(action.command.argv.iter().skip(1).map(str::to_owned));
    let platform = platform(settings);
    let command = messages::Command {
        arguments,
        environment_variables: variables(action, settings.compiler)?,
        platform: platform.clone(),
        working_directory: root.base.join("/"),
        output_paths: sorted(outputs.iter().map(|output| output.name.clone())),
    };
    let mut blobs = root.blobs;
    let input_root = root.folder.finish(function, &mut blobs);
    let command = Blob::of(function, command.to_bytes());
    let message = messages::Action {
        command_digest: Some(command.digest.message()),
        input_root_digest: Some(input_root.message()),
        do_not_cache: false,
        salt: SALT.into(),
        platform,
    };
    let message = Blob::of(function, message.to_bytes());
    let digest = message.digest;
    blobs.extend([command, message]);
    let purpose = For { action: digest.hex(), target: outputs[0].name.clone() };
    Ok(Packed { digest, blobs, outputs, purpose })
}

/// The folder that an action runs in, being put together.
struct Root<'a> {
    function: Function,
    hashes: &'a Hashes,
    folder: Folder,
    blobs: Vec<Blob>,
    /// The working folder.
    base: Vec<&'static str>,
    /// What the command compares.
    list: String,
}

impl<'a> Root<'a> {
    /// An empty one, with so many folders above the tree.
    fn new(above: usize, function: Function, hashes: &'a Hashes) -> Self {
        let mut base = vec!["above"; above];
        base.push("tree");
        let (folder, blobs, list) = (Folder::default(), Vec::new(), String::new());
        Root { function, hashes, folder, blobs, base, list }
    }

    /// What the job reads. What is named with its whole name is compared too: a worker may have put something of its
    /// own there, or does not make this folder its root.
    async fn add_inputs(&mut self, action: &Action) -> Result<()> {
        for file in action.inputs.iter() {
            let path = action.command.folder.join(&file.name);
            let digest = self.hashes.of(self.function, &path, file).await?;
            let mut left: Vec<Vec<String>> = Vec::new();
            let place = parts(&self.base, &file.name, |folder| {
                left.push(folder.iter().map(|part| (*part).to_owned()).collect());
            });
            let place = place.ok_or_else(|| clash(&file.name))?;
            let mut fits = self.folder.add_file(&place, digest, false);
            for folder in left {
                let folder: Vec<&str> = folder.iter().map(String::as_str).collect();
                fits &= self.folder.add_folder(&folder);
            }
            if !fits {
                return Err(clash(&file.name));
            }
            if file.name.starts_with('/') {
                list_file(&mut self.list, self.hashes, &path, file).await?;
            }
            self.blobs.push(Blob { digest, source: Source::File(path) });
        }
        Ok(())
    }

    /// The folders of outputs.
    fn add_folders(&mut self, outputs: &[Output]) -> Result<()> {
        for Output { name, .. } in outputs {
            let place = parts(&self.base, name, |_| ()).unwrap_or_default();
            let folder = place.split_last().map_or(&[][..], |(_, folder)| folder);
            if !self.folder.add_folder(folder) {
                return Err(clash(name));
            }
        }
        Ok(())
    }

    /// The compiler and its libraries, or what they have to be.
    async fn add_tools(
        &mut self,
        action: &Action,
        program: &Program,
        compiler: Compiler,
    ) -> Result<()> {
        for file in action.tools.iter() {
            let path = action.command.folder.join(&file.name);
            if compiler == Compiler::Worker {
                list_file(&mut self.list, self.hashes, &path, file).await?;
                continue;
            }
            let digest = self.hashes.of(self.function, &path, file).await?;
            for place in program.places(file) {
                let place = parts(&["tools"], place.trim_start_matches('/'), |_| ());
                if !place.is_some_and(|place| self.folder.add_file(&place, digest, true)) {
                    return Err(clash(&file.name));
                }
            }
            self.blobs.push(Blob { digest, source: Source::File(path) });
        }
        Ok(())
    }

    /// The list of what is compared.
    fn add_list(&mut self) {
        let blob = Blob::of(self.function, self.list.clone().into());
        self.folder.add_file(&["files"], blob.digest, false);
        self.blobs.push(blob);
    }
}

fn clash(name: &str) -> Failure {
    unfit(format!("{name} stands where another file is needed"))
}

/// A line for `sha256sum -c`.
async fn list_file(list: &mut String, hashes: &Hashes, path: &Path, file: &File) -> Result<()> {
    if file.name.contains(['\n', '\\']) {
        return Err(unfit(format!("the name {} cannot stand in a list", file.name)));
    }
    let hash = blake3::Hash::from(hashes.sha256(path, file).await?).to_hex();
    // Writing to a string never fails.
    let _ = writeln!(list, "{hash}  {}", path.display());
    Ok(())
}

fn sorted<T: Ord>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut all: Vec<T> = all.collect();
    all.sort();
    all
}

/// What workers must be.
pub(super) fn platform(settings: &Settings) -> Option<Platform> {
    let properties = settings
        .platform
        .iter()
        .map(|(name, value)| Property { name: name.clone(), value: value.clone() });
    (!settings.platform.is_empty()).then(|| Platform { properties: properties.collect() })
}

/// The files that are written. The first is the one that must not be empty.
fn outputs(action: &Action) -> Result<Vec<Output>> {
    let output = |(number, name): (usize, &String)| {
        if name.ends_with('*') || name.starts_with('/') || name.split('/').any(|part| part == "..")
        {
            return Err(unfit(format!("its output {name} is none that a server can be asked for")));
        }
        let place = action.command.folder.join(name);
        Ok(Output { name: name.clone(), place, required: number == 0 })
    };
    let outputs: Vec<Output> =
        action.outputs.iter().enumerate().map(output).collect::<Result<_>>()?;
    match outputs.is_empty() {
        true => Err(unfit("it names no output".to_owned())),
        false => Ok(outputs),
    }
}

/// Variables that the command gets, sorted.
fn variables(action: &Action, compiler: Compiler) -> Result<Vec<EnvironmentVariable>> {
    let mut all = Vec::new();
    for (name, value) in action.environment.iter() {
        let text = |word: &std::ffi::OsStr| word.to_str().map(str::to_owned);
        let (Some(name), Some(value)) = (text(name), text(value)) else {
            return Err(unfit("a variable that it reads is not UTF-8".to_owned()));
        };
        match name.as_str() {
            "LD_PRELOAD" if !value.is_empty() => {
                return Err(unfit("LD_PRELOAD changes what its compiler does".to_owned()));
            }
            // It would be the shell's too; the libraries are named to the loader.
            "LD_LIBRARY_PATH" | "LD_PRELOAD" if compiler == Compiler::Upload => {}
            _ => all.push((name, value)),
        }
    }
    // What configures the compiler here is among its files; a worker's own configuration is none of it.
    const NO_CONFIGURATION: &str = "CLANG_NO_DEFAULT_CONFIG";
    let is_configured = action.tools.iter().any(|file| file.name.ends_with(".cfg"));
    if !is_configured && !all.iter().any(|(name, _)| name == NO_CONFIGURATION) {
        all.push((NO_CONFIGURATION.to_owned(), "1".to_owned()));
    }
    let variable = |(name, value)| EnvironmentVariable { name, value };
    Ok(sorted(all.into_iter()).into_iter().map(variable).collect())
}

/// The program of a command, and what starts it.
#[derive(Debug)]
struct Program {
    /// As one of the action's files.
    file: String,
    /// Where it really is, under the name by which it is called: it looks for its own files beside that.
    place: String,
    /// The dynamic loader, if it is not linked statically.
    loader: Option<String>,
    /// Folders with its libraries.
    libraries: Vec<String>,
}

impl Program {
    fn of(action: &Action) -> Result<Self> {
        let mut words = action.command.argv.iter();
        let first = words.next().unwrap_or_default();
        let base = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        let find = |word: &str| {
            let same = |file: &&File| base(&file.name) == base(word);
            action.tools.iter().find(same).map(|file| file.name.clone())
        };
        let file = find(first).filter(|name| name.starts_with('/'));
        let file = file.ok_or_else(|| unfit(format!("`{first}` is no file of its compiler")))?;
        if words.clone().take_while(|word| !word.starts_with('-')).any(|word| find(word).is_some())
        {
            return Err(unfit(format!("`{first}` starts another program")));
        }
        if let Some(word) =
            words.clone().find(|word| word.starts_with("-m") && word.ends_with("=native"))
        {
            return Err(unfit(format!("{word} means this machine")));
        }
        let real = std::fs::canonicalize(action.command.folder.join(&file));
        let real = real.map_err(|e| Failure::other(format!("cannot find {file}: {e}")))?;
        if !is_elf(&real) {
            return Err(unfit(format!("{file} is no ELF program")));
        }
        let folder = real.parent().and_then(Path::to_str).unwrap_or_default().to_owned();
        let beside = |name: &str| name.rsplit_once('/').map(|(above, _)| above.to_owned());
        let configuration = action.tools.iter().find(|file| {
            file.name.ends_with(".cfg") && beside(&file.name).is_none_or(|above| above != folder)
        });
        if let (Some(file), false) = (configuration, folder.is_empty()) {
            return Err(unfit(format!("its configuration {} is not beside it", file.name)));
        }
        let libraries = action.tools.iter().filter(|file| base(&file.name).contains(".so"));
        let (mut loader, mut folders) = (None, Vec::new());
        for library in libraries {
            if base(&library.name).starts_with("ld-") {
                loader.get_or_insert_with(|| library.name.clone());
            } else if let Some(above) =
                beside(&library.name).filter(|above| !folders.contains(above))
            {
                folders.push(above);
            }
        }
        Ok(Program { file, place: format!("{folder}/{}", base(first)), loader, libraries: folders })
    }

    /// Where a file of the compiler stands below the folder of all of them.
    fn places<'a>(&'a self, file: &'a File) -> impl Iterator<Item = &'a str> {
        let own =
            (file.name == self.file && self.place != file.name).then_some(self.place.as_str());
        [file.name.as_str()].into_iter().chain(own)
    }

    /// What stands for the first word of a command.
    fn words(&self, compiler: Compiler, tools: &str) -> Vec<String> {
        if compiler == Compiler::Worker {
            return vec![self.file.clone()];
        }
        let own = format!("{tools}{}", self.place);
        let mut words = Vec::new();
        if let Some(loader) = &self.loader {
            let folders: Vec<String> =
                self.libraries.iter().map(|folder| format!("{tools}{folder}")).collect();
            let path = ["--library-path".to_owned(), folders.join(":")];
            words.push(format!("{tools}{loader}"));
            words.extend(path);
            words.extend(["--argv0".to_owned(), own.clone()]);
        }
        // It looks for its own files beside its name: the kernel says that the loader is what runs.
        words.extend([own, "-no-canonical-prefixes".to_owned()]);
        words
    }
}

fn is_elf(path: &Path) -> bool {
    use std::io::Read;
    let mut start = [0; 4];
    let read = regular::open(path).and_then(|(mut file, _)| file.read_exact(&mut start));
    read.is_ok() && start == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::environment::Environment;
    use crate::exec::process::Invocation;

    fn file(name: &str, folder: &Path) -> File {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        File { name: name.into(), digest: store::Digest::of(&bytes), size: bytes.len() as u64 }
    }

    /// A job of this test program, in a folder with one input.
    fn job(folder: &Path, words: &[&str], output: &str) -> Action {
        let own = std::env::current_exe().unwrap();
        let own = own.to_str().unwrap();
        std::fs::create_dir_all(folder.join("lib")).unwrap();
        std::fs::write(folder.join("lib/a.o"), "bitcode").unwrap();
        let argv = [own].into_iter().chain(words.iter().copied());
        Action {
            command: Invocation::new(argv, folder),
            environment: Arc::new([]),
            inputs: Arc::new([file("lib/a.o", folder)]),
            tools: Arc::new([file(own, folder)]),
            outputs: vec![output.to_owned()],
        }
    }

    fn packed(action: &Action, more: &[(&str, &str)]) -> Result<Packed> {
        let variables = more.iter().copied().chain([("KTHINLTO_REMOTE", "grpc://a:1")]);
        let settings = Settings::read(None, &Environment::from_iter(variables)).unwrap().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(pack(action, &settings, Function::Sha256, &Hashes::default()))
    }

    /// The command of an action.
    fn command(packed: &Packed) -> messages::Command {
        let Source::Bytes(bytes) = &packed.head()[0].source else {
            panic!("bytes");
        };
        messages::Command::from_bytes(bytes.clone()).unwrap()
    }

    #[test]
    fn equal_jobs_of_two_trees_are_one_action_and_each_part_of_it_counts() {
        let dirs = [0; 2].map(|_| tempfile::tempdir().unwrap());
        let jobs = dirs.each_ref().map(|dir| job(dir.path(), &["-c"], "lib/.tmp_a.o"));
        let digest = |action: &Action| packed(action, &[]).unwrap().digest;
        assert_eq!(digest(&jobs[0]), digest(&jobs[1]));
        let mut others = vec![job(dirs[1].path(), &["-c", "-O2"], "lib/.tmp_a.o")];
        others.push(job(dirs[1].path(), &["-c"], "lib/.tmp_b.o"));
        others
            .push(Action { environment: Arc::new([("A".into(), "b".into())]), ..jobs[0].clone() });
        std::fs::write(dirs[1].path().join("lib/b.o"), "import").unwrap();
        let inputs = [file("lib/a.o", dirs[0].path()), file("lib/b.o", dirs[1].path())];
        others.push(Action { inputs: inputs.into(), ..jobs[1].clone() });
        let mut all: Vec<Digest> = others.iter().map(digest).collect();
        all.push(packed(&jobs[0], &[("KTHINLTO_REMOTE_PLATFORM", "os=linux")]).unwrap().digest);
        all.push(packed(&jobs[0], &[("KTHINLTO_REMOTE_COMPILER", "worker")]).unwrap().digest);
        all.push(digest(&jobs[0]));
        let different: std::collections::BTreeSet<&Digest> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn names_that_lead_above_the_tree_stay_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("obj");
        let plain = job(&tree, &["-c"], "lib/.tmp_a.o");
        std::fs::write(dir.path().join("asm.S"), "nop").unwrap();
        let inputs = [file("lib/a.o", &tree), file("../asm.S", &tree)];
        let action = Action { inputs: inputs.into(), ..plain.clone() };
        let words = command(&packed(&action, &[]).unwrap());
        assert_eq!(words.working_directory, "above/tree");
        assert!(words.arguments[5].starts_with("../../tools/"), "{:?}", words.arguments);
        assert_eq!(command(&packed(&plain, &[]).unwrap()).working_directory, "tree");
    }

    #[test]
    fn files_with_their_whole_names_are_compared_by_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let plain = job(dir.path(), &["-c"], "lib/.tmp_a.o");
        let absolute = dir.path().join("lib/a.o");
        let inputs = [file(absolute.to_str().unwrap(), dir.path())];
        let action = Action { inputs: inputs.into(), ..plain.clone() };
        let script = |action: &Action, more| {
            command(&packed(action, more).unwrap()).arguments.swap_remove(2)
        };
        assert!(script(&action, &[]).starts_with(
            "command -v sha256sum >/dev/null || exit 119; sha256sum -c ../files >/dev/null"
        ));
        assert!(script(&plain, &[]).starts_with("o=$1; shift"));
        let worker = [("KTHINLTO_REMOTE_COMPILER", "worker")];
        assert!(script(&plain, &worker).starts_with("[ -x /"));
    }

    #[test]
    fn a_configuration_of_the_workers_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut action = job(dir.path(), &["-c"], "lib/.tmp_a.o");
        action.environment = Arc::new([("CPATH".into(), "x".into())]);
        let names = |action: &Action| -> Vec<String> {
            let command = command(&packed(action, &[]).unwrap());
            command.environment_variables.into_iter().map(|variable| variable.name).collect()
        };
        assert_eq!(names(&action), ["CLANG_NO_DEFAULT_CONFIG", "CPATH"]);
    }

    #[test]
    fn what_only_this_machine_can_run_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let plain = job(dir.path(), &["-c"], "lib/.tmp_a.o");
        let refused = |action: &Action| {
            let failure = packed(action, &[]).unwrap_err();
            assert_eq!(failure.kind, Kind::Unsupported, "{failure}");
            failure.text
        };
        let with = |words: &[&str], output: &str| job(dir.path(), words, output);
        assert!(refused(&with(&["-march=native"], "lib/x.o")).contains("means this machine"));
        assert!(refused(&with(&[], "lib/x.*")).contains("none that a server can be asked for"));
        assert!(refused(&with(&[], "/lib/x.o")).contains("none that a server can be asked for"));
        assert!(refused(&with(&[], "../x.o")).contains("none that a server can be asked for"));
        let own = plain.tools[0].name.clone();
        assert!(refused(&with(&[&own], "lib/x.o")).contains("starts another program"));
        let preload = Arc::new([("LD_PRELOAD".into(), "x.so".into())]);
        let action = Action { environment: preload, ..plain.clone() };
        assert!(refused(&action).contains("LD_PRELOAD"));
        let command = Invocation::new(["elsewhere"], dir.path());
        assert!(refused(&Action { command, ..plain.clone() }).contains("no file of its compiler"));
        let script = dir.path().join("cc");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        let script = script.to_str().unwrap();
        let command = Invocation::new([script], dir.path());
        let tools = Arc::new([file(script, dir.path())]);
        assert!(refused(&Action { command, tools, ..plain.clone() }).contains("no ELF program"));
        let configuration = dir.path().join("clang.cfg");
        std::fs::write(&configuration, "-O3\n").unwrap();
        let tools = [plain.tools[0].clone(), file(configuration.to_str().unwrap(), dir.path())];
        let action = Action { tools: tools.into(), ..plain.clone() };
        assert!(refused(&action).contains("clang.cfg is not beside it"));
    }

    #[test]
    fn a_file_that_changed_is_no_input() {
        let dir = tempfile::tempdir().unwrap();
        let action = job(dir.path(), &["-c"], "lib/.tmp_a.o");
        std::fs::write(dir.path().join("lib/a.o"), "another").unwrap();
        assert!(packed(&action, &[]).unwrap_err().text.contains("lib/a.o changed meanwhile"));
    }
}
