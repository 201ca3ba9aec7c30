//! The S3 face.

pub mod admin;
pub mod auth;
#[cfg(feature = "benching")]
#[doc(hidden)]
pub mod benching;
pub mod body;
pub mod call;
pub mod checksum;
pub mod conditional;
pub mod console;
pub mod date;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod meta;
pub mod meter;
mod ops;
pub mod pool;
pub mod range;
pub mod reply;
pub mod route;
pub mod server;
pub mod service;
#[cfg(test)]
mod testing;
mod together;
pub mod xml;
