//! XML on the wire: a writer by hand for what we send, bounded readers for what clients send.
//!
//! The writer is one growing byte vector; nothing is parsed, allocated or looked up per element. Readers never
//! expand a DTD and refuse documents that are too large or too deep.

mod bucket;
mod read;
mod request;
mod tags;
mod write;

pub use bucket::{
    CreateBucketRequest, create_bucket_request, is_private_acl, logging_enabled,
    notifications_wanted, request_payer, versioning_status,
};
pub use read::{Element, MAX_DOCUMENT, malformed, read};
pub use request::{
    CompletePart, DeleteRequest, MAX_DELETE, MAX_PARTS, ObjectToDelete, complete_request,
    delete_request, unquoted,
};
pub use tags::{TagLimits, check_tags, tagging_header, tagging_request};
pub use write::{DECLARATION, Encoding, NAMESPACE, Writer, escape_into, unescape, url_encode_into};
