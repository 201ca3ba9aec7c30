//! The meta half of the record: headers, user metadata and tags; JSON in `user.twintree.meta`.
//!
//! Values are bytes as a client sent them; JSON holds text. Bytes that are not UTF-8 take the same
//! escape as names on disk do (FORMATS): byte b is U+10FE00+b, and real characters of that range are
//! escaped bytewise, so that the map is injective. Fields that we do not know are kept.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::path;

/// What a client said about an object, apart from its bytes. Names are lower-case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// `Content-Type` as sent; `None` where the client sent none (`binary/octet-stream`).
    pub content_type: Option<Vec<u8>>,
    /// Other system headers, verbatim: `cache-control`, `content-disposition`, `content-encoding`,
    /// `content-language`, `expires`, `x-amz-website-redirect-location`, `x-amz-storage-class`.
    pub headers: Vec<(String, Vec<u8>)>,
    /// User metadata without the `x-amz-meta-` prefix; values are bytes as sent.
    pub user: Vec<(String, Vec<u8>)>,
    /// Object tags, in the order given.
    pub tags: Vec<(String, String)>,
}

/// The fields that [`Meta`] holds; every other one is kept as it is.
const KNOWN: [&str; 5] = ["v", "type", "headers", "meta", "tags"];

impl Meta {
    /// Reads the JSON of `user.twintree.meta`; `None` where it is no JSON object. A person may have
    /// written it: what has another shape than expected is passed over, entry by entry.
    pub(crate) fn from_json(json: &[u8]) -> Option<Self> {
        let fields: Map<String, Value> = serde_json::from_slice(json).ok()?;
        let texts = |name: &str| -> Vec<(String, String)> {
            let map = fields.get(name).and_then(Value::as_object);
            map.into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect()
        };
        let bytes = |name: &str| {
            texts(name)
                .into_iter()
                .map(|(key, value)| (key, unescape(&value)))
                .collect()
        };
        Some(Self {
            content_type: fields.get("type").and_then(Value::as_str).map(unescape),
            headers: bytes("headers"),
            user: bytes("meta"),
            tags: texts("tags"),
        })
    }

    /// Is it the JSON of an object half as FORMATS has it? Unknown fields are nobody's business.
    pub(crate) fn is_sound(json: &[u8]) -> bool {
        let Ok(fields) = serde_json::from_slice::<Map<String, Value>>(json) else {
            return false;
        };
        let texts = |value: &Value| {
            let map = value.as_object();
            map.is_some_and(|map| map.values().all(Value::is_string))
        };
        fields.iter().all(|(name, value)| match name.as_str() {
            "v" => value.as_u64() == Some(1),
            "type" => value.is_string(),
            "headers" | "meta" | "tags" => texts(value),
            _ => true,
        })
    }

    /// Writes the JSON of `user.twintree.meta`. `with_type`: the record's code does not already say
    /// the Content-Type. `old`: the text that this one replaces, whose unknown fields are kept.
    /// `None` where there is nothing to say.
    pub(crate) fn to_json(&self, with_type: bool, old: Option<&[u8]>) -> Option<Vec<u8>> {
        let old: Option<Map<String, Value>> =
            old.and_then(|json| serde_json::from_slice(json).ok());
        let mut fields = Map::new();
        fields.insert("v".to_owned(), 1.into());
        if let Some(kind) = self.content_type.as_deref().filter(|_| with_type) {
            fields.insert("type".to_owned(), escape(kind).into());
        }
        let mut put = |name: &str, map: Map<String, Value>| {
            if !map.is_empty() {
                fields.insert(name.to_owned(), map.into());
            }
        };
        let bytes = |(key, value): &(String, Vec<u8>)| (key.clone(), Value::from(escape(value)));
        put("headers", self.headers.iter().map(bytes).collect());
        put("meta", self.user.iter().map(bytes).collect());
        let text = |(key, value): &(String, String)| (key.clone(), Value::from(value.as_str()));
        put("tags", self.tags.iter().map(text).collect());
        for (name, value) in old.into_iter().flatten() {
            if !KNOWN.contains(&name.as_str()) {
                fields.insert(name, value);
            }
        }
        if fields.len() == 1 {
            return None;
        }
        Some(
            serde_json::to_vec(&fields).expect("a map of strings to values always has a JSON form"),
        )
    }
}

/// Bytes to text as disk names become keys.
fn escape(bytes: &[u8]) -> Cow<'_, str> {
    path::key_text(bytes)
}

/// Text to the bytes that [`escape`] made it from.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match path::escaped_byte(c) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Meta {
        Meta {
            content_type: Some(b"text/x-odd".to_vec()),
            headers: vec![("cache-control".into(), b"no-cache".to_vec())],
            user: vec![
                ("z".into(), b"caf\xe9".to_vec()),
                ("a".into(), "\u{10FE41}".into()),
            ],
            tags: vec![("second".into(), "2".into()), ("first".into(), "1".into())],
        }
    }

    #[test]
    fn json_is_what_version_1_always_wrote() {
        let json = example()
            .to_json(true, None)
            .expect("there is something to say");
        let golden = "{\"v\":1,\"type\":\"text/x-odd\",\"headers\":{\"cache-control\":\"no-cache\"},\
            \"meta\":{\"z\":\"caf\u{10FEE9}\",\"a\":\"\u{10FEF4}\u{10FE8F}\u{10FEB9}\u{10FE81}\"},\
            \"tags\":{\"second\":\"2\",\"first\":\"1\"}}";
        assert_eq!(
            String::from_utf8(json.clone()).expect("JSON is UTF-8"),
            golden
        );
        assert_eq!(Meta::from_json(&json), Some(example()));
    }

    #[test]
    fn unknown_fields_outlive_a_rewrite() {
        let old = br#"{"v":2,"acl":{"b":1,"a":[2]},"tags":{"gone":"1"}}"#;
        let json = Meta::default()
            .to_json(false, Some(old))
            .expect("a field is left");
        assert_eq!(
            String::from_utf8(json).expect("JSON is UTF-8"),
            r#"{"v":1,"acl":{"b":1,"a":[2]}}"#
        );
    }

    #[test]
    fn numbers_of_unknown_fields_keep_their_digits() {
        let old = br#"{"v":1,"big":123456789012345678901234567890,"float":82e300,"small":0.10}"#;
        let json = Meta::default().to_json(false, Some(old));
        let text = String::from_utf8(json.expect("fields are left")).expect("JSON is UTF-8");
        assert!(
            text.contains(r#""big":123456789012345678901234567890,"#),
            "{text}"
        );
        assert!(text.contains(r#""small":0.10"#), "{text}");
        let again = Meta::default().to_json(false, Some(text.as_bytes()));
        assert_eq!(again.as_deref(), Some(text.as_bytes()));
    }

    #[test]
    fn only_an_object_half_is_sound() {
        let all = br#"{"v":1,"type":"a/b","headers":{"expires":"x"},"meta":{},"tags":{"a":"b"},"acl":[1]}"#;
        for sound in [&all[..], b"{}", b"{\"v\":1}"] {
            assert!(Meta::is_sound(sound));
        }
        for not in [
            "",
            "[]",
            "7",
            "{",
            r#"{"v":2}"#,
            r#"{"type":1}"#,
            r#"{"tags":{"a":1}}"#,
            r#"{"meta":"x"}"#,
        ] {
            assert!(!Meta::is_sound(not.as_bytes()), "{not}");
        }
    }

    #[test]
    fn nothing_to_say_writes_nothing() {
        let typed = Meta {
            content_type: Some(b"text/plain".to_vec()),
            ..Meta::default()
        };
        assert_eq!(typed.to_json(false, None), None);
        assert!(typed.to_json(true, None).is_some());
    }

    #[test]
    fn what_a_person_wrote_oddly_is_passed_over_entry_by_entry() {
        let json = br#"{"type":7,"headers":["x"],"meta":{"n":1,"s":"ok"},"tags":null}"#;
        let meta = Meta {
            user: vec![("s".into(), b"ok".to_vec())],
            ..Meta::default()
        };
        assert_eq!(Meta::from_json(json), Some(meta));
        assert_eq!(Meta::from_json(b"{"), None);
        assert_eq!(Meta::from_json(b"[]"), None);
    }

    proptest! {
        #[test]
        fn escape_is_injective(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(unescape(&escape(&bytes)), bytes);
        }

        #[test]
        fn text_of_the_escape_range_survives(text in "[\u{10FDF0}-\u{10FF10}a]{0,8}") {
            prop_assert_eq!(unescape(&escape(text.as_bytes())), text.as_bytes());
        }
    }
}
