//! Names at the door, each against the rule as its documentation words it: buckets, upload ids, and the
//! patterns of the hide list.

use super::draw::Draw;
use crate::path::HideList;
use crate::{BucketName, UploadId};

/// A bucket's name, an upload's id, and a pattern with a name.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    bucket(&text);
    let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let id = text.chars().count() == 48 && text.chars().all(hex);
    assert_eq!(UploadId::parse(&text).is_ok(), id);
    let mut draw = Draw::new(data);
    let pattern = draw.bytes(12);
    hide_list(&String::from_utf8_lossy(pattern), draw.take(24));
}

fn bucket(text: &str) {
    let may = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let length = text.chars().count();
    let exists = (1..=255).contains(&length) && text.chars().all(may) && !text.starts_with('.');
    let name = BucketName::parse(text);
    assert_eq!(name.is_ok(), exists);
    if let Ok(name) = &name {
        assert_eq!(name.as_str(), text);
        assert!(!matches!(text, "." | "..") && !text.contains('/'));
        assert!(!text.eq_ignore_ascii_case(".twintree"));
    }
    // S3 user guide, "General purpose bucket naming rules", one line each.
    let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let numbers = text.split('.').filter(|part| part.parse::<u8>().is_ok());
    let new = (3..=63).contains(&length)
        && text.chars().all(|c| lower(c) || c == '.' || c == '-')
        && text.starts_with(lower)
        && text.ends_with(lower)
        && !["..", ".-", "-."].iter().any(|pair| text.contains(pair))
        && !(text.matches('.').count() == 3 && numbers.count() == 4)
        && !["xn--", "sthree-", "amzn-s3-demo-"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        && !["-s3alias", "--ol-s3", ".mrap", "--x-s3"]
            .iter()
            .any(|suffix| text.ends_with(suffix));
    assert_eq!(BucketName::parse_new(text).is_ok(), new);
}

fn hide_list(pattern: &str, name: &[u8]) {
    let list = HideList::new(&[pattern.to_owned()]);
    let expected = globs(pattern.as_bytes(), name);
    assert_eq!(list.is_listed(name), expected);
    if expected || name.eq_ignore_ascii_case(b".twintree") {
        assert!(list.hides(name));
    }
}

/// By trying every length for every star.
fn globs(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        // Two in a row are one: tried apart they take seconds.
        Some((b'*', rest)) if rest.first() == Some(&b'*') => globs(rest, name),
        Some((b'*', rest)) => (0..=name.len()).any(|skip| globs(rest, &name[skip..])),
        Some((first, rest)) => name.first() == Some(first) && globs(rest, &name[1..]),
    }
}
