//! A file's record in words, for `twintree inspect`. It works by path, outside any store: what it says
//! of validity is what a freshly started gateway would say.

use std::fmt::Write;
use std::fs::File;
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::open::kind_name;
use crate::record::{FileState, Judge, META_XATTR, RECORD_XATTR, Record, Verdict};
use crate::root::{kind, system};
use crate::{Meta, Result, StoreError};

/// Describes a file's record.
///
/// # Errors
/// The file cannot be opened or read.
pub fn describe(path: &Path) -> Result<String> {
    let shown = path.display().to_string();
    let failed = |e| StoreError::from_io(&shown, e);
    let file = open(path, &shown)?;
    let state = FileState::look(&file)?;
    let record = match xattr::FileExt::get_xattr(&file, RECORD_XATTR) {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            return Ok(format!(
                "{shown} lies on a filesystem without extended attributes: what is recorded of it is in \
                 .twintree/records/i/{} of its bucket, if anything\n",
                state.inode
            ));
        }
        other => other.map_err(failed)?,
    };
    let meta = xattr::FileExt::get_xattr(&file, META_XATTR).map_err(failed)?;
    let mut out = String::new();
    let verdict = Judge::new(false).judge(&state, record.as_deref(), |_| None);
    let etag = verdict.etag(&state, true);
    let lines = [
        ("file", shown.clone()),
        ("size", format!("{} bytes", state.size)),
        ("ETag now", format!("\"{etag}\"")),
        ("verdict", words(&verdict).to_owned()),
    ];
    lines
        .iter()
        .for_each(|(name, value)| line(&mut out, name, value));
    match record.as_deref().map(Record::decode) {
        None => line(
            &mut out,
            "record",
            "none: nobody PUT this file, and it was not sealed",
        ),
        Some(Err(e)) => line(&mut out, "record", &format!("unreadable: {e}")),
        Some(Ok(record)) => record_lines(&mut out, &record),
    }
    match meta.as_deref().map(Meta::from_json) {
        Some(Some(meta)) => meta_lines(&mut out, &meta),
        Some(None) => line(&mut out, "metadata", "unreadable"),
        None => line(&mut out, "metadata", "none"),
    }
    Ok(out)
}

/// Opens a file or a directory without leaving a trace, and without waiting for a FIFO's writer.
fn open(path: &Path, shown: &str) -> Result<File> {
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
    match kind(&fs::fstat(&file).map_err(|e| system(shown, e))?) {
        FileType::RegularFile | FileType::Directory => Ok(file.into()),
        other => Err(special(other)),
    }
}

fn line(out: &mut String, name: &str, value: &str) {
    writeln!(out, "{name:<12} {value}").expect("writing to a String never fails");
}

fn words(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Valid(_) => "valid: the file is as it was when the record was made",
        Verdict::Stale(_) => {
            "stale: size or mtime changed since; the recorded ETag and checksums do not count"
        }
        Verdict::Unverified(_) => {
            "unverified: the file was touched since (chmod, mv, cp -a); the sealer will read it"
        }
        Verdict::None => "no record",
    }
}

fn record_lines(out: &mut String, record: &Record) {
    line(
        out,
        "recorded",
        &format!("ETag \"{}\", {} bytes", record.etag, record.stamp.size),
    );
    line(out, "CRC64NVME", &format!("{:016x}", record.crc64));
    if let Some((algorithm, value)) = record.short {
        line(out, &format!("{algorithm:?}"), &format!("{value:08x}"));
    }
    line(
        out,
        "mtime then",
        &format!("{} ns", record.stamp.modified.0),
    );
    line(out, "sealed at", &format!("{} ns", record.stamp.seal.0));
    let flags = [
        (record.sealed, "made by sealing"),
        (record.unsynced, "written without sync"),
        (record.has_meta, "has metadata"),
    ];
    let set: Vec<_> = flags
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, name)| *name)
        .collect();
    if !set.is_empty() {
        line(out, "flags", &set.join(", "));
    }
}

fn meta_lines(out: &mut String, meta: &Meta) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if let Some(kind) = &meta.content_type {
        line(out, "type", &text(kind));
    }
    meta.headers
        .iter()
        .for_each(|(name, value)| line(out, name, &text(value)));
    meta.user
        .iter()
        .for_each(|(name, value)| line(out, "metadata", &format!("{name}: {}", text(value))));
    meta.tags
        .iter()
        .for_each(|(name, value)| line(out, "tag", &format!("{name} = {value}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_is_named_and_not_waited_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("fifo");
        fs::mknodat(fs::CWD, &path, FileType::Fifo, Mode::RUSR, 0).expect("a FIFO");
        match describe(&path) {
            Err(StoreError::NotAnObject { kind, .. }) => assert_eq!(kind, "FIFO"),
            other => panic!("{other:?}"),
        }
    }
}
