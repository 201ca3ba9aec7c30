//! XML on the wire: a writer by hand for what we send, bounded readers for what clients send.
//!
//! The writer is one growing byte vector; nothing is parsed, allocated or looked up per element. Readers never
//! expand a DTD and refuse documents that are too large or too deep.

mod write;

pub use write::{Encoding, NAMESPACE, Writer, escape_into, url_encode_into};
