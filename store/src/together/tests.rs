use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::{Digester, Durability, Meta, Store, StoreOptions, WriteConditions, testing};

fn store(root: &Path, durability: Durability) -> Arc<Store> {
    let options = StoreOptions {
        durability,
        ..testing::options(root)
    };
    Store::open(options).expect("a store")
}

fn small(bucket: &Bucket, key: &str, body: &str) -> Small<Vec<u8>> {
    let mut digester = Digester::new(&[]);
    digester.update(body.as_bytes());
    Small {
        bucket: bucket.clone(),
        key: ObjectKey::parse(key).expect("a key"),
        body: body.as_bytes().to_vec(),
        put: Put {
            digests: digester.finish(),
            meta: Meta::default(),
            checksum: None,
            conditions: WriteConditions::default(),
        },
    }
}

/// What became of each; who is deferred is published after the others.
fn outcomes(smalls: Vec<Small<Vec<u8>>>) -> Vec<Result<Published>> {
    let mut all: Vec<Option<Stored>> = smalls.iter().map(|_| None).collect();
    store_together(smalls, |index, stored| {
        assert!(
            all[index].replace(stored).is_none(),
            "told twice of {index}"
        );
    });
    let settled = |stored: Option<Stored>| match stored.expect("told of each") {
        Stored::Now(result) => result,
        Stored::Deferred(deferred) => deferred.publish(),
    };
    all.into_iter().map(settled).collect()
}

#[test]
fn each_is_stored_and_one_that_fails_fails_alone() {
    for durability in [Durability::Strict, Durability::Relaxed] {
        let root = tempfile::tempdir().expect("a root");
        let bucket = testing::bucket_of(&store(root.path(), durability));
        let mut smalls: Vec<_> = ["a", "d/b", "d/b", "new/er/c", "e/"]
            .iter()
            .zip(["1", "22", "333", "4444", ""])
            .map(|(key, body)| small(&bucket, key, body))
            .collect();
        // Fewer bytes than its digests are of.
        let mut short = small(&bucket, "short", "12345");
        short.body.pop();
        smalls.insert(1, short);
        let outcomes = outcomes(smalls);
        let ok: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
        assert_eq!(ok, [true, false, true, true, true, true]);
        let read = |name: &str| std::fs::read(root.path().join("bucket").join(name));
        assert_eq!(read("a").expect("there"), b"1");
        assert_eq!(read("d/b").expect("there").len(), 3, "the last wins");
        assert_eq!(read("new/er/c").expect("there"), b"4444");
        assert!(read("short").is_err());
    }
}
