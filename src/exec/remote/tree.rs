//! Folders as the protocol has them: each is a message that names its files and folders by their digests, and the
//! root's digest stands for all that is below it. Must not know what the files are.

use std::collections::BTreeMap;

use super::blobs::{Blob, Source};
use super::digest::{Digest, Function};
use super::messages::{self, DirectoryNode, FileNode};
use super::protobuf::Message;

/// A folder that is being put together.
#[derive(Debug, Default)]
pub(super) struct Folder {
    folders: BTreeMap<String, Folder>,
    files: BTreeMap<String, (Digest, bool)>,
}

/// The parts of a path below a root, without `.` and with `..` taken back; `None` where it leads above the root.
/// A folder that is left again is still one that must be there, so it is made.
pub(super) fn parts<'p>(
    base: &[&'p str],
    path: &'p str,
    mut left: impl FnMut(&[&'p str]),
) -> Option<Vec<&'p str>> {
    let mut parts = if path.starts_with('/') { Vec::new() } else { base.to_vec() };
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                left(&parts);
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts)
}

/// How many folders above its own a path leads to.
pub(super) fn rises(path: &str) -> usize {
    let (mut depth, mut most) = (0_isize, 0);
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        depth += if part == ".." { -1 } else { 1 };
        most = most.max(-depth);
    }
    if path.starts_with('/') { 0 } else { most as usize }
}

impl Folder {
    /// Makes a folder, and those above it. `false`: a file is there.
    pub fn add_folder(&mut self, parts: &[&str]) -> bool {
        let mut folder = self;
        for part in parts {
            if folder.files.contains_key(*part) {
                return false;
            }
            folder = folder.folders.entry((*part).to_owned()).or_default();
        }
        true
    }

    /// Adds a file, and the folders above it. `false`: a folder or another file is there.
    pub fn add_file(&mut self, parts: &[&str], digest: Digest, executable: bool) -> bool {
        let Some((name, above)) = parts.split_last() else {
            return false;
        };
        let mut folder = self;
        for part in above {
            if folder.files.contains_key(*part) {
                return false;
            }
            folder = folder.folders.entry((*part).to_owned()).or_default();
        }
        if folder.folders.contains_key(*name) {
            return false;
        }
        let file = folder.files.entry((*name).to_owned()).or_insert((digest, executable));
        file.1 |= executable;
        file.0 == digest
    }

    /// The digest of this folder; it and all below it are added to `blobs`.
    pub fn finish(&self, function: Function, blobs: &mut Vec<Blob>) -> Digest {
        let folders = self.folders.iter().map(|(name, folder)| {
            let digest = folder.finish(function, blobs);
            DirectoryNode { name: name.clone(), digest: Some(digest.message()) }
        });
        let directories = folders.collect();
        let files = self.files.iter().map(|(name, (digest, is_executable))| FileNode {
            name: name.clone(),
            digest: Some(digest.message()),
            is_executable: *is_executable,
        });
        let directory = messages::Directory { files: files.collect(), directories };
        let blob = Blob::of(function, directory.to_bytes());
        let digest = blob.digest;
        blobs.push(blob);
        digest
    }
}

impl Blob {
    /// Bytes as a blob.
    pub fn of(function: Function, bytes: bytes::Bytes) -> Self {
        Blob { digest: function.of(&bytes), source: Source::Bytes(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_below_a_root() {
        let below = |path| parts(&["u", "tree"], path, |_| ());
        assert_eq!(below("a/./b.o").unwrap(), ["u", "tree", "a", "b.o"]);
        assert_eq!(below("../x/../y").unwrap(), ["u", "y"]);
        assert_eq!(below("/usr/bin/x").unwrap(), ["usr", "bin", "x"]);
        assert_eq!(below("../../../y"), None);
        assert_eq!((rises("a/b"), rises("../a"), rises("a/../../b"), rises("/../a")), (0, 1, 1, 0));
    }

    /// Of an empty folder the message is empty; the others are those of `protoc --encode`.
    #[test]
    fn a_folder_is_a_message_with_sorted_names() {
        let function = Function::Sha256;
        let mut blobs = Vec::new();
        let empty = Folder::default().finish(function, &mut blobs);
        assert_eq!(empty, function.of(b""));
        let mut folder = Folder::default();
        let file = function.of(b"file");
        assert!(folder.add_file(&["b", "z"], file, true) && folder.add_file(&["a"], file, false));
        assert!(folder.add_file(&["b", "z"], file, false), "the same once more");
        assert!(!folder.add_file(&["b", "z", "y"], file, false), "below a file");
        assert!(!folder.add_file(&["b"], file, false), "in a folder's place");
        assert!(!folder.add_file(&["a"], empty, false), "another file");
        assert!(!folder.add_folder(&["a"]) && folder.add_folder(&["b", "c"]));
        folder.finish(function, &mut blobs);
        let (Source::Bytes(root), size) = (&blobs.last().unwrap().source, blobs.len()) else {
            panic!("bytes");
        };
        let hex = file.hex();
        let node = format!("\x0a\x01a\x12\x44\x0a\x40{hex}\x10\x04");
        assert_eq!(&root[..2], b"\x0a\x49", "{root:?}");
        assert_eq!(&root[2..75], node.as_bytes());
        assert_eq!(size, 4, "the empty one, b/c, b and the root");
    }
}
