//! The S3 face.

pub mod auth;
pub mod date;
pub mod error;
pub mod route;
pub mod xml;
