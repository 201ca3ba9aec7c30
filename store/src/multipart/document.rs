//! `upload.json`: what was said when the upload was created. Written once and never changed; what
//! changes lies in `parts`.

use serde_json::{Map, Value};

use crate::{Algorithm, ChecksumType, Meta, Timestamp};

/// What a client says when it creates an upload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadSpec {
    /// Headers, user metadata and tags of the object to be.
    pub meta: Meta,
    /// The checksum that every part and the object will have, if the client named one.
    pub checksum: Option<(Algorithm, ChecksumType)>,
    /// The access key id of who created it.
    pub initiator: Option<String>,
}

impl UploadSpec {
    /// The storage class that the client named.
    pub(super) fn storage_class(&self) -> Option<String> {
        let named = self
            .meta
            .headers
            .iter()
            .find(|(name, _)| name == "x-amz-storage-class");
        named.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }
}

/// The content of `upload.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    /// The key, as text.
    pub key: String,
    /// When the upload was created.
    pub initiated: Timestamp,
    /// What the client said.
    pub spec: UploadSpec,
}

impl Document {
    /// Writes version 1.
    pub fn to_json(&self) -> Vec<u8> {
        let mut fields = Map::new();
        fields.insert("v".to_owned(), 1.into());
        fields.insert("key".to_owned(), self.key.as_str().into());
        fields.insert("initiated".to_owned(), self.initiated.0.into());
        if let Some(initiator) = &self.spec.initiator {
            fields.insert("initiator".to_owned(), initiator.as_str().into());
        }
        if let Some((algorithm, kind)) = self.spec.checksum {
            fields.insert("checksum".to_owned(), algorithm_name(algorithm).into());
            fields.insert("checksum_type".to_owned(), type_name(kind).into());
        }
        let object = self.spec.meta.to_json(true, None);
        if let Some(object) = object.and_then(|json| serde_json::from_slice::<Value>(&json).ok()) {
            fields.insert("object".to_owned(), object);
        }
        Value::Object(fields).to_string().into_bytes()
    }

    /// Reads it; `None` where it is not ours or of a version that we do not know.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let fields: Map<String, Value> = serde_json::from_slice(json).ok()?;
        if fields.get("v")?.as_u64()? != 1 {
            return None;
        }
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let checksum = match (text("checksum"), text("checksum_type")) {
            (Some(algorithm), Some(kind)) => Some((algorithm_of(algorithm)?, type_of(kind)?)),
            (None, None) => None,
            _ => return None,
        };
        let meta = match fields.get("object") {
            Some(object) => Meta::from_json(object.to_string().as_bytes())?,
            None => Meta::default(),
        };
        Some(Self {
            key: text("key")?.to_owned(),
            initiated: Timestamp(fields.get("initiated")?.as_i64()?),
            spec: UploadSpec {
                meta,
                checksum,
                initiator: text("initiator").map(str::to_owned),
            },
        })
    }
}

pub(super) fn algorithm_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Crc32 => "CRC32",
        Algorithm::Crc32c => "CRC32C",
        Algorithm::Crc64Nvme => "CRC64NVME",
        Algorithm::Sha1 => "SHA1",
        Algorithm::Sha256 => "SHA256",
    }
}

fn algorithm_of(name: &str) -> Option<Algorithm> {
    Algorithm::ALL
        .into_iter()
        .find(|algorithm| algorithm_name(*algorithm) == name)
}

pub(super) fn type_name(kind: ChecksumType) -> &'static str {
    match kind {
        ChecksumType::FullObject => "FULL_OBJECT",
        ChecksumType::Composite => "COMPOSITE",
    }
}

fn type_of(name: &str) -> Option<ChecksumType> {
    [ChecksumType::FullObject, ChecksumType::Composite]
        .into_iter()
        .find(|kind| type_name(*kind) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Document {
        Document {
            key: "a b/\u{e9}".to_owned(),
            initiated: Timestamp(1_800_000_000_123_456_789),
            spec: UploadSpec {
                meta: Meta {
                    content_type: Some(b"text/plain".to_vec()),
                    headers: vec![("cache-control".to_owned(), b"no-cache".to_vec())],
                    user: vec![("x".to_owned(), b"\xff\x00".to_vec())],
                    tags: vec![("t".to_owned(), "1".to_owned())],
                },
                checksum: Some((Algorithm::Crc32c, ChecksumType::FullObject)),
                initiator: Some("AKIA".to_owned()),
            },
        }
    }

    #[test]
    fn the_document_is_what_version_1_always_wrote() {
        let golden = concat!(
            r#"{"v":1,"key":"a b/é","initiated":1800000000123456789,"initiator":"AKIA","#,
            r#""checksum":"CRC32C","checksum_type":"FULL_OBJECT","object":{"v":1,"type":"text/plain","#,
            r#""headers":{"cache-control":"no-cache"},"meta":{"x":""#,
            "\u{10feff}\\u0000",
            r#""},"tags":{"t":"1"}}}"#
        );
        assert_eq!(
            String::from_utf8(example().to_json()).expect("JSON is UTF-8"),
            golden
        );
        assert_eq!(Document::from_json(golden.as_bytes()), Some(example()));
    }

    #[test]
    fn an_upload_without_anything_comes_back() {
        let plain = Document {
            spec: UploadSpec::default(),
            ..example()
        };
        assert_eq!(Document::from_json(&plain.to_json()), Some(plain));
    }

    #[test]
    fn other_versions_and_damage_are_not_read() {
        for json in [
            "",
            "{",
            "[]",
            r#"{"v":2,"key":"a","initiated":1}"#,
            r#"{"v":1,"key":"a"}"#,
        ] {
            assert_eq!(Document::from_json(json.as_bytes()), None, "{json:?}");
        }
        let odd = r#"{"v":1,"key":"a","initiated":1,"checksum":"MD4","checksum_type":"COMPOSITE"}"#;
        assert_eq!(Document::from_json(odd.as_bytes()), None);
    }
}
