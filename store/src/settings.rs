//! `.twintree/bucket.json`: what is remembered of a bucket. Fields that we do not know are kept.

use std::fs::File;
use std::io::{Read, Write};

use rustix::fs::{self, AtFlags, Mode, OFlags};
use serde_json::{Map, Value, json};

use crate::root::{open_own_file, system};
use crate::{Bucket, Durability, ETagKind, Result, StoreError, Timestamp};

const FILE: &str = "bucket.json";
/// The most that is read of the file, in bytes: tags and policies are far below it.
const MAX_BYTES: u64 = 1 << 20;

/// What is remembered of a bucket in `.twintree/bucket.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketSettings {
    /// When it was made through S3; `None` for a directory that was there.
    pub created: Option<Timestamp>,
    /// The location constraint.
    pub location: Option<String>,
    /// The access key id that created it.
    pub owner: Option<String>,
    /// Bucket tags.
    pub tags: Vec<(String, String)>,
}

impl Bucket {
    /// What `bucket.json` holds; the default without one. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub fn settings(&self) -> Result<BucketSettings> {
        Ok(decode(&self.document()?))
    }

    /// Changes `bucket.json` under the bucket's lock, keeping fields that we do not know. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub fn change_settings(&self, change: impl FnOnce(&mut BucketSettings)) -> Result<()> {
        self.check_writable()?;
        let _held = self.shared.settings.lock();
        let mut document = self.document()?;
        let mut settings = decode(&document);
        change(&mut settings);
        encode(&settings, &mut document);
        self.replace(&Value::Object(document))
    }

    fn document(&self) -> Result<Map<String, Value>> {
        let Some(dir) = self.tree.reserved("", false)? else {
            return Ok(Map::new());
        };
        let Some(file) = open_own_file(&dir, FILE, OFlags::RDONLY)? else {
            return Ok(Map::new());
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|e| StoreError::from_io(FILE, e))?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(document)) => Ok(document),
            _ => Err(StoreError::InvalidRequest(format!(
                "{FILE} of bucket {:?} is damaged",
                self.name()
            ))),
        }
    }

    fn replace(&self, document: &Value) -> Result<()> {
        let dir = self
            .tree
            .reserved("", true)?
            .ok_or_else(|| StoreError::Unavailable(FILE.to_owned()))?;
        let temporary = format!("{FILE}.{:016x}", crate::random::number());
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&dir, &temporary, flags, Mode::from_raw_mode(0o600))
            .map_err(|e| system(FILE, e))?;
        let mut file = File::from(file);
        // In both durabilities: a power cut that leaves an empty file here takes the whole bucket with it.
        let published = file
            .write_all(document.to_string().as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::renameat(&dir, &temporary, &dir, FILE).map_err(Into::into))
            .and_then(|()| fs::fsync(&dir).map_err(Into::into));
        published.map_err(|e| {
            // The temporary file may be gone already (the rename went through); the sweep takes what is left.
            let _ = fs::unlinkat(&dir, &temporary, AtFlags::empty());
            StoreError::from_io(FILE, e)
        })
    }

    /// What is on disk before a write to this bucket is answered.
    pub(crate) fn durability(&self) -> Durability {
        self.rules.durability
    }

    /// Is everything on disk before a write to this bucket is answered?
    pub fn is_strict(&self) -> bool {
        self.durability() == Durability::Strict
    }

    /// What ETag an object gets that is written to this bucket as a whole, or sealed in it.
    pub fn etag_kind(&self) -> ETagKind {
        self.store.etags().of(self.name())
    }
}

pub(crate) fn decode(document: &Map<String, Value>) -> BucketSettings {
    let text = |name: &str| {
        document
            .get(name)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let pair = |tag: &Value| {
        Some((
            tag.get(0)?.as_str()?.to_owned(),
            tag.get(1)?.as_str()?.to_owned(),
        ))
    };
    BucketSettings {
        created: document
            .get("created")
            .and_then(Value::as_i64)
            .map(Timestamp),
        location: text("location"),
        owner: text("owner"),
        tags: document
            .get("tags")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(pair)
            .collect(),
    }
}

pub(crate) fn encode(settings: &BucketSettings, document: &mut Map<String, Value>) {
    document.insert("version".to_owned(), json!(1));
    let tags = (!settings.tags.is_empty()).then(|| json!(settings.tags));
    let fields = [
        ("created", settings.created.map(|t| json!(t.0))),
        ("location", settings.location.as_ref().map(|l| json!(l))),
        ("owner", settings.owner.as_ref().map(|o| json!(o))),
        ("tags", tags),
    ];
    for (name, value) in fields {
        match value {
            Some(value) => document.insert(name.to_owned(), value),
            None => document.remove(name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_we_do_not_know_are_kept() {
        let mut document = json!({"version": 1, "policy": {"x": 1}, "location": "eu"})
            .as_object()
            .cloned()
            .expect("an object");
        let mut settings = decode(&document);
        settings.location = None;
        settings.tags = vec![("a".into(), "b".into())];
        encode(&settings, &mut document);
        assert_eq!(
            Value::Object(document.clone()),
            json!({"version": 1, "policy": {"x": 1}, "tags": [["a", "b"]]})
        );
        assert_eq!(decode(&document), settings);
    }
}
