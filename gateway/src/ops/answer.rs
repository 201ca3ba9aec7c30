//! The shapes that most replies have: nothing, or a document.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};

use crate::call::Reply;
use crate::reply::ReplyBody;
use crate::xml::Writer;

/// Answers a status without a body.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(ReplyBody::Empty);
    *reply.status_mut() = status;
    reply
}

/// Answers 200 with a document.
pub(crate) fn document(xml: Writer) -> Reply {
    let mut reply = Response::new(ReplyBody::from(xml.finish()));
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    reply
}
