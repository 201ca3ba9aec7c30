//! Counting writers, and telling subscribers: nothing here touches a disk.

use std::sync::mpsc;

use super::*;

const FILE: Inode = Inode {
    device: 1,
    inode: 7,
};

fn a_change() -> Change {
    Change {
        bucket: BucketName::parse("bucket").expect("a name"),
        parent: FILE,
        name: b"name".to_vec(),
        old: None,
        kind: ChangeKind::Published,
    }
}

/// Hands what it is told to a test, unacknowledged.
struct Forward(Mutex<mpsc::Sender<(Change, Acknowledgement)>>);

impl Subscriber for Forward {
    fn changed(&self, change: &Change, done: Acknowledgement) {
        // The test may have gone: then nobody is waited for.
        let _ = self.0.lock().send((change.clone(), done));
    }
}

fn heard(changes: &Arc<Changes>) -> (Subscription, mpsc::Receiver<(Change, Acknowledgement)>) {
    let (to, from) = mpsc::channel();
    let subscriber = Arc::new(Forward(Mutex::new(to)));
    (changes.subscribe(subscriber), from)
}

#[test]
fn a_file_is_in_flux_from_the_first_open_to_the_last_close() {
    let changes = Changes::default();
    assert_eq!(changes.in_flux(FILE), None);
    let first = changes.begin(FILE);
    let second = changes.begin(FILE);
    assert!(second > first, "each open has a later number");
    let other = Inode { inode: 8, ..FILE };
    assert_eq!(changes.in_flux(FILE), Some(second));
    assert_eq!(changes.in_flux(other), None);
    assert!(!changes.end(FILE, true), "another is open");
    assert_eq!(changes.in_flux(FILE), Some(second));
    assert!(changes.end(FILE, false), "the other had changed it");
    assert_eq!(changes.in_flux(FILE), None);
    assert!(changes.begin(FILE) > second);
    assert!(!changes.end(FILE, false), "nobody changed it since");
}

#[test]
fn two_threads_that_open_and_close_leave_nothing_open() {
    let changes = Changes::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for inode in 0..5_000 {
                    let inode = Inode {
                        device: 1,
                        inode: inode % 3,
                    };
                    let number = changes.begin(inode);
                    assert!(changes.in_flux(inode) >= Some(number));
                    changes.end(inode, false);
                }
            });
        }
    });
    assert_eq!(changes.open.load(Ordering::SeqCst), 0);
    assert!(changes.writers.iter().all(|shard| shard.lock().is_empty()));
}

#[test]
fn numbers_of_two_processes_are_far_apart() {
    let (one, other) = (Changes::default(), Changes::default());
    assert!(one.begin(FILE).0.abs_diff(other.begin(FILE).0) > 1 << 20);
}

#[test]
fn an_announcement_returns_when_all_subscribers_acknowledged_and_not_before() {
    let changes = Arc::new(Changes::default());
    let ((_one, first), (_two, second)) = (heard(&changes), heard(&changes));
    let acknowledged = &AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for told in [&first, &second] {
                for _ in 0..2 {
                    let (_, done) = told.recv().expect("announced");
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                    drop(done);
                }
            }
        });
        changes.announce(&[a_change(), a_change()]);
        assert_eq!(acknowledged.load(Ordering::SeqCst), 4);
    });
    assert!(!changes.late.load(Ordering::SeqCst));
}

#[test]
fn a_subscriber_that_never_acknowledges_holds_nobody_for_ever() {
    let changes = Arc::new(Changes::default());
    let (_subscription, told) = heard(&changes);
    changes.announce(&[a_change()]);
    let (change, done) = told.recv().expect("it was told");
    assert_eq!(change, a_change());
    assert!(
        changes.late.load(Ordering::SeqCst),
        "one incident, one warning"
    );
    drop(done);
    // The incident is over with the first announcement that is acknowledged.
    std::thread::scope(|scope| {
        scope.spawn(move || drop(told.recv().expect("announced")));
        changes.announce(&[a_change()]);
    });
    assert!(!changes.late.load(Ordering::SeqCst));
}

#[test]
fn a_hint_waits_for_nobody_and_without_subscribers_nobody_is_told() {
    let changes = Arc::new(Changes::default());
    changes.announce(&[a_change()]);
    let (subscription, told) = heard(&changes);
    assert!(changes.is_heard());
    changes.hint(&[a_change()]);
    let (_, done) = told.recv().expect("it was told");
    drop(subscription);
    assert!(!changes.is_heard());
    changes.announce(&[a_change()]);
    assert!(told.try_recv().is_err());
    drop(done);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "told while a lock is held")]
fn an_announcement_under_a_lock_fails_the_test_that_makes_it() {
    let changes = Changes::default();
    let _held = changes.record(FILE);
    changes.announce(&[a_change()]);
}
