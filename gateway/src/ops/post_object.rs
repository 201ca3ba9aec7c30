//! A browser's form, `POST /bucket`: recognised, not built yet.

use http::header::CONTENT_TYPE;
use http::request::Parts;

use crate::error::{Code, S3Error};

/// Refuses a form as not built, and anything else as no form. A form is signed in its body, so this comes before
/// any signature.
pub(crate) fn refuse_form(parts: &Parts) -> S3Error {
    let content_type = parts.headers.get(CONTENT_TYPE);
    let is_form = content_type.is_some_and(|value| {
        value
            .as_bytes()
            .to_ascii_lowercase()
            .starts_with(b"multipart/form-data")
    });
    if is_form {
        return S3Error::not_implemented("PostObject");
    }
    S3Error::new(Code::PreconditionFailed).with(
        "Condition",
        "Bucket POST must be of the enclosure-type multipart/form-data",
    )
}
