//! Which program made an object, as its record says: clang has no flags for a backend of bitcode
//! that came from another compiler, and making it again changes nothing. Must not know flags.

use std::path::Path;

use crate::error::Error;
use crate::kbuild::cmd_file;

/// Makers of bitcode other than clang, by how their programs are called.
const OTHERS: [(&str, &str); 3] =
    [("rustc", "rustc"), ("clippy-driver", "rustc"), ("llvm-link", "llvm-link")];

/// Why there can be no backend for an object, if this command shows one of these.
pub fn refuse(command: &str, object: &str) -> Option<Error> {
    let maker = other(command)?;
    let record = cmd_file::path_for(Path::new(object));
    let found = format!(
        "bitcode that {maker} made ({}), and not clang from one source: no flags for its backend \
         are known, and none will be if it is made again",
        record.display()
    );
    let remedy = "have it made as a native object, or select CONFIG_LTO_CLANG_THIN, which links it \
                  without kthinlto";
    Some(Error::bad_input(object, found, remedy))
}

/// The program that any of the line's commands calls, with or without a launcher before it.
fn other(line: &str) -> Option<&'static str> {
    line.split([';', '|', '&']).find_map(|command| {
        let words = command.split_whitespace().skip_while(|word| word.contains('='));
        let mut programs = words.take_while(|word| !word.starts_with('-'));
        programs.find_map(|word| {
            let name = word.rsplit('/').next().unwrap_or(word);
            let known = |(program, _): &&(&str, _)| {
                name.strip_prefix(program).is_some_and(|rest| {
                    rest.is_empty() || rest.starts_with('-') && !rest.contains('.')
                })
            };
            OTHERS.iter().find(known).map(|(_, maker)| *maker)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maker_is_found_in_each_of_the_commands() {
        let rust = "OBJTREE=/o RUST_MODFILE=a rustc --edition=2021 -Clinker-plugin-lto --emit=obj=a.o a.rs";
        assert_eq!(other(rust), Some("rustc"));
        let linked = "rustc --emit=llvm-bc=a.bc a.rs ;llvm-link --internalize a.bc -o a.o";
        assert_eq!(other(linked), Some("rustc"));
        assert_eq!(other("/usr/lib/llvm-22/bin/llvm-link a.o b.o -o c.o"), Some("llvm-link"));
        assert_eq!(other("llvm-link-22 a.o -o c.o"), Some("llvm-link"));
        assert_eq!(other("ccache rustc -O a.rs"), Some("rustc"));
        let c = "clang -Wp,-MMD,a.d -DX=rustc -c -o rustc.o rust/llvm-link.c ; objtool rustc-x.o";
        assert_eq!(other(c), None);
    }
}
