//! The query of a target: raw pairs as the signature needs them, decoded values as operations read them.

use crate::auth::Plus;
use crate::error::{Code, S3Error, S3Result};

/// The query, split once and decoded once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    raw: String,
    decoded: Vec<(String, String)>,
}

impl Query {
    /// Splits and decodes a raw query (without `?`).
    ///
    /// Semantics: `+` reads as a space, as form encoding has it; SDKs send `%20` and `%2B` and never a bare `+`.
    ///
    /// # Errors
    /// `InvalidURI` where a percent escape is broken or the bytes are not UTF-8.
    pub fn parse(raw: &str) -> S3Result<Query> {
        Self::parse_as(raw, Plus::Space)
    }

    /// Splits and decodes a raw query whose signature says what `+` reads as.
    ///
    /// # Errors
    /// As [`Query::parse`].
    pub(crate) fn parse_as(raw: &str, plus: Plus) -> S3Result<Query> {
        let decode = |text| match plus {
            Plus::Space => form_decode(text),
            Plus::Plus => percent_decode(text),
        };
        let decoded = split(raw)
            .map(|(name, value)| Some((decode(name)?, decode(value)?)))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| S3Error::new(Code::InvalidURI).with("Query", raw))?;
        Ok(Query {
            raw: raw.to_owned(),
            decoded,
        })
    }

    /// Gives the query as it was sent.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// Gives the pairs as they were sent, undecoded and in order; a name without `=` has an empty value.
    pub fn raw_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        split(&self.raw)
    }

    /// Gives the decoded pairs in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.decoded
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Gives the first decoded value of a name; empty for a name without value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }

    /// Says whether a name is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

fn split(raw: &str) -> impl Iterator<Item = (&str, &str)> {
    raw.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn form_decode(raw: &str) -> Option<String> {
    if raw.contains('+') {
        percent_decode(&raw.replace('+', "%20"))
    } else {
        percent_decode(raw)
    }
}

/// Decodes `%XX` once; `+` stays itself. `None`: an escape is broken, or the bytes are not UTF-8.
pub fn percent_decode(raw: &str) -> Option<String> {
    let bytes = raw.as_bytes();
    if !bytes.contains(&b'%') {
        return Some(raw.to_owned());
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let high = char::from(*bytes.get(at + 1)?).to_digit(16)?;
            let low = char::from(*bytes.get(at + 2)?).to_digit(16)?;
            out.push((high * 16 + low) as u8);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_split_raw_and_decoded_once() {
        let query =
            Query::parse("prefix=a%2Fb&uploads&d=%252F&empty=&x=a+b%2B&&k=1=2").expect("valid");
        assert_eq!(query.get("prefix"), Some("a/b"));
        assert_eq!(query.get("uploads"), Some(""));
        assert_eq!(query.get("d"), Some("%2F"));
        assert_eq!(query.get("empty"), Some(""));
        assert_eq!(query.get("x"), Some("a b+"));
        assert_eq!(query.get("k"), Some("1=2"));
        assert!(!query.has("Prefix"));
        let raw: Vec<_> = query.raw_pairs().take(3).collect();
        assert_eq!(raw, [("prefix", "a%2Fb"), ("uploads", ""), ("d", "%252F")]);
    }

    #[test]
    fn broken_escapes_are_refused() {
        for raw in ["a=%", "a=%1", "a=%zz", "%ff=1", "a=%+1"] {
            assert_eq!(Query::parse(raw).expect_err(raw).code(), Code::InvalidURI);
        }
    }
}
