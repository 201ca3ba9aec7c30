//! The operations of the S3 API, one file each, named after it; [`dispatch`] is where a route meets its operation.

pub(crate) mod get_object;
pub(crate) mod head_object;
mod object_headers;
mod open_object;
pub(crate) mod put_object;
mod read_plan;

use twintree_store::{BucketName, ObjectKey};

use crate::body::RequestBody;
use crate::call::{Call, Reply};
use crate::error::{Code, S3Error, S3Result};
use crate::route::{Operation, Route};

/// Runs the operation that a verified request asks for.
///
/// # Errors
/// What the operation says; `NotImplemented` for what S3 has and we have not.
pub(crate) async fn dispatch(call: &Call, route: Route, body: RequestBody) -> S3Result<Reply> {
    let target = Target(&route);
    if body.is_framed() && !matches!(route.operation, Operation::PutObject | Operation::UploadPart) {
        return Err(S3Error::invalid_request("aws-chunked bodies are for PutObject and UploadPart only."));
    }
    match route.operation {
        Operation::GetObject => get_object::get_object(call, target.bucket()?, target.key()?).await,
        Operation::HeadObject => {
            head_object::head_object(call, target.bucket()?, target.key()?).await
        }
        Operation::PutObject => {
            put_object::put_object(call, target.bucket()?, target.key()?, body).await
        }
        other => {
            drop(body);
            Err(S3Error::not_implemented(other.name()))
        }
    }
}

/// The names that an operation's level promises.
struct Target<'a>(&'a Route);

impl<'a> Target<'a> {
    fn bucket(&self) -> S3Result<&'a BucketName> {
        self.0
            .bucket
            .as_ref()
            .ok_or_else(|| S3Error::new(Code::InvalidURI))
    }

    fn key(&self) -> S3Result<&'a ObjectKey> {
        self.0
            .key
            .as_ref()
            .ok_or_else(|| S3Error::new(Code::InvalidURI))
    }
}

#[cfg(test)]
mod read_tests;
