//! The JSON beside objects: whatever a person made of it is read or passed over, what we write is what we
//! read, and fields that we do not know outlive us.

use serde_json::{Map, Value};

use super::draw::Draw;
use crate::multipart::document::Document;
use crate::{Algorithm, ChecksumType, Meta, Timestamp, UploadSpec, settings};

/// `user.twintree.meta`, `upload.json` and `bucket.json`: as found, then as written.
pub fn documents(data: &[u8]) {
    meta_as_found(data);
    if let Some(document) = Document::from_json(data) {
        assert_eq!(Document::from_json(&document.to_json()), Some(document));
    }
    settings_as_found(data);
    as_written(&mut Draw::new(data));
}

fn meta_as_found(data: &[u8]) {
    let Some(meta) = Meta::from_json(data) else {
        return;
    };
    let again = meta.to_json(true, None);
    let read = again.as_deref().and_then(Meta::from_json);
    assert_eq!(read.unwrap_or_default(), meta);
    let kept = meta.to_json(true, Some(data));
    let unknown = |json: Option<&[u8]>| -> Map<String, Value> {
        let mut fields: Map<String, Value> = json
            .and_then(|json| serde_json::from_slice(json).ok())
            .unwrap_or_default();
        for known in ["v", "type", "headers", "meta", "tags"] {
            fields.remove(known);
        }
        fields
    };
    assert_eq!(unknown(kept.as_deref()), unknown(Some(data)));
}

fn settings_as_found(data: &[u8]) {
    let Ok(Value::Object(found)) = serde_json::from_slice(data) else {
        return;
    };
    let settings = settings::decode(&found);
    let mut written = found.clone();
    settings::encode(&settings, &mut written);
    assert_eq!(settings::decode(&written), settings);
    let bytes = Value::Object(written.clone()).to_string();
    assert_eq!(
        serde_json::from_str::<Value>(&bytes).ok(),
        Some(Value::Object(written.clone()))
    );
    for known in ["version", "created", "location", "owner", "tags"] {
        written.remove(known);
    }
    for (name, value) in &written {
        assert_eq!(found.get(name), Some(value), "{name} is kept");
    }
}

fn as_written(draw: &mut Draw<'_>) {
    let bytes = |draw: &mut Draw<'_>| draw.bytes(12).to_vec();
    let mut meta = Meta {
        content_type: draw.flag().then(|| bytes(draw)),
        ..Meta::default()
    };
    for n in 0..draw.below(3) {
        meta.headers
            .push((format!("{n}{}", draw.text(6)), bytes(draw)));
        meta.user
            .push((format!("{n}{}", draw.text(6)), bytes(draw)));
        meta.tags
            .push((format!("{n}{}", draw.text(6)), draw.text(9)));
    }
    let json = meta.to_json(true, None);
    let read = json
        .as_deref()
        .map(|json| Meta::from_json(json).expect("our own"));
    assert_eq!(read.unwrap_or_default(), meta);
    let document = Document {
        key: draw.text(20),
        initiated: Timestamp(draw.number() as i64),
        spec: UploadSpec {
            meta,
            checksum: draw.flag().then(|| {
                let kind = draw.pick(&[ChecksumType::FullObject, ChecksumType::Composite]);
                (draw.pick(&Algorithm::ALL), kind)
            }),
            initiator: draw.flag().then(|| draw.text(9)),
        },
    };
    assert_eq!(Document::from_json(&document.to_json()), Some(document));
}
