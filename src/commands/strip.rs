//! `twintree strip DIR`: takes out of a tree what we put there, after saying what would be lost.

use std::path::Path;

use anyhow::{Context, anyhow};
use indicatif::{HumanBytes, HumanCount};
use twintree_store::strip::{self, Belongings, Telling};

use super::{Failure, counting, tame};

/// Says what is there, and with `yes` takes it out.
///
/// # Errors
/// `Missing` where there is no such directory; `Work` where something had to be left.
pub fn run(dir: &Path, yes: bool) -> Result<(), Failure> {
    let shown = dir.display();
    if !dir.is_dir() {
        return Err(Failure::Missing(anyhow!("{shown} is no directory")));
    }
    let bar = counting("entries");
    let mut told = |telling: Telling<'_>| match telling {
        Telling::Progress(entries) => bar.inc(entries),
        Telling::Left(path, why) => {
            let path = String::from_utf8_lossy(path);
            bar.suspend(|| eprintln!("twintree: left: {}: {}", tame(&path), tame(&why)));
        }
    };
    let found = strip::strip(dir, yes, &mut told).context("cannot strip")?;
    bar.finish_and_clear();
    println!(
        "{shown}: {} files and directories looked at",
        HumanCount(found.looked_at)
    );
    println!(
        "{}",
        if yes {
            "Taken out:"
        } else {
            "Would be taken out:"
        }
    );
    for line in lines(&found) {
        println!("  {line}");
    }
    if !yes {
        println!(
            "No file's bytes, name, owner, mode or mtime changes. To do it, stop the daemon and repeat with --yes."
        );
    }
    match found.left {
        0 => Ok(()),
        1 => Err(anyhow!("1 entry was left as it is").into()),
        many => Err(anyhow!("{many} entries were left as they are").into()),
    }
}

/// What is there, a line each, and what becomes of it.
fn lines(found: &Belongings) -> Vec<String> {
    let annexed = format!(
        "objects whose keys no path can hold, {} (.twintree/annex/): lost; copy them away first, by S3 or from .annex/ in the mount",
        HumanBytes(found.annexed_bytes)
    );
    let all = [
        (
            found.records,
            "records (ETag, checksums): another gateway computes its own",
        ),
        (
            found.metadata,
            "files or folders with metadata or tags (Content-Type, x-amz-meta-...): lost",
        ),
        (
            found.folders,
            "marks of folders that were made by S3: the folders stay",
        ),
        (found.annexed, annexed.as_str()),
        (
            found.versions,
            "versions that are not the current one: lost",
        ),
        (
            found.uploads,
            "multipart uploads that were not completed: lost",
        ),
        (found.reserved, "directories .twintree"),
    ];
    let there = all.iter().filter(|(count, _)| *count > 0);
    let lines: Vec<String> = there
        .map(|(count, what)| format!("{} {what}", HumanCount(*count)))
        .collect();
    match lines.is_empty() {
        true => vec!["nothing: there is nothing of ours".to_owned()],
        false => lines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_loss_is_said_and_what_is_not_there_is_not() {
        assert_eq!(
            lines(&Belongings::default()),
            ["nothing: there is nothing of ours"]
        );
        let found = Belongings {
            records: 1234,
            annexed: 2,
            annexed_bytes: 2048,
            ..Belongings::default()
        };
        let lines = lines(&found);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("1,234 records"), "{lines:?}");
        assert!(
            lines[1].contains("2.00 KiB") && lines[1].contains("lost"),
            "{lines:?}"
        );
    }
}
