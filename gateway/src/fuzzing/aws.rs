//! SigV4 as the S3 API's pages describe it ("Signature Calculations for the Authorization Header",
//! "Transferring Payload in Multiple Chunks"), written for reading: what our own is compared with.
//! It shares nothing with it, HMAC and SHA-256 included.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use ring::{digest, hmac};

use crate::auth::Head;

pub(super) const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
pub(super) const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
pub(super) const DATE: &str = "20130524";
pub(super) const TIMESTAMP: &str = "20130524T000000Z";
/// [`TIMESTAMP`] in seconds since the epoch.
pub(super) const SECONDS: i64 = 1_369_353_600;
pub(super) const SCOPE: &str = "20130524/us-east-1/s3/aws4_request";

/// A request as a client sends it.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    /// As on the wire.
    pub(super) path: String,
    /// As on the wire, without the question mark.
    pub(super) query: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, Vec<u8>)>,
}

/// How a client understands what the pages leave open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Habit {
    /// It signs the path as it sends it.
    pub(super) path_as_sent: bool,
    /// A plus in a query stands for itself, not for a space.
    pub(super) plus_is_plus: bool,
}

/// All four.
pub(super) const HABITS: [Habit; 4] = [
    habit(false, false),
    habit(false, true),
    habit(true, false),
    habit(true, true),
];

const fn habit(path_as_sent: bool, plus_is_plus: bool) -> Habit {
    Habit {
        path_as_sent,
        plus_is_plus,
    }
}

impl Request {
    /// `None` where no HTTP library would carry these headers.
    pub(super) fn header_map(&self) -> Option<HeaderMap> {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            map.append(name, HeaderValue::from_bytes(value).ok()?);
        }
        Some(map)
    }

    /// The head as our verification takes it.
    pub(super) fn head<'a>(&'a self, headers: &'a HeaderMap) -> Head<'a> {
        Head {
            method: &self.method,
            path: &self.path,
            query: (!self.query.is_empty()).then_some(&*self.query),
            headers: headers.into(),
            authority: None,
            virtual_bucket: None,
        }
    }

    /// The six lines of the canonical request.
    pub(super) fn canonical(
        &self,
        habit: Habit,
        signed: &[&str],
        payload: &str,
        without: Option<&str>,
    ) -> Vec<u8> {
        let path = match () {
            () if self.path.is_empty() => "/".to_owned(),
            () if habit.path_as_sent => self.path.clone(),
            () => uri_encode(&decode(&self.path), "/"),
        };
        let query = canonical_query(&parameters(&self.query, habit), without);
        let mut lines = Vec::new();
        for name in signed {
            lines.extend_from_slice(format!("{name}:").as_bytes());
            lines.extend_from_slice(&self.values(name));
            lines.push(b'\n');
        }
        let method = self.method.as_str();
        let mut all = format!("{method}\n{path}\n{query}\n").into_bytes();
        all.extend_from_slice(&lines);
        all.extend_from_slice(format!("\n{}\n{payload}", signed.join(";")).as_bytes());
        all
    }

    /// "Trim(value)", several values joined by commas, "sequential spaces" made one.
    fn values(&self, name: &str) -> Vec<u8> {
        let values = self.headers.iter().filter(|(found, _)| found == name);
        let trimmed: Vec<Vec<u8>> = values.map(|(_, value)| one_space(trim(value))).collect();
        trimmed.join(&b","[..])
    }
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn one_space(value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    while let Some(at) = value.windows(2).position(|pair| pair == b"  ") {
        value.remove(at);
    }
    value
}

/// Names and values of a query, decoded.
pub(super) fn parameters(query: &str, habit: Habit) -> Vec<(Vec<u8>, Vec<u8>)> {
    let text = if habit.plus_is_plus {
        query.replace('+', "%2B")
    } else {
        query.replace('+', "%20")
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.find('=') {
            Some(at) => (decode(&pair[..at]), decode(&pair[at + 1..])),
            None => (decode(pair), Vec::new()),
        })
        .collect()
}

/// Encoded, then sorted by name and by value.
pub(super) fn canonical_query(pairs: &[(Vec<u8>, Vec<u8>)], without: Option<&str>) -> String {
    let encoded = pairs
        .iter()
        .map(|(name, value)| (uri_encode(name, ""), uri_encode(value, "")));
    let mut encoded: Vec<(String, String)> = encoded
        .filter(|(name, _)| without != Some(name.as_str()))
        .collect();
    encoded.sort();
    let lines: Vec<String> = encoded
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    lines.join("&")
}

/// "UriEncode": every byte except the unreserved characters, and those in `keep`.
pub(super) fn uri_encode(bytes: &[u8], keep: &str) -> String {
    bytes
        .iter()
        .map(|byte| match char::from(*byte) {
            c @ ('A'..='Z' | 'a'..='z' | '0'..='9' | '-' | '.' | '_' | '~') => c.to_string(),
            c if keep.contains(c) && c.is_ascii() => c.to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Each `%XX` once; a percent sign without two digits stands for itself.
pub(super) fn decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        match digits.map(|two| std::str::from_utf8(two).expect("digits are ASCII")) {
            Some(two) if *first == b'%' => {
                decoded.push(u8::from_str_radix(two, 16).expect("two digits make a byte"));
                rest = &after[2..];
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}

/// The signature of a string to sign, in hex.
pub(super) fn sign(to_sign: &str) -> String {
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for part in [DATE, "us-east-1", "s3", "aws4_request"] {
        key = mac(&key, part.as_bytes());
    }
    hex(&mac(&key, to_sign.as_bytes()))
}

/// The signature of a canonical request.
pub(super) fn sign_request(canonical: &[u8]) -> String {
    let digest = sha256(canonical);
    sign(&format!("AWS4-HMAC-SHA256\n{TIMESTAMP}\n{SCOPE}\n{digest}"))
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, message).as_ref().to_vec()
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
