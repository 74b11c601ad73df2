//! Digests of files: when a stamp is believed, and when a file is read again.

use std::fs::File;
use std::time::{Duration, SystemTime};

use super::*;

fn age(path: &Path, seconds: u64) {
    let then = SystemTime::now() - Duration::from_secs(seconds);
    File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}

#[test]
fn other_bytes_with_the_same_times_and_size_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "one").unwrap();
    age(&path, 100);
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let files = Files::new(dir.path(), TimeResolution::default(), HashMap::default());
    let one = files.facts("a").unwrap();
    for round in 0..50 {
        let text = format!("{round:03}");
        fs::write(&path, &text).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert!(!files.is_unchanged("a"), "round {round}");
        let again = files.find_again("a").unwrap().unwrap();
        assert_eq!(again.digest, Digest::of(text.as_bytes()));
    }
    assert_ne!(one, files.facts("a").unwrap());
}

/// Two threads may read one file, and it may change in between: case of the plan's threads.
#[test]
fn of_two_readings_the_first_holds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let files = Files::new(dir.path(), TimeResolution::default(), HashMap::default());
    fs::write(&path, "first").unwrap();
    let first = files.facts("a").unwrap();
    fs::write(&path, "second").unwrap();
    let mut bytes = Vec::new();
    // The other thread found nothing on record when it began.
    let other = files.look_first("a", None, Some(&mut bytes)).unwrap();
    assert_eq!((other, bytes.len()), (Some(first), 0), "no bytes of another reading");
    assert!(!files.is_unchanged("a"), "and what is made of it is not taken");
    assert!(files.read_known("a").unwrap_err().to_string().contains("changed while"));
}

/// The same bytes and times in another inode, as where a file system makes numbers up.
fn renumber(path: &Path) {
    let (times, aside) = (fs::metadata(path).unwrap().modified().unwrap(), "aside");
    let aside = path.with_file_name(aside);
    fs::copy(path, &aside).unwrap();
    File::options().write(true).open(&aside).unwrap().set_modified(times).unwrap();
    fs::rename(aside, path).unwrap();
}

#[test]
fn links_modes_and_inode_numbers_are_no_change_but_bytes_and_writes_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "one").unwrap();
    age(&path, 100);
    let files = Files::new(dir.path(), TimeResolution::default(), HashMap::default());
    let facts = files.facts("a").unwrap();
    fs::hard_link(&path, dir.path().join("b")).unwrap();
    assert!(files.is_unchanged("a"), "another name");
    renumber(&path);
    assert!(files.is_unchanged("a") && files.is_as_seen("a"), "another number");
    assert_eq!(files.find_again("a").unwrap(), Some(facts));
    age(&path, 50);
    assert!(!files.is_unchanged("a"), "it was written, perhaps with other bytes meanwhile");
}

#[test]
fn a_file_that_has_another_number_at_each_look_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "one").unwrap();
    age(&path, 100);
    let files = Files::new(dir.path(), TimeResolution::default(), HashMap::default());
    let first = files.read_facts(&path, None).unwrap();
    renumber(&path);
    let second = files.read_facts(&path, None).unwrap();
    renumber(&path);
    let now = Stamp::of(&fs::metadata(&path).unwrap());
    assert!(second.if_whole(None, &now).is_none(), "one reading does not tell");
    let known = second.if_whole(Some(&first), &now).unwrap();
    assert!(known.recent && known.facts == first.facts, "its stamp is not believed");
    let other = Known { facts: Facts::of(b"two"), ..first };
    assert!(second.if_whole(Some(&other), &now).is_none());
    age(&path, 50);
    let now = Stamp::of(&fs::metadata(&path).unwrap());
    assert!(second.if_whole(Some(&first), &now).is_none(), "it was written");
}

#[test]
fn bytes_come_with_their_facts_and_only_when_they_are_read() {
    let (dir, mut bytes) = (tempfile::tempdir().unwrap(), b"left over".to_vec());
    let path = dir.path().join("a");
    let files = Files::new(dir.path(), TimeResolution::default(), HashMap::default());
    assert_eq!(files.find_and_read("a", &mut bytes).unwrap(), None);
    assert!(bytes.is_empty(), "there is no file");
    let long = vec![7; 300 << 10];
    fs::write(&path, &long).unwrap();
    let facts = files.find_and_read("a", &mut bytes).unwrap().unwrap();
    assert!(bytes == long && facts == Facts::of(&long));
    assert_eq!(files.find_and_read("a", &mut bytes).unwrap(), Some(facts));
    assert!(bytes.is_empty(), "known in this run");
    age(&path, 100);
    let stamp = Stamp::of(&fs::metadata(&path).unwrap());
    let known = HashMap::from_iter([("a".to_owned(), (stamp, facts))]);
    let next = Files::new(dir.path(), TimeResolution::default(), known);
    assert_eq!(next.find_and_read("a", &mut bytes).unwrap(), Some(facts));
    assert!(bytes.is_empty(), "known from an earlier run");
    assert_eq!(next.find(&format!("{}", path.display())).unwrap(), Some(facts), "by a stream");
}

#[test]
fn only_settled_stamps_are_recorded_and_then_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    fs::write(&path, "BC\u{0}").unwrap();
    let files = Files::new(dir.path(), TimeResolution::default(), HashMap::default());
    files.facts("a").unwrap();
    assert!(files.take_unrecorded().is_empty(), "too recent");
    std::thread::sleep(Duration::from_millis(80));
    let recorded = files.take_unrecorded();
    assert_eq!(recorded.len(), 1);
    assert!(files.take_unrecorded().is_empty(), "once");
    let (name, stamp, facts) = recorded[0].clone();
    let lie = Facts { digest: Digest::of(b"a lie"), ..facts };
    let next = Files::new(
        dir.path(),
        TimeResolution::default(),
        HashMap::from_iter([(name, (stamp, lie))]),
    );
    assert_eq!(next.facts("a").unwrap(), lie, "a recorded stamp saves the read");
    fs::write(&path, "other").unwrap();
    assert_eq!(next.facts("a").unwrap(), lie, "looked at once in a run");
    assert!(!next.is_unchanged("a"));
    assert_eq!(next.find_again("a").unwrap().unwrap().digest, Digest::of(b"other"));
}

/// The resolution of the file system of a folder, and facts of one file that was just put there.
fn just_made(dir: &Path, tried: bool) -> (Files, Facts) {
    let trial = File::create(dir.join("trial")).unwrap();
    let resolution = if tried {
        TimeResolution::by_writing(&trial, b"1").unwrap()
    } else {
        TimeResolution::default()
    };
    let files = Files::new(dir, resolution, HashMap::default());
    let facts = Facts::of(b"made");
    files.write("a", b"made", facts).unwrap();
    (files, facts)
}

#[test]
fn what_was_just_made_is_read_again_only_where_its_stamp_cannot_tell() {
    let dir = tempfile::tempdir().unwrap();
    let (coarse, _) = just_made(dir.path(), false);
    assert!(coarse.known()["a"].recent);
    let (files, facts) = just_made(dir.path(), true);
    let fine = files.known()["a"].stamp.is_conclusive(0, files.resolution);
    assert_eq!(files.known()["a"].recent, !fine);
    assert_eq!(files.take_unrecorded().len(), usize::from(fine));
    assert_eq!(files.find("a").unwrap(), Some(facts));
}

#[test]
fn a_write_at_once_is_seen_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for tried in [false, true] {
        for _ in 0..200 {
            let (files, _) = just_made(dir.path(), tried);
            assert!(files.is_unchanged("a"));
            fs::write(dir.path().join("a"), "MADE").unwrap();
            assert!(!files.is_unchanged("a"));
        }
    }
}

#[test]
fn a_write_between_the_bytes_and_the_rename_is_not_recorded_as_them() {
    let dir = tempfile::tempdir().unwrap();
    let (files, facts) = just_made(dir.path(), true);
    let stamp = Stamp::of(&fs::metadata(dir.path().join("a")).unwrap());
    fs::write(dir.path().join("a"), "MADE").unwrap();
    fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
    files.set("b", Stamped { facts, stamp }).unwrap();
    assert!(files.known()["b"].recent);
    std::thread::sleep(Duration::from_millis(80));
    let recorded = files.take_unrecorded();
    let (_, _, found) = recorded.iter().find(|(name, ..)| name == "b").unwrap();
    assert_eq!(found.digest, Digest::of(b"MADE"));
}

#[test]
fn absence_is_not_an_error_until_the_file_is_needed() {
    let files =
        Files::new(Path::new("/nonexistent"), TimeResolution::default(), HashMap::default());
    assert_eq!(files.find("a").unwrap(), None);
    assert!(files.facts("a").unwrap_err().to_string().starts_with("cannot read a: "));
}
