//! The meta half of the record: headers, user metadata and tags; JSON in `user.twintree.meta`.

/// What a client said about an object, apart from its bytes. Names are lower-case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// `Content-Type` as sent; `None` where the client sent none (`binary/octet-stream`).
    pub content_type: Option<Vec<u8>>,
    /// Other system headers, verbatim: `cache-control`, `content-disposition`, `content-encoding`,
    /// `content-language`, `expires`, `x-amz-website-redirect-location`, `x-amz-storage-class`.
    pub headers: Vec<(String, Vec<u8>)>,
    /// User metadata without the `x-amz-meta-` prefix; values are bytes as sent.
    pub user: Vec<(String, Vec<u8>)>,
    /// Object tags, in the order given.
    pub tags: Vec<(String, String)>,
}
