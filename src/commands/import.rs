//! `twintree import versitygw|minio-fs ROOT`: takes over what another gateway recorded, in place.

use std::path::Path;

use anyhow::{Context, anyhow};
use indicatif::HumanCount;
use twintree_store::import::{self, Imported, Source, Telling};

use super::{Failure, counting, tame};

/// Says what another gateway recorded below a root, and with `yes` takes it over.
///
/// # Errors
/// `Missing` where there is no such directory; `Work` where something could not be taken over.
pub fn run(source: Source, root: &Path, yes: bool) -> Result<(), Failure> {
    let shown = root.display();
    if !root.is_dir() {
        return Err(Failure::Missing(anyhow!("{shown} is no directory")));
    }
    let bar = counting("entries");
    let mut told = |telling: Telling<'_>| match telling {
        Telling::Progress(entries) => bar.inc(entries),
        Telling::Said(path, why) => {
            let path = String::from_utf8_lossy(path);
            bar.suspend(|| eprintln!("twintree: {}: {}", tame(&path), tame(&why)));
        }
    };
    let found = import::import(root, source, yes, &mut told).context("cannot import")?;
    bar.finish_and_clear();
    let looked_at = HumanCount(found.looked_at);
    println!("{shown}: {looked_at} files and directories looked at");
    println!(
        "{}",
        if yes {
            "Taken over:"
        } else {
            "Would be taken over:"
        }
    );
    for line in lines(&found) {
        println!("  {line}");
    }
    if found.upload_folders > 0 {
        println!(
            "Uploads under way are not taken over. Say hide = [\".sgwtmp\"] in the config, or remove those directories: they would show as objects."
        );
    }
    if found.set_buckets > 0 {
        let buckets = HumanCount(found.set_buckets);
        println!(
            "Of {buckets} bucket(s) not everything is taken over: policies, access lists, CORS and the like have no effect here, and each was named above."
        );
    }
    if !yes {
        println!(
            "Files are read once for it, and only their extended attributes change; what is the other gateway's stays. To do it, stop it and repeat with --yes."
        );
    }
    match found.left {
        0 => Ok(()),
        1 => Err(anyhow!("1 entry was left as it is").into()),
        many => Err(anyhow!("{many} entries were left as they are").into()),
    }
}

/// What was there, a line each.
fn lines(found: &Imported) -> Vec<String> {
    let in_parts = format!(
        "objects, {} of them uploaded in parts: ETag and checksums",
        HumanCount(found.in_parts)
    );
    let all = [
        (found.objects, in_parts.as_str()),
        (found.folders, "folders that are objects"),
        (found.described, "of these have metadata or tags"),
        (found.tagged_buckets, "buckets with tags"),
        (
            found.other_bytes,
            "objects whose bytes do not bear out their ETag: metadata and tags, and an ETag of the bytes",
        ),
        (
            found.already,
            "objects have a record of twintree already: left as they are",
        ),
    ];
    let there = all.iter().filter(|(count, _)| *count > 0);
    let lines: Vec<String> = there
        .map(|(count, what)| format!("{} {what}", HumanCount(*count)))
        .collect();
    match lines.is_empty() {
        true => vec!["nothing: no file has an ETag of it".to_owned()],
        false => lines,
    }
}
