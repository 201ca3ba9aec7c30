//! What a subscriber hears of direct writers, and what is sealed of what they bring.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use parking_lot::Mutex;

use super::*;
use crate::{
    Access, Acknowledgement, Digester, ETag, ObjectKey, Subscriber, Subscription, testing,
};

/// A bound for what surely comes.
const LONG: Duration = Duration::from_secs(30);

struct Forward(Mutex<mpsc::Sender<Change>>);

impl Subscriber for Forward {
    fn changed(&self, change: &Change, _nobody_waits: Acknowledgement) {
        // The test may be over.
        let _ = self.0.lock().send(change.clone());
    }
}

struct Tree {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    told: mpsc::Receiver<Change>,
    _subscription: Subscription,
}

impl Tree {
    /// The bucket `b` with these directories.
    fn new(directories: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("b")).expect("made");
        for path in directories {
            fs::create_dir_all(dir.path().join("b").join(path)).expect("made");
        }
        let store = testing::store(dir.path());
        let (to, told) = mpsc::channel();
        let subscription = store.changes().subscribe(Arc::new(Forward(Mutex::new(to))));
        Self {
            dir,
            store,
            told,
            _subscription: subscription,
        }
    }

    /// Watches, and returns when so many directories are.
    fn watched(&self, directories: usize, options: WatchOptions) -> Watcher {
        let watcher = self.store.start_watcher(options).expect("a watcher");
        until(|| {
            let now = watcher.coverage();
            now.watched == directories && now.waiting == 0
        });
        watcher
    }

    /// A watcher without a thread, with all its watches laid.
    fn watch(&self) -> Watch {
        let options = WatchOptions::default();
        let mut watch = Watch::new(&self.store, options, Arc::default()).expect("a watch");
        while !watch.waiting.is_empty() {
            watch.lay_some();
        }
        watch
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// Waits until it is told that in this directory the name changed in this way.
    fn hears(&self, kind: ChangeKind, parent: &Path, name: &str) -> Change {
        let parent = inode_of(parent);
        loop {
            let change = self.told.recv_timeout(LONG);
            let change = change.unwrap_or_else(|_| panic!("never told of {kind:?} {name}"));
            if (change.kind, change.parent, &change.name[..]) == (kind, parent, name.as_bytes()) {
                return change;
            }
        }
    }

    fn etag(&self, key: &str) -> ETag {
        let name = BucketName::parse("b").expect("a name");
        let bucket = self.store.bucket(&name).expect("the bucket");
        let key = ObjectKey::parse(key).expect("a key");
        let object = bucket.open(&key, Access::Blocking).expect("there");
        object.info.etag
    }
}

fn inode_of(path: &Path) -> Inode {
    let stat = fs::symlink_metadata(path).expect("there");
    Inode {
        device: stat.dev(),
        inode: stat.ino(),
    }
}

fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "never came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn md5(body: &[u8]) -> ETag {
    let mut digester = Digester::new(&[]);
    digester.update(body);
    ETag::Md5(digester.finish().md5.expect("not left out"))
}

#[test]
fn what_direct_writers_do_is_told_with_its_directory_and_name() {
    let tree = Tree::new(&["d/e"]);
    let _watcher = tree.watched(4, WatchOptions::default());
    let (d, e) = (tree.path("b/d"), tree.path("b/d/e"));
    fs::write(e.join("f"), b"one").expect("written");
    tree.hears(ChangeKind::Published, &e, "f");
    tree.hears(ChangeKind::Content, &e, "f");
    fs::rename(e.join("f"), d.join("g")).expect("renamed");
    tree.hears(ChangeKind::Deleted, &e, "f");
    fs::write(d.join("g"), b"two").expect("written");
    let told = tree.hears(ChangeKind::Content, &d, "g");
    assert_eq!(told.old, Some(inode_of(&d.join("g"))));
    fs::remove_file(d.join("g")).expect("removed");
    tree.hears(ChangeKind::Deleted, &d, "g");
    fs::remove_dir(&e).expect("removed");
    tree.hears(ChangeKind::DirectoryRemoved, &d, "e");
}

#[test]
fn a_directory_that_comes_later_is_watched_with_all_that_came_in_it() {
    let tree = Tree::new(&[]);
    let watcher = tree.watched(2, WatchOptions::default());
    let outside = tempfile::tempdir_in(tree.dir.path()).expect("a directory");
    fs::create_dir_all(outside.path().join("n/m")).expect("made");
    fs::rename(outside.path().join("n"), tree.path("b/n")).expect("moved in");
    let (n, m) = (tree.path("b/n"), tree.path("b/n/m"));
    tree.hears(ChangeKind::DirectoryMade, &tree.path("b"), "n");
    tree.hears(ChangeKind::Anything, &n, "");
    tree.hears(ChangeKind::Anything, &m, "");
    until(|| watcher.coverage().watched >= 4);
    fs::write(m.join("f"), b"x").expect("written");
    tree.hears(ChangeKind::Published, &m, "f");
    // A move within the tree takes the watches along.
    fs::rename(&n, tree.path("b/moved")).expect("moved");
    let m = tree.path("b/moved/m");
    tree.hears(ChangeKind::Anything, &m, "");
    fs::write(m.join("g"), b"x").expect("written");
    tree.hears(ChangeKind::Published, &m, "g");
}

#[test]
fn a_bucket_that_a_person_makes_is_told_and_watched() {
    let tree = Tree::new(&[]);
    let _watcher = tree.watched(2, WatchOptions::default());
    fs::create_dir(tree.path("new")).expect("made");
    tree.hears(ChangeKind::BucketMade, tree.dir.path(), "new");
    tree.hears(ChangeKind::Anything, &tree.path("new"), "");
    fs::write(tree.path("new/f"), b"x").expect("written");
    tree.hears(ChangeKind::Published, &tree.path("new"), "f");
    fs::remove_dir_all(tree.path("new")).expect("removed");
    tree.hears(ChangeKind::BucketRemoved, tree.dir.path(), "new");
}

#[test]
fn links_the_reserved_directory_and_hidden_names_are_not_watched() {
    let tree = Tree::new(&[".twintree/stage", "lost+found/x"]);
    let outside = tempfile::tempdir().expect("a directory");
    fs::create_dir(outside.path().join("x")).expect("made");
    symlink(outside.path(), tree.path("b/link")).expect("linked");
    tree.watched(2, WatchOptions::default());
}

#[test]
fn no_more_is_watched_than_allowed_and_the_rest_is_counted() {
    let tree = Tree::new(&["one", "two", "three"]);
    let options = WatchOptions {
        max_watches: Some(3),
        ..WatchOptions::default()
    };
    let watcher = tree.watched(3, options);
    assert_eq!(watcher.coverage().left_out, 2);
}

#[test]
fn what_arrives_is_sealed_or_not_as_the_policy_says() {
    let sealed = |policy: SealPolicy| {
        let tree = Tree::new(&[]);
        fs::write(tree.path("b/before"), b"before").expect("written");
        let _sealer = tree.store.start_sealer_after(Duration::ZERO);
        let options = WatchOptions {
            seal: policy,
            ..WatchOptions::default()
        };
        let _watcher = tree.watched(2, options);
        fs::write(tree.path("b/after"), b"after").expect("written");
        tree.hears(ChangeKind::Content, &tree.path("b"), "after");
        if policy != SealPolicy::Off {
            until(|| tree.etag("after") == md5(b"after"));
        }
        if policy == SealPolicy::All {
            until(|| tree.etag("before") == md5(b"before"));
        }
        let waiting = tree.store.seal_queue.pop(Duration::ZERO, Duration::ZERO);
        (waiting, tree.etag("before"), tree.etag("after"))
    };
    let (waiting, before, after) = sealed(SealPolicy::Off);
    assert!(waiting.is_none());
    assert!(matches!(
        (before, after),
        (ETag::Derived(..), ETag::Derived(..))
    ));
    let (_, before, _) = sealed(SealPolicy::Written);
    assert!(
        matches!(before, ETag::Derived(..)),
        "nobody asked to read it"
    );
    sealed(SealPolicy::All);
}

#[test]
fn after_lost_events_everything_is_looked_at_again() {
    let tree = Tree::new(&["d"]);
    let counts = Arc::<Counts>::default();
    let options = WatchOptions::default();
    let mut watch = Watch::new(&tree.store, options, Arc::clone(&counts)).expect("a watch");
    while !watch.waiting.is_empty() {
        watch.lay_some();
    }
    // What no event tells of, since it was lost.
    fs::create_dir(tree.path("b/d/new")).expect("made");
    fs::write(tree.path("b/d/new/f"), b"f").expect("written");
    watch.overflowed();
    while !watch.waiting.is_empty() {
        watch.lay_some();
    }
    for path in ["b", "b/d", "b/d/new"] {
        tree.hears(ChangeKind::Anything, &tree.path(path), "");
    }
    assert_eq!(watch.watched.len(), 4);
    assert_eq!(counts.overflows.load(Ordering::Relaxed), 1);
    let (_, key) = tree
        .store
        .seal_queue
        .pop(Duration::ZERO, Duration::ZERO)
        .expect("it is new to us");
    assert_eq!(key, "d/new/f");
}

#[test]
fn what_the_mount_wrote_is_no_news_and_what_another_makes_of_it_is() {
    let tree = Tree::new(&[]);
    let f = tree.path("b/f");
    fs::write(&f, b"before").expect("written");
    let mut watch = tree.watch();
    let name = BucketName::parse("b").expect("a name");
    let bucket = tree.store.bucket(&name).expect("the bucket");
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); EVENTS];
    let mut told = |watch: &mut Watch| {
        watch.drain(&mut buffer);
        let told = tree.told.try_iter().filter(|change| change.name == b"f");
        told.map(|change| change.kind).collect::<Vec<_>>()
    };

    let mounts = fs::File::options().write(true).open(&f).expect("opened");
    let writing = bucket.writing(&mounts).expect("counted");
    mounts.write_all_at(b"the mount's", 0).expect("written");
    assert_eq!(told(&mut watch), [], "while it is open");
    writing.finish(&mounts, None).expect("finished");
    drop(mounts);
    assert_eq!(told(&mut watch), [], "when it was closed");

    let mounts = fs::File::options().write(true).open(&f).expect("opened");
    let writing = bucket.writing(&mounts).expect("counted");
    mounts.write_all_at(b"the mount's", 0).expect("written");
    writing.finish(&mounts, None).expect("finished");
    drop(mounts);
    fs::write(&f, b"another's, meanwhile").expect("written");
    assert_eq!(told(&mut watch), [ChangeKind::Content], "another's");
    fs::rename(&f, tree.path("b/g")).expect("renamed");
    fs::rename(tree.path("b/g"), &f).expect("and back");
    let moved = [ChangeKind::Deleted, ChangeKind::Published];
    assert_eq!(told(&mut watch), moved, "a name is news");
}

#[test]
fn what_is_made_in_the_mount_is_no_news_but_a_second_name_of_it_is() {
    let tree = Tree::new(&[]);
    let mut watch = tree.watch();
    let name = BucketName::parse("b").expect("a name");
    let bucket = tree.store.bucket(&name).expect("the bucket");
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); EVENTS];
    let made = fs::File::create_new(tree.path("b/f")).expect("made");
    let _writing = bucket.writing(&made).expect("counted");
    watch.drain(&mut buffer);
    assert!(tree.told.try_iter().all(|change| change.name != b"f"));
    fs::hard_link(tree.path("b/f"), tree.path("b/link")).expect("linked");
    watch.drain(&mut buffer);
    tree.hears(ChangeKind::Published, &tree.path("b"), "link");
}

#[test]
fn what_writers_say_in_turn_again_and_again_is_said_once_for_each_file() {
    let tree = Tree::new(&[]);
    let watch = tree.watch();
    let files = ["f", "g"].map(|name| fs::File::create_new(tree.path("b").join(name)));
    let files = files.map(|file| file.expect("made"));
    // In turn: what follows itself the kernel says once by itself.
    for at in 0..50 {
        for file in &files {
            file.write_all_at(b"x", at).expect("written");
        }
    }
    drop(files);
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); EVENTS];
    let events = Events::read(&watch.queue, &mut buffer);
    let written = ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE;
    let said = events
        .each
        .into_iter()
        .map(|event| (event.name, event.flags));
    let [f, g] = [b"f".to_vec(), b"g".to_vec()];
    assert_eq!(
        said.collect::<Vec<_>>(),
        [
            (f.clone(), ReadFlags::CREATE),
            (g.clone(), ReadFlags::CREATE),
            (f, written),
            (g, written)
        ]
    );
}

#[test]
fn looking_leaves_no_trace_in_the_time_of_the_last_access() {
    let tree = Tree::new(&[]);
    let dir = tree.path("b/dir");
    fs::create_dir(&dir).expect("made");
    // Linux: with relatime a look at what was changed since the last one shows, unless it asked not to.
    let file = fs::File::open(&dir).expect("opened");
    let times = fs::FileTimes::new();
    let second = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let later = second + Duration::from_secs(1);
    let set = file.set_times(times.set_accessed(second).set_modified(later));
    set.expect("set");
    let watch = tree.watch();
    assert_eq!(
        watch.watched.len(),
        3,
        "the root, the bucket, the directory"
    );
    let found = fs::metadata(&dir).expect("there").accessed();
    assert_eq!(found.expect("a time"), second);
}
