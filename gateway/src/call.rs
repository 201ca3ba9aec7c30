//! What one request carries through the gateway: the shared state, the parsed head, who asks.
//!
//! Every operation in `ops/` has the shape
//! `pub(crate) async fn NAME(call: &Call, target..., body: RequestBody) -> Result<Reply, S3Error>`
//! (operations without a body take none), and hands everything that may wait to [`blocking`], the only
//! async-to-blocking door beside the two that bodies flow through (`body.rs`, `server/outgoing.rs`).

use std::sync::Arc;

use http::request::Parts;
use twintree_store::{Bucket, BucketName, StoreError};

use crate::console::Console;
use crate::error::S3Error;
use crate::reply::ReplyBody;
use crate::route::Query;

/// What an operation answers.
pub type Reply = http::Response<ReplyBody>;

/// What does not change from request to request, as the daemon set it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Domains for virtual-host style requests, without port, lower-case.
    pub domains: Vec<String>,
    /// The region answered where a client asks for one (`us-east-1`).
    pub region: String,
    /// The longest accepted object of one PUT or part, in bytes (5 GiB).
    pub max_put: u64,
    /// The smallest part that is not the last, in bytes (5 MiB).
    pub min_part: u64,
    /// Addresses of proxies whose `X-Forwarded-For` is believed (for the log only).
    pub trusted_proxies: Vec<std::net::IpAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            region: "us-east-1".to_owned(),
            max_put: 5 << 30,
            min_part: 5 << 20,
            trusted_proxies: Vec::new(),
        }
    }
}

/// The S3 face of one store.
pub struct Gateway {
    /// The tree.
    pub store: Arc<twintree_store::Store>,
    /// Who may sign.
    pub credentials: Arc<crate::auth::Credentials>,
    /// What the daemon set.
    pub settings: Settings,
    /// Where the console is.
    pub console: Console,
}

/// One authenticated request.
pub(crate) struct Call {
    /// The shared state.
    pub gateway: Arc<Gateway>,
    /// Method, target and headers as received.
    pub parts: Parts,
    /// The query, parsed once.
    pub query: Query,
    /// Whose key signed it.
    pub principal: crate::auth::Principal,
    /// `x-amz-request-id`: 16 upper-case letters and digits.
    pub request_id: String,
}

impl Call {
    /// Resolves a bucket: inline where the kernel's caches know it, else on the blocking pool.
    ///
    /// # Errors
    /// `NoSuchBucket`, and what the disk says.
    pub(crate) async fn bucket(&self, name: &BucketName) -> Result<Bucket, S3Error> {
        match self.gateway.store.bucket_cached(name) {
            Err(StoreError::WouldBlock) => {
                let (store, name) = (Arc::clone(&self.gateway.store), name.clone());
                blocking(move || Ok(store.bucket(&name)?)).await
            }
            resolved => Ok(resolved?),
        }
    }
}

/// Runs what may wait on the blocking pool; a panic there becomes InternalError.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, S3Error> + Send + 'static,
) -> Result<T, S3Error> {
    match crate::pool::on_pool(work).await {
        Ok(result) => result,
        Err(_) => Err(S3Error::new(crate::error::Code::InternalError)),
    }
}

/// Runs several works that may wait on the blocking pool at once, and gives their results in order.
pub(crate) async fn blocking_all<T, W>(works: impl Iterator<Item = W>) -> Vec<Result<T, S3Error>>
where
    T: Send + 'static,
    W: FnOnce() -> Result<T, S3Error> + Send + 'static,
{
    let running: Vec<_> = works.map(crate::pool::on_pool).collect();
    let mut results = Vec::with_capacity(running.len());
    for work in running {
        results.push(match work.await {
            Ok(result) => result,
            Err(_) => Err(S3Error::new(crate::error::Code::InternalError)),
        });
    }
    results
}
