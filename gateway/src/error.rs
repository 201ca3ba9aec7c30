//! The only table of S3 error codes, and the one way an error becomes a reply.
//!
//! Nothing here decides *when* something is wrong; each operation does. What an operation returns is an
//! [`S3Error`]: a code of the table, a message, the extra elements that the code's documentation names, and
//! headers. The server renders it once, where it also logs it.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::xml::Writer;

mod from_store;

/// Declares the codes: the name as on the wire, the status, and the message when nobody gives a better one.
macro_rules! codes {
    ($($name:ident $status:literal $message:literal;)+) => {
        /// Names every error code that this gateway answers; the S3 API page "Error responses" explains them.
        #[expect(missing_docs, reason = "each variant is the wire name; its message stands beside it in the table")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($name,)+ }

        impl Code {
            /// Every code, in the table's order.
            pub const ALL: &'static [Code] = &[$(Code::$name,)+];

            /// Gives the name as it goes over the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Code::$name => stringify!($name),)+ }
            }

            /// Gives the HTTP status as a number.
            const fn status_number(self) -> u16 {
                match self { $(Code::$name => $status,)+ }
            }

            /// Gives the message that is sent when the error carries none of its own.
            pub const fn default_message(self) -> &'static str {
                match self { $(Code::$name => $message,)+ }
            }
        }
    };
}

codes! {
    PermanentRedirect 301 "The bucket you are attempting to access must be addressed using the specified endpoint.";
    NotModified 304 "Not Modified";

    AccessControlListNotSupported 400 "The bucket does not allow ACLs.";
    AuthorizationHeaderMalformed 400 "The authorization header that you provided is not valid.";
    AuthorizationQueryParametersError 400 "The authorization query parameters that you provided are not valid.";
    BadDigest 400 "The Content-MD5 or checksum value that you specified did not match what the server received.";
    BadRequest 400 "The request is not valid.";
    EntityTooLarge 400 "Your proposed upload exceeds the maximum allowed object size.";
    EntityTooSmall 400 "Your proposed upload is smaller than the minimum allowed size.";
    ExpiredToken 400 "The provided token has expired.";
    IllegalLocationConstraintException 400 "The location constraint is incompatible with the endpoint that this request was sent to.";
    IllegalVersioningConfigurationException 400 "The versioning configuration specified in the request is not valid.";
    IncompleteBody 400 "You did not provide the number of bytes specified by the Content-Length HTTP header.";
    IncorrectNumberOfFilesInPostRequest 400 "POST requires exactly one file upload per request.";
    InvalidArgument 400 "Invalid Argument";
    InvalidBucketName 400 "The specified bucket is not valid.";
    InvalidChunkSizeError 400 "Only the last chunk is allowed to have a size less than 8192 bytes.";
    InvalidDigest 400 "The Content-MD5 you specified is not valid.";
    InvalidLocationConstraint 400 "The specified location constraint is not valid.";
    InvalidPart 400 "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.";
    InvalidPartOrder 400 "The list of parts was not in ascending order. Parts must be ordered by part number.";
    InvalidPolicyDocument 400 "The content of the form does not meet the conditions specified in the policy document.";
    InvalidRequest 400 "Invalid Request";
    InvalidRetentionPeriod 400 "The retention period specified is not valid.";
    InvalidStorageClass 400 "The storage class you specified is not valid.";
    InvalidTag 400 "The tag provided was not a valid tag.";
    InvalidToken 400 "The provided token is malformed or otherwise not valid.";
    InvalidURI 400 "Couldn't parse the specified URI.";
    InvalidWriteOffset 400 "The write offset value that you specified does not match the current object size.";
    KeyTooLongError 400 "Your key is too long.";
    MalformedACLError 400 "The XML you provided was not well-formed or did not validate against our published schema.";
    MalformedPOSTRequest 400 "The body of your POST request is not well-formed multipart/form-data.";
    MalformedPolicy 400 "This policy contains invalid JSON.";
    MalformedTrailerError 400 "The request contained trailing data that was not well-formed or did not conform to our published schema.";
    MalformedXML 400 "The XML you provided was not well-formed or did not validate against our published schema.";
    MaxMessageLengthExceeded 400 "Your request was too big.";
    MaxPostPreDataLengthExceededError 400 "Your POST request fields preceding the upload file were too large.";
    MetadataTooLarge 400 "Your metadata headers exceed the maximum allowed metadata size.";
    MissingRequestBodyError 400 "Request body is empty.";
    MissingSecurityHeader 400 "Your request is missing a required header.";
    RequestHeaderSectionTooLarge 400 "Your request header section exceeds the maximum allowed size.";
    RequestTimeout 400 "Your socket connection to the server was not read from or written to within the timeout period.";
    TooManyBuckets 400 "You have attempted to create more buckets than allowed.";
    UnexpectedContent 400 "This request does not support content.";
    UserKeyMustBeSpecified 400 "The bucket POST must contain the specified field name. If it is specified, check the order of the fields.";
    XAmzContentSHA256Mismatch 400 "The provided 'x-amz-content-sha256' header does not match what was computed.";

    AccessDenied 403 "Access Denied";
    AccessForbidden 403 "CORSResponse: CORS is not enabled for this bucket.";
    InvalidAccessKeyId 403 "The AWS Access Key Id you provided does not exist in our records.";
    InvalidObjectState 403 "The operation is not valid for the current state of the object.";
    QuotaExceeded 403 "The filesystem's quota does not allow this write.";
    RequestTimeTooSkewed 403 "The difference between the request time and the current time is too large.";
    SignatureDoesNotMatch 403 "The request signature we calculated does not match the signature you provided. Check your key and signing method.";

    NoSuchBucket 404 "The specified bucket does not exist";
    NoSuchBucketPolicy 404 "The bucket policy does not exist";
    NoSuchCORSConfiguration 404 "The CORS configuration does not exist";
    NoSuchConfiguration 404 "The specified configuration does not exist.";
    NoSuchKey 404 "The specified key does not exist.";
    NoSuchLifecycleConfiguration 404 "The lifecycle configuration does not exist";
    NoSuchObjectLockConfiguration 404 "The specified object does not have a ObjectLock configuration";
    NoSuchPublicAccessBlockConfiguration 404 "The public access block configuration was not found";
    NoSuchTagSet 404 "The TagSet does not exist";
    NoSuchUpload 404 "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.";
    NoSuchVersion 404 "The specified version does not exist.";
    NoSuchWebsiteConfiguration 404 "The specified bucket does not have a website configuration";
    ObjectLockConfigurationNotFoundError 404 "Object Lock configuration does not exist for this bucket";
    OwnershipControlsNotFoundError 404 "The bucket ownership controls were not found";
    ReplicationConfigurationNotFoundError 404 "The replication configuration was not found";
    ServerSideEncryptionConfigurationNotFoundError 404 "The server side encryption configuration was not found";

    MethodNotAllowed 405 "The specified method is not allowed against this resource.";

    BucketAlreadyExists 409 "The requested bucket name is not available. Select a different name and try again.";
    BucketAlreadyOwnedByYou 409 "Your previous request to create the named bucket succeeded and you already own it.";
    BucketNotEmpty 409 "The bucket you tried to delete is not empty";
    ConditionalRequestConflict 409 "A conflicting conditional operation is currently in progress against this resource. Try again.";
    InvalidBucketState 409 "The request is not valid with the current state of the bucket.";
    ObjectPathConflict 409 "The path of this key is taken by something else in the directory.";
    OperationAborted 409 "A conflicting conditional operation is currently in progress against this resource. Try again.";

    MissingContentLength 411 "You must provide the Content-Length HTTP header.";
    PreconditionFailed 412 "At least one of the pre-conditions you specified did not hold";
    InvalidPartNumber 416 "The requested partnumber is not satisfiable";
    InvalidRange 416 "The requested range is not satisfiable";

    InternalError 500 "We encountered an internal error. Please try again.";
    NotImplemented 501 "A header or query you provided implies functionality that is not implemented.";
    ServiceUnavailable 503 "Service is unable to handle request.";
    SlowDown 503 "Please reduce your request rate.";
    InsufficientStorage 507 "The filesystem has no room left for this write.";
}

impl Code {
    /// Gives the HTTP status.
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.status_number()).expect("the table holds valid statuses only")
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Short for the result of everything that can end in an S3 error.
pub type S3Result<T> = Result<T, S3Error>;

/// An error as a client sees it. Boxed inside, because it travels through hot paths that rarely fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Error(Box<Parts>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    code: Code,
    message: Cow<'static, str>,
    extras: Vec<(&'static str, String)>,
    headers: Vec<(HeaderName, HeaderValue)>,
    close: bool,
}

impl S3Error {
    /// Starts an error with the code's own message.
    pub fn new(code: Code) -> Self {
        S3Error(Box::new(Parts {
            code,
            message: Cow::Borrowed(code.default_message()),
            extras: Vec::new(),
            headers: Vec::new(),
            close: false,
        }))
    }

    /// Replaces the message.
    pub fn message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.0.message = message.into();
        self
    }

    /// Adds an element beside `Code` and `Message`, such as `Key` or `ArgumentName`.
    pub fn with(mut self, element: &'static str, value: impl Into<String>) -> Self {
        self.0.extras.push((element, value.into()));
        self
    }

    /// Adds a header to the reply.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// Asks that the connection be closed after the reply, because the rest of the request is not going to be read.
    pub fn close(mut self) -> Self {
        self.0.close = true;
        self
    }

    /// An `InvalidArgument` that names the argument and what it held.
    pub fn invalid_argument(
        name: &'static str,
        value: impl Into<String>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        S3Error::new(Code::InvalidArgument)
            .message(message)
            .with("ArgumentName", name)
            .with("ArgumentValue", value)
    }

    /// An `InvalidRequest` with its reason.
    pub fn invalid_request(message: impl Into<Cow<'static, str>>) -> Self {
        S3Error::new(Code::InvalidRequest).message(message)
    }

    /// A `NotImplemented` that names the feature that was asked for.
    pub fn not_implemented(feature: &str) -> Self {
        S3Error::new(Code::NotImplemented)
            .message(format!("{feature} is not implemented by this server."))
            .with("Header", feature)
    }

    /// Gives the code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Gives the message as it is sent.
    pub fn text(&self) -> &str {
        &self.0.message
    }

    /// Gives the HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.code.status()
    }

    /// Says whether the connection must be closed after the reply.
    pub fn closes(&self) -> bool {
        self.0.close
    }

    /// Gives the extra elements.
    pub fn extras(&self) -> &[(&'static str, String)] {
        &self.0.extras
    }

    /// Gives the extra headers.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.0.headers
    }

    /// Renders the document of an error: no namespace, the declaration at byte 0.
    pub fn to_xml(&self, origin: &Origin<'_>) -> Vec<u8> {
        let mut xml = Writer::document("Error");
        self.write_fields(&mut xml, origin);
        xml.finish()
    }

    /// Writes the elements of an error inside an open `Error` element; a late failure inside a 200 uses it too.
    pub fn write_fields(&self, xml: &mut Writer, origin: &Origin<'_>) {
        xml.text("Code", self.0.code.name());
        xml.text("Message", &self.0.message);
        for (element, value) in &self.0.extras {
            xml.text(element, value);
        }
        xml.text("Resource", origin.resource);
        xml.text("RequestId", origin.request_id);
        xml.text("HostId", origin.host_id);
    }

    /// Renders the whole reply. For HEAD, and for a status that has no body, only the headers go out.
    pub fn to_response(&self, origin: &Origin<'_>, method: &http::Method) -> Response<Bytes> {
        let status = self.status();
        let bodiless = method == http::Method::HEAD || status == StatusCode::NOT_MODIFIED;
        let body = if bodiless {
            Bytes::new()
        } else {
            Bytes::from(self.to_xml(origin))
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        self.fill_headers(response.headers_mut(), bodiless);
        if !bodiless {
            let length = HeaderValue::from(response.body().len());
            response.headers_mut().insert(CONTENT_LENGTH, length);
        }
        response
    }

    fn fill_headers(&self, headers: &mut HeaderMap, bodiless: bool) {
        if !bodiless || self.status() != StatusCode::NOT_MODIFIED {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        }
        for (name, value) in &self.0.headers {
            headers.append(name.clone(), value.clone());
        }
        if self.0.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl std::fmt::Display for S3Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0.code.name(), self.0.message)
    }
}

impl std::error::Error for S3Error {}

impl From<Code> for S3Error {
    fn from(code: Code) -> Self {
        S3Error::new(code)
    }
}

/// What the reply says about the request that failed; the ids are those of the reply's headers.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The path as asked for, decoded: `/bucket/key`.
    pub resource: &'a str,
    /// The value of `x-amz-request-id`.
    pub request_id: &'a str,
    /// The value of `x-amz-id-2`.
    pub host_id: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin<'static> = Origin {
        resource: "/b/<k>",
        request_id: "REQ",
        host_id: "HOST",
    };

    #[test]
    fn every_code_has_a_valid_status_and_a_message() {
        for code in Code::ALL {
            assert!((300..600).contains(&code.status().as_u16()), "{code}");
            assert!(!code.default_message().is_empty(), "{code}");
        }
    }

    #[test]
    fn document_has_declaration_first_no_namespace_and_escaped_text() {
        let error = S3Error::new(Code::NoSuchKey).with("Key", "a&b");
        let text = String::from_utf8(error.to_xml(&ORIGIN)).expect("the writer makes UTF-8");
        assert_eq!(
            text,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code>\
             <Message>The specified key does not exist.</Message><Key>a&amp;b</Key>\
             <Resource>/b/&lt;k&gt;</Resource><RequestId>REQ</RequestId><HostId>HOST</HostId></Error>"
        );
    }

    #[test]
    fn head_and_not_modified_have_no_body() {
        let head = S3Error::new(Code::NoSuchKey).to_response(&ORIGIN, &http::Method::HEAD);
        assert_eq!(head.status(), 404);
        assert!(head.body().is_empty());
        assert!(head.headers().get(CONTENT_LENGTH).is_none());
        let unchanged = S3Error::new(Code::NotModified).to_response(&ORIGIN, &http::Method::GET);
        assert_eq!(unchanged.status(), 304);
        assert!(unchanged.body().is_empty());
        assert!(unchanged.headers().get(CONTENT_TYPE).is_none());
    }

    #[test]
    fn closing_error_says_so_in_its_headers() {
        let reply = S3Error::new(Code::IncompleteBody)
            .close()
            .to_response(&ORIGIN, &http::Method::PUT);
        assert_eq!(reply.headers()[CONNECTION], "close");
        assert_eq!(
            reply.headers()[CONTENT_LENGTH],
            reply.body().len().to_string().as_str()
        );
    }
}
