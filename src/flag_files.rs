//! Files that a tool's flags name. The thin link and the backends ask; must not know what
//! the flags mean to either.

use std::path::Path;

use crate::error::Result;
use crate::store::Files;
use crate::toolchain::configuration;

/// Words of a command, and what the files among them that hold more words add to it.
#[derive(Debug)]
pub struct Named<'a> {
    files: &'a Files,
    /// Where configuration files are looked for by their mere names.
    folders: Vec<String>,
    /// Files that flags name.
    pub found: Vec<String>,
    /// Words that stand in response files and configuration files.
    pub taken_in: Vec<String>,
    /// Words of configuration files, which count before all others.
    configured: Vec<String>,
    /// All others, those of response files where these stand.
    spread: Vec<String>,
    /// How many configuration files are being read, one by way of the other.
    depth: usize,
}

impl<'a> Named<'a> {
    /// Nothing is named yet. A tool looks in `folders` for configuration files.
    pub fn new(files: &'a Files, folders: &[String]) -> Self {
        let folders = folders.to_vec();
        Named {
            files,
            folders,
            found: Vec::new(),
            taken_in: Vec::new(),
            configured: Vec::new(),
            spread: Vec::new(),
            depth: 0,
        }
    }

    /// All words in the order in which a compiler heeds them: of two, the last may decide.
    pub fn in_order(&self) -> impl Iterator<Item = &str> {
        self.configured.iter().chain(&self.spread).map(String::as_str)
    }

    /// Adds what some words name: any value, or part after a `=` or `,`, that leads to a file.
    /// Taken wide on purpose: profiles, lists, plugins and response files have many spellings, and
    /// an input too many costs one digest.
    pub fn add(&mut self, words: &[&str]) -> Result<()> {
        words.iter().try_for_each(|word| self.add_folder(word))?;
        let mut before = "";
        for word in words {
            self.add_word(word, before)?;
            before = word;
        }
        Ok(())
    }

    /// Adds the words of a configuration file, and the files that it takes in.
    pub fn configure(&mut self, name: &str) -> Result<()> {
        self.depth += 1;
        let taken = self.take_in(name);
        self.depth -= 1;
        taken
    }

    /// Adds the words of a file that is taken in, and the files that it takes in.
    fn take_in(&mut self, name: &str) -> Result<()> {
        let bytes = self.files.read_known(name)?;
        let text = String::from_utf8_lossy(&bytes);
        let words = configuration::words(&text);
        for place in configuration::included(Path::new(name), &text) {
            let place = place.to_string_lossy().into_owned();
            self.add_list(&place)?;
        }
        let words_of_it: Vec<&str> = words.iter().map(String::as_str).collect();
        self.taken_in.extend(words_of_it.iter().map(|word| (*word).to_owned()));
        self.add(&words_of_it)
    }

    /// A folder of configuration files: any of them may be taken, also one that comes later.
    fn add_folder(&mut self, word: &str) -> Result<()> {
        let options = ["--config-system-dir=", "--config-user-dir="];
        let named = options.iter().find_map(|option| word.strip_prefix(option));
        let Some(folder) = named.filter(|name| !name.is_empty()) else {
            return Ok(());
        };
        self.folders.push(folder.to_owned());
        self.files.is_file(folder); // who trusts its stamp has to see that no file came
        for file in configuration::files_in(&self.files.path(folder)) {
            let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = format!("{folder}/{file}");
            if self.found.len() < MOST && self.add_file(&name) {
                self.configure(&name)?;
            }
        }
        Ok(())
    }

    fn add_word(&mut self, word: &str, before: &str) -> Result<()> {
        match word.strip_prefix('@') {
            Some(name) => self.add_list(name)?,
            None if self.depth > 0 => self.configured.push(word.to_owned()),
            None => self.spread.push(word.to_owned()),
        }
        let configuration = word.strip_prefix("--config=");
        if let Some(name) = configuration.or((before == "--config").then_some(word)) {
            self.depth += 1;
            let mut taken = self.add_list(name);
            for folder in self.folders.clone() {
                taken = taken.and_then(|()| self.add_list(&format!("{folder}/{name}")));
            }
            self.depth -= 1;
            taken?;
        }
        let pieces = word.match_indices(['=', ',']).map(|(at, _)| &word[at + 1..]);
        let whole = Some(word).filter(|word| !word.starts_with('-'));
        for piece in pieces.chain(whole) {
            self.add_file(piece);
        }
        Ok(())
    }

    /// Whether this is a file that was not named before.
    fn add_file(&mut self, name: &str) -> bool {
        let known = self.found.iter().any(|found| found == name);
        let is_new = !name.is_empty() && !known && self.files.is_file(name);
        if is_new {
            self.found.push(name.to_owned());
        }
        is_new
    }

    /// A file that holds more words.
    fn add_list(&mut self, name: &str) -> Result<()> {
        if self.found.len() < MOST && self.add_file(name) { self.take_in(name) } else { Ok(()) }
    }
}

/// Files that take each other in by ever longer names end here.
const MOST: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn named(folders: &[String], files: &[(&str, &str)], words: &[&str]) -> Vec<String> {
        let tree = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::create_dir_all(tree.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(tree.path().join(name), text).unwrap();
        }
        let store = Store::open(tree.path()).unwrap();
        let mut named = Named::new(&store.files, folders);
        named.add(words).unwrap();
        named.found
    }

    #[test]
    fn files_are_found_in_every_spelling() {
        let flags = ["-fprofile-sample-use=p.prof", "-fbasic-block-sections=list=l.txt", "@r.rsp"];
        let more = ["-Wl,-plugin,x.so", "plain.so", "-O2", "-x=none"];
        let files = ["p.prof", "l.txt", "r.rsp", "x.so", "plain.so"];
        let all: Vec<&str> = flags.into_iter().chain(more).collect();
        assert_eq!(named(&[], &files.map(|name| (name, "")), &all), files);
    }

    #[test]
    fn files_that_hold_words_are_looked_into_and_a_loop_ends() {
        let files =
            [("d/r.rsp", "@more -fplugin=p.so @r.rsp @d/r.rsp"), ("d/more", ""), ("p.so", "")];
        let found = named(&[], &files, &["@d/r.rsp"]);
        assert_eq!(found[..2], ["d/r.rsp", "d/more"], "{found:?}");
        assert!(found.iter().any(|name| name == "p.so"), "{found:?}");
    }

    #[test]
    fn configuration_files_are_found_by_folder_and_by_name() {
        let files = [("sys/clang.cfg", "@x"), ("sys/x", ""), ("built/named", ""), ("sys/y", "")];
        let words = ["--config-system-dir=sys", "--config", "named"];
        let found = named(&["built".to_owned()], &files, &words);
        assert_eq!(found, ["sys/clang.cfg", "sys/x", "built/named"]);
        assert_eq!(named(&["built".to_owned()], &files, &["--config=named"]), ["built/named"]);
    }
}
