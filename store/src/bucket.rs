//! The root and its buckets: which directories are served, what each bucket's own settings are.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{Access, BucketName, Durability, KeyPolicy, Object, ObjectKey, Result, Timestamp};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The directory whose directories are buckets.
    pub root: PathBuf,
    /// Our own state (probe results), outside the root; `None`: nothing is remembered.
    pub state_dir: Option<PathBuf>,
    /// What is on disk before a write is answered.
    pub durability: Durability,
    /// Which keys are taken.
    pub keys: KeyPolicy,
    /// Refuse every write, and write nothing ourselves.
    pub read_only: bool,
    /// Names hidden and refused at every depth, beside those that filesystems reserve; `*` matches any text.
    pub hide: Vec<String>,
    /// Take equal size and mtime for valid.
    pub verify_mtime_only: bool,
}

/// A bucket in a list.
#[derive(Clone, Debug)]
pub struct BucketInfo {
    /// Its name.
    pub name: BucketName,
    /// From `bucket.json`, else the directory's btime, else its mtime.
    pub created: Timestamp,
    /// The location constraint it was created with; `None` for us-east-1.
    pub location: Option<String>,
}

/// What is remembered of a bucket in `.twintree/bucket.json`.
#[derive(Clone, Debug, Default)]
pub struct BucketSettings {
    /// The location constraint.
    pub location: Option<String>,
    /// The access key id that created it.
    pub owner: Option<String>,
    /// Bucket tags.
    pub tags: Vec<(String, String)>,
}

/// The tree under one root.
pub struct Store {
    options: StoreOptions,
}

/// One bucket, resolved for one request: holds its directory's descriptor.
#[derive(Clone)]
pub struct Bucket {
    name: BucketName,
}

impl Store {
    /// Opens the root; writes nothing.
    ///
    /// # Errors
    /// `Unavailable` or `Io` where the root is no directory that we may read.
    pub fn open(options: StoreOptions) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { options }))
    }

    /// The options it was opened with.
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// All buckets in name order. Blocking.
    ///
    /// # Errors
    /// `Unavailable` when the root is gone: never an empty list for a missing disk.
    pub fn buckets(&self) -> Result<Vec<BucketInfo>> {
        unimplemented!()
    }

    /// Resolves a bucket now; a bucket removed or replaced directly shows at once. Does not wait for a
    /// local disk in practice; safe on an async thread.
    ///
    /// # Errors
    /// `NoSuchBucket`, `Unavailable`, `Denied`.
    pub fn bucket(self: &Arc<Self>, name: &BucketName) -> Result<Bucket> {
        Ok(Bucket { name: name.clone() })
    }

    /// Makes a bucket. Blocking.
    ///
    /// # Errors
    /// `BucketExists`, and what the disk says.
    pub fn create_bucket(
        self: &Arc<Self>,
        name: &BucketName,
        settings: BucketSettings,
    ) -> Result<()> {
        let _ = (name, settings); // contract
        unimplemented!()
    }

    /// Removes a bucket that holds no object; a person's empty directories go with it. Blocking.
    ///
    /// # Errors
    /// `NoSuchBucket`, `BucketNotEmpty`, and what the disk says.
    pub fn delete_bucket(self: &Arc<Self>, name: &BucketName) -> Result<()> {
        let _ = name; // contract
        unimplemented!()
    }
}

impl Bucket {
    /// Its name.
    pub fn name(&self) -> &BucketName {
        &self.name
    }

    /// Name, creation, location. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub fn info(&self) -> Result<BucketInfo> {
        unimplemented!()
    }

    /// What `bucket.json` holds; the default without one. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub fn settings(&self) -> Result<BucketSettings> {
        unimplemented!()
    }

    /// Changes `bucket.json` under the bucket's lock, keeping fields that we do not know. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub fn change_settings(&self, change: impl FnOnce(&mut BucketSettings)) -> Result<()> {
        let _ = change; // contract
        unimplemented!()
    }

    /// Opens an object: stat, record and bytes come from one descriptor.
    ///
    /// # Errors
    /// `NoSuchKey`, `NotAnObject`, `OutsideBucket`, `Reserved`, `Denied`; `WouldBlock` with `Access::Cached`.
    pub fn open(&self, key: &ObjectKey, access: Access) -> Result<Object> {
        let _ = (key, access); // contract
        unimplemented!()
    }
}
