//! The two ids on every reply: `x-amz-request-id`, of the request, and `x-amz-id-2`, of this process.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;

/// `x-amz-request-id`: 16 upper-case letters and digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; 16]);

/// Keys that differ from process to process, so that ids of restarts and of other gateways do not meet.
static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
static NEXT: AtomicU64 = AtomicU64::new(0);

impl RequestId {
    /// Makes the next one. Not secret; unique in this process but for chance collisions of 80 bits.
    pub(crate) fn next() -> Self {
        const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let bits = u128::from(SEED.hash_one(number)) << 64 | u128::from(SEED.hash_one(!number));
        Self(std::array::from_fn(|at| {
            LETTERS[(bits >> (at * 5)) as usize & 31]
        }))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("an id consists of ASCII letters and digits")
    }

    pub(crate) fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).expect("an id consists of ASCII letters and digits")
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

static HOST_ID: LazyLock<String> = LazyLock::new(|| {
    let random: [u64; 4] = std::array::from_fn(|at| SEED.hash_one(("host", at)));
    let bytes: Vec<u8> = random.iter().flat_map(|word| word.to_le_bytes()).collect();
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
});

/// `x-amz-id-2`, and `<HostId>` in errors: names the process that answered, among several gateways.
pub fn host_id() -> &'static str {
    &HOST_ID
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_sixteen_upper_alphanumerics_and_differ() {
        let ids: std::collections::HashSet<RequestId> =
            (0..10_000).map(|_| RequestId::next()).collect();
        assert_eq!(ids.len(), 10_000);
        let shaped = |id: &RequestId| {
            id.as_str()
                .bytes()
                .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
        };
        assert!(ids.iter().all(shaped));
    }
}
