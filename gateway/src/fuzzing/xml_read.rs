//! The readers of request documents: none panics, and what comes out is within the bounds that the
//! operations rely on.

use crate::xml::{
    self, Element, MAX_DELETE, MAX_PARTS, TagLimits, complete_request, create_bucket_request,
    delete_request, tagging_header, tagging_request,
};

/// One document, read as each of those that clients send.
pub fn xml_read(data: &[u8]) {
    const ROOTS: [&str; 3] = ["Delete", "CompleteMultipartUpload", "Tagging"];
    if let Ok(root) = xml::read(data, &ROOTS) {
        let (text, depth) = measure(&root);
        assert!(text <= data.len(), "a document grew");
        assert!(depth <= 16);
    }
    if let Ok(request) = delete_request(data) {
        assert!((1..=MAX_DELETE).contains(&request.objects.len()));
    }
    if let Ok(parts) = complete_request(data) {
        assert!((1..=MAX_PARTS).contains(&parts.len()));
        for part in parts {
            assert!((1..=MAX_PARTS).contains(&usize::from(part.number)));
            let whole = |c: &twintree_store::Checksum| c.value.len() == c.algorithm.value_len();
            assert!(part.checksums.iter().all(whole));
        }
    }
    for (limits, most) in [(TagLimits::OBJECT, 10), (TagLimits::BUCKET, 50)] {
        if let Ok(tags) = tagging_request(data, limits) {
            check_tags(&tags, most);
        }
    }
    if let Ok(request) = create_bucket_request(data) {
        check_tags(&request.tags, 50);
        assert!(
            request
                .location
                .is_none_or(|text| (1..=255).contains(&text.len()))
        );
    }
    if let Ok(tags) = tagging_header(&String::from_utf8_lossy(data)) {
        check_tags(&tags, 10);
    }
    // Those that give a word or a yes: whatever they say, twice the same, and no panic.
    let words = || {
        (
            xml::is_private_acl(data).ok(),
            xml::request_payer(data).is_ok(),
            xml::versioning_status(data).is_ok(),
            xml::logging_enabled(data).ok(),
            xml::notifications_wanted(data).ok(),
        )
    };
    assert_eq!(words(), words());
}

/// Bytes of names and text, and the depth.
fn measure(element: &Element) -> (usize, usize) {
    let children = element.children.iter().map(measure);
    let own = (element.name.len() + element.text.len(), 0);
    let (text, depth) = children.fold(own, |sum, child| (sum.0 + child.0, sum.1.max(child.1)));
    (text, depth + 1)
}

fn check_tags(tags: &[(String, String)], most: usize) {
    assert!(tags.len() <= most);
    for (n, (key, value)) in tags.iter().enumerate() {
        assert!((1..=128).contains(&key.chars().count()) && value.chars().count() <= 256);
        assert!(!tags[..n].iter().any(|(earlier, _)| earlier == key));
    }
}
