//! Our writer against our readers: what a client makes of our documents and sends back is what we meant.

use twintree_store::{Algorithm, Checksum, Timestamp};

use super::draw::Draw;
use crate::checksum::{element_of, encode};
use crate::xml::{
    CompletePart, Encoding, ObjectToDelete, TagLimits, Writer, check_tags, complete_request,
    delete_request, read, tagging_request, unescape,
};

/// A list of keys, one of parts, a set of tags, and a document of every kind of element.
pub fn xml_written(data: &[u8]) {
    let mut draw = Draw::new(data);
    deletes(&mut draw);
    parts(&mut draw);
    tags(&mut draw);
    elements(&mut draw);
}

/// Text of any characters that our escape does not take as its own, without NUL, which no key holds.
fn text(draw: &mut Draw<'_>, most: usize) -> String {
    let ours = |c: &char| ('\u{10FE00}'..='\u{10FEFF}').contains(c);
    draw.text(most)
        .chars()
        .filter(|c| *c != '\0' && !ours(c))
        .collect()
}

fn deletes(draw: &mut Draw<'_>) {
    let mut objects = Vec::new();
    for _ in 0..=draw.below(4) {
        objects.push(ObjectToDelete {
            key: text(draw, 24),
            version_id: draw.flag().then(|| "null".to_owned()),
            etag: draw.flag().then(|| format!("\"{:x}\"", draw.byte())),
            modified: None,
            size: draw.flag().then(|| draw.number()),
        });
    }
    let quiet = draw.flag();
    let mut xml = Writer::s3("Delete", 0);
    for object in &objects {
        xml.open("Object");
        xml.text("Key", &object.key);
        if let Some(version) = &object.version_id {
            xml.plain("VersionId", version);
        }
        if let Some(etag) = &object.etag {
            xml.etag("ETag", etag.trim_matches('"'));
        }
        if let Some(size) = object.size {
            xml.number("Size", size);
        }
        xml.close("Object");
    }
    xml.flag("Quiet", quiet);
    let mut back = delete_request(&xml.finish()).expect("our own");
    for object in &mut back.objects {
        object.key = unescape(&object.key).into_owned();
    }
    assert_eq!((back.objects, back.quiet), (objects, quiet));
}

fn parts(draw: &mut Draw<'_>) {
    let mut parts = Vec::new();
    for _ in 0..=draw.below(4) {
        let algorithm = draw.pick(&Algorithm::ALL);
        let value = draw.array::<32>()[..algorithm.value_len()].to_vec();
        let named = draw.flag().then_some(Checksum { algorithm, value });
        parts.push(CompletePart {
            number: 1 + draw.below(10_000) as u16,
            etag: format!("{:032x}", draw.number()),
            checksums: named.into_iter().collect(),
        });
    }
    let mut xml = Writer::document("CompleteMultipartUpload");
    for part in &parts {
        xml.open("Part");
        xml.number("PartNumber", part.number.into());
        xml.etag("ETag", &part.etag);
        for checksum in &part.checksums {
            xml.plain(element_of(checksum.algorithm), &encode(checksum));
        }
        xml.close("Part");
    }
    assert_eq!(complete_request(&xml.finish()).expect("our own"), parts);
}

fn tags(draw: &mut Draw<'_>) {
    let mut tags = Vec::new();
    for _ in 0..draw.below(6) {
        tags.push((text(draw, 12), text(draw, 12)));
    }
    let mut xml = Writer::s3("Tagging", 0);
    xml.open("TagSet");
    for (key, value) in &tags {
        xml.open("Tag");
        xml.text("Key", key);
        xml.text("Value", value);
        xml.close("Tag");
    }
    xml.close("TagSet");
    let back = tagging_request(&xml.finish(), TagLimits::OBJECT);
    if check_tags(&tags, TagLimits::OBJECT).is_ok() {
        assert_eq!(back.expect("our own"), tags);
    }
}

fn elements(draw: &mut Draw<'_>) {
    let (value, number, bytes) = (text(draw, 40), draw.number(), draw.bytes(9).to_vec());
    let mut xml = Writer::s3("R", 0);
    xml.text("Text", &value);
    xml.name("Plain", &value, Encoding::Plain);
    xml.name("Url", &value, Encoding::Url);
    xml.open("Nested");
    xml.number("Number", number);
    xml.hex("Hex", &bytes);
    xml.time("Time", Timestamp(number as i64));
    xml.close("Nested");
    let root = read(&xml.finish(), &["R"]).expect("our own");
    let found = |name| root.child_text(name).expect("it was written");
    assert_eq!(unescape(found("Text")), value);
    assert_eq!(unescape(found("Plain")), value);
    assert_eq!(super::aws::decode(found("Url")), value.as_bytes());
    let nested = root.child("Nested").expect("it was written");
    assert_eq!(nested.child_text("Number"), Some(&*number.to_string()));
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(nested.child_text("Hex"), Some(&*hex));
}
