//! Upload ids: opaque to clients, unguessable, and in the order in which uploads were begun.

use std::fmt;

use crate::{Result, StoreError, Timestamp, random};

/// Sixteen digits of time, thirty-two of chance.
const LENGTH: usize = 48;

/// The id of a multipart upload: 48 hexadecimal digits, of which 128 bits are random.
///
/// Ids of one key sort as the uploads were begun, so that a page of a list can go on after an upload
/// that is gone meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(String);

impl UploadId {
    /// Makes the id of an upload that begins at this time.
    pub(crate) fn new(begun: Timestamp) -> Self {
        // The sign bit is turned, so that times before 1970 sort first.
        let time = begun.0 as u64 ^ 1 << 63;
        let mut chance = [0; 16];
        random::fill(&mut chance);
        Self(format!("{time:016x}{:032x}", u128::from_le_bytes(chance)))
    }

    /// Reads an id as a client sent it.
    ///
    /// # Errors
    /// `NoSuchUpload`: no upload ever had such an id.
    pub fn parse(text: &str) -> Result<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != LENGTH || !text.bytes().all(digit) {
            return Err(StoreError::NoSuchUpload(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as text; it is also the name of the upload's directory.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_and_come_back_as_they_were() {
        let times = [i64::MIN, -1, 0, 1, 1_800_000_000_000_000_000, i64::MAX];
        let ids: Vec<UploadId> = times.iter().map(|t| UploadId::new(Timestamp(*t))).collect();
        assert!(ids.is_sorted());
        for id in &ids {
            assert_eq!(&UploadId::parse(id.as_str()).expect("our own"), id);
        }
        assert_ne!(UploadId::new(Timestamp(0)), UploadId::new(Timestamp(0)));
    }

    #[test]
    fn what_could_be_a_path_is_no_id() {
        let other = "0".repeat(47);
        for text in [
            "",
            "..",
            "a/b",
            &format!("{other}/"),
            &format!("{other}F"),
            &other,
            &"0".repeat(49),
        ] {
            assert!(UploadId::parse(text).is_err(), "{text:?}");
        }
    }
}
