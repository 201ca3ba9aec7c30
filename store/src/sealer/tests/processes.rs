//! Two processes seal, tag and chmod one file 1,000 times each; its ETag never flaps.
//!
//! The processes are this test binary, started again: threads would share what a process remembers.

use std::io::Read;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::ETagList;

const TREE: &str = "TWINTREE_FLAP_TREE";
const WORK: &str = "TWINTREE_FLAP_WORK";
const TIMES: u32 = 1000;
/// Far beyond what it takes, so that a deadlock is a failure.
const PATIENCE: Duration = Duration::from_secs(150);

#[test]
fn the_etag_never_flaps_while_two_processes_seal_tag_and_chmod_a_file() {
    if let Ok(root) = std::env::var(TREE) {
        return work(
            root.as_ref(),
            &std::env::var(WORK).expect("set with the tree"),
        );
    }
    let place = Place::new();
    let etag = place.put(b"body");
    for work in ["tag and seal", "tag, seal and chmod"] {
        let others = [Other::start(&place, work), Other::start(&place, work)];
        for other in others {
            other.finish(work);
        }
        place.settle(); // nobody is at work on it
        assert_eq!(place.etag(), etag, "after {work}");
        let fresh = Store::open(place.store.options().clone()).expect("a store");
        let fresh = fresh.bucket(&name()).expect("the bucket");
        let seen = fresh
            .open(&key(), Access::Blocking)
            .expect("there")
            .info
            .etag;
        assert_eq!(seen, etag, "for who remembers nothing, after {work}");
    }
}

/// Another process at work.
struct Other {
    child: Child,
    /// All that it said, once it ended.
    said: Receiver<String>,
}

impl Other {
    fn start(place: &Place, work: &str) -> Self {
        let this = std::env::current_exe().expect("this test");
        let test = concat!(
            module_path!(),
            "::the_etag_never_flaps_while_two_processes_seal_tag_and_chmod_a_file"
        );
        let test = test.split_once("::").expect("a crate's name first").1;
        let (mut output, writer) = std::io::pipe().expect("a pipe");
        let errors = writer.try_clone().expect("its end once more");
        let child = Command::new(this)
            .args(["--exact", test, "--test-threads", "1"])
            .env(TREE, place.dir.path())
            .env(WORK, work)
            .stdout(writer)
            .stderr(errors)
            .spawn()
            .expect("the other process runs");
        let (told, said) = channel();
        // The pipe ends with the process: nobody else has its other end.
        std::thread::spawn(move || {
            let mut text = Vec::new();
            output.read_to_end(&mut text).expect("its output");
            told.send(String::from_utf8_lossy(&text).into_owned())
        });
        Self { child, said }
    }

    fn finish(mut self, work: &str) {
        let Ok(said) = self.said.recv_timeout(PATIENCE) else {
            self.child.kill().expect("killed");
            self.child.wait().expect("a child of ours");
            panic!("{work}: not done after {PATIENCE:?}");
        };
        let status = self.child.wait().expect("a child of ours");
        assert!(status.success(), "{work}: {said}");
        assert!(said.contains("1 passed"), "it did its work: {said}");
    }
}

/// What each process does. As long as nobody changes the file's mode, every look shows the MD5. A direct
/// chmod makes the file unverified: then a look shows the MD5 or the derived ETag, never anything else,
/// and a condition that names the MD5 holds throughout.
fn work(root: &std::path::Path, work: &str) {
    let store = Store::open(StoreOptions {
        root: root.to_owned(),
        durability: Durability::Relaxed,
        keys: KeyPolicy::Any,
        read_only: false,
        hide: Vec::new(),
        verify_mtime_only: false,
        etags: Default::default(),
        buckets: Default::default(),
        more_roots: Vec::new(),
    })
    .expect("a store");
    let bucket = store.bucket(&name()).expect("the bucket");
    let mut digester = Digester::new(&[]);
    digester.update(b"body");
    let etag = ETag::Md5(digester.finish().md5.expect("not left out"));
    let conditions = WriteConditions {
        if_match: Some(ETagList::Tags(vec![etag.to_string()])),
        ..WriteConditions::default()
    };
    let chmods = work.contains("chmod");
    for n in 0..TIMES {
        if chmods {
            let mode = fs::Permissions::from_mode(0o600 | (n & 0o77));
            fs::set_permissions(root.join("bucket/f"), mode).expect("chmod");
        }
        let tags = vec![("n".to_owned(), n.to_string())];
        bucket.set_tags(&key(), tags).expect("tagged");
        // Settled or busy: either is right while the other process is at work.
        at_once(&store).expect("no error");
        let seen = bucket
            .open(&key(), Access::Blocking)
            .expect("there")
            .info
            .etag;
        if !(seen == etag || chmods && matches!(seen, ETag::Derived(..))) {
            panic!("{seen:?} in round {n} of {work}");
        }
        let _held = bucket.lock_key(&key()).expect("the lock");
        bucket
            .check(&key(), &conditions)
            .unwrap_or_else(|e| panic!("{e} in round {n} of {work}"));
    }
}
