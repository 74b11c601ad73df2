//! What the cache takes, gives and removes, beside others and damage.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

fn key(n: u32) -> Digest {
    Digest::of(&n.to_le_bytes())
}

fn open(folder: &Path, limit: u64) -> Cache {
    Cache::open(&Place::new(folder, limit)).unwrap()
}

/// Closes a folder that was not made by the cache, whatever the umask of this test is.
fn close(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

fn add(cache: &mut Cache, dir: &Path, n: u32, size: usize) {
    let source = dir.join("source");
    fs::write(&source, vec![n as u8; size]).unwrap();
    cache.add(key(n), &source).unwrap();
}

fn place(cache: &Cache, n: u32) -> PathBuf {
    let (folder, name) = names(key(n));
    cache.place.folder.join(folder::CURRENT).join(folder).join(name)
}

#[test]
fn what_goes_in_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = open(&dir.path().join("c"), 1 << 20);
    let target = dir.path().join("target");
    assert!(!cache.fetch(key(1), &target));
    assert!(!target.exists());
    add(&mut cache, dir.path(), 1, 1000);
    assert!(cache.fetch(key(1), &target));
    assert_eq!(fs::read(&target).unwrap(), vec![1; 1000]);
    assert_eq!(cache.stats().unwrap(), Stats { entries: 1, bytes: 1032 });
    cache.clear().unwrap();
    assert!(!cache.fetch(key(1), &target));
}

#[test]
fn a_damaged_entry_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = open(&dir.path().join("c"), 1 << 20);
    let target = dir.path().join("target");
    for damage in 0..3 {
        add(&mut cache, dir.path(), 1, 100);
        let place = place(&cache, 1);
        let mut bytes = fs::read(&place).unwrap();
        match damage {
            0 => bytes[50] ^= 1,
            1 => bytes.truncate(60),
            _ => bytes.clear(),
        }
        fs::write(&place, bytes).unwrap();
        assert!(!cache.fetch(key(1), &target), "damage {damage}");
        assert!(!target.exists() && !place.exists(), "damage {damage}");
    }
}

#[test]
fn an_entry_under_another_key_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = open(&dir.path().join("c"), 1 << 20);
    add(&mut cache, dir.path(), 1, 100);
    add(&mut cache, dir.path(), 2, 100);
    fs::copy(place(&cache, 1), place(&cache, 2)).unwrap();
    let target = dir.path().join("target");
    assert!(!cache.fetch(key(2), &target) && !target.exists());
    assert!(cache.fetch(key(1), &target));
}

#[test]
fn the_limit_is_kept_and_the_longest_unused_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut cache = open(&dir.path().join("c"), 10_000);
    let target = dir.path().join("target");
    for n in 0..40 {
        add(&mut cache, dir.path(), n, 968);
        assert!(cache.stats().unwrap().bytes <= 10_000 + 1000, "after {n}");
        assert!(cache.fetch(key(0), &target), "the one that is used stays, after {n}");
    }
    assert!(!cache.fetch(key(1), &target));
    assert!(cache.fetch(key(39), &target));
    assert!(cache.prune().unwrap().bytes <= 10_000);
}

/// Files of a folder, and below it, that are not the cache's.
fn others(dir: &Path) -> PathBuf {
    let home = dir.join("home");
    fs::create_dir_all(home.join("docs")).unwrap();
    let old = SystemTime::now() - Duration::from_secs(300_000);
    for name in [".bashrc", "notes.txt", "docs/thesis.tex"] {
        fs::write(home.join(name), "mine").unwrap();
        File::options()
            .write(true)
            .open(home.join(name))
            .and_then(|file| file.set_modified(old))
            .unwrap();
    }
    home
}

#[test]
fn what_is_no_entry_is_never_removed_not_even_through_links() {
    let dir = tempfile::tempdir().unwrap();
    let home = others(dir.path());
    let mut cache = open(&dir.path().join("c"), 1 << 20);
    let inner = dir.path().join("c").join(folder::CURRENT);
    for (name, target) in [("zy", &home), ("zz", &home.join("docs")), ("aa", &home)] {
        symlink(target, inner.join(name)).unwrap();
    }
    fs::create_dir(inner.join("bb")).unwrap();
    symlink(home.join("notes.txt"), inner.join("bb").join("0".repeat(62))).unwrap();
    fs::write(inner.join("bb/.env"), "mine").unwrap();
    fs::create_dir(inner.join("cc")).unwrap();
    fs::set_permissions(inner.join("cc"), fs::Permissions::from_mode(0o000)).unwrap();
    add(&mut cache, dir.path(), 1, 100);
    cache.place.limit = 10;
    cache.prune().unwrap();
    cache.clear().unwrap();
    assert_eq!(cache.stats().unwrap().entries, 0);
    for name in [".bashrc", "notes.txt", "docs/thesis.tex"] {
        assert_eq!(fs::read(home.join(name)).unwrap(), b"mine", "{name}");
    }
    assert!(inner.join("bb/.env").exists());
}

#[test]
fn a_folder_that_is_no_cache_is_neither_pruned_nor_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let proj = dir.path().join("proj");
    for name in ["v1/handlers/main.go", "v1/model/.env"] {
        fs::create_dir_all(proj.join(name).parent().unwrap()).unwrap();
        fs::write(proj.join(name), "source").unwrap();
    }
    close(&proj);
    let error = Cache::existing(&Place::new(&proj, 0)).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("v1: not a cache of kthinlto"), "{error}");
    // A build puts its own beside it, and prunes that alone.
    let mut cache = open(&proj, 0);
    add(&mut cache, dir.path(), 1, 100);
    cache.clear().unwrap();
    assert!(proj.join("v1/handlers/main.go").exists() && proj.join("v1/model/.env").exists());
    fs::remove_dir_all(proj.join(folder::CURRENT)).unwrap();
    fs::create_dir(proj.join(folder::CURRENT)).unwrap();
    fs::write(proj.join(folder::CURRENT).join("api.proto"), "source").unwrap();
    assert_eq!(Cache::open(&Place::new(&proj, 0)).unwrap_err().exit_code(), 3);
}

/// A cache as the version before left it.
fn old_cache(folder: &Path) -> PathBuf {
    let part = folder.join(folder::OLDER).join("ab");
    fs::create_dir_all(&part).unwrap();
    let object = b"\x7fELF and so on".as_slice();
    let entry = part.join("1".repeat(62));
    fs::write(&entry, [object, Digest::of(object).as_bytes()].concat()).unwrap();
    fs::write(part.join(".tmpAb3xYz"), "unfinished").unwrap();
    close(folder);
    entry
}

#[test]
fn a_cache_of_the_version_before_is_recognized_and_its_entries_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("c");
    let entry = old_cache(&folder);
    let place = Place::new(&folder, 1 << 20);
    assert_eq!(Cache::existing(&place).unwrap().stats().unwrap().entries, 1);
    assert!(!folder.join("v1/CACHEDIR.TAG").exists(), "looking marks nothing");
    let mut cache = open(&folder, 1 << 20);
    assert!(folder.join("v1/CACHEDIR.TAG").exists());
    add(&mut cache, dir.path(), 1, 100);
    assert_eq!(cache.stats().unwrap().entries, 2);
    cache.place.limit = 160;
    assert_eq!(cache.prune().unwrap().entries, 1);
    assert!(!entry.exists());
}

#[test]
fn what_only_looks_like_a_cache_of_the_version_before_is_not_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("c");
    let entry = old_cache(&folder);
    let refused = || Cache::existing(&Place::new(&folder, 0)).is_err();
    assert!(!refused());
    for name in ["v1/readme", "v1/ab/readme", "v1/abc/x"] {
        fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        fs::write(folder.join(name), "other").unwrap();
        assert!(refused(), "{name}");
        fs::remove_file(folder.join(name)).unwrap();
    }
    fs::remove_dir(folder.join("v1/abc")).unwrap();
    assert!(!refused());
    fs::write(&entry, "another store's object, whose name is a digest too").unwrap();
    assert!(refused());
}

#[test]
fn entries_that_others_can_write_are_taken_only_from_a_shared_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, target) = (dir.path().join("c"), dir.path().join("target"));
    let mut cache = open(&folder, 1 << 20);
    add(&mut cache, dir.path(), 1, 100);
    let entry = place(&cache, 1);
    fs::set_permissions(&entry, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(!cache.fetch(key(1), &target) && !cache.fetch(key(1), &target));
    let said = cache.warning().unwrap();
    assert!(said.contains("can be written by anyone"), "{said}");
    assert!(said.contains("KTHINLTO_CACHE_SHARED"), "{said}");
    assert!(!cache.fetch(key(1), &target) && cache.warning().is_none(), "said once");
    let shared = Place { shared: true, ..Place::new(&folder, 1 << 20) };
    assert!(Cache::open(&shared).unwrap().fetch(key(1), &target));
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let error = Cache::open(&Place::new(&folder, 0)).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(Cache::open(&shared).is_ok());
}

#[test]
fn an_entry_that_is_a_pipe_a_link_or_endless_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cache, target) = (open(&dir.path().join("c"), 1 << 20), dir.path().join("target"));
    add(&mut cache, dir.path(), 1, 100);
    let entry = place(&cache, 1);
    let good = dir.path().join("good");
    fs::rename(&entry, &good).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, &entry, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(!cache.fetch(key(1), &target));
    assert!(cache.warning().unwrap().contains("is not an entry (a pipe where"));
    fs::remove_file(&entry).unwrap();
    for to in [Path::new("/dev/zero"), &good] {
        symlink(to, &entry).unwrap();
        assert!(!cache.fetch(key(1), &target), "{to:?}");
        fs::remove_file(&entry).unwrap();
    }
    File::create(&entry).and_then(|file| file.set_len(LARGEST + 1)).unwrap();
    assert!(!cache.fetch(key(1), &target), "a sparse one");
    fs::rename(&good, &entry).unwrap();
    assert!(cache.fetch(key(1), &target));
}

#[test]
fn an_object_is_not_put_through_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let (home, target) = (others(dir.path()), dir.path().join("target"));
    let mut cache = open(&dir.path().join("c"), 1 << 20);
    add(&mut cache, dir.path(), 1, 100);
    symlink(home.join("notes.txt"), &target).unwrap();
    assert!(cache.fetch(key(1), &target));
    assert_eq!(fs::read(home.join("notes.txt")).unwrap(), b"mine");
    assert!(!target.is_symlink());
}

#[test]
fn a_read_only_cache_is_read_and_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, target) = (dir.path().join("c"), dir.path().join("target"));
    let readonly = Place { readonly: true, ..Place::new(&folder, 0) };
    assert!(Cache::open(&readonly).is_err() && !folder.exists());
    let mut cache = open(&folder, 1 << 20);
    add(&mut cache, dir.path(), 1, 100);
    let entry = place(&cache, 1);
    let before = fs::metadata(&entry).unwrap();
    let mut cache = Cache::open(&readonly).unwrap();
    assert!(cache.fetch(key(1), &target));
    add(&mut cache, dir.path(), 2, 100);
    assert_eq!(cache.stats().unwrap().entries, 1);
    let after = fs::metadata(&entry).unwrap();
    assert_eq!((after.ctime(), after.ctime_nsec()), (before.ctime(), before.ctime_nsec()));
    fs::write(&entry, "damaged").unwrap();
    assert!(!cache.fetch(key(1), &target) && entry.exists());
}

#[test]
fn sizes_are_read_as_people_write_them() {
    assert_eq!(parse_size("1048576"), Some(1 << 20));
    assert_eq!(parse_size("5G"), Some(5 << 30));
    assert_eq!(parse_size(" 1.5 GiB "), Some(3 << 29));
    assert_eq!(parse_size("500mb"), Some(500 << 20));
    for bad in ["", "G", "5X", "-1", "1.2.3"] {
        assert_eq!(parse_size(bad), None, "{bad}");
    }
}
