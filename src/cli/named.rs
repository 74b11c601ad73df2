//! Files that the user named for what a command writes. A symbolic link stays one, and what is no
//! regular file, such as a pipe or /dev/null, stays what it is. In a folder that anyone may write
//! into, such as /tmp, a link or a pipe of somebody else's is not taken for what was meant, as the
//! kernel has it with `fs.protected_symlinks`. Must not know what is written.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::{Error, Result};
use crate::regular;
use crate::room::ASIDE;

/// Writes a file: aside, under a name that no one foresees, and renamed.
pub fn write_named(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |e| Error::io("write", path, e);
    let place = resolve(path)?;
    if fs::metadata(&place).is_ok_and(|found| !found.is_file()) {
        return open(&place, path)?.write_all(bytes).map_err(fail);
    }
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix(ASIDE).permissions(Permissions::from_mode(0o666));
    let mut file = builder.tempfile_in(folder.unwrap_or(Path::new("."))).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.persist(&place).map_err(|e| fail(e.error))?;
    Ok(())
}

/// The same, except that a file which is right already is not touched.
pub fn write_named_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    match path.is_file() && regular::read(path).is_ok_and(|old| old == bytes) {
        true => Ok(()),
        false => write_named(path, bytes),
    }
}

/// Opens a file to write it later, made if it is not there, so that one that cannot be written is
/// known before any work is done.
pub fn create_named(path: &Path) -> Result<File> {
    let file = open(&resolve(path)?, path)?;
    if file.metadata().is_ok_and(|found| found.is_file()) {
        file.set_len(0).map_err(|e| Error::io("write", path, e))?;
    }
    Ok(file)
}

fn open(place: &Path, path: &Path) -> Result<File> {
    // A name below /dev/fd leads to no path, and is opened as it is.
    let flags = if place.is_symlink() { OFlags::empty() } else { OFlags::NOFOLLOW };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).custom_flags(flags.bits() as i32);
    options.open(place).map_err(|e| Error::io("write", path, e))
}

/// Where a name leads, if it is the user's own doing that it does.
fn resolve(path: &Path) -> Result<PathBuf> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(path.to_path_buf());
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::metadata(folder.unwrap_or(Path::new(".")));
    let open_to_all = |of: &fs::Metadata| of.mode() & 0o1000 != 0 && of.mode() & 0o022 != 0;
    if let Ok(folder) = folder.as_ref()
        && open_to_all(folder)
        && ![rustix::process::geteuid().as_raw(), folder.uid()].contains(&found.uid())
    {
        let kind = match regular::kind(found.file_type()) {
            Some(kind) => kind,
            None if found.is_symlink() => "a symbolic link",
            None => "a file",
        };
        let what = format!("{kind} of user {} in a folder that others may write into", found.uid());
        return Err(Error::bad_input(path, what, "name a file in a folder of your own"));
    }
    match found.is_symlink() {
        true => Ok(fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())),
        false => Ok(path.to_path_buf()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::os::unix::fs::{FileTypeExt, symlink};

    /// Two runs may be told the same name; each of them writes all of it or nothing.
    #[test]
    fn writers_of_one_file_do_not_meet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::thread::scope(|scope| {
            for writer in b'a'..b'i' {
                let path = &path;
                scope.spawn(move || {
                    for length in 1..100 {
                        write_named(path, &vec![writer; 1000 * length]).unwrap();
                        let seen = fs::read(path).unwrap();
                        assert!(
                            seen.len().is_multiple_of(1000) && seen.iter().all(|&b| b == seen[0])
                        );
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn modes_follow_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("by-hand"), "").unwrap();
        write_named(&dir.path().join("named"), b"").unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode();
        assert_eq!(mode("named"), mode("by-hand"));
    }

    #[test]
    fn a_named_output_that_is_no_regular_file_stays_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (pipe, link, target) = (path("pipe"), path("link"), path("target"));
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_named(&pipe, b"text").unwrap();
        assert_eq!(reader.join().unwrap(), b"text");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());

        fs::write(&target, "old").unwrap();
        symlink("target", &link).unwrap();
        write_named(&link, b"new").unwrap();
        assert!(link.is_symlink() && fs::read(&target).unwrap() == b"new");

        write_named(&path("other"), b"first").unwrap();
        assert_eq!(fs::read(path("other")).unwrap(), b"first");
        assert!(
            write_named(dir.path(), b"").unwrap_err().to_string().contains("a folder where a file")
        );
    }
}
