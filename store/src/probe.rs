//! What a filesystem can do, found by trying, in a directory of its own that is removed again; and what
//! that means, in sentences that a person understands. Each weakness has a fallback, and none is silent.

mod attempt;
pub(crate) mod daemon;
mod look;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags};

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Good,
    /// Works, by a fallback.
    Weak,
    /// Something that S3 promises cannot be kept.
    Bad,
    /// Not tried.
    Unknown,
}

impl Grade {
    /// As shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Weak => "weak",
            Self::Bad => "bad",
            Self::Unknown => "?",
        }
    }
}

/// One thing that was tried.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// How it went.
    pub grade: Grade,
    /// What it means for what is served.
    pub meaning: String,
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// In the order tried.
    pub findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, what: &'static str, grade: Grade, meaning: impl Into<String>) {
        self.findings.push(Finding {
            what,
            grade,
            meaning: meaning.into(),
        });
    }

    /// One sentence on the whole.
    pub fn summary(&self) -> String {
        let count = |grade| self.findings.iter().filter(|f| f.grade == grade).count();
        let text = match (count(Grade::Bad), count(Grade::Weak)) {
            (0, 0) => "Everything works as it should.".to_owned(),
            (0, weak) => format!("Everything works; {weak} finding(s) use a fallback."),
            (bad, _) => format!("{bad} finding(s) limit what can be served from here."),
        };
        match count(Grade::Unknown) {
            0 => text,
            unknown => format!("{text} {unknown} thing(s) could not be told, or were not tried."),
        }
    }
}

/// Examines a directory. With `read_only` nothing is made, and what would have to be tried stays unknown.
///
/// # Errors
/// The directory cannot be opened.
pub fn examine(dir: &Path, read_only: bool) -> io::Result<Report> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = fs::open(dir, flags, Mode::empty())?;
    let mut report = Report::default();
    look::filesystem(&top, dir, &mut report)?;
    look::buckets(&top, &mut report)?;
    look::census(dir, &mut report);
    if read_only {
        report.add("writing", Grade::Unknown, "not tried, as asked");
        return Ok(report);
    }
    let name = format!(".twintree-doctor-{:016x}", crate::random::number());
    match fs::mkdirat(&top, &name, Mode::from_raw_mode(0o700)) {
        Ok(()) => {}
        Err(e) => {
            report.add(
                "writing",
                Grade::Bad,
                format!("nothing can be made here ({e}): S3 reads work, writes are refused"),
            );
            return Ok(report);
        }
    }
    let tried = fs::openat(&top, &name, flags, Mode::empty()).map_err(io::Error::from);
    let result = tried.and_then(|room| {
        attempt::all(&room, &top, &mut report)?;
        attempt::whole_sync(&room, &mut report);
        Ok(())
    });
    remove(&top, &name)?;
    result.map(|()| report)
}

/// Removes the probe's directory, which holds plain files only.
pub(crate) fn remove(top: &OwnedFd, name: &str) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let room = fs::openat(top, name, flags, Mode::empty())?;
    for entry in fs::Dir::read_from(&room)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            fs::unlinkat(&room, entry.file_name(), AtFlags::empty())?;
        }
    }
    Ok(fs::unlinkat(top, name, AtFlags::REMOVEDIR)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_leaves_nothing_behind_and_finds_every_thing() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("with space")).expect("a directory");
        std::fs::write(dir.path().join("with space/file"), b"x").expect("a file");
        std::os::unix::fs::symlink("file", dir.path().join("with space/link")).expect("a link");
        let report = examine(dir.path(), false).expect("a report");
        let found: Vec<_> = report.findings.iter().map(|f| f.what).collect();
        for what in [
            "extended attributes",
            "locks",
            "times",
            "names",
            "reflink",
            "bucket names",
        ] {
            assert!(found.contains(&what), "{what} in {found:?}");
        }
        let counted = |what: &str| {
            let finding = report.findings.iter().find(|f| f.what == what);
            finding.map(|f| {
                f.meaning
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect::<String>()
            })
        };
        assert_eq!(counted("files").as_deref(), Some("1"));
        assert_eq!(counted("symbolic links").as_deref(), Some("1"));
        let left: Vec<_> = std::fs::read_dir(dir.path()).expect("a listing").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_read_only_probe_makes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let before = std::fs::metadata(dir.path())
            .expect("stat")
            .modified()
            .expect("mtime");
        examine(dir.path(), true).expect("a report");
        assert_eq!(
            std::fs::metadata(dir.path())
                .expect("stat")
                .modified()
                .expect("mtime"),
            before
        );
    }
}
