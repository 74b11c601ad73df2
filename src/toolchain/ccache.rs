//! The way around ccache. From 4.13 on it keeps what backends of distributed ThinLTO make, by
//! object, index and flags; it cannot see a file that assembly includes, and so it may give the
//! object of another configuration. The cache here can, and one is enough.

use super::programs::{self, Search};
use crate::exec::helper::Failure;

/// Caches that run the words behind them.
const NAMES: [&str; 2] = ["ccache", "sccache"];

/// The words to run instead of these: without a cache that stands before the compiler, and with
/// the cache told to stand aside where it is reached by a link or a script.
pub fn around(argv: &[String], search: Search<'_>) -> Result<Vec<String>, Failure> {
    let mut words: Vec<String> = Vec::new();
    let mut rest = argv.iter().peekable();
    while let Some(word) = rest.next() {
        if !is_cache(word, search)
            || !rest.clone().any(|next| programs::of_word(next, search).is_some())
        {
            words.push(word.clone());
            continue;
        }
        // Settings of its own may follow.
        while rest.next_if(|next| programs::of_word(next, search).is_none()).is_some() {}
    }
    Ok(match super::files_of(&words, search)?.has_ccache {
        true => ["env", "CCACHE_DISABLE=1"].into_iter().map(str::to_owned).chain(words).collect(),
        false => words,
    })
}

fn is_cache(word: &str, search: Search<'_>) -> bool {
    let name = word.rsplit('/').next().unwrap_or(word);
    NAMES.contains(&name) && programs::of_word(word, search).is_some()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::environment::Environment;

    fn program(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_cache_before_the_compiler_is_left_out_and_any_other_told_to_stand_aside() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        let compiler = "#!/bin/sh\nexit 0\n";
        program(&place("ccache"), "#!/bin/sh\nexec \"$@\"\n");
        program(&place("clang"), compiler);
        program(&place("script"), &format!("#!/bin/sh\n{} clang\n", place("ccache").display()));
        fs::create_dir(place("links")).unwrap();
        symlink(place("ccache"), place("links/clang")).unwrap();
        let environment = Environment::of_process();
        let search = Search { tree: dir.path(), environment: &environment };
        let around = |command: &str| {
            let command = command.replace('@', &format!("{}/", dir.path().display()));
            let words = around(&shell_words::split(&command).unwrap(), search).unwrap();
            words.join(" ").replace(&format!("{}/", dir.path().display()), "@")
        };
        assert_eq!(around("@ccache @clang -O2"), "@clang -O2");
        assert_eq!(around("env X=1 @ccache max_size=1G @clang"), "env X=1 @clang");
        assert_eq!(around("@clang -O2"), "@clang -O2");
        assert_eq!(around("@links/clang"), "env CCACHE_DISABLE=1 @links/clang");
        assert_eq!(around("@script -O2"), "env CCACHE_DISABLE=1 @script -O2");
    }
}
