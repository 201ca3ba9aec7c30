//! Conditions of writes and deletions, also under a race.

use super::*;

#[test]
fn conditions_under_racing_threads_have_one_winner() {
    let tree = Tree::new();
    for round in 0..20 {
        let name = format!("k{round}");
        let created = race(&tree, &name, if_absent);
        assert_eq!(created, 1, "If-None-Match: * in round {round}");
        let etag = tree.open(&name).expect("there").info.etag;
        let swapped = race(&tree, &name, || if_match(etag));
        assert_eq!(swapped, 1, "If-Match in round {round}");
    }
    assert_eq!(tree.staged(), 0);
}

/// How many of eight threads, in two processes' worth of stores, succeed.
fn race(tree: &Tree, name: &str, conditions: impl Fn() -> WriteConditions + Sync) -> usize {
    let other = tree.restarted();
    let start = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        let attempt = |n: usize| {
            let (start, conditions, other) = (&start, &conditions, &other);
            scope.spawn(move || {
                let bucket = if n.is_multiple_of(2) {
                    &tree.bucket
                } else {
                    other
                };
                start.wait();
                put(
                    bucket,
                    name,
                    format!("body {n} if {:?}", conditions()).as_bytes(),
                    Meta::default(),
                    conditions(),
                )
            })
        };
        let threads: Vec<_> = (0..8).map(attempt).collect();
        let results = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        results
            .filter(|result| match result {
                Ok(_) => true,
                Err(StoreError::PreconditionFailed(_)) => false,
                Err(e) => panic!("{e}"),
            })
            .count()
    })
}

#[test]
fn if_match_on_nothing_is_no_such_key() {
    let tree = Tree::new();
    let refused = tree.put_if("f", b"x", if_match(md5(b"x")));
    assert!(matches!(refused, Err(StoreError::NoSuchKey(_))));
    assert!(tree.open("f").is_err());
}

#[test]
fn conditional_delete_tests_size_and_time_too() {
    let tree = Tree::new();
    let put = tree.put("f", b"12345");
    let refused = |conditions: WriteConditions| {
        let result = tree.bucket.delete(&key("f"), &conditions);
        assert!(
            matches!(result, Err(StoreError::PreconditionFailed(_))),
            "{result:?}"
        );
    };
    refused(if_match(md5(b"other")));
    refused(WriteConditions {
        if_match_size: Some(4),
        ..WriteConditions::default()
    });
    refused(WriteConditions {
        if_match_modified: Some(1),
        ..WriteConditions::default()
    });
    let all = WriteConditions {
        if_match_size: Some(5),
        if_match_modified: Some(put.modified.seconds()),
        ..if_match(put.etag)
    };
    assert!(tree.bucket.delete(&key("f"), &all).expect("it matches"));
}
