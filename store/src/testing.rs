//! What unit tests of several rooms stand on: a store on a directory, a bucket in it, an object in that.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::record::FileState;
use crate::{
    Bucket, BucketName, BucketSettings, Digester, Durability, KeyPolicy, Meta, ObjectKey, Put,
    Store, StoreOptions, Timestamp, WriteConditions,
};

/// A store's options: everything as usual, but nothing is synced.
pub(crate) fn options(root: &Path) -> StoreOptions {
    StoreOptions {
        root: root.to_owned(),
        durability: Durability::Relaxed,
        keys: KeyPolicy::Any,
        read_only: false,
        hide: Vec::new(),
        verify_mtime_only: false,
        etags: Default::default(),
        buckets: Default::default(),
        more_roots: Vec::new(),
    }
}

/// A store with these options.
pub(crate) fn store(root: &Path) -> Arc<Store> {
    Store::open(options(root)).expect("a store")
}

/// The bucket `bucket` of a store, made where it is not there yet.
pub(crate) fn bucket_of(store: &Arc<Store>) -> Bucket {
    let name = BucketName::parse("bucket").expect("a name");
    if store.bucket(&name).is_err() {
        store
            .create_bucket(&name, BucketSettings::default())
            .expect("a bucket");
    }
    store.bucket(&name).expect("the bucket")
}

/// The bucket of a store of its own, as another gateway has it.
pub(crate) fn bucket(root: &Path) -> Bucket {
    bucket_of(&store(root))
}

/// Publishes an object.
pub(crate) fn put(bucket: &Bucket, key: &ObjectKey, body: &[u8], meta: Meta) {
    let stage = bucket.stage(key, Some(body.len() as u64)).expect("staged");
    stage.file.write_all_at(body, 0).expect("written");
    let mut digester = Digester::new(&[]);
    digester.update(body);
    let put = Put {
        digests: digester.finish(),
        meta,
        checksum: None,
        conditions: WriteConditions::default(),
    };
    bucket.publish(key, stage, put).expect("published");
}

/// What a file shows whose ctime is this.
pub(crate) fn state(inode: u64, changed: i64) -> FileState {
    FileState {
        device: 1,
        inode,
        size: 5,
        modified: Timestamp(7),
        changed: Timestamp(changed),
    }
}
