//! What the face does, without a kernel that asks.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use twintree_store::{Durability, KeyPolicy, Store, StoreOptions};

use super::*;
use crate::tree::TOP;

/// A user whom nobody else is.
const SOMEBODY: Caller = Caller {
    ids: (4711, 4711),
    umask: 0o022,
    thread: 0,
};

/// A tree with one bucket, and the node of that.
struct Fixture {
    dir: tempfile::TempDir,
    face: Face,
    bucket: u64,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("bucket")).expect("made");
        let store = Store::open(StoreOptions {
            root: dir.path().to_owned(),
            durability: Durability::Relaxed,
            keys: KeyPolicy::Any,
            read_only: false,
            hide: Vec::new(),
            verify_mtime_only: false,
            etags: Default::default(),
            buckets: Default::default(),
            more_roots: Vec::new(),
        });
        let view = TreeView::new(store.expect("a store")).expect("a view");
        let face = Face {
            nodes: Nodes::new(&view, 1).expect("nodes"),
            view,
            files: Handles::default(),
            directories: Handles::default(),
            passthrough: Arc::default(),
            ttl: Duration::from_secs(1),
            naming: RwLock::default(),
        };
        let (node, _) = face.look_up(TOP, b"bucket").expect("the bucket");
        let bucket = node.id;
        Self { dir, face, bucket }
    }

    fn on_disk(&self, name: &str) -> std::path::PathBuf {
        Path::join(self.dir.path(), "bucket").join(name)
    }

    fn create(&self, name: &str, flags: OFlags) -> Answer<(u64, Arc<OpenFile>, Found)> {
        let how = ((flags | OFlags::CREATE).bits(), 0o644);
        self.face
            .create(SOMEBODY, self.bucket, name.as_bytes(), how, |_| {
                unreachable!("passthrough is off")
            })
    }

    fn knows(&self, name: &str) -> Option<u64> {
        self.face.knows(self.bucket, name.as_bytes())
    }
}

#[test]
fn what_another_made_first_is_left_to_the_kernels_checks() {
    let fixture = Fixture::new();
    std::fs::write(fixture.on_disk("secret"), b"of another").expect("written");
    let path = rustix::fs::CWD;
    let (fifo, mode) = (fixture.on_disk("fifo"), fs::Mode::RUSR | fs::Mode::WUSR);
    fs::mknodat(path, &fifo, fs::FileType::Fifo, mode, 0).expect("a FIFO");
    std::os::unix::fs::symlink("secret", fixture.on_disk("link")).expect("a link");
    for name in ["secret", "fifo", "link"] {
        for flags in [OFlags::RDWR, OFlags::RDWR | OFlags::TRUNC] {
            let again = fixture.create(name, flags).err();
            assert_eq!(again, Some(Errno::STALE), "{name}: the kernel looks again");
        }
        let refused = fixture.create(name, OFlags::RDWR | OFlags::EXCL).err();
        assert_eq!(
            refused,
            Some(Errno::EXIST),
            "{name}: it was asked to be new"
        );
    }
    let body = std::fs::read(fixture.on_disk("secret")).expect("read");
    assert_eq!(body, b"of another");
    assert!(fixture.create("new", OFlags::RDWR | OFlags::EXCL).is_ok());
}

#[test]
fn what_its_owner_made_first_is_opened_as_its_mode_says() {
    let fixture = Fixture::new();
    let file = fixture.on_disk("file");
    std::fs::write(&file, b"made first").expect("written");
    let found = std::fs::metadata(&file).expect("it is there");
    let caller = |user| Caller {
        ids: (user, found.gid()),
        ..SOMEBODY
    };
    let create = |user, flags: OFlags| {
        let unasked = |_: BorrowedFd<'_>| unreachable!("passthrough is off");
        let how = ((flags | OFlags::CREATE).bits(), 0o644);
        let made = fixture
            .face
            .create(caller(user), fixture.bucket, b"file", how, unasked);
        made.map(|(_, open, (_, status))| (open, status.size))
    };
    let mode = |mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&file, permissions).expect("changed");
    };
    let stale = |user, flags| create(user, flags).err() == Some(Errno::STALE);
    mode(0o477);
    assert!(
        stale(found.uid(), OFlags::RDWR),
        "his own permissions count"
    );
    assert!(stale(found.uid(), OFlags::WRONLY));
    assert!(create(found.uid(), OFlags::RDONLY).is_ok());
    mode(0o200);
    assert!(stale(found.uid(), OFlags::RDONLY));
    assert!(stale(found.uid() + 1, OFlags::WRONLY), "another's");
    let (_, size) = create(found.uid(), OFlags::WRONLY).expect("opened");
    assert_eq!(size, 10);
    let flags = OFlags::WRONLY | OFlags::TRUNC;
    let (open, size) = create(found.uid(), flags).expect("opened");
    assert_eq!(size, 0, "as it was asked");
    assert!(open.writing.lock().is_some(), "and counted as a writer's");
    std::fs::remove_file(&file).expect("removed");
    for _ in 0..200 {
        // Another makes it and takes it away while it is being made: O_CREAT never finds nothing.
        let racer = std::thread::spawn({
            let file = file.clone();
            move || {
                for _ in 0..20 {
                    std::fs::write(&file, b"made first").expect("written");
                    std::fs::remove_file(&file).ok();
                }
            }
        });
        let made = create(found.uid(), OFlags::RDWR).map(|_| ());
        racer.join().expect("the racer ends");
        assert_eq!(made, Ok(()));
    }
}

#[test]
fn what_was_replaced_once_can_be_opened_after_the_next_lookup_whatever_becomes_of_its_name() {
    let fixture = Fixture::new();
    let (file, other) = (fixture.on_disk("file"), fixture.on_disk("other"));
    let put = |body: &str| {
        std::fs::write(&other, body).expect("written");
        std::fs::rename(&other, &file).expect("replaced");
    };
    let look_up = || {
        let found = fixture.face.look_up(fixture.bucket, b"file");
        found.expect("it is there").0.id
    };
    let open = |node, flags: OFlags| {
        let unasked = |_: BorrowedFd<'_>| unreachable!("passthrough is off");
        fixture.face.open(node, flags.bits(), unasked)
    };
    put("first");
    let first = look_up();
    put("second");
    let gone = open(first, OFlags::RDONLY).err();
    let by_handle = fixture.face.view.holds_by_handle();
    assert_eq!(
        gone,
        by_handle.then_some(Errno::STALE),
        "the kernel looks again"
    );
    for flags in [OFlags::RDONLY, OFlags::RDWR] {
        let node = look_up();
        put("third");
        let (_, opened) = open(node, flags).expect("it is held open");
        let mut body = [0; 16];
        let read = rustix::io::pread(&opened.file, &mut body, 0).expect("read");
        assert!(matches!(&body[..read], b"second" | b"third"));
        let again = look_up();
        std::fs::remove_file(&file).expect("removed");
        assert!(open(again, flags).is_ok(), "removed, as it may be below");
        put("second");
    }
}

#[test]
fn a_name_is_known_while_it_stands_for_what_the_kernel_was_told() {
    let fixture = Fixture::new();
    assert_eq!(fixture.knows("file"), None, "nothing is there");
    let (_, _, (node, _)) = fixture.create("file", OFlags::RDWR).expect("made");
    assert_eq!(fixture.knows("file"), Some(node.id));
    let to = (fixture.bucket, &b"moved"[..]);
    let renamed = fixture.face.rename((fixture.bucket, b"file"), to, 0);
    renamed.expect("renamed in the mount");
    assert_eq!(
        (fixture.knows("file"), fixture.knows("moved")),
        (None, Some(node.id))
    );

    std::fs::rename(fixture.on_disk("moved"), fixture.on_disk("direct")).expect("renamed below");
    assert_eq!(
        fixture.knows("direct"),
        None,
        "that it is called so nobody has told the kernel"
    );
    std::fs::write(fixture.on_disk("moved"), b"another").expect("written");
    assert_eq!(fixture.knows("moved"), None, "another file");
    let (other, _) = fixture
        .face
        .look_up(fixture.bucket, b"moved")
        .expect("found");
    assert_eq!(fixture.knows("moved"), Some(other.id));
    fixture.face.nodes.forget(other.id, 1);
    assert_eq!(fixture.knows("moved"), None, "the kernel has forgotten it");
}
