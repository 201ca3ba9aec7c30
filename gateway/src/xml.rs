//! XML on the wire: a writer by hand for what we send, bounded readers for what clients send.
//!
//! The writer is one growing byte vector; nothing is parsed, allocated or looked up per element. Readers never
//! expand a DTD and refuse documents that are too large or too deep.

mod read;
mod request;
mod write;

pub use read::{Element, MAX_DOCUMENT, malformed, read};
pub use request::{
    CompletePart, CreateBucketRequest, DeleteRequest, MAX_DELETE, MAX_PARTS, ObjectToDelete,
    TagLimits, check_tags, complete_request, create_bucket_request, delete_request, is_private_acl,
    logging_enabled, notifications_wanted, request_payer, tagging_header, tagging_request,
    unquoted, versioning_status,
};
pub use write::{Encoding, NAMESPACE, Writer, escape_into, url_encode_into};
