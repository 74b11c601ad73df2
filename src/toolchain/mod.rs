//! The compiler and the linker: find them, see that they can do distributed ThinLTO, and
//! identify them by the words that are run and the content that runs (each program, the libraries
//! that it loads, its configuration files), not by what `--version` says. Must not know what they
//! are asked to do.
//!
//! The words of CC need not name the compiler: launchers, wrapper scripts and links of ccache stand
//! before it. So the compiler itself is asked which program compiles (`-###`). Where nothing but
//! the words decides that, the answer is kept with the content of all that was seen; behind a
//! script or a launcher that is not known here it is asked in each run; and where there is no
//! answer the tool is [`unidentified`](Tool::unidentified), and no one may trust what it made before.
//!
//! ```
//! use kthinlto::environment::Environment;
//! use kthinlto::error::Error;
//! use kthinlto::{store::Store, toolchain::{Role, resolve}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tree = tempfile::tempdir()?;
//! let mut store = Store::open(tree.path())?;
//! let environment = Environment::of_process();
//! let missing = resolve(Role::Linker, "ld.lld-none", &mut store, &environment).unwrap_err();
//! assert!(matches!(missing, Error::ToolMissing { .. }));
//! # Ok(()) }
//! ```

mod ask;
mod ccache;
pub(crate) mod configuration;
mod programs;

use std::path::Path;
use std::sync::Arc;

pub(crate) use self::ask::quoted_words;

use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::exec::helper::Failure;
use crate::inputs::File;
use crate::store::{Digest, KeyBuilder, Store, ToolRecord};
use ask::Behind;
use programs::Search;

/// Oldest LLVM release that is accepted: the oldest that builds Linux 7.2, the first kernel
/// with distributed ThinLTO.
pub(crate) const OLDEST: u32 = 15;

/// `CC` or `LD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The compiler, clang.
    Compiler,
    /// The linker, LLD.
    Linker,
}

impl Role {
    /// The make variable that names it.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Role::Compiler => "CC",
            Role::Linker => "LD",
        }
    }

    /// What stands before the release number in its `--version`.
    fn marker(self) -> &'static str {
        match self {
            Role::Compiler => "clang version ",
            Role::Linker => "LLD ",
        }
    }

    /// What it has to be.
    pub(crate) fn product(self) -> &'static str {
        match self {
            Role::Compiler => "clang",
            Role::Linker => "LLD",
        }
    }
}

/// Version of the rules by which a tool's files are found: a record by other ones is not used.
const RULE: u32 = 1;

/// A tool that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// The command as it was given.
    pub text: String,
    /// The words that are run: the command's own, but for a cache that would stand between.
    pub argv: Vec<String>,
    /// Its words but for the programs among them: what it tells the compiler or linker itself.
    pub options: Vec<String>,
    /// The words, and the content of everything that runs.
    pub identity: Digest,
    /// Major release.
    pub release: u32,
    /// Files that it is made of.
    pub files: Vec<String>,
    /// Folders where it looks for configuration files.
    pub folders: Vec<String>,
    /// A clause that says why it cannot be told what runs, where that is so.
    pub unidentified: Option<String>,
    /// Nothing but what the identity covers decides which program runs.
    pub self_contained: bool,
}

impl Tool {
    /// A tool of which no more is known than this: its first word is taken for the program, and
    /// the others for options.
    pub fn new(command: &str, identity: Digest, release: u32) -> Self {
        let argv = shell_words::split(command).unwrap_or_default();
        Tool {
            text: command.to_owned(),
            options: argv.iter().skip(1).cloned().collect(),
            argv,
            identity,
            release,
            files: Vec::new(),
            folders: Vec::new(),
            unidentified: None,
            self_contained: true,
        }
    }

    fn of(command: &str, record: &ToolRecord, search: Search<'_>) -> Self {
        let ToolRecord {
            argv,
            files,
            folders,
            identity,
            release,
            unidentified,
            self_contained,
            ..
        } = record.clone();
        let (text, options) = (command.to_owned(), options(&argv, search));
        Tool {
            text,
            argv,
            options,
            identity,
            release,
            files,
            folders,
            unidentified,
            self_contained,
        }
    }

    /// Its files, by their content; those that are not there are left out.
    pub(crate) fn contents(&self, store: &Store) -> Result<Arc<[File]>> {
        let find = |name: &String| Ok(store.files.find(name)?.map(|facts| File::new(name, &facts)));
        self.files.iter().filter_map(|name| find(name).transpose()).collect()
    }

    /// The first of its files that is not what the identity was taken of.
    pub(crate) fn changed<'a>(&'a self, store: &Store) -> Option<&'a str> {
        self.files.iter().find(|file| !store.files.is_as_seen(file)).map(String::as_str)
    }
}

fn options(argv: &[String], search: Search<'_>) -> Vec<String> {
    let is_option = |word: &&String| programs::of_word(word, search).is_none();
    argv.iter().filter(is_option).cloned().collect()
}

/// Finds, identifies and checks a tool. It is only started when something that it is made of, or
/// leads to, is new to the store, or where a script decides what runs. It is looked for in this
/// environment; when it is started it inherits that of the process.
///
/// # Errors
/// Where it cannot be run, is not one that can do distributed ThinLTO, or a file cannot be read.
pub fn resolve(
    role: Role,
    command: &str,
    store: &mut Store,
    environment: &Environment,
) -> Result<Tool> {
    let missing = |found: String| Error::ToolMissing {
        role: role.variable(),
        command: command.to_owned(),
        found,
    };
    let argv = shell_words::split(command).map_err(|e| missing(e.to_string()))?;
    let name = argv.first().ok_or_else(|| missing("the command is empty".into()))?;
    let tree = store.tree().to_path_buf();
    let search = Search { tree: &tree, environment };
    programs::of_word(name, search)
        .ok_or_else(|| missing(format!("there is no program `{name}`")))?;

    let lookup = format!("{} {}", role.variable(), location(command, &tree, environment));
    let loader = store.files.find(LOADER_CACHE)?.map(|facts| facts.digest);
    let known = store.tool(&lookup).filter(|known| known.rule == RULE).cloned();
    let unanswered = |failure: Failure| failure.into_error(|error| missing(error.to_string()));
    if let Some(known) = &known
        && known.loader == loader
        && identity(store, &argv, known)? == known.identity
        && (known.self_contained || leads_there_still(known, search).map_err(unanswered)?)
    {
        return Ok(Tool::of(command, known, search));
    }
    let mut record = look(role, &argv, search).map_err(unanswered)?;
    record.loader = loader;
    record.identity = identity(store, &argv, &record)?;
    record.release = match known.filter(|known| known.identity == record.identity) {
        Some(known) => known.release,
        None => ask::release(role, command, &record.argv, search)?,
    };
    let tool = Tool::of(command, &record, search);
    store.set_tool(&lookup, record)?;
    Ok(tool)
}

/// A tool as a build of this tree met it, by what its files hold now. Starts nothing, so that a
/// look at a tree cannot run what the tree names: `None` where no build met it.
pub(crate) fn known(
    role: Role,
    command: &str,
    store: &Store,
    environment: &Environment,
) -> Result<Option<Tool>> {
    let argv = shell_words::split(command).map_err(|e| Error::ToolMissing {
        role: role.variable(),
        command: command.to_owned(),
        found: e.to_string(),
    })?;
    let search = Search { tree: store.tree(), environment };
    let lookup = format!("{} {}", role.variable(), location(command, search.tree, environment));
    let Some(record) = store.tool(&lookup).filter(|known| known.rule == RULE) else {
        return Ok(None);
    };
    let identity = identity(store, &argv, record)?;
    Ok(Some(Tool { identity, ..Tool::of(command, record, search) }))
}

/// A tool of which nothing is known but its command.
pub(crate) fn unknown(command: &str, tree: &Path, environment: &Environment) -> Tool {
    let tool = Tool::new(command, Digest::of(b"unknown"), OLDEST);
    let options = options(&tool.argv, Search { tree, environment });
    Tool { options, ..tool }
}

/// Content of a program that is only run, whatever it is: its words, its files and the libraries
/// that it loads. One that is not there is an error when it is run.
pub(crate) fn identify(
    command: &str,
    store: &mut Store,
    environment: &Environment,
) -> Result<Digest> {
    let argv = shell_words::split(command).unwrap_or_default();
    let tree = store.tree().to_path_buf();
    let lookup = format!("program {}", location(command, &tree, environment));
    let loader = store.files.find(LOADER_CACHE)?.map(|facts| facts.digest);
    if let Some(known) = store.tool(&lookup)
        && (known.rule, known.loader) == (RULE, loader)
        && identity(store, &argv, known)? == known.identity
    {
        return Ok(known.identity);
    }
    if store.is_look() {
        // The libraries would be its loader's to tell, and nothing is started for a look.
        let known = store.tool(&lookup).cloned().unwrap_or_else(|| empty_record(argv.clone()));
        return identity(store, &argv, &known);
    }
    let mut record = empty_record(argv.clone());
    let files = files_of(&argv, Search { tree: &tree, environment });
    let files = files.map_err(|failure| failure.into_error(|e| Error::io("run", command, e)))?;
    record.files = text(&files.all);
    record.loader = loader;
    record.identity = identity(store, &argv, &record)?;
    let identity = record.identity;
    store.set_tool(&lookup, record)?;
    Ok(identity)
}

/// The files that the tool behind a command was found to be made of, in whichever role it was met. A
/// configuration file that is new since then is among them. Starts nothing.
pub(crate) fn files_on_record(
    command: &str,
    store: &Store,
    environment: &Environment,
) -> Vec<String> {
    let place = location(command, store.tree(), environment);
    let lookups = ["program", "CC", "LD"].map(|role| format!("{role} {place}"));
    let mut all: Vec<String> = Vec::new();
    for record in lookups.iter().filter_map(|lookup| store.tool(lookup)) {
        let folders = record.folders.iter().map(|folder| store.files.path(folder));
        let configured = folders.flat_map(|folder| text(&configuration::files_in(&folder)));
        for file in record.files.iter().cloned().chain(configured) {
            if !all.contains(&file) {
                all.push(file);
            }
        }
    }
    all
}

/// Where a command leads now: its words, the program that each leads to, what the dynamic loader
/// is told, and where configuration files of a user are. Under this a tool is remembered.
pub(crate) fn location(command: &str, tree: &Path, environment: &Environment) -> Digest {
    let mut key = KeyBuilder::new("kthinlto tool 3");
    key.field(command.as_bytes());
    for program in programs::of_command(command, Search { tree, environment }) {
        key.field(program.as_os_str().as_encoded_bytes());
        key.field(programs::real(&program).as_os_str().as_encoded_bytes());
    }
    for name in ["LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "HOME", "XDG_CONFIG_HOME"] {
        key.field(environment.get(name).unwrap_or_default().as_encoded_bytes());
    }
    key.finish()
}

/// Whether the first word of a command leads to a program.
pub(crate) fn is_there(command: &str, tree: &Path, environment: &Environment) -> bool {
    let words = shell_words::split(command).unwrap_or_default();
    let first = words.first().map(String::as_str).unwrap_or_default();
    programs::of_word(first, Search { tree, environment }).is_some()
}

/// Where the dynamic loader's cache says that libraries are. Each package with a library
/// changes it: the libraries of a tool are then looked up again, and count by content.
const LOADER_CACHE: &str = "/etc/ld.so.cache";

fn files_of(argv: &[String], search: Search<'_>) -> Result<programs::Files, Failure> {
    let mut files = programs::Files::default();
    for program in programs::of_words(argv, search) {
        files.add(&program, search)?;
    }
    Ok(files)
}

fn text(paths: &[std::path::PathBuf]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for path in paths.iter().map(|path| path.to_string_lossy().into_owned()) {
        if !all.contains(&path) {
            all.push(path);
        }
    }
    all
}

fn empty_record(argv: Vec<String>) -> ToolRecord {
    ToolRecord {
        rule: RULE,
        argv,
        files: Vec::new(),
        folders: Vec::new(),
        loader: None,
        identity: Digest::of(b""),
        release: 0,
        behind: None,
        unidentified: None,
        self_contained: true,
    }
}

/// Finds out what a tool is made of. What is left open is its identity and its release.
fn look(role: Role, argv: &[String], search: Search<'_>) -> Result<ToolRecord, Failure> {
    let mut record = empty_record(ccache::around(argv, search)?);
    let mut files = files_of(&record.argv, search)?;
    match role {
        Role::Linker if !files.has_lld => {
            record.unidentified = Some("none of the programs that it names is LLD".to_owned());
        }
        Role::Linker => {}
        Role::Compiler => look_behind(&mut record, &mut files, search)?,
    }
    if let Some(program) = &files.leads_away {
        record.unidentified =
            Some(format!("{program} leads to files that cannot be seen from here"));
    }
    record.self_contained &= record.unidentified.is_none();
    record.files = text(&files.all);
    Ok(record)
}

/// Asks the compiler which program compiles and where it looks for configuration files.
fn look_behind(
    record: &mut ToolRecord,
    files: &mut programs::Files,
    search: Search<'_>,
) -> Result<(), Failure> {
    let Some(Behind { program, configuration }) = ask::behind(&record.argv, search)? else {
        record.unidentified = Some("it names no compiler when asked with -###".to_owned());
        return Ok(());
    };
    let named = Path::new(&program);
    files.add(named, search)?;
    record.self_contained = is_self_contained(&record.argv, named, search);
    record.folders = ask::configuration_folders(&record.argv, search)?;
    let used = configuration.iter().map(Into::into);
    let found = record.folders.iter().flat_map(|folder| configuration::files_in(Path::new(folder)));
    files.all.extend(configuration::with_included(used.chain(found)));
    record.behind = Some(program);
    Ok(())
}

/// Programs that only run what stands behind them in the same words.
const LAUNCHERS: [&str; 10] =
    ["chrt", "env", "ionice", "nice", "nohup", "setarch", "setsid", "stdbuf", "taskset", "time"];

/// Whether words alone lead to the program that compiles: by themselves, or by launchers that are
/// known to run the program that they are given.
fn is_self_contained(argv: &[String], behind: &Path, search: Search<'_>) -> bool {
    let behind = programs::real(behind);
    let found = programs::of_words(argv, search);
    let is_it = |program: &std::path::PathBuf| programs::real(program) == behind;
    let is_launcher = |program: &std::path::PathBuf| {
        LAUNCHERS.contains(&programs::real_name(program).as_str())
            // coreutils and busybox may be one program with many names.
            || program.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
                LAUNCHERS.contains(&name)
                    && ["coreutils", "busybox"].contains(&programs::real_name(program).as_str())
            })
    };
    found.iter().any(is_it)
        && found.iter().all(|program| {
            (is_it(program) || is_launcher(program)) && !programs::is_script(program)
        })
}

/// Whether a compiler behind a script is still the one that it was.
fn leads_there_still(known: &ToolRecord, search: Search<'_>) -> Result<bool, Failure> {
    let (Some(program), Some(behind)) = (&known.behind, ask::behind(&known.argv, search)?) else {
        return Ok(known.unidentified.is_some());
    };
    let Behind { program: now, configuration } = behind;
    Ok(now == *program && configuration.iter().all(|used| known.files.contains(used)))
}

/// Digest over the words of a tool and all its files. A file that is gone counts as such, and so
/// does a configuration file that is new.
fn identity(store: &Store, argv: &[String], record: &ToolRecord) -> Result<Digest> {
    let mut key = KeyBuilder::new("kthinlto identity 2");
    key.field(&(argv.len() as u64).to_le_bytes());
    argv.iter().chain(&record.argv).for_each(|word| {
        key.field(word.as_bytes());
    });
    let mut files = record.files.clone();
    for folder in &record.folders {
        // For its stamp: who trusts it later has to see that no file came.
        store.files.is_file(folder);
        files.extend(text(&configuration::files_in(&store.files.path(folder))));
    }
    for file in files {
        key.field(file.as_bytes());
        match store.files.find(&file)? {
            Some(facts) => key.digest(&facts.digest),
            None => key.field(b"absent"),
        };
    }
    Ok(key.finish())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_swapped_program_of_the_same_name_has_another_identity() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("cc");
        let mut identities = Vec::new();
        for note in ["one", "two"] {
            let mut store = Store::open(dir.path()).unwrap();
            let text = format!("#!/bin/sh\n# {note}\necho clang version 22.0\n");
            crate::store::write_aside(&script, text.as_bytes()).unwrap();
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            let tool =
                resolve(Role::Compiler, "./cc", &mut store, &Environment::of_process()).unwrap();
            identities.push(tool.identity);
        }
        assert_ne!(identities[0], identities[1]);
    }

    #[test]
    fn a_library_that_was_installed_makes_no_other_compiler() {
        // /etc/ld.so.cache changes with each; its content was part of the identity once.
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("cc");
        let text =
            "#!/bin/sh\ncase $1 in --version) echo >> asked; esac\necho clang version 22.0\n";
        crate::store::write_aside(&script, text.as_bytes()).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let here = Environment::of_process();
        let before = resolve(Role::Compiler, "./cc", &mut store, &here).unwrap();
        let lookup = format!("CC {}", location("./cc", dir.path(), &here));
        let mut record = store.tool(&lookup).cloned().unwrap();
        record.loader = Some(Digest::of(b"another cache"));
        let files = std::mem::take(&mut record.files);
        store.set_tool(&lookup, record).unwrap();
        assert_eq!(resolve(Role::Compiler, "./cc", &mut store, &here).unwrap(), before);
        let again = store.tool(&lookup).unwrap();
        assert_eq!(again.files, files, "its libraries are looked up again");
        assert_eq!(fs::read_to_string(dir.path().join("asked")).unwrap(), "\n", "asked once");
    }

    #[test]
    fn one_name_is_another_tool_in_another_environment() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            let cc = folder.join("kthinlto-cc");
            let text = format!("#!/bin/sh\n# {name}\necho clang version 22.0\n");
            crate::store::write_aside(&cc, text.as_bytes()).unwrap();
            fs::set_permissions(&cc, fs::Permissions::from_mode(0o755)).unwrap();
            Environment::from_iter([("PATH", folder)])
        });
        let mut store = Store::open(dir.path()).unwrap();
        let mut find = |environment| {
            resolve(Role::Compiler, "kthinlto-cc -O2", &mut store, environment).unwrap()
        };
        let (first, second) = (find(&one), find(&other));
        assert_eq!([&first.options, &second.options], [&["-O2".to_owned()]; 2]);
        assert!(first.files[0].ends_with("one/kthinlto-cc"), "{:?}", first.files);
        assert_ne!(first.identity, second.identity);
        assert_eq!(find(&one), first);
        let nowhere = Environment::default();
        assert_eq!(known(Role::Compiler, "kthinlto-cc -O2", &store, &nowhere).unwrap(), None);
    }

    #[test]
    fn what_is_missing_or_unfit_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let here = Environment::of_process();
        let mut unfit = |role, command| resolve(role, command, &mut store, &here).unwrap_err();
        let error = unfit(Role::Linker, "no-such-ld").to_string();
        assert!(error.contains("cannot run LD `no-such-ld`") && error.contains("LD="), "{error}");
        let error = unfit(Role::Compiler, "ls");
        assert!(error.to_string().contains("needs clang 15 or later"), "{error}");
        assert_eq!(error.exit_code(), 4);
    }
}
