//! The S3 face.

pub mod auth;
pub mod body;
pub mod call;
pub mod checksum;
pub mod conditional;
pub mod date;
pub mod error;
pub mod meta;
mod ops;
pub mod range;
pub mod reply;
pub mod route;
pub mod server;
pub mod service;
#[cfg(test)]
mod testing;
pub mod xml;
