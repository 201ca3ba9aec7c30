//! The tree as an object store: the only room that opens anything on disk.
//!
//! Synchronous; it knows neither HTTP nor FUSE nor any runtime. Names become [`BucketName`] and
//! [`ObjectKey`] where they enter, and nothing downstream checks them again. Every system call
//! that resolves a name goes through `root.rs`; every publish goes through `write.rs`.

mod announce;
pub mod as_s3;
#[cfg(feature = "benching")]
#[doc(hidden)]
pub mod benching;
pub mod bucket;
pub mod change;
pub mod checksum;
mod conditions;
mod content_type;
mod copy;
mod delete;
mod dirmark;
pub mod error;
pub mod etag;
mod everything;
pub mod fsfacts;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod health;
pub mod import;
mod inherit;
pub mod inspect;
mod known;
mod lifecycle;
pub mod list;
mod lock;
pub mod meta;
pub mod multipart;
pub mod name;
mod notes;
pub mod object;
mod open;
mod orphans;
pub mod path;
mod place;
pub mod posix;
pub mod probe;
mod publish;
mod random;
pub mod ready;
mod record;
mod relaxed;
mod room;
mod root;
mod rules;
pub mod seal;
pub mod sealer;
mod served;
mod settings;
mod settled;
mod shared;
pub mod snapshot;
mod stage;
pub mod strip;
pub mod sweep;
mod sync;
mod tags;
mod tallies;
#[cfg(test)]
mod testing;
pub mod time;
pub mod together;
pub mod watch;
pub mod write;
pub mod writing;

pub use bucket::{Bucket, BucketInfo, Store, StoreOptions};
pub use change::{
    Acknowledgement, Change, ChangeKind, Changes, FluxNumber, Inode, Subscriber, Subscription,
};
pub use checksum::{Algorithm, Checksum, ChecksumType, Digester, Digests, ObjectChecksum};
pub use error::{Result, StoreError};
pub use etag::{ETag, ETagKind, ETagKinds, ETagList};
pub use list::inventory::{Inventory, InventoryEntry, RecordState};
pub use list::{ListEntry, ListPage, ListQuery};
pub use meta::Meta;
pub use multipart::{
    CompleteRequest, ListedPart, MAX_PART, PartPage, PartReceipt, PartStage, Upload, UploadId,
    UploadInfo, UploadPage, UploadQuery, UploadSpec,
};
pub use name::{BucketName, ObjectKey};
pub use object::{Access, Object, ObjectInfo, PartInfo, Watched};
pub use ready::{AtOnce, Portrait, Ready};
pub use room::{Claim, Room};
pub use rules::{BucketOptions, Symlinks};
pub use sealer::{Left, SealEvent, SealOptions, SealReport};
pub use settings::BucketSettings;
pub use snapshot::Snapshot;
pub use sync::begin_writeback;
pub use tallies::{BATCHES, CommitTallies, SealTallies, SyncTallies};
pub use time::Timestamp;
pub use together::{Deferred, Small, Stored, store_together};
pub use twintree_hash as hash;
pub use watch::{Coverage, SealPolicy, WatchOptions, Watcher};
pub use write::{CopyRequest, Durability, KeyPolicy, Published, Put, Stage, WriteConditions};
pub use writing::{Moves, Writing};
