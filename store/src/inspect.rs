//! What is recorded of a file or a directory, in words, for `twintree inspect`. It works by path, outside
//! any store: what it says of validity is what a freshly started gateway would say.
//!
//! It does not look for the bucket: of what lies in `.twintree/` it says the name.

mod words;

use std::fmt::Write;
use std::fs::File;
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::dirmark;
use crate::open::kind_name;
use crate::record::disk::hex;
use crate::record::stamp::is_too_young;
use crate::record::{BootMark, FileState, Judge, META_XATTR, RECORD_XATTR, Record, Verdict, kind};
use crate::root::system;
use crate::{ETag, Meta, Result, StoreError, content_type};

/// What is said so far: a name and its value on each line.
struct Lines(String);

impl Lines {
    fn say(&mut self, name: &str, value: impl AsRef<str>) {
        writeln!(self.0, "{name:<12} {}", value.as_ref()).expect("writing to a String never fails");
    }
}

/// Describes what is recorded of a file or a directory.
///
/// # Errors
/// It cannot be opened or read, or is neither.
pub fn describe(path: &Path) -> Result<String> {
    let shown = words::tame(path.as_os_str().as_encoded_bytes());
    let (file, found) = open(path, &shown)?;
    let mut lines = Lines(String::new());
    match found {
        FileType::Directory => say_directory(&mut lines, &file, &shown)?,
        _ => say_file(&mut lines, &file, &shown)?,
    }
    Ok(lines.0)
}

/// Opens a file or a directory without leaving a trace, and without waiting for a FIFO's writer.
fn open(path: &Path, shown: &str) -> Result<(File, FileType)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match fs::open(path, flags | OFlags::NOATIME, Mode::empty()) {
        // Linux: O_NOATIME is for the owner only (open(2), EPERM).
        Err(Errno::PERM) => fs::open(path, flags, Mode::empty()),
        other => other,
    };
    let special = |kind| StoreError::NotAnObject {
        key: shown.to_owned(),
        kind: kind_name(kind),
    };
    let file = opened.map_err(|e| match e {
        Errno::NXIO => special(FileType::Socket),
        e => system(shown, e),
    })?;
    let stat = fs::fstat(&file).map_err(|e| system(shown, e))?;
    match crate::root::kind(&stat) {
        found @ (FileType::RegularFile | FileType::Directory) => Ok((file.into(), found)),
        other => Err(special(other)),
    }
}

/// An xattr; `None`: the filesystem has none at all.
fn get(file: &File, name: &str, shown: &str) -> Result<Option<Option<Vec<u8>>>> {
    match xattr::FileExt::get_xattr(file, name) {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(None),
        Err(e) => Err(StoreError::from_io(shown, e)),
    }
}

fn say_directory(lines: &mut Lines, dir: &File, shown: &str) -> Result<()> {
    lines.say("directory", shown);
    let Some(json) = get(dir, META_XATTR, shown)? else {
        lines.say(
            "mark",
            "none: the filesystem has no extended attributes, so this is no object, and S3 never removes it",
        );
        return Ok(());
    };
    let mark = dirmark::read(dir);
    match mark.object {
        Some(modified) => {
            lines.say(
                "object",
                "yes: S3 shows it as the key that ends in \"/\", of 0 bytes",
            );
            lines.say("modified", words::date(modified));
            lines.say("ETag now", words::etag(ETag::EMPTY));
        }
        None => lines.say(
            "object",
            "no: S3 shows what lies in it, and not the directory itself",
        ),
    }
    let made = match (mark.created, mark.object.is_some()) {
        (true, false) => "twintree: it goes when S3 deletes the last that is in it",
        (true, true) => "twintree: it goes when it is empty and S3 has deleted the object",
        (false, _) => "somebody else: S3 never removes it, even when it is empty",
    };
    lines.say("made by", made);
    say_meta(lines, json.as_deref(), None);
    Ok(())
}

fn say_file(lines: &mut Lines, file: &File, shown: &str) -> Result<()> {
    let state = FileState::look(file)?;
    lines.say("file", shown);
    lines.say("size", format!("{} bytes", state.size));
    lines.say("mtime now", words::date(state.modified));
    lines.say("ctime now", words::date(state.changed));
    let Some(bytes) = get(file, RECORD_XATTR, shown)? else {
        lines.say(
            "record",
            format!(
                "the filesystem has no extended attributes: in .twintree/records/i/{} of its bucket, if anywhere",
                state.inode
            ),
        );
        return Ok(());
    };
    let json = get(file, META_XATTR, shown)?.flatten();
    let judge = Judge::new(false);
    let verdict = judge.judge(&state, bytes.as_deref(), |_| None);
    lines.say("ETag now", words::etag(verdict.etag(&state, true)));
    lines.say("verdict", say_verdict(&verdict));
    match (&verdict, bytes.as_deref().map(Record::decode)) {
        (Verdict::Unverified(Some(record)), _) => {
            lines.say("because", doubt(record, &state, judge.boot_mark()));
        }
        (_, Some(Err(e))) => lines.say("because", e.to_string()),
        _ => {}
    }
    if let Some(record) = verdict.record() {
        say_record(lines, record, judge.boot_mark());
    }
    say_meta(lines, json.as_deref(), verdict.record());
    Ok(())
}

/// What a verdict means for who asks by S3.
fn say_verdict(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Valid(_) => {
            "valid: the file is as it was when the record was made; S3 shows the recorded ETag and checksum"
        }
        Verdict::Stale(_) => {
            "stale: size or mtime changed since; S3 shows a derived ETag and no checksum, and metadata and tags still"
        }
        Verdict::Unverified(Some(_)) => {
            "unverified: S3 shows a derived ETag and no checksum until the sealer has read the file; a condition \
             that names the recorded ETag has the content read at once"
        }
        Verdict::Unverified(None) => {
            "unverified: the record cannot be read; S3 shows a derived ETag and no checksum, and keeps the record \
             until the object is replaced"
        }
        Verdict::None => {
            "no record: nobody PUT the file, and it was not sealed; S3 shows a derived ETag and no checksum"
        }
    }
}

/// Why a record with the right size and mtime is not believed.
fn doubt(record: &Record, state: &FileState, boot: BootMark) -> &'static str {
    if record.unsynced && record.boot != Some(boot) {
        return "it was written without sync in another boot: believed only where .twintree/synced/ of its bucket \
                says that all was on disk later than that";
    }
    if is_too_young(state, record.stamp) {
        return "the filesystem's clock is coarse, and the last change so young that another could hide";
    }
    "its ctime is not that of the record: the file was touched (chmod, mv, cp -a), or written with its mtime put back"
}

fn say_record(lines: &mut Lines, record: &Record, boot: BootMark) {
    lines.say("recorded", words::etag(record.etag));
    lines.say("size then", format!("{} bytes", record.stamp.size));
    lines.say("mtime then", words::date(record.stamp.modified));
    lines.say("ctime then", words::date(record.stamp.seal));
    let checksum = record.checksum();
    lines.say(
        "checksum",
        format!(
            "{}, {}",
            words::checksum(&checksum.checksum),
            words::coverage(checksum.kind)
        ),
    );
    let crc64 = crate::Checksum::crc64(record.crc64);
    if checksum.checksum != crc64 {
        lines.say("beside it", words::checksum(&crc64));
    }
    say_parts(lines, record);
    if let Some(id) = record.upload_id() {
        lines.say("upload id", words::tame(id.as_bytes()));
    }
    if let Some(half) = record.replaced {
        lines.say(
            "replaced",
            format!(
                "the derived ETag that began with {half:016x}: conditions that name it still hold"
            ),
        );
    }
    say_flags(lines, record, boot);
    for (unknown, value) in &record.fields {
        if !(kind::LONG_CHECKSUM..=kind::META_OVERFLOW).contains(unknown) {
            let length = value.len();
            lines.say(
                "kept",
                format!("field {unknown} of a later version, {length} bytes"),
            );
        }
    }
}

fn say_parts(lines: &mut Lines, record: &Record) {
    if let Some(hash) = record.field(kind::OVERFLOW) {
        lines.say(
            "parts",
            format!("in .twintree/records/{} of its bucket", hex(hash)),
        );
    }
    let parts = record.parts();
    if parts.is_empty() {
        return;
    }
    lines.say(
        "parts",
        format!("{}: {}", parts.len(), words::sizes(&parts)),
    );
    let sum: u64 = parts.iter().map(|part| part.size).sum();
    if sum != record.stamp.size {
        lines.say("", "they do not add up to the size: S3 does not show them");
    }
    for part in &parts {
        if let Some(checksum) = &part.checksum {
            lines.say(&format!("part {}", part.number), words::checksum(checksum));
        }
    }
}

fn say_flags(lines: &mut Lines, record: &Record, boot: BootMark) {
    let unsynced = match record.boot {
        Some(written) if written == boot => {
            "unsynced: written without sync in this boot".to_owned()
        }
        Some(written) => format!(
            "unsynced: written without sync in the boot whose id begins with {}",
            hex(&written)
        ),
        None => "unsynced: written without sync in an unknown boot".to_owned(),
    };
    let flags = [
        (record.unsynced, unsynced.as_str()),
        (record.sealed, "sealed: nobody PUT it, the sealer read it"),
        (record.has_meta, "meta: it has metadata or tags"),
    ];
    for (_, flag) in flags.iter().filter(|(set, _)| *set) {
        lines.say("flag", flag);
    }
}

/// The object half. A file nobody PUT has its type from its name; a directory has `record: None`.
fn say_meta(lines: &mut Lines, json: Option<&[u8]>, record: Option<&Record>) {
    let meta = match json.map(Meta::from_json) {
        Some(Some(meta)) => meta,
        Some(None) => {
            lines.say("metadata", "unreadable: no JSON object");
            return;
        }
        None => Meta::default(),
    };
    match (&meta.content_type, record.filter(|record| !record.sealed)) {
        (Some(sent), _) => lines.say("type", words::tame(sent)),
        (None, Some(record)) if record.type_code == content_type::NOT_SENT => {
            lines.say("type", format!("none was sent: {}", content_type::NONE));
        }
        (None, Some(record)) => match content_type::coded(record.type_code) {
            Some(coded) => lines.say("type", coded),
            None if record.type_code == content_type::IN_META => {}
            None => lines.say(
                "type",
                format!("code {} of a later version", record.type_code),
            ),
        },
        (None, None) => {}
    }
    let overflow = record.and_then(|record| record.field(kind::META_OVERFLOW));
    match (json, overflow) {
        (None, Some(hash)) => {
            lines.say(
                "metadata",
                format!("in .twintree/records/{} of its bucket", hex(hash)),
            );
        }
        (None, None) if record.is_some_and(|record| record.has_meta) => {
            lines.say(
                "metadata",
                format!("lost: {META_XATTR} is not there any more"),
            );
        }
        (None, None) => lines.say("metadata", "none"),
        (Some(_), _) => {}
    }
    for (name, value) in &meta.headers {
        lines.say(
            "header",
            format!("{}: {}", words::tame(name.as_bytes()), words::tame(value)),
        );
    }
    for (name, value) in &meta.user {
        lines.say(
            "metadata",
            format!("{}: {}", words::tame(name.as_bytes()), words::tame(value)),
        );
    }
    for (name, value) in &meta.tags {
        let (name, value) = (words::tame(name.as_bytes()), words::tame(value.as_bytes()));
        lines.say("tag", format!("{name} = {value}"));
    }
}

#[cfg(test)]
mod tests;
