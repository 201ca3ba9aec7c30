//! Who may sign: access keys, their secrets, and the signing keys derived from them.
//!
//! The table is replaced as a whole. Derived keys are kept beside the secrets that they come from, so that
//! a replaced secret takes its derived keys with it. Where the table comes from is the daemon's business.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::{Mutex, RwLock};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::signature::Scope;

/// HMAC-SHA256 with its key already absorbed; cloned for each use.
pub(crate) type KeyedHmac = Hmac<Sha256>;

/// How many derived keys are kept: a key, a day and a region each.
const CACHED_KEYS: usize = 1024;

/// A secret access key. It has no `Display`, and its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes a secret from wherever it was kept.
    pub fn new(secret: impl Into<Box<str>>) -> Self {
        Self(secret.into())
    }

    /// Shows it, to compute with it or to hand it to its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// The table of access keys, shared by all connections and replaceable while they run.
pub struct Credentials {
    current: RwLock<Arc<Table>>,
}

/// One state of the table. A request is verified against one state from beginning to end.
pub(crate) struct Table {
    secrets: HashMap<String, Secret>,
    /// Signing keys by [`Scope::signer`], filled by verified requests only, so that nobody without a secret can
    /// crowd it. Neither a date nor a region holds a slash, so the name is unambiguous even where an access key does.
    derived: Mutex<HashMap<Box<str>, Arc<KeyedHmac>>>,
}

impl Credentials {
    /// Starts with these access key ids and their secrets.
    pub fn new(keys: impl IntoIterator<Item = (String, Secret)>) -> Self {
        Self {
            current: RwLock::new(Arc::new(Table::new(keys))),
        }
    }

    /// Replaces the whole table; requests that are being verified finish with the old one.
    pub fn replace(&self, keys: impl IntoIterator<Item = (String, Secret)>) {
        let table = Arc::new(Table::new(keys));
        *self.current.write() = table;
    }

    /// Gives the table as it is now.
    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.current.read())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table();
        f.debug_struct("Credentials")
            .field("access_keys", &table.secrets.keys())
            .finish()
    }
}

impl Table {
    fn new(keys: impl IntoIterator<Item = (String, Secret)>) -> Self {
        Self {
            secrets: keys.into_iter().collect(),
            derived: Mutex::new(HashMap::new()),
        }
    }

    /// Gives the secret of an access key id.
    pub(crate) fn secret(&self, access_key: &str) -> Option<&Secret> {
        self.secrets.get(access_key)
    }

    /// Gives the key that signs for this access key, day and region, and whether it was derived just now; `None` for
    /// an unknown access key.
    pub(crate) fn signing_key(&self, scope: &Scope<'_>) -> Option<(Arc<KeyedHmac>, bool)> {
        if let Some(key) = self.derived.lock().get(scope.signer) {
            return Some((Arc::clone(key), false));
        }
        let secret = self.secret(scope.access_key)?;
        let derived = derive(secret, scope.date, scope.region);
        Some((Arc::new(derived), true))
    }

    /// Keeps a key that has just verified a request.
    pub(crate) fn remember(&self, scope: &Scope<'_>, key: &Arc<KeyedHmac>) {
        let mut derived = self.derived.lock();
        if derived.contains_key(scope.signer) {
            return;
        }
        if derived.len() >= CACHED_KEYS {
            // Days pass and old ones are never asked for again; starting over costs one derivation each.
            derived.clear();
        }
        derived.insert(scope.signer.into(), Arc::clone(key));
    }
}

/// Derives the signing key (S3 API, "Calculating a signature": date, region, service, terminator).
fn derive(secret: &Secret, date: &str, region: &str) -> KeyedHmac {
    let start = [b"AWS4", secret.expose().as_bytes()].concat();
    let day = hmac_sha256(&keyed(&start), date.as_bytes());
    let region = hmac_sha256(&keyed(&day), region.as_bytes());
    let service = hmac_sha256(&keyed(&region), b"s3");
    keyed(&hmac_sha256(&keyed(&service), b"aws4_request"))
}

fn keyed(key: &[u8]) -> KeyedHmac {
    KeyedHmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

/// Authenticates one message.
pub(crate) fn hmac_sha256(key: &KeyedHmac, message: &[u8]) -> [u8; 32] {
    let mut mac = key.clone();
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// Compares two of them in time that does not depend on what they hold; by words, for a step costs the same.
pub(crate) fn is_same(one: &[u8; 32], other: &[u8; 32]) -> bool {
    words(one).ct_eq(&words(other)).into()
}

fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let (words, _) = bytes.as_chunks();
    std::array::from_fn(|at| u64::from_ne_bytes(words[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(credential: &str) -> Scope<'_> {
        Scope::parse(credential).expect("a credential")
    }

    const SCOPE: &str = "AK/20130524/r/s3/aws4_request";

    fn one(secret: &str) -> Vec<(String, Secret)> {
        vec![("AK".to_owned(), Secret::new(secret))]
    }

    #[test]
    fn debug_of_secret_and_table_shows_no_secret() {
        let credentials = Credentials::new(one("hush"));
        let shown = format!("{credentials:?} {:?}", Secret::new("hush"));
        assert!(!shown.contains("hush"), "{shown}");
        assert!(shown.contains("AK"), "{shown}");
    }

    #[test]
    fn replaced_secret_takes_its_derived_keys_with_it() {
        let credentials = Credentials::new(one("old"));
        let table = credentials.table();
        let old = table
            .signing_key(&scope(SCOPE))
            .expect("the key is in the table")
            .0;
        table.remember(&scope(SCOPE), &old);
        credentials.replace(one("new"));
        let new = credentials
            .table()
            .signing_key(&scope(SCOPE))
            .expect("the key is in the table")
            .0;
        assert_ne!(hmac_sha256(&old, b"x"), hmac_sha256(&new, b"x"));
        assert!(
            credentials
                .table()
                .signing_key(&scope("other/20130524/r/s3/aws4_request"))
                .is_none()
        );
    }

    #[test]
    fn cache_stays_bounded() {
        let credentials = Credentials::new(one("s"));
        let table = credentials.table();
        let key = table
            .signing_key(&scope(SCOPE))
            .expect("the key is in the table")
            .0;
        for n in 0..3 * CACHED_KEYS {
            let credential = format!("AK/20130524/{n}/s3/aws4_request");
            table.remember(&scope(&credential), &key);
            assert!(table.derived.lock().len() <= CACHED_KEYS);
        }
    }

    #[test]
    fn only_the_very_same_32_bytes_are_the_same() {
        let one: [u8; 32] = std::array::from_fn(|at| at as u8);
        assert!(is_same(&one, &one.clone()));
        for at in 0..32 {
            let mut other = one;
            other[at] ^= 1;
            assert!(!is_same(&one, &other), "byte {at}");
        }
    }
}
