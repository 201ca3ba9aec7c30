//! Taking over a tree that another gateway served as files: its ETags, checksums, metadata and tags become records of
//! ours. In place; what is the other's stays, so that it can serve the tree again.
//!
//! - versitygw (1.8.0, looked at with getfattr) keeps them in xattrs, `import/versitygw.rs`.
//! - MinIO's filesystem mode (before June 2022) keeps them in a JSON beside each object, `import/minio.rs`.

mod minio;
mod minio_bucket;
mod versitygw;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Mode, OFlags};
use serde_json::{Map, Value};

use crate::everything::{At, Visitor, open_top, walk};
use crate::path::key_text;
use crate::sealer::adopt::{Adopted, Claim};
use crate::{
    BucketName, Digester, ETag, Meta, ObjectKey, Put, Result, Store, StoreError, StoreOptions,
    WriteConditions, dirmark,
};

/// Where versitygw keeps what is on its way, in each bucket.
const UPLOADS: &[u8] = b".sgwtmp";
/// Headers that both keep under their own names.
const HEADERS: [&str; 5] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
];
/// What was there, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Entries that were looked at.
    pub looked_at: u64,
    /// Objects whose ETag and all else was (or would be) taken over.
    pub objects: u64,
    /// Of those, objects that came in parts.
    pub in_parts: u64,
    /// Folders that are objects.
    pub folders: u64,
    /// Objects and folders with metadata or tags.
    pub described: u64,
    /// Objects that are ours already.
    pub already: u64,
    /// Objects whose bytes do not bear the ETag out.
    pub other_bytes: u64,
    /// Buckets with uploads under way, or what is left of them.
    pub upload_folders: u64,
    /// Buckets whose tags were (or would be) taken over.
    pub tagged_buckets: u64,
    /// Buckets with settings that are not taken over, as each was told.
    pub set_buckets: u64,
    /// What was left.
    pub left: u64,
}

/// What another gateway recorded of a bucket.
#[derive(Debug, Default, PartialEq, Eq)]
struct BucketClaim {
    tags: Vec<(String, String)>,
    /// What else is set there, in words; nothing here acts on such.
    others: Vec<&'static str>,
}

/// What is told while it happens.
#[derive(Debug)]
pub enum Telling<'a> {
    /// So many entries more were looked at.
    Progress(u64),
    /// Not all of it could be taken over: the path, and why.
    Said(&'a [u8], String),
}

/// Whose records are taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// versitygw's posix backend.
    Versitygw,
    /// MinIO's filesystem mode.
    MinioFs,
}

/// Takes over what another gateway recorded below `root`, whose directories are its buckets; with `write` false it only
/// counts, without reading a file. Blocking.
///
/// # Errors
/// `root` cannot be opened, or the store not be written. What fails below is told and counted.
pub fn import(
    root: &Path,
    source: Source,
    write: bool,
    told: &mut dyn FnMut(Telling<'_>),
) -> Result<Imported> {
    let shown = root.display().to_string();
    let top = open_top(root)?;
    let mut import = Import {
        source,
        root: &top,
        store: Store::open(StoreOptions {
            read_only: !write,
            ..StoreOptions::of(root)
        })?,
        write,
        told,
        top: shown.len(),
        found: Imported::default(),
    };
    walk(&top, shown.into_bytes(), &mut import);
    Ok(import.found)
}

struct Import<'a> {
    source: Source,
    root: &'a OwnedFd,
    store: Arc<Store>,
    write: bool,
    told: &'a mut dyn FnMut(Telling<'_>),
    /// How long the path of the top is.
    top: usize,
    found: Imported,
}

impl Visitor for Import<'_> {
    fn directory(&mut self, _path: &[u8], names: &[(Vec<u8>, bool)]) {
        (self.told)(Telling::Progress(names.len() as u64));
    }

    fn entry(&mut self, at: &At<'_>) -> bool {
        let is_hidden = crate::path::HideList::new(&[]).hides(at.name);
        if is_hidden || (at.depth == 0 && (!at.is_directory || at.name.starts_with(b"."))) {
            return false;
        }
        if at.depth == 1 && at.name == UPLOADS {
            self.found.upload_folders += 1;
            return false;
        }
        self.found.looked_at += 1;
        let taken = match at.depth {
            0 => self.bucket(at),
            _ => self.take(at),
        };
        if let Err(e) = taken {
            self.left(at.path, &e.to_string());
        }
        true
    }

    fn left(&mut self, path: &[u8], why: &str) {
        self.found.left += 1;
        self.say(path, why);
    }
}

impl Import<'_> {
    fn say(&mut self, path: &[u8], why: &str) {
        (self.told)(Telling::Said(path, why.to_owned()));
    }

    /// A bucket itself: its tags, and a word on what else was set there.
    fn bucket(&mut self, at: &At<'_>) -> Result<()> {
        let Ok(name) = BucketName::parse(&String::from_utf8_lossy(at.name)) else {
            return Ok(()); // what no bucket can be is told where a file in it is met
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = fs::openat(at.dir, at.name, flags, Mode::empty())
            .map_err(|e| crate::root::system("a bucket", e))?;
        let claim = match self.source {
            Source::Versitygw => versitygw::bucket(&dir),
            Source::MinioFs => minio::bucket(self.root, name.as_str()),
        };
        if !claim.others.is_empty() {
            self.found.set_buckets += 1;
            let others = claim.others.join(", ");
            self.say(
                at.path,
                &format!("not taken over, as nothing here acts on it: {others}"),
            );
        }
        if claim.tags.is_empty() {
            return Ok(());
        }
        let bucket = self.store.bucket(&name)?;
        if !bucket.settings()?.tags.is_empty() {
            return Ok(()); // ours are later
        }
        self.found.tagged_buckets += 1;
        match self.write {
            true => bucket.change_settings(|settings| settings.tags = claim.tags),
            false => Ok(()),
        }
    }

    /// One file or folder.
    fn take(&mut self, at: &At<'_>) -> Result<()> {
        let mut flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if at.is_directory {
            flags |= OFlags::DIRECTORY;
        } else {
            let stat = fs::statat(at.dir, at.name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| crate::root::system("an entry", e))?;
            if crate::root::kind(&stat) != fs::FileType::RegularFile {
                return Ok(());
            }
        }
        let file = fs::openat(at.dir, at.name, flags, Mode::empty())
            .map_err(|e| crate::root::system("an entry", e))?;
        let inside = &at.path[self.top + 1..];
        let claim = match self.source {
            Source::Versitygw => versitygw::claim(&file, at.is_directory),
            Source::MinioFs if at.is_directory => minio::empty_folder(&file),
            Source::MinioFs => minio::claim(self.root, inside),
        };
        let Some(claim) = claim else {
            return Ok(());
        };
        let described = claim.meta != Meta::default();
        let (bucket, mut key) = {
            let text = key_text(inside);
            let (bucket, key) = text.split_once('/').unwrap_or((&text, ""));
            (bucket.to_owned(), key.to_owned())
        };
        if at.is_directory {
            key.push('/');
        }
        let name = BucketName::parse(&bucket).map_err(|e| StoreError::InvalidRequest(e.into()))?;
        let key = ObjectKey::parse(&key).map_err(|e| StoreError::InvalidRequest(e.to_string()))?;
        let in_parts = matches!(claim.etag, Some(ETag::Multipart(..)));
        let adopted = match (self.write, at.is_directory) {
            (false, true) if dirmark::read(&file).object.is_some() => Adopted::Already,
            (false, false) if has_record(&file) => Adopted::Already,
            (false, _) => Adopted::Whole,
            (true, false) => self.store.bucket(&name)?.adopt(&key, &claim)?,
            (true, true) => self.folder(&name, &key, &file, claim)?,
        };
        match adopted {
            Adopted::Whole if at.is_directory => self.found.folders += 1,
            Adopted::Whole => {
                self.found.objects += 1;
                self.found.in_parts += u64::from(in_parts);
            }
            Adopted::OtherBytes => {
                self.found.other_bytes += 1;
                self.say(
                    at.path,
                    "its bytes do not bear the ETag out: it has that of its bytes now",
                );
            }
            Adopted::Already => self.found.already += 1,
            Adopted::NotNow => self.left(at.path, "somebody is at work on it"),
        }
        if matches!(adopted, Adopted::Whole | Adopted::OtherBytes) {
            self.found.described += u64::from(described);
        }
        Ok(())
    }

    /// A folder that is the object `dir/`: put as a client would.
    fn folder(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        dir: &OwnedFd,
        claim: Claim,
    ) -> Result<Adopted> {
        if dirmark::read(dir).object.is_some() {
            return Ok(Adopted::Already);
        }
        let bucket = self.store.bucket(bucket)?;
        let put = Put {
            digests: Digester::new(&[]).finish(),
            meta: claim.meta,
            checksum: None,
            conditions: WriteConditions::default(),
        };
        bucket.publish(key, bucket.stage(key, Some(0))?, put)?;
        Ok(Adopted::Whole)
    }
}

/// Is there a record of ours?
fn has_record(file: &OwnedFd) -> bool {
    fs::fgetxattr(file, crate::record::RECORD_XATTR, &mut [0_u8; 0][..]).is_ok()
}

/// The texts of a JSON object.
fn texts(map: Map<String, Value>) -> Vec<(String, String)> {
    let pairs = map.into_iter();
    pairs
        .filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())))
        .collect()
}

/// `"MD5"` or `"MD5-PARTS"`, with its quotes or without.
fn parse_etag(text: &str) -> Option<ETag> {
    let text = text.trim_matches('"');
    let (digits, parts) = match text.split_once('-') {
        Some((digits, parts)) => (digits, Some(parts.parse::<u16>().ok()?)),
        None => (text, None),
    };
    if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let md5 = u128::from_str_radix(digits, 16).ok()?.to_be_bytes();
    Some(match parts {
        Some(parts) => ETag::Multipart(md5, parts),
        None => ETag::Md5(md5),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_read_as_versitygw_writes_them() {
        let md5 = 0x5d41_402a_bc4b_2a76_b971_9d91_1017_c592_u128.to_be_bytes();
        let digits = "5d41402abc4b2a76b9719d911017c592";
        assert_eq!(parse_etag(&format!("\"{digits}\"")), Some(ETag::Md5(md5)));
        assert_eq!(parse_etag(digits), Some(ETag::Md5(md5)));
        let parts = format!("\"{digits}-2\"");
        assert_eq!(parse_etag(&parts), Some(ETag::Multipart(md5, 2)));
        for wrong in [
            "",
            "\"\"",
            "\"5d41\"",
            &format!("{digits}-x"),
            &format!("+{}", &digits[1..]),
        ] {
            assert_eq!(parse_etag(wrong), None, "{wrong}");
        }
    }
}
