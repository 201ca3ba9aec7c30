//! Claims about multipart uploads, through the store's own door.

mod checksums;
mod completing;
mod crashes;
mod parts;
mod uploads;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::time::Duration;

use super::slot::{Base, Head, Source, State};
use super::*;
use crate::{
    Access, BucketName, BucketSettings, Checksum, Digester, Digests, ETag, ETagList, KeyPolicy,
    Meta, Object, Published, Store, StoreOptions, WriteConditions,
};

const MIB: usize = 1 << 20;
/// The size of a usual part in these tests: the least that fixes a stride out of order.
const PART: usize = 5 * MIB;

struct Place {
    dir: tempfile::TempDir,
    store: Arc<Store>,
}

impl Place {
    fn new() -> Self {
        Self::with(Durability::Relaxed)
    }

    fn with(durability: Durability) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = open(dir.path(), durability);
        let name = BucketName::parse("b").expect("a name");
        store
            .create_bucket(&name, BucketSettings::default())
            .expect("a bucket");
        Self { dir, store }
    }

    fn bucket(&self) -> Bucket {
        bucket_of(&self.store)
    }

    /// As after a restart: nothing of the process is left.
    fn restart(&mut self) {
        self.store = open(self.dir.path(), self.store.options().durability);
    }

    /// Another gateway on the same tree.
    fn neighbour(&self) -> Bucket {
        bucket_of(&open(self.dir.path(), self.store.options().durability))
    }

    fn upload(&self, key: &str) -> (ObjectKey, UploadId) {
        self.upload_with(key, UploadSpec::default())
    }

    fn upload_with(&self, key: &str, spec: UploadSpec) -> (ObjectKey, UploadId) {
        let key = ObjectKey::parse(key).expect("a key");
        let id = self.bucket().create_upload(&key, spec).expect("an upload");
        (key, id)
    }

    fn leftovers(&self) -> usize {
        let uploads = self.dir.path().join("b/.twintree/uploads");
        std::fs::read_dir(uploads).map_or(0, Iterator::count)
    }

    /// Many files are removed behind the answer; the sweep does not wait for that.
    fn leftovers_once_swept(&self) -> usize {
        self.bucket().sweep_uploads(Duration::ZERO).expect("swept");
        self.leftovers()
    }

    fn file_in(&self, id: &UploadId, name: &str) -> std::path::PathBuf {
        self.dir
            .path()
            .join("b/.twintree/uploads")
            .join(id.as_str())
            .join(name)
    }
}

fn open(root: &std::path::Path, durability: Durability) -> Arc<Store> {
    Store::open(StoreOptions {
        root: root.to_owned(),
        durability,
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

fn bucket_of(store: &Arc<Store>) -> Bucket {
    store
        .bucket(&BucketName::parse("b").expect("a name"))
        .expect("the bucket")
}

/// Bytes that differ from seed to seed and are not zeros.
fn body(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn digests(bytes: &[u8]) -> Digests {
    let mut digester = Digester::new(&Algorithm::ALL);
    digester.update(bytes);
    digester.finish()
}

fn send(upload: &Upload, number: u16, bytes: &[u8]) -> PartReceipt {
    send_announced(upload, number, bytes, Some(bytes.len() as u64))
}

fn send_announced(upload: &Upload, number: u16, bytes: &[u8], length: Option<u64>) -> PartReceipt {
    let stage = upload.begin_part(number, length).expect("begun");
    stage
        .file
        .write_all_at(bytes, stage.offset)
        .expect("written");
    upload
        .commit_part(stage, &digests(bytes), None)
        .expect("committed")
}

fn listed(receipts: &[PartReceipt]) -> Vec<ListedPart> {
    receipts
        .iter()
        .map(|r| ListedPart {
            number: r.number,
            etag: r.etag.to_string(),
            checksums: r.checksum.iter().cloned().collect(),
        })
        .collect()
}

fn request(receipts: &[PartReceipt]) -> CompleteRequest {
    CompleteRequest {
        parts: listed(receipts),
        ..CompleteRequest::default()
    }
}

fn read(bucket: &Bucket, key: &ObjectKey) -> (Object, Vec<u8>) {
    let object = bucket.open(key, Access::Blocking).expect("the object");
    let mut bytes = Vec::new();
    if let Some(file) = &object.file {
        let mut file = file.try_clone().expect("a descriptor");
        std::io::Seek::rewind(&mut file).expect("rewound");
        file.read_to_end(&mut bytes).expect("read");
    }
    (object, bytes)
}

/// Sends parts in the order given, lists them by number, completes, and compares every byte.
fn complete_and_compare(
    place: &Place,
    key: &str,
    parts: &[(u16, Vec<u8>)],
) -> (ObjectKey, Published) {
    let (key, id) = place.upload(key);
    let bucket = place.bucket();
    let upload = bucket.upload(&key, &id).expect("the upload");
    let mut receipts: Vec<PartReceipt> = Vec::new();
    for (number, bytes) in parts {
        let receipt = send(&upload, *number, bytes);
        receipts.retain(|r| r.number != *number);
        receipts.push(receipt);
    }
    receipts.sort_by_key(|r| r.number);
    let published = bucket
        .complete_upload(&key, &id, &request(&receipts))
        .expect("completed");
    let newest = |number: u16| {
        parts
            .iter()
            .rev()
            .find(|(n, _)| *n == number)
            .expect("it was sent")
    };
    let expected: Vec<u8> = receipts
        .iter()
        .flat_map(|r| newest(r.number).1.clone())
        .collect();
    let (object, bytes) = read(&bucket, &key);
    assert!(bytes == expected, "the object holds the parts in order");
    assert_eq!(object.info.etag, published.etag);
    assert_eq!(
        object.info.checksum.expect("a checksum").checksum,
        Checksum::crc64(digests(&expected).crc64)
    );
    assert_eq!(object.info.part_count, Some(receipts.len() as u16));
    assert_eq!(object.info.upload_id.as_deref(), Some(id.as_str()));
    (key, published)
}

fn inode(path: impl AsRef<std::path::Path>) -> u64 {
    std::fs::metadata(path).expect("a file").ino()
}

fn is_gone<T>(result: Result<T>) -> bool {
    matches!(result, Err(StoreError::NoSuchUpload(_)))
}
