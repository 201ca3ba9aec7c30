//! What a GET or HEAD asks for, and the head of what it is answered: conditions, range, part, headers.
//!
//! HEAD is GET without bytes, so both are planned here and cannot differ.

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::{HeaderValue, Response, StatusCode};
use twintree_store::{BucketName, ObjectInfo, ObjectKey, PartInfo};

use super::object_headers as headers;
use super::open_object::{Opened, Opening};
use super::upload_part::part_number;
use super::version::Version;
use crate::call::{Call, Reply};
use crate::checksum;
use crate::conditional::{ReadConditions, Verdict};
use crate::error::{Code, S3Error};
use crate::range::{ByteRange, Slice};
use crate::reply::ReplyBody;
use crate::route::Query;

/// What a read asks for, from its head alone.
pub(super) struct Asked {
    version: Version,
    conditions: ReadConditions,
    range: Option<ByteRange>,
    part: Option<u16>,
    /// `x-amz-checksum-mode: ENABLED`
    checksum: bool,
}

/// What is answered, but for the bytes.
pub(super) struct Plan {
    /// Status and headers, Content-Length among them; the body is empty still.
    pub(super) reply: Reply,
    /// The bytes that belong in it; `None` for 304, which has none.
    pub(super) slice: Option<Slice>,
}

/// The bytes chosen, and how they are told from the whole.
struct Choice<'a> {
    slice: Slice,
    partial: bool,
    part: Option<&'a PartInfo>,
}

impl Asked {
    /// Reads the head of a request.
    ///
    /// # Errors
    /// `InvalidArgument`, `InvalidRequest`, `NoSuchVersion`.
    pub(super) fn parse(call: &Call, key: &ObjectKey) -> Result<Self, S3Error> {
        let version = Version::of(&call.query).map_err(|error| error.with("Key", key.as_str()))?;
        let sent = &call.parts.headers;
        if sent.contains_key("x-amz-server-side-encryption-customer-algorithm") {
            let message = "The encryption parameters are not applicable to this object.";
            return Err(S3Error::invalid_request(message));
        }
        let part = match call.query.has("partNumber") {
            true => Some(part_number(&call.query)?),
            false => None,
        };
        if part.is_some() && sent.contains_key(RANGE) {
            let message = "Cannot specify both Range header and partNumber query parameter";
            return Err(S3Error::invalid_request(message));
        }
        Ok(Self {
            version,
            conditions: ReadConditions::of_read(sent),
            range: sent
                .get(RANGE)
                .and_then(|range| range.to_str().ok())
                .and_then(ByteRange::parse),
            part,
            checksum: wants_checksum(call),
        })
    }

    /// The answer to who asks for all of an object, whatever there is, but for the bytes.
    pub(super) fn whole(info: &ObjectInfo, checksum: bool) -> Reply {
        let asked = Self {
            version: Version::Current,
            conditions: ReadConditions::default(),
            range: None,
            part: None,
            checksum,
        };
        let plan = asked.plan_of(&Query::default(), info, &Verdict::Proceed);
        plan.expect(
            "what has no condition, range, part or override asks for nothing that could be refused",
        )
        .reply
    }

    /// Says what to open.
    pub(super) fn opening<'a>(&'a self, bucket: &'a BucketName, key: &'a ObjectKey) -> Opening<'a> {
        Opening {
            bucket,
            key,
            conditions: &self.conditions,
        }
    }

    /// Plans the answer: conditions first, then range or part (RFC 9110, 13.2.2).
    ///
    /// # Errors
    /// `PreconditionFailed`, `InvalidRange`, `InvalidPartNumber`, `InvalidArgument` for an override.
    pub(super) fn plan(&self, query: &Query, opened: &Opened) -> Result<Plan, S3Error> {
        self.plan_of(query, &opened.object.info, &opened.verdict)
    }

    fn plan_of(
        &self,
        query: &Query,
        info: &ObjectInfo,
        verdict: &Verdict,
    ) -> Result<Plan, S3Error> {
        let mut reply = Response::new(ReplyBody::Empty);
        self.version.name_in(&mut reply);
        match *verdict {
            Verdict::Proceed => {}
            Verdict::Failed(condition) => {
                return Err(S3Error::new(Code::PreconditionFailed).with("Condition", condition));
            }
            Verdict::NotModified(_) => {
                *reply.status_mut() = StatusCode::NOT_MODIFIED;
                headers::set_validators(reply.headers_mut(), info);
                return Ok(Plan { reply, slice: None });
            }
        }
        let choice = self.choose(info)?;
        let out = reply.headers_mut();
        headers::set_object(out, info);
        out.insert(CONTENT_LENGTH, HeaderValue::from(choice.slice.length));
        if let (Some(_), Some(count)) = (self.part, info.part_count) {
            out.insert("x-amz-mp-parts-count", HeaderValue::from(count));
        }
        self.set_checksum(out, info, &choice);
        headers::set_overrides(out, query)?;
        if choice.partial {
            out.insert(CONTENT_RANGE, choice.slice.content_range(info.size));
            *reply.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        Ok(Plan {
            reply,
            slice: Some(choice.slice),
        })
    }

    fn choose<'a>(&self, info: &'a ObjectInfo) -> Result<Choice<'a>, S3Error> {
        let whole = Slice {
            start: 0,
            length: info.size,
        };
        if let Some(range) = self.range {
            return Ok(Choice {
                slice: range.resolve(info.size)?,
                partial: true,
                part: None,
            });
        }
        let Some(number) = self.part else {
            return Ok(Choice {
                slice: whole,
                partial: false,
                part: None,
            });
        };
        if info.parts.is_empty() && info.part_count.is_none_or(|count| count == 1) {
            // What was not uploaded in parts is its own first part; an empty one has no range to name.
            return match number {
                1 => Ok(Choice {
                    slice: whole,
                    partial: info.size > 0,
                    part: None,
                }),
                _ => Err(no_such_part(number, 1)),
            };
        }
        if info.parts.is_empty() {
            return Err(S3Error::not_implemented(
                "partNumber of an object whose part sizes are not known",
            ));
        }
        let mut start = 0;
        for part in &info.parts {
            if part.number == number {
                let slice = Slice {
                    start,
                    length: part.size,
                };
                return Ok(Choice {
                    slice,
                    partial: info.size > 0,
                    part: Some(part),
                });
            }
            start += part.size;
        }
        Err(no_such_part(number, info.parts.len()))
    }

    /// Semantics: never on a range; boto3 compares what it received with it and raises FlexibleChecksumError.
    fn set_checksum(&self, out: &mut http::HeaderMap, info: &ObjectInfo, choice: &Choice<'_>) {
        if !self.checksum || self.range.is_some() {
            return;
        }
        match choice.part {
            Some(part) if info.parts.len() > 1 => {
                if let Some(sum) = &part.checksum {
                    headers::set_part_checksum(out, info, sum);
                }
            }
            _ => {
                if let Some(sum) = &info.checksum {
                    checksum::add_headers(out, sum, info.part_count);
                }
            }
        }
    }
}

/// Reads `x-amz-checksum-mode`, which signers also move into a presigned URL.
fn wants_checksum(call: &Call) -> bool {
    const MODE: &str = "x-amz-checksum-mode";
    let sent = call
        .parts
        .headers
        .get(MODE)
        .map(http::HeaderValue::as_bytes);
    let hoisted = call
        .query
        .pairs()
        .find(|(name, _)| name.eq_ignore_ascii_case(MODE));
    let mode = sent.or(hoisted.map(|(_, value)| value.as_bytes()));
    mode.is_some_and(|mode| mode.eq_ignore_ascii_case(b"ENABLED"))
}

fn no_such_part(number: u16, count: usize) -> S3Error {
    S3Error::new(Code::InvalidPartNumber)
        .with("PartNumberRequested", number.to_string())
        .with("ActualPartCount", count.to_string())
}
