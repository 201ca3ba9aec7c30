use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::known::had_been_quiet;
use crate::testing::{bucket, put};
use crate::{Meta, Timestamp};

/// A bucket of its own with one object that has been quiet long enough to be known.
struct Quiet {
    root: tempfile::TempDir,
    bucket: Bucket,
}

impl Quiet {
    fn new(name: &str) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let bucket = bucket(root.path());
        put(&bucket, &key(name), b"body", Meta::default());
        let quiet = Self { root, bucket };
        quiet.wait(name);
        quiet
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("bucket").join(name)
    }

    /// Until the clock is past everything that could hide.
    fn wait(&self, name: &str) {
        let state =
            FileState::look(File::open(self.path(name)).expect("the file")).expect("a look");
        while !had_been_quiet(state.modified, state.changed, Timestamp::now()) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn open(&self, name: &str) -> Ready<'_> {
        self.bucket
            .open_ready(&key(name))
            .expect("it can be answered at once")
    }

    /// Opened often enough to be kept: the xattrs at the first look, the portrait at the second.
    fn known(&self, name: &str) -> Arc<Portrait> {
        self.open(name);
        self.open(name).portrait
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("a key")
}

fn has_xattrs(path: &Path) -> bool {
    xattr::get(path, crate::record::RECORD_XATTR).is_ok_and(|record| record.is_some())
}

#[test]
fn a_quiet_file_is_described_and_its_head_made_once() {
    let quiet = Quiet::new("object");
    if !has_xattrs(&quiet.path("object")) {
        return assert!(!Arc::ptr_eq(
            &quiet.known("object"),
            &quiet.open("object").portrait
        ));
    }
    let known = quiet.known("object");
    assert_eq!(known.head(0, |_| b"head".as_slice().into()), b"head");
    let again = quiet.open("object").portrait;
    assert!(Arc::ptr_eq(&known, &again));
    assert_eq!(again.head(0, |_| unreachable!("it was made")), b"head");
    assert_eq!(again.head(1, |_| b"other".as_slice().into()), b"other");
}

/// What is found of a name by its whole path.
fn at_once(quiet: &Quiet, name: &str) -> Option<Arc<Portrait>> {
    let (bucket, key) = (quiet.bucket.name(), key(name));
    let mut opened = quiet.bucket.store.open_at_once(bucket, &key)?;
    let known = opened.portrait();
    let found = quiet.bucket.ready_of(opened)?;
    assert!(known.is_none_or(|known| Arc::ptr_eq(&known, &found.portrait)));
    Some(found.portrait)
}

#[test]
fn what_a_whole_path_leads_to_is_the_file_of_its_portrait_or_none() {
    let quiet = Quiet::new("folder/object");
    let known = quiet.known("folder/object");
    let found = at_once(&quiet, "folder/object").expect("a file");
    if has_xattrs(&quiet.path("folder/object")) {
        assert!(Arc::ptr_eq(&known, &found));
    }
    let long = format!("folder/{}", "x".repeat(MAX_PATH));
    for other in [
        "folder/none",
        "none",
        "folder/object/",
        "folder",
        long.as_str(),
    ] {
        assert!(at_once(&quiet, other).is_none(), "{other}");
    }
    let outside = tempfile::tempdir().expect("a directory");
    let (folder, moved) = (quiet.path("folder"), outside.path().join("folder"));
    fs::create_dir(&moved).expect("made");
    fs::copy(folder.join("object"), moved.join("object")).expect("copied");
    fs::hard_link(folder.join("object"), quiet.path("kept")).expect("linked");
    fs::remove_dir_all(&folder).expect("removed");
    std::os::unix::fs::symlink(&moved, &folder).expect("linked");
    assert!(at_once(&quiet, "folder/object").is_none(), "behind a link");
}

#[test]
fn a_bucket_that_came_in_place_of_another_is_seen_by_a_whole_path() {
    let quiet = Quiet::new("object");
    quiet.known("object");
    let (bucket, aside) = (quiet.path(""), quiet.root.path().join("aside"));
    fs::rename(&bucket, &aside).expect("moved");
    assert!(at_once(&quiet, "object").is_none());
    fs::create_dir(&bucket).expect("made");
    fs::write(bucket.join("object"), b"another").expect("written");
    let key = key("object");
    let mut opened = quiet
        .bucket
        .store
        .open_at_once(quiet.bucket.name(), &key)
        .expect("a file");
    assert!(opened.portrait().is_none());
    let now = quiet.bucket.store.bucket(quiet.bucket.name());
    assert!(now.expect("a bucket").ready_of(opened).is_none());
}

#[test]
fn what_is_described_is_what_open_says() {
    let quiet = Quiet::new("object.txt");
    for _ in 0..3 {
        let whole = quiet
            .bucket
            .open(&key("object.txt"), Access::Blocking)
            .expect("open");
        let ready = quiet.open("object.txt");
        assert_eq!(
            format!("{:?}", ready.portrait.info),
            format!("{:?}", whole.info)
        );
    }
}

#[test]
fn whatever_moves_the_file_ends_its_portrait() {
    let quiet = Quiet::new("object");
    let path = quiet.path("object");
    let changes: [(&str, &dyn Fn()); 3] = [
        ("content", &|| fs::write(&path, b"others").expect("written")),
        ("mode", &|| {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set")
        }),
        ("content again", &|| {
            fs::write(&path, b"body").expect("written")
        }),
    ];
    for (what, change) in changes {
        let before = quiet.known("object");
        change();
        // An unverified record is the whole way's to look into.
        let after = quiet.bucket.open_ready(&key("object"));
        assert!(
            after.is_none_or(|after| !Arc::ptr_eq(&after.portrait, &before)),
            "{what}"
        );
        quiet.wait("object");
        fs::remove_file(&path).expect("removed");
        put(&quiet.bucket, &key("object"), b"body", Meta::default());
        quiet.wait("object");
    }
}

#[test]
fn a_file_that_is_open_for_writing_has_no_portrait() {
    let quiet = Quiet::new("object");
    let before = quiet.known("object");
    let changes = Arc::clone(quiet.bucket.store.changes());
    changes.begin(before.state.inode());
    assert!(quiet.open("object").portrait.info.in_flux);
    changes.end(before.state.inode(), false);
}

#[test]
fn a_record_that_is_not_remembered_as_true_is_judged_anew() {
    let quiet = Quiet::new("object");
    let before = quiet.known("object");
    let Some(record) = before.xattrs.as_ref().and_then(|kept| kept.record()) else {
        return; // it lies beside the file, and nothing is kept of it
    };
    let other = FileState {
        changed: Timestamp(1),
        ..before.state
    };
    quiet.bucket.store.judge.memory.remember(&other, record);
    assert!(
        quiet
            .bucket
            .store
            .portrait(quiet.bucket.shared.id, &key("object"), &before.state)
            .is_none()
    );
}

#[test]
fn another_name_of_the_file_has_its_own_type() {
    let quiet = Quiet::new("object");
    fs::write(quiet.path("page.html"), b"body").expect("written");
    fs::hard_link(quiet.path("page.html"), quiet.path("picture.png")).expect("linked");
    quiet.wait("page.html");
    for _ in 0..3 {
        for (name, kind) in [("page.html", "text/html"), ("picture.png", "image/png")] {
            let told = quiet.open(name).portrait.info.meta.content_type.clone();
            assert_eq!(told.as_deref(), Some(kind.as_bytes()));
        }
    }
}

#[test]
fn bytes_count_only_of_a_file_that_stayed_as_it_was() {
    let quiet = Quiet::new("object");
    quiet.known("object");
    let ready = quiet.open("object");
    assert!(ready.unchanged().expect("a look"));
    fs::write(quiet.path("object"), b"others").expect("written");
    assert!(!ready.unchanged().expect("a look"));
}

#[test]
fn what_was_opened_for_writing_meanwhile_is_not_let_go() {
    let quiet = Quiet::new("object");
    quiet.known("object");
    let ready = quiet.open("object");
    let changes = Arc::clone(quiet.bucket.store.changes());
    changes.begin(ready.portrait.state.inode());
    assert!(!ready.unchanged().expect("a look"));
    changes.end(ready.portrait.state.inode(), false);
}
