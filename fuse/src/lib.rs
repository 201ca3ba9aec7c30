//! The POSIX face: the same buckets as a mounted file system, in the process that serves them as S3.
//!
//! A thin adapter over the store's [`TreeView`](twintree_store::posix::TreeView): `filesystem` decodes,
//! calls and replies, `tree` knows which node is which inode, `face` has what lies between. Nothing here
//! opens anything in the tree but through the view.

mod attr;
mod calls;
mod creds;
mod face;
mod filesystem;
mod handle;
mod invalidate;
mod mountpoint;
mod passthrough;
mod session;
mod tree;

pub use calls::{CallTallies, CallTally};
pub use mountpoint::{Refused, is_ours as stands_on};
pub use session::{Mode, Mount, MountError, MountOptions, look_for_device};
