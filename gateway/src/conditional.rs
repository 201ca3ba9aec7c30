//! Conditions of reads, of copy sources and of writes (RFC 9110, section 13).
//!
//! Reads are decided here, against what one open descriptor said. Writes are only parsed here: the store decides them
//! under the key's lock.

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName};
use twintree_store::{ETagList, ObjectInfo, Timestamp, WriteConditions};

use crate::date;
use crate::error::{Code, S3Error, S3Result};

/// The conditions on a copy's source, in the order of [`ReadConditions`]'s fields.
static SOURCE: [HeaderName; 4] = [
    HeaderName::from_static("x-amz-copy-source-if-match"),
    HeaderName::from_static("x-amz-copy-source-if-none-match"),
    HeaderName::from_static("x-amz-copy-source-if-modified-since"),
    HeaderName::from_static("x-amz-copy-source-if-unmodified-since"),
];

/// The conditions of a GET, a HEAD, or on the source of a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadConditions {
    if_match: Option<ETagList>,
    if_none_match: Option<ETagList>,
    /// Whole seconds; unparsable dates are no condition.
    if_modified_since: Option<i64>,
    if_unmodified_since: Option<i64>,
}

/// What the conditions say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as if there were none.
    Proceed,
    /// 304 for a read; a copy source fails with 412.
    NotModified(&'static str),
    /// 412; the value is the header that failed.
    Failed(&'static str),
}

impl ReadConditions {
    /// Reads the headers of a GET or HEAD.
    pub fn of_read(headers: &HeaderMap) -> Self {
        Self::parse(
            headers,
            [
                &IF_MATCH,
                &IF_NONE_MATCH,
                &IF_MODIFIED_SINCE,
                &IF_UNMODIFIED_SINCE,
            ],
        )
    }

    /// Reads `x-amz-copy-source-if-*`.
    pub fn of_copy_source(headers: &HeaderMap) -> Self {
        Self::parse(headers, SOURCE.each_ref())
    }

    fn parse(headers: &HeaderMap, names: [&HeaderName; 4]) -> Self {
        let [matches, none_match, modified, unmodified] = names;
        let date = |name: &HeaderName| {
            let value = headers.get(name)?.to_str().ok()?;
            date::parse_http_date(value)
                .or_else(|| date::parse_iso8601(value).map(Timestamp::seconds))
        };
        ReadConditions {
            if_match: etag_list(headers, matches),
            if_none_match: etag_list(headers, none_match),
            if_modified_since: date(modified),
            if_unmodified_since: date(unmodified),
        }
    }

    /// Says whether there is none, so that the hot path need not look at the object.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Gives the entity tags named, whichever the condition.
    pub fn tag_lists(&self) -> impl Iterator<Item = &ETagList> {
        self.if_match.iter().chain(&self.if_none_match)
    }

    /// Decides, in the order of RFC 9110, section 13.2.2. `now` are seconds since the epoch: a date in the future is
    /// no condition (section 13.1.3).
    pub fn check(&self, info: &ObjectInfo, now: i64) -> Verdict {
        self.decide(|list| info.matches(list), info.modified.seconds(), now)
    }

    /// Decides by what is known of the object.
    pub(crate) fn decide(
        &self,
        matches: impl Fn(&ETagList) -> bool,
        modified: i64,
        now: i64,
    ) -> Verdict {
        if let Some(list) = &self.if_match {
            if !matches(list) {
                return Verdict::Failed("If-Match");
            }
        } else if self
            .if_unmodified_since
            .is_some_and(|since| since <= now && modified > since)
        {
            return Verdict::Failed("If-Unmodified-Since");
        }
        if let Some(list) = &self.if_none_match {
            if matches(list) {
                return Verdict::NotModified("If-None-Match");
            }
        } else if self
            .if_modified_since
            .is_some_and(|since| since <= now && modified <= since)
        {
            return Verdict::NotModified("If-Modified-Since");
        }
        Verdict::Proceed
    }

    /// Decides for the source of a copy, where nothing is 304.
    ///
    /// # Errors
    /// `PreconditionFailed`, naming the condition.
    pub fn check_copy_source(&self, info: &ObjectInfo, now: i64) -> S3Result<()> {
        match self.check(info, now) {
            Verdict::Proceed => Ok(()),
            Verdict::NotModified(condition) | Verdict::Failed(condition) => {
                let header = format!("x-amz-copy-source-{condition}");
                Err(S3Error::new(Code::PreconditionFailed).with("Condition", header))
            }
        }
    }
}

/// Reads `If-Match` and `If-None-Match` of a write.
pub fn write_conditions(headers: &HeaderMap) -> WriteConditions {
    WriteConditions {
        if_match: etag_list(headers, &IF_MATCH),
        if_none_match: etag_list(headers, &IF_NONE_MATCH),
        ..WriteConditions::default()
    }
}

/// Reads the conditions of a DELETE.
///
/// # Errors
/// `InvalidArgument` where a date or size does not parse: ignoring it would delete what the client meant to keep.
pub fn delete_conditions(headers: &HeaderMap) -> S3Result<WriteConditions> {
    const MODIFIED: &str = "x-amz-if-match-last-modified-time";
    const SIZE: &str = "x-amz-if-match-size";
    let text = |name: &'static str| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let modified = text(MODIFIED).map(|value| {
        date::parse_http_date(&value)
            .or_else(|| date::parse_iso8601(&value).map(Timestamp::seconds))
            .ok_or_else(|| S3Error::invalid_argument(MODIFIED, value, "not a date"))
    });
    let size = text(SIZE).map(|value| {
        value
            .trim()
            .parse()
            .map_err(|_| S3Error::invalid_argument(SIZE, value, "not a size in bytes"))
    });
    Ok(WriteConditions {
        if_match: etag_list(headers, &IF_MATCH),
        if_none_match: None,
        if_match_modified: modified.transpose()?,
        if_match_size: size.transpose()?,
    })
}

/// Gives the entity tags of a header, of all its lines; `None` without the header.
fn etag_list(headers: &HeaderMap, name: &HeaderName) -> Option<ETagList> {
    let mut lines = headers.get_all(name).iter().peekable();
    lines.peek()?;
    let mut tags = Vec::new();
    for line in lines {
        match parse_etags(&String::from_utf8_lossy(line.as_bytes())) {
            ETagList::Any => return Some(ETagList::Any),
            ETagList::Tags(found) => tags.extend(found),
        }
    }
    Some(ETagList::Tags(tags))
}

/// Parses one list of entity tags.
///
/// Semantics: clients send ETags with and without quotes; `W/` is dropped, because no ETag here is weak. A list that
/// is empty matches nothing: an `If-Match` without a tag must not overwrite.
pub fn parse_etags(list: &str) -> ETagList {
    let mut tags = Vec::new();
    let mut rest = list.trim();
    if rest == "*" || rest == "\"*\"" {
        return ETagList::Any;
    }
    while !rest.is_empty() {
        let start = rest.strip_prefix("W/").unwrap_or(rest);
        let (tag, after) = match start
            .strip_prefix('"')
            .and_then(|quoted| quoted.split_once('"'))
        {
            Some((tag, after)) => (tag, after.split_once(',').map_or("", |(_, after)| after)),
            None => start.split_once(',').unwrap_or((start, "")),
        };
        if tag.trim() == "*" {
            return ETagList::Any;
        }
        tags.push(tag.trim().to_owned());
        rest = after.trim_start();
    }
    ETagList::Tags(tags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::headers;

    const MODIFIED: i64 = 1_000_000;
    const NOW: i64 = 2_000_000;

    fn verdict(lines: &[(&str, &str)]) -> Verdict {
        let matches = |list: &ETagList| match list {
            ETagList::Any => true,
            ETagList::Tags(tags) => tags.iter().any(|tag| tag == "good"),
        };
        ReadConditions::of_read(&headers(lines)).decide(matches, MODIFIED, NOW)
    }

    #[test]
    fn truth_table_of_rfc_9110() {
        use Verdict::*;
        let (before, same, after, future) = (
            &*date::http_date(MODIFIED - 1),
            &*date::http_date(MODIFIED),
            &*date::http_date(MODIFIED + 1),
            &*date::http_date(NOW + 1),
        );
        let (im, inm, ims, ius) = (
            "if-match",
            "if-none-match",
            "if-modified-since",
            "if-unmodified-since",
        );
        let table: &[(&[(&'static str, &str)], Verdict)] = &[
            (&[], Proceed),
            (&[(im, "\"good\"")], Proceed),
            (&[(im, "good")], Proceed),
            (&[(im, "*")], Proceed),
            (&[(im, "\"bad\", \"good\"")], Proceed),
            (&[(im, "\"bad\"")], Failed("If-Match")),
            (&[(im, "")], Failed("If-Match")),
            (&[(im, "good"), (ius, before)], Proceed),
            (&[(im, "bad"), (ius, after)], Failed("If-Match")),
            (&[(ius, before)], Failed("If-Unmodified-Since")),
            (&[(ius, same)], Proceed),
            (&[(ius, after)], Proceed),
            (&[(ius, "Invalid Date")], Proceed),
            (&[(inm, "good")], NotModified("If-None-Match")),
            (&[(inm, "W/\"good\"")], NotModified("If-None-Match")),
            (&[(inm, "*")], NotModified("If-None-Match")),
            (&[(inm, "bad")], Proceed),
            (&[(inm, "bad"), (ims, after)], Proceed),
            (
                &[(inm, "good"), (ims, before)],
                NotModified("If-None-Match"),
            ),
            (&[(ims, before)], Proceed),
            (&[(ims, same)], NotModified("If-Modified-Since")),
            (&[(ims, after)], NotModified("If-Modified-Since")),
            (&[(ims, future)], Proceed),
            (&[(ims, "Invalid Date")], Proceed),
            (&[(im, "good"), (inm, "good")], NotModified("If-None-Match")),
            (&[(im, "bad"), (inm, "good")], Failed("If-Match")),
            (
                &[(im, "good"), (ims, after)],
                NotModified("If-Modified-Since"),
            ),
            (
                &[(ius, before), (inm, "good")],
                Failed("If-Unmodified-Since"),
            ),
        ];
        for (lines, expected) in table {
            assert_eq!(verdict(lines), *expected, "{lines:?}");
        }
    }

    #[test]
    fn etag_lists() {
        let tags =
            |list: &[&str]| ETagList::Tags(list.iter().map(|tag| (*tag).to_owned()).collect());
        assert_eq!(parse_etags("\"a,b\" , c,W/\"d\""), tags(&["a,b", "c", "d"]));
        assert_eq!(parse_etags("\"a"), tags(&["\"a"]));
        assert_eq!(parse_etags(""), tags(&[]));
        assert_eq!(parse_etags("a, *"), ETagList::Any);
    }

    #[test]
    fn writes_and_deletes_carry_their_conditions() {
        let write = write_conditions(&headers(&[("if-match", "\"a\""), ("if-none-match", "*")]));
        assert_eq!(write.if_match, Some(ETagList::Tags(vec!["a".to_owned()])));
        assert_eq!(write.if_none_match, Some(ETagList::Any));
        let delete = delete_conditions(&headers(&[
            ("x-amz-if-match-size", "7"),
            (
                "x-amz-if-match-last-modified-time",
                "Thu, 01 Jan 2015 00:00:00 GMT",
            ),
        ]))
        .expect("valid");
        assert_eq!(
            (delete.if_match_size, delete.if_match_modified),
            (Some(7), Some(1_420_070_400))
        );
        let bad =
            delete_conditions(&headers(&[("x-amz-if-match-size", "x")])).expect_err("no size");
        assert_eq!(bad.code(), Code::InvalidArgument);
    }
}
