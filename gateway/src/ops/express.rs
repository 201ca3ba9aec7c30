//! The express way's GetObject and HeadObject: of a whole object, by a signed head, where nothing waits. The parts are
//! those of the whole way; what this adds is the order, without a thread or a future between them.

use http::Method;
use twintree_store::{Access, Timestamp};

use super::get_object::INLINE;
use super::open_object::Opened;
use super::read_plan::{Asked, Plan};
use crate::auth::{self, Fields, Head, Payload};
use crate::call::Gateway;
use crate::reply::{Noted, SentBy};
use crate::route::{self, Query};
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
            Timestamp::now(),
        );
        let verified = verified.ok()?;
        if matches!(verified.payload, Payload::Chunked(_)) {
            return None;
        }
        let object = self.store.bucket_cached(&bucket).ok()?;
        let object = object.open(&key, Access::Cached).ok()?;
        let is_head = head.method == Method::HEAD;
        let is_large = !is_head && object.info.size > INLINE;
        if is_large || object.info.in_flux || object.remote || object.is_snapshot() {
            return None;
        }
        let opened = Opened::unconditionally(object);
        let checksum = fields.get("x-amz-checksum-mode");
        let asked =
            Asked::of_whole(checksum.is_some_and(|mode| mode.eq_ignore_ascii_case(b"ENABLED")));
        let Plan { reply, slice } = asked.plan(&Query::default(), &opened).ok()?;
        for (name, value) in reply.headers() {
            push_field(out, name.as_str(), value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        let body = slice.filter(|slice| slice.length > 0 && !is_head);
        let mut noted = Noted {
            operation: if is_head { "HeadObject" } else { "GetObject" },
            bucket: Some(bucket),
            key: Some(key),
            principal: Some(verified.principal),
            sent_by: SentBy::Nothing,
            failure: None,
        };
        let Some(slice) = body else {
            return Some(Expressed { noted, body: 0 });
        };
        let length = usize::try_from(slice.length).ok()?;
        let file = opened.object.file.as_ref()?;
        let read = pages::append_now(file, slice.start, length, out).ok()?;
        // Bytes count only if the file is, after reading them, what it was when it was described.
        if read != length || !opened.object.unchanged().ok()? {
            return None;
        }
        noted.sent_by = SentBy::Inline;
        Some(Expressed {
            noted,
            body: length,
        })
    }
}
