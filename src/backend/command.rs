//! The command of one backend, the names of its outputs, and what makes an output good.
//! Must not know why it runs or on which slot.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use object::Object;

use super::flags::Flags;
use crate::exec::process::Invocation;
use crate::exec::words::Words;
use crate::format::Format;
use crate::room::ASIDE;
use crate::store::{Facts, Stamped, stamp};
use crate::unit::Part;

/// Where a native object is written until it is known to be good.
pub fn aside_name(native: &str) -> String {
    let path = Path::new(native);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{ASIDE}{name}")).to_string_lossy().into_owned()
}

/// Where it is written while another machine makes it too.
pub(crate) fn race_name(native: &str) -> String {
    let path = Path::new(native);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    aside_name(&path.with_file_name(format!("race.{name}")).to_string_lossy())
}

/// Name of the debug information that `-gsplit-dwarf` puts beside a native object.
pub(crate) fn dwo_name(native: &str) -> String {
    let stem = native.strip_suffix(".o").unwrap_or(native);
    format!("{stem}.dwo")
}

/// Whether a backend with these flags writes a `.dwo` file: the last option decides.
pub(crate) fn splits_dwarf<'a>(flags: impl IntoIterator<Item = &'a str>) -> bool {
    let options =
        ["-gsplit-dwarf", "-gsplit-dwarf=split", "-gno-split-dwarf", "-gsplit-dwarf=single"];
    let last = flags.into_iter().filter(|word| options.contains(word)).last();
    last.is_some_and(|word| options[..2].contains(&word))
}

/// Whether an option has clang leave files beside an object, named after it: stack usage (`.su`),
/// a time trace (`.json`), a record of optimizations (`.opt.yaml`), and what is kept for a look.
pub(crate) fn leaves_files(option: &str) -> bool {
    const STARTS: [&str; 7] = [
        "-fstack-usage",
        "-ftime-trace",
        "-fsave-optimization-record",
        "-foptimization-record-",
        "-fcallgraph-info",
        "-save-temps",
        "-save-stats",
    ];
    let plain = option.strip_prefix('-').filter(|rest| rest.starts_with('-')).unwrap_or(option);
    STARTS.iter().any(|start| plain.starts_with(start))
}

/// The files that a backend left beside its temporary output, each with the name that mainline's
/// backend would have given it.
pub(crate) fn side_files(tree: &Path, native: &str) -> Vec<(PathBuf, PathBuf)> {
    let aside = tree.join(aside_name(native));
    let stem = aside.file_stem().unwrap_or_default().to_string_lossy().into_owned() + ".";
    let folder = aside.parent().unwrap_or(tree);
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(io::Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let left = names.filter(|name| name.starts_with(&stem) && !name.ends_with(".o"));
    left.map(|name| (folder.join(&name), folder.join(name.trim_start_matches(ASIDE)))).collect()
}

/// Flags that every backend gets after its own, as `scripts/Makefile.thinlto` of Linux 7.2
/// has them.
const FIXED: [&str; 4] = ["-x", "ir", "-fno-lto", "-Wno-unused-command-line-argument"];

/// What to run for one backend; its output goes to `output`. Whether its flags have it write a
/// `.dwo` file, the flags' set knows: they may stand in a file.
pub fn invocation(
    compiler: &[String],
    flags: &Flags,
    part: &Part,
    output: &str,
    tree: &Path,
    splits_dwarf: bool,
) -> Invocation {
    const REST: usize = 512;
    let mut argv = Words::with_room(flags.words.size() + REST);
    argv.extend(compiler);
    argv.append(&flags.words);
    argv.extend(FIXED);
    if splits_dwarf {
        // The object names its .dwo: not the one beside the temporary output.
        let name = dwo_name(&part.native());
        argv.extend(["-Xclang", "-split-dwarf-file", "-Xclang", &name]);
    }
    let index = format!("-fthinlto-index={}", part.index());
    argv.extend([&index, "-c", "-o", output, &part.object]);
    Invocation { argv, folder: tree.to_path_buf(), inner: None }
}

/// The same command as shell text with the final output, as mainline's makefile records it.
pub(crate) fn recorded_text(compiler: &str, flags: &Flags, part: &Part) -> String {
    let quote = |word: &str| shell_words::quote(word).into_owned();
    let (fixed, flags) = (FIXED.join(" "), &flags.text);
    let (native, index) = (quote(&part.native()), quote(&part.index()));
    let object = quote(&part.object);
    let rest = fixed.len() + index.len() + native.len() + object.len() + 64;
    let mut text = String::with_capacity(compiler.len() + flags.len() + rest);
    // Writing to a string never fails.
    let _ =
        write!(text, "{compiler} {flags} {fixed} -fthinlto-index={index} -c -o {native} {object}");
    text
}

/// What a backend made, if it is a native object: clang 22 may exit with 0 after it failed, and
/// leave an empty file. `buffer` is for its bytes: of thousands of objects, all but the largest
/// find room in it.
///
/// # Errors
/// A clause that says what it is instead.
pub fn check_native(path: &Path, buffer: &mut Vec<u8>) -> Result<Stamped, String> {
    let (stamp, bytes) = match stamp::read_into(path, buffer) {
        Ok(stamp) => (stamp, buffer.as_slice()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err("no object".into()),
        Err(e) => return Err(format!("an object that cannot be read ({e})")),
    };
    if bytes.is_empty() {
        return Err("an empty object".into());
    }
    if Format::of(bytes) != Format::Elf {
        return Err("a file that is not an ELF object".into());
    }
    match object::File::parse(bytes) {
        Ok(file) if file.kind() != object::ObjectKind::Relocatable => {
            Err("an ELF file that is not a relocatable object".into())
        }
        Ok(file) if file.sections().next().is_none() => {
            Err("an ELF object with no sections".into())
        }
        Ok(_) => Ok(Stamped { facts: Facts::of(bytes), stamp }),
        Err(e) => Err(format!("a damaged ELF object ({e})")),
    }
}

/// The files that one backend leaves beside its object, and its temporary one.
pub fn outputs(part: &Part) -> Vec<PathBuf> {
    let native = part.native();
    let record = crate::kbuild::cmd_file::path_for(Path::new(&native));
    let aside = aside_name(&native);
    let (dwo, dwo_aside) = (dwo_name(&native), dwo_name(&aside));
    let stem = native.strip_suffix(".o").unwrap_or(&native).to_owned();
    let side = ["su", "json", "opt.yaml"].map(|end| PathBuf::from(format!("{stem}.{end}")));
    let race = race_name(&native);
    let own = [part.index().into(), record, native.into(), aside.into(), race.into()];
    own.into_iter().chain([dwo.into(), dwo_aside.into()]).chain(side).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_are_mainlines() {
        assert_eq!(aside_name("a/b.thinlto-native.o"), "a/.tmp_b.thinlto-native.o");
        assert_eq!(race_name("a/b.thinlto-native.o"), "a/.tmp_race.b.thinlto-native.o");
        assert_eq!(outputs(&Part::of_vmlinux("a/b.o"))[1], Path::new("a/.b.thinlto-native.o.cmd"));
    }

    #[test]
    fn the_last_option_about_split_dwarf_decides() {
        assert!(splits_dwarf(["-g", "-gsplit-dwarf", "-O2"]));
        assert!(splits_dwarf(["-gno-split-dwarf", "-gsplit-dwarf=split"]));
        assert!(!splits_dwarf(["-gsplit-dwarf", "-gno-split-dwarf"]));
        assert!(!splits_dwarf(["-gsplit-dwarf=single"]));
        assert!(!splits_dwarf([]));
    }

    #[test]
    fn options_that_leave_files_are_known_with_one_dash_and_with_two() {
        for option in ["-fstack-usage", "-ftime-trace=x", "--save-temps=obj", "-save-stats"] {
            assert!(leaves_files(option), "{option}");
        }
        for option in ["-fno-stack-usage", "-O2", "--", "save-temps"] {
            assert!(!leaves_files(option), "{option}");
        }
    }

    #[test]
    fn only_a_whole_relocatable_object_is_good() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.o");
        assert_eq!(check_native(&path, &mut Vec::new()).unwrap_err(), "no object");
        for (bytes, found) in
            [(b"".as_slice(), "empty"), (b"!<arch>\n", "not an ELF"), (b"\x7fELF", "damaged")]
        {
            fs::write(&path, bytes).unwrap();
            assert!(check_native(&path, &mut Vec::new()).unwrap_err().contains(found));
        }
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        fs::write(&path, &own).unwrap();
        assert!(
            check_native(&path, &mut Vec::new()).unwrap_err().contains("not a relocatable object")
        );
        fs::write(&path, &own[..own.len() / 2]).unwrap();
        assert!(check_native(&path, &mut Vec::new()).is_err(), "truncated");
    }
}
