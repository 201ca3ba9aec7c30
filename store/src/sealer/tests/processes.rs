//! Two processes seal, tag and chmod one file 1,000 times each; its ETag never flaps.
//!
//! The processes are this test binary, started again: threads would share what a process remembers.

use std::process::{Child, Command, Stdio};

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
        let children = [start(&place, work), start(&place, work)];
        for child in children {
            finish(child, work);
        }
        let outcome = settle(&place.store, &name(), "f", 0, &AtomicBool::new(false));
        assert!(
            matches!(outcome, Ok(Outcome::Settled)),
            "nobody is at work on it"
        );
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

fn start(place: &Place, work: &str) -> Child {
    let this = std::env::current_exe().expect("this test");
    let test = concat!(
        module_path!(),
        "::the_etag_never_flaps_while_two_processes_seal_tag_and_chmod_a_file"
    );
    let test = test.split_once("::").expect("a crate's name first").1;
    Command::new(this)
        .args(["--exact", test, "--test-threads", "1"])
        .env(TREE, place.dir.path())
        .env(WORK, work)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the other process runs")
}

fn finish(mut child: Child, work: &str) {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().expect("a child of ours").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("killed");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("its output");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{work}: {said}");
    assert!(said.contains("1 passed"), "it did its work: {said}");
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
    })
    .expect("a store");
    let bucket = store.bucket(&name()).expect("the bucket");
    let mut digester = Digester::new(&[]);
    digester.update(b"body");
    let etag = ETag::Md5(digester.finish().md5);
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
        settle(&store, &name(), "f", 0, &AtomicBool::new(false)).expect("no error");
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
