//! kill -9 at any moment: the old object or the new one, whole, and nothing else that a user sees.
//!
//! The test runs itself as the writer (an environment variable says so) and kills that process at random
//! moments while it overwrites, creates, tags and deletes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use twintree_store::{
    Access, Bucket, BucketName, BucketSettings, Digester, Durability, ETag, KeyPolicy, Meta,
    ObjectKey, Put, Store, StoreError, StoreOptions, WriteConditions,
};

const ROOT: &str = "TWINTREE_TEST_WRITER_ROOT";
const ROUNDS: u64 = 40;

fn store(root: &Path) -> Arc<Store> {
    Store::open(StoreOptions {
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
    .expect("a store")
}

fn bucket(root: &Path) -> Bucket {
    store(root)
        .bucket(&BucketName::parse("bucket").expect("a name"))
        .expect("the bucket")
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::parse(text).expect("a key")
}

/// A body that tells its own length and which version it is.
fn body(version: u64) -> Vec<u8> {
    format!("{version:08}")
        .repeat(1 + (version % 5000) as usize)
        .into_bytes()
}

fn put(bucket: &Bucket, name: &str, version: u64) {
    let body = body(version);
    let stage = bucket
        .stage(&key(name), Some(body.len() as u64))
        .expect("staged");
    (&*stage.file).write_all(&body).expect("written");
    let mut digester = Digester::new(&[]);
    digester.update(&body);
    let meta = Meta {
        user: vec![("version".into(), version.to_string().into_bytes())],
        ..Meta::default()
    };
    let put = Put {
        digests: digester.finish(),
        meta,
        checksum: None,
        conditions: WriteConditions::default(),
    };
    bucket.publish(&key(name), stage, put).expect("published");
}

/// The child: writes for ever, and says what was acknowledged.
#[test]
fn writer() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let bucket = bucket(Path::new(&root));
    let mut out = std::io::stdout();
    for version in 1_u64.. {
        put(&bucket, "same", version);
        writeln!(out, "same {version}").expect("told");
        put(&bucket, &format!("new/{version}/f"), version);
        bucket
            .set_tags(&key("same"), vec![("v".into(), version.to_string())])
            .expect("tagged");
        put(&bucket, "x//annexed", version);
        bucket
            .delete(
                &key(&format!("new/{version}/f")),
                &WriteConditions::default(),
            )
            .expect("deleted");
        writeln!(out, "gone {version}").expect("told");
    }
}

#[test]
fn killed_writer_leaves_whole_objects_and_no_debris() {
    let dir = tempfile::tempdir().expect("a directory");
    store(dir.path())
        .create_bucket(
            &BucketName::parse("bucket").expect("a name"),
            BucketSettings::default(),
        )
        .expect("a bucket");
    for round in 0..ROUNDS {
        let (acknowledged, deleted) =
            write_and_kill(dir.path(), Duration::from_micros(3_000 + round * 1_777));
        let bucket = bucket(dir.path());
        for name in ["same", "x//annexed"] {
            check_whole(&bucket, name, if name == "same" { acknowledged } else { 0 });
        }
        assert!(
            matches!(
                bucket.open(&key(&format!("new/{deleted}/f")), Access::Blocking),
                Err(StoreError::NoSuchKey(_))
            ) || deleted == 0,
            "what was deleted stays deleted"
        );
        no_debris(&bucket, dir.path());
        // The next round begins anew: its writer counts from one.
        for name in ["same", "x//annexed"] {
            bucket
                .delete(&key(name), &WriteConditions::default())
                .expect("deleted");
        }
    }
}

/// Runs the writer until its first acknowledgement and so much longer; returns what it acknowledged last.
fn write_and_kill(root: &Path, after: Duration) -> (u64, u64) {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "writer", "--nocapture", "--test-threads", "1"])
        .env(ROOT, root)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("the writer runs");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let (mut acknowledged, mut deleted) = (0, 0);
    let mut deadline: Option<Instant> = None;
    for line in lines {
        // What stands in the pipe when the writer dies was acknowledged all the same.
        let Ok(line) = line else { break };
        match line.rsplit_once(' ') {
            Some((what, n)) if what.ends_with("same") => {
                acknowledged = n.parse().unwrap_or(acknowledged)
            }
            Some(("gone", n)) => deleted = n.parse().unwrap_or(deleted),
            _ => continue,
        }
        let due = *deadline.get_or_insert_with(|| Instant::now() + after);
        if Instant::now() >= due {
            child.kill().expect("killed");
        }
    }
    child.wait().expect("reaped");
    assert!(acknowledged > 0, "the writer wrote");
    (acknowledged, deleted)
}

fn check_whole(bucket: &Bucket, name: &str, at_least: u64) {
    use std::os::unix::fs::FileExt;
    let object = match bucket.open(&key(name), Access::Blocking) {
        Err(StoreError::NoSuchKey(_)) if at_least == 0 => return,
        other => other.expect("what was acknowledged is there"),
    };
    let said = object
        .info
        .meta
        .user
        .first()
        .map(|(_, v)| String::from_utf8_lossy(v).into_owned());
    let version: u64 = said
        .and_then(|v| v.parse().ok())
        .expect("its metadata came with it");
    assert!(
        version >= at_least,
        "{name}: version {version} after {at_least} was acknowledged"
    );
    let mut bytes = vec![0; object.info.size as usize];
    object
        .file
        .as_ref()
        .expect("a file")
        .read_exact_at(&mut bytes, 0)
        .expect("read");
    assert!(
        bytes == body(version),
        "{name}: the bytes are those of its version"
    );
    let mut digester = Digester::new(&[]);
    digester.update(&bytes);
    match object.info.etag {
        ETag::Md5(md5) => assert_eq!(Some(md5), digester.finish().md5, "{name}"),
        // Killed between the two halves of a re-stamp: derived until the sealer has read it.
        other => assert!(matches!(other, ETag::Derived(..)), "{name}: {other}"),
    }
}

/// A user sees the two objects, the one that was under way, and directories of ours.
fn no_debris(bucket: &Bucket, root: &Path) {
    let top = root.join("bucket");
    for entry in fs::read_dir(&top).expect("there") {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("text");
        assert!(
            ["same", "new", ".twintree"].contains(&name.as_str()),
            "{name}"
        );
    }
    for entry in fs::read_dir(top.join("new")).into_iter().flatten() {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("text");
        let name = format!("new/{name}/f");
        check_whole(bucket, &name, 0);
        bucket
            .delete(&key(&name), &WriteConditions::default())
            .expect("deleted");
        // Killed between making the directory and marking it, or before pruning: it is empty, and no object.
        let dir = top.join(&name);
        let parent = dir.parent().expect("it has one");
        if parent.exists() {
            fs::remove_dir(parent).expect("nothing else is in it");
        }
    }
}
