//! The tree as an object store.
