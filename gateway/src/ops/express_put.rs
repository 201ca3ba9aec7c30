//! The express way's PutObject: of a short body, by a signed head without conditions, into a bucket that is at hand, on
//! a disk of this machine. The parts are those of the whole way; what comes together is stored together.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use twintree_store::{
    Bucket, Digester, ETagKind, Meta, Published, Small, StoreError, Stored, hash, store_together,
};

use super::put_object::{Said, reply};
use crate::auth::Payload;
use crate::body::Received;
use crate::call::Gateway;
use crate::checksum::BodyChecks;
use crate::meta;
use crate::pool::on_pool;
use crate::reply::{Noted, SentBy};
use crate::server::{Answering, ExpressHead, Intent};
use crate::together::Together;

static TOGETHER: LazyLock<Together<Whole>> = LazyLock::new(|| Together::new(store_all));

/// What a verified head asks for.
struct SmallPut {
    bucket: Bucket,
    meta: Meta,
    checks: BodyChecks,
    noted: Noted,
}

/// The same with its body.
struct Whole {
    put: SmallPut,
    body: Bytes,
    answering: Answering,
}

impl Gateway {
    /// Says what a PUT asks for, if all of it is for the express way.
    pub(super) fn small_put(&self, head: &ExpressHead<'_>) -> Option<Box<dyn Intent>> {
        let (bucket, key, verified) = self.verified(head)?;
        if matches!(verified.payload, Payload::Chunked(_)) || head.body > self.settings.max_put {
            return None;
        }
        let headers = headers_of(head);
        meta::refuse_unbuilt(&headers).ok()?;
        let found = self.store.bucket_cached(&bucket).ok()?;
        // Who is slow to answer, be it a disk far away or the mount's kernel, would hold up the others.
        if found.is_remote() || self.store.changes().is_heard() {
            return None;
        }
        Some(Box::new(SmallPut {
            bucket: found,
            meta: meta::from_headers(&headers).ok()?,
            checks: BodyChecks::parse(&headers, &verified.payload).ok()?,
            noted: Noted {
                operation: "PutObject",
                bucket: Some(bucket),
                key: Some(key),
                principal: Some(verified.principal),
                ..Noted::default()
            },
        }))
    }
}

/// The fields that say what is stored.
fn headers_of(head: &ExpressHead<'_>) -> HeaderMap {
    let said = head.fields.iter().filter(|(name, _)| says_what(name));
    said.filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    })
    .collect()
}

/// Is it about the object, and not about who asks, and how?
fn says_what(name: &str) -> bool {
    !matches!(
        name,
        "host"
            | "authorization"
            | "user-agent"
            | "accept"
            | "accept-encoding"
            | "accept-language"
            | "connection"
            | "content-length"
            | "expect"
            | "pragma"
            | "amz-sdk-invocation-id"
            | "amz-sdk-request"
            | "x-amz-date"
            | "x-amz-content-sha256"
            | "x-amz-user-agent"
    )
}

impl Intent for SmallPut {
    fn perform(self: Box<Self>, body: Bytes, answering: Answering) {
        let device = self.bucket.device();
        let whole = Whole {
            put: *self,
            body,
            answering,
        };
        TOGETHER.submit(device, whole);
    }
}

/// One whose body is verified, but for the client that waits.
type Verified = (Small<Bytes>, Noted, Answering);

impl Whole {
    /// Verifies the body; `None`: the client was told what is wrong with it.
    fn verified(self, digester: Digester) -> Option<Verified> {
        let SmallPut {
            bucket,
            meta,
            checks,
            noted,
        } = self.put;
        let digests = digester.finish();
        let checksum = match checks.verify(&digests, &[]) {
            Ok(checksum) => checksum,
            Err(error) => {
                self.answering.answer(noted, Err(error));
                return None;
            }
        };
        let key = noted.key.clone().expect("a PUT has a key");
        let put = Said::unconditional(meta).with(Received { digests, checksum });
        let small = Small {
            bucket,
            key,
            body: self.body,
            put,
        };
        Some((small, noted, self.answering))
    }
}

/// Computes what the bodies are to be compared with, their MD5s beside each other.
fn digested(wholes: &[Whole]) -> Vec<Digester> {
    let needs_md5 =
        |put: &SmallPut| put.bucket.etag_kind() == ETagKind::Md5 || put.checks.has_md5();
    let with_md5 = wholes.iter().filter(|whole| needs_md5(&whole.put));
    let bodies: Vec<&[u8]> = with_md5.map(|whole| &*whole.body).collect();
    let mut md5s = hash::md5_of_each(&bodies).into_iter();
    let digest = |Whole { put, body, .. }: &Whole| {
        let mut digester = Digester::without_md5(&put.checks.to_compute());
        digester.update_beside_md5(body);
        if needs_md5(put)
            && let Some(md5) = md5s.next()
        {
            digester.set_md5(md5);
        }
        digester
    };
    wholes.iter().map(digest).collect()
}

fn store_all(wholes: Vec<Whole>) {
    let digesters = digested(&wholes);
    let mut smalls = Vec::with_capacity(wholes.len());
    let mut waiting = Vec::with_capacity(wholes.len());
    let both = wholes.into_iter().zip(digesters);
    for (small, noted, answering) in both.filter_map(|(whole, digests)| whole.verified(digests)) {
        smalls.push(small);
        waiting.push(Some((noted, answering)));
    }
    store_together(smalls, |at, stored| {
        let Some((noted, answering)) = waiting[at].take() else {
            return;
        };
        match stored {
            Stored::Now(result) => answer(noted, answering, result),
            Stored::Deferred(deferred) => {
                on_pool(move || answer(noted, answering, deferred.publish()));
            }
        }
    });
}

fn answer(mut noted: Noted, answering: Answering, result: Result<Published, StoreError>) {
    if result.is_ok() {
        noted.sent_by = SentBy::Nothing; // an error is a document
    }
    let reply = |published| reply(&published).map(|_| Bytes::new());
    answering.answer(noted, result.map(reply).map_err(Into::into));
}
