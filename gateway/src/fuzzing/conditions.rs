//! Conditional headers: the verdict against RFC 9110, section 13.2.2, read step by step; lists of entity
//! tags against what they were made of.

use http::{HeaderMap, HeaderName, HeaderValue};
use twintree_store::ETagList;

use super::draw::Draw;
use crate::conditional::{
    ReadConditions, Verdict, delete_conditions, parse_etags, write_conditions,
};
use crate::date;

const NAMES: [&str; 6] = [
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "x-amz-if-match-size",
    "x-amz-if-match-last-modified-time",
];
const NOW: i64 = 2_000_000;
const MODIFIED: i64 = 1_000_000;
const TAGS: [&str; 4] = ["\"good\"", "\"bad\"", "W/\"good\"", "*"];

/// Headers that anybody sent, headers that mean something, and one list of tags.
pub fn conditions(data: &[u8]) {
    let mut draw = Draw::new(data);
    verdicts(&mut draw);
    lists(&mut draw);
    let mut headers = HeaderMap::new();
    for _ in 0..draw.below(5) {
        let name = HeaderName::from_static(draw.pick(&NAMES));
        if let Ok(value) = HeaderValue::from_bytes(draw.bytes(40)) {
            headers.append(name, value);
        }
    }
    any(&headers);
}

/// What is there is a condition, whatever it says: a write must not go through for not being understood.
fn any(headers: &HeaderMap) {
    let read = ReadConditions::of_read(headers);
    read.decide(|list| *list == ETagList::Any, MODIFIED, NOW);
    let write = write_conditions(headers);
    assert_eq!(write.if_match.is_some(), headers.contains_key("if-match"));
    assert_eq!(
        write.if_none_match.is_some(),
        headers.contains_key("if-none-match")
    );
    if let Ok(delete) = delete_conditions(headers) {
        assert_eq!(delete.if_match, write.if_match);
        assert_eq!(
            delete.if_match_size.is_some(),
            headers.contains_key("x-amz-if-match-size")
        );
        let dated = headers.contains_key("x-amz-if-match-last-modified-time");
        assert_eq!(delete.if_match_modified.is_some(), dated);
    }
}

fn verdicts(draw: &mut Draw<'_>) {
    let tag = |draw: &mut Draw<'_>| draw.flag().then(|| draw.pick(&TAGS));
    let date = |draw: &mut Draw<'_>| {
        let moments = [MODIFIED - 1, MODIFIED, MODIFIED + 1, NOW, NOW + 1];
        draw.flag().then(|| draw.pick(&moments))
    };
    let (im, inm, ims, ius) = (tag(draw), tag(draw), date(draw), date(draw));
    let mut headers = HeaderMap::new();
    let dated = [ims, ius].map(|at| at.map(date::http_date));
    let values = [im, inm, dated[0].as_deref(), dated[1].as_deref()];
    for (name, value) in NAMES.into_iter().zip(values) {
        if let Some(value) = value {
            headers.insert(name, HeaderValue::from_str(value).expect("a legal value"));
        }
    }
    let names_good = |list: &ETagList| match list {
        ETagList::Any => true,
        ETagList::Tags(tags) => tags.iter().any(|tag| tag == "good"),
    };
    let verdict = ReadConditions::of_read(&headers).decide(names_good, MODIFIED, NOW);
    assert_eq!(verdict, step_by_step(im, inm, ims, ius), "{headers:?}");
}

/// The steps 1 to 4; a date in the future is no date (section 13.1.3).
fn step_by_step(
    im: Option<&str>,
    inm: Option<&str>,
    ims: Option<i64>,
    ius: Option<i64>,
) -> Verdict {
    let good = |tag: &str| tag != "\"bad\"";
    let (ims, ius) = (ims.filter(|at| *at <= NOW), ius.filter(|at| *at <= NOW));
    if im.is_some_and(|tag| !good(tag)) {
        return Verdict::Failed("If-Match");
    }
    if im.is_none() && ius.is_some_and(|at| at < MODIFIED) {
        return Verdict::Failed("If-Unmodified-Since");
    }
    if inm.is_some_and(good) {
        return Verdict::NotModified("If-None-Match");
    }
    if inm.is_none() && ims.is_some_and(|at| at >= MODIFIED) {
        return Verdict::NotModified("If-Modified-Since");
    }
    Verdict::Proceed
}

fn lists(draw: &mut Draw<'_>) {
    let any = draw.text(40);
    if let ETagList::Tags(tags) = parse_etags(&any) {
        assert!(tags.len() <= any.len());
        assert!(
            tags.iter()
                .all(|tag| any.contains(tag.as_str()) && tag != "*")
        );
    }
    let mut expected = Vec::new();
    let mut text = String::new();
    for n in 0..draw.below(5) {
        let tag: String = draw
            .bytes(8)
            .iter()
            .map(|b| char::from(b'!' + b % 94))
            .collect();
        let tag = tag.replace('"', "'").replace('*', "x");
        if n > 0 {
            text.push_str(draw.pick(&[",", ", ", " , "]));
        }
        text.push_str(draw.pick(&["", "W/"]));
        text.push_str(&format!("\"{tag}\""));
        expected.push(tag);
    }
    assert_eq!(parse_etags(&text), ETagList::Tags(expected), "{text:?}");
}
