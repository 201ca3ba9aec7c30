//! Taking over what another gateway recorded of a file, as far as the bytes bear it out.

use std::sync::atomic::AtomicBool;

use super::lease::Lease;
use super::pace::Pace;
use super::settle::{Outcome, Quiet, Terms, read_quietly, record_it, replacing};
use crate::multipart::whole::etag_of;
use crate::open::Found;
use crate::publish::{Content, Finished};
use crate::record::stamp::may_hide;
use crate::record::{self, FileState, Stamp, Verdict};
use crate::{
    Access, Algorithm, Bucket, Digester, Digests, ETag, Meta, ObjectChecksum, ObjectKey, PartInfo,
    Result, WriteConditions, content_type,
};

/// Parts that an upload may have.
const MAX_PARTS: usize = 10_000;

/// What another gateway recorded of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim {
    /// Its ETag.
    pub(crate) etag: Option<ETag>,
    /// The sizes of the parts that it was uploaded in, in order; empty where they are not known, or there were none.
    pub(crate) parts: Vec<u64>,
    /// Checksums of all its bytes.
    pub(crate) checksums: Vec<ObjectChecksum>,
    /// What a client said of it.
    pub(crate) meta: Meta,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adopted {
    /// All of it is ours now.
    Whole,
    /// The bytes do not bear the ETag out, or nothing tells whether they do: theirs counts. What a client said is taken.
    OtherBytes,
    /// There is a record of ours already.
    Already,
    /// Somebody is at work on it, or it is gone.
    NotNow,
}

impl Bucket {
    /// Makes a record of ours for a file that has none, of what is claimed and of the bytes, which are read. Blocking.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn adopt(&self, key: &ObjectKey, claim: &Claim) -> Result<Adopted> {
        self.check_writable()?;
        let Some(Found::File(file, stat)) = self.find(key, Access::Blocking)? else {
            return Ok(Adopted::NotNow);
        };
        let examined = record::describe::examine(self, &file, FileState::of(&stat))?;
        if !matches!(examined.verdict, Verdict::None) {
            return Ok(Adopted::Already);
        }
        let state = examined.state;
        if examined.flux.is_some() || may_hide(&state, Stamp::of(&state)) {
            return Ok(Adopted::NotNow);
        }
        // Linux: a store through a mapping changes no time until its page is written back.
        rustix::fs::fdatasync(&file).map_err(|e| crate::root::system(key.as_str(), e))?;
        let Ok(lease) = Lease::take(self, &file)? else {
            return Ok(Adopted::NotNow);
        };
        let before = FileState::look(&file)?;
        let terms = Terms {
            untouched: 0,
            pace: &Pace::new(None),
            stop: &AtomicBool::new(false),
            read: &|_| {},
        };
        let quiet = Quiet {
            bucket: self,
            file: &file,
            inode: before.inode(),
            size: before.size,
            lease,
            terms: &terms,
        };
        let Some((digests, of_parts)) = digest(&quiet, claim)? else {
            return Ok(Adopted::NotNow);
        };
        let (content, adopted) = weigh(self, claim, &digests, of_parts);
        let finished = Finished {
            content,
            meta: claim.meta.clone(),
            old_json: None,
            conditions: WriteConditions::default(),
        };
        let record = finished.record(Stamp::of(&before));
        let with_type = record.type_code == content_type::IN_META;
        let json = claim.meta.to_json(with_type, None);
        let record = replacing(record, before.derived_etag(self.stable_inodes()));
        match record_it(
            &quiet,
            key,
            &before,
            &examined,
            false,
            record,
            Some(json.as_deref()),
        )? {
            Outcome::Sealed => Ok(adopted),
            _ => Ok(Adopted::NotNow),
        }
    }
}

/// The digests of the content, also those that are claimed, and the ETag of an upload in the claimed parts.
fn digest(quiet: &Quiet<'_>, claim: &Claim) -> Result<Option<(Digests, Option<ETag>)>> {
    let algorithms: Vec<Algorithm> = claim
        .checksums
        .iter()
        .map(|claimed| claimed.checksum.algorithm)
        .collect();
    let mut digester = Digester::new(&algorithms);
    let mut parts = Parts::new(&claim.parts);
    let whole = read_quietly(quiet, |bytes| {
        digester.update(bytes);
        parts.update(bytes);
    })?;
    Ok(whole.then(|| (digester.finish(), parts.finish())))
}

/// The MD5s of the parts of an upload.
struct Parts<'a> {
    /// The sizes of those that have not ended.
    left: &'a [u64],
    part: Digester,
    done: Vec<[u8; 16]>,
    /// There were more bytes than parts have.
    is_longer: bool,
}

impl<'a> Parts<'a> {
    /// Nobody's upload has more parts than S3 lets it have.
    fn new(sizes: &'a [u64]) -> Self {
        let sizes = if sizes.len() > MAX_PARTS { &[] } else { sizes };
        Self {
            left: sizes,
            part: Digester::new(&[]),
            done: Vec::new(),
            is_longer: false,
        }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while let [size, later @ ..] = self.left {
            let missing = size.saturating_sub(self.part.length());
            let take = usize::try_from(missing).map_or(bytes.len(), |n| n.min(bytes.len()));
            self.part.update(&bytes[..take]);
            bytes = &bytes[take..];
            if self.part.length() < *size {
                return;
            }
            let ended = std::mem::replace(&mut self.part, Digester::new(&[])).finish();
            self.done.extend(ended.md5);
            self.left = later;
        }
        self.is_longer |= !bytes.is_empty();
    }

    /// `None` where the parts are not known, or are not those of the bytes.
    fn finish(self) -> Option<ETag> {
        let is_whole = self.left.is_empty() && !self.is_longer;
        (is_whole && !self.done.is_empty()).then(|| etag_of(self.done.into_iter()))
    }
}

/// What of a claim the bytes bear out: an MD5 by itself, that of an upload in parts by the MD5s of its parts or by a
/// checksum of the whole.
fn weigh(
    bucket: &Bucket,
    claim: &Claim,
    digests: &Digests,
    of_parts: Option<ETag>,
) -> (Content, Adopted) {
    let is_true = |claimed: &&ObjectChecksum| digests.extra.contains(&claimed.checksum);
    let checksum = claim.checksums.iter().find(is_true).cloned();
    let is_of_parts = of_parts.is_some() && of_parts == claim.etag;
    let is_borne_out = match claim.etag {
        Some(ETag::Md5(md5)) => digests.md5 == Some(md5),
        Some(ETag::Multipart(..)) => is_of_parts || checksum.is_some(),
        _ => false,
    };
    let mut content = Content::of_body(bucket.etag_kind(), digests, checksum);
    let adopted = match claim.etag.filter(|_| is_borne_out) {
        Some(etag) => {
            content.etag = etag;
            Adopted::Whole
        }
        None => Adopted::OtherBytes,
    };
    if is_of_parts {
        let numbered = (1..).zip(&claim.parts);
        content.parts = numbered
            .map(|(number, size)| PartInfo {
                number,
                size: *size,
                checksum: None,
            })
            .collect();
    }
    (content, adopted)
}
