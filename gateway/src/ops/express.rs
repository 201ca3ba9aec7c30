//! The express way's GetObject and HeadObject: of a whole object, by a signed head, where nothing waits. The parts are
//! those of the whole way; what this adds is the order, without a thread or a future between them.

use http::Method;
use twintree_store::ObjectInfo;

use super::get_object::INLINE;
use super::read_plan::Asked;
use crate::auth::{self, Fields, Head, Payload};
use crate::call::{Gateway, Reply};
use crate::reply::{Noted, SentBy};
use crate::route;
use crate::server::{Express, ExpressHead, Expressed, pages, push_field};

impl Express for Gateway {
    fn answer(&self, head: &ExpressHead<'_>, out: &mut Vec<u8>) -> Option<Expressed> {
        let fields = Fields::Few(head.fields);
        let host = fields.text("host")?.ok()?;
        let (bucket, key) =
            route::object_in_path(head.path, &head.method, host, &self.settings.domains)?;
        let verified = auth::verify(
            &Head {
                method: &head.method,
                path: head.path,
                query: None,
                headers: fields,
                authority: None,
                virtual_bucket: None,
            },
            &self.credentials,
            head.received,
        );
        let verified = verified.ok()?;
        if matches!(verified.payload, Payload::Chunked(_)) {
            return None;
        }
        let found = self.store.bucket_cached(&bucket).ok()?;
        let ready = found.open_ready(&key)?;
        let info = &ready.portrait.info;
        let is_head = head.method == Method::HEAD;
        if info.in_flux || (!is_head && info.size > INLINE) {
            return None;
        }
        let checksum = fields.get("x-amz-checksum-mode");
        let checksum = checksum.is_some_and(|mode| mode.eq_ignore_ascii_case(b"ENABLED"));
        let shown = |info: &ObjectInfo| head_of(&Asked::whole(info, checksum));
        out.extend_from_slice(ready.portrait.head(usize::from(checksum), shown));
        let mut noted = Noted {
            operation: if is_head { "HeadObject" } else { "GetObject" },
            bucket: Some(bucket),
            key: Some(key),
            principal: Some(verified.principal),
            sent_by: SentBy::Nothing,
            failure: None,
        };
        if is_head || info.size == 0 {
            return Some(Expressed { noted, body: 0 });
        }
        let length = usize::try_from(info.size).ok()?;
        let read = pages::append_now(&ready.file, 0, length, out).ok()?;
        // Bytes count only if the file is, after reading them, what it was when it was described.
        if read != length || !ready.unchanged().ok()? {
            return None;
        }
        noted.sent_by = SentBy::Inline;
        Some(Expressed {
            noted,
            body: length,
        })
    }
}

/// What follows the fields that every answer begins with, to the empty line.
fn head_of(reply: &Reply) -> Box<[u8]> {
    let mut out = Vec::new();
    for (name, value) in reply.headers() {
        push_field(&mut out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.into()
}
