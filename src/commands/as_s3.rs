//! `twintree doctor --as-s3 DIR`: what a directory would be as S3, before anything is served.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;
use twintree_store::as_s3::{self, Found, Remark, Summary, Telling};

use super::{Failure, counting, tame};

/// How many examples of each remark a person is shown.
const EXAMPLES: usize = 3;

/// One finding, as a program reads it. A path that is not UTF-8 shows U+FFFD for the odd bytes; its key is in the detail.
#[derive(Serialize)]
struct Row<'a> {
    remark: &'static str,
    no_object: bool,
    path: &'a str,
    detail: &'a str,
}

/// The last line.
#[derive(Serialize)]
struct Last {
    buckets: u64,
    objects: u64,
    bytes: u64,
    remarks: BTreeMap<&'static str, u64>,
}

/// Prints what was found.
///
/// # Errors
/// `Usage` for another format; `Missing` where there is no such directory; `Work` where something could not be read.
pub fn run(dir: &Path, format: &str) -> Result<(), Failure> {
    let for_programs = match format {
        "text" => false,
        "jsonl" => true,
        other => {
            let why = anyhow!("format is text or jsonl, not {other:?}");
            return Err(Failure::Usage(why));
        }
    };
    if !dir.is_dir() {
        let why = anyhow!("{} is no directory", dir.display());
        return Err(Failure::Missing(why));
    }
    let bar = counting("entries");
    let mut out = BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    let mut examples: BTreeMap<Remark, Vec<String>> = BTreeMap::new();
    let mut told = |telling: Telling<'_>| match telling {
        Telling::Progress(entries) => bar.inc(entries),
        Telling::Found(found) if for_programs => {
            if written.is_ok() {
                written = write_row(&mut out, &found);
            }
        }
        Telling::Found(found) => {
            let shown = examples.entry(found.remark).or_default();
            if shown.len() < EXAMPLES {
                shown.push(example(&found));
            }
        }
    };
    let summary = as_s3::examine(dir, &mut told).context("cannot examine")?;
    bar.finish_and_clear();
    let written = written.and_then(|()| match for_programs {
        true => write_last(&mut out, &summary),
        false => write_text(&mut out, dir, &summary, &examples),
    });
    written
        .and_then(|()| out.flush())
        .context("standard output")?;
    match summary.remarks.get(&Remark::Unread) {
        None => Ok(()),
        Some(1) => Err(anyhow!("1 entry could not be read").into()),
        Some(many) => Err(anyhow!("{many} entries could not be read").into()),
    }
}

fn example(found: &Found<'_>) -> String {
    let path = String::from_utf8_lossy(found.path);
    match found.detail.as_str() {
        "" => tame(&path),
        detail => format!("{} ({})", tame(&path), tame(detail)),
    }
}

fn write_row(out: &mut impl Write, found: &Found<'_>) -> io::Result<()> {
    let row = Row {
        remark: found.remark.word(),
        no_object: found.remark.is_no_object(),
        path: &String::from_utf8_lossy(found.path),
        detail: &found.detail,
    };
    serde_json::to_writer(&mut *out, &row)?;
    out.write_all(b"\n")
}

fn write_last(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    let counts = summary.remarks.iter();
    let last = Last {
        buckets: summary.buckets,
        objects: summary.objects,
        bytes: summary.bytes,
        remarks: counts
            .map(|(remark, count)| (remark.word(), *count))
            .collect(),
    };
    serde_json::to_writer(&mut *out, &last)?;
    out.write_all(b"\n")
}

fn write_text(
    out: &mut impl Write,
    dir: &Path,
    summary: &Summary,
    examples: &BTreeMap<Remark, Vec<String>>,
) -> io::Result<()> {
    writeln!(
        out,
        "{} as S3: {} buckets, {} objects, {}",
        tame(&dir.display().to_string()),
        HumanCount(summary.buckets),
        HumanCount(summary.objects),
        HumanBytes(summary.bytes)
    )?;
    let sections: [(bool, &str); 2] = [(true, "No objects:"), (false, "Objects, but mind:")];
    for (no_object, title) in sections {
        let remarks = Remark::ALL.into_iter();
        let of_it = remarks.filter(|remark| remark.is_no_object() == no_object);
        let there: Vec<_> = of_it
            .filter_map(|remark| Some((remark, *summary.remarks.get(&remark)?)))
            .collect();
        if there.is_empty() {
            continue;
        }
        writeln!(out, "\n{title}")?;
        for (remark, count) in there {
            let counted = HumanCount(count).to_string();
            writeln!(out, "{counted:>9}  {}", remark.meaning())?;
            for example in examples.get(&remark).into_iter().flatten() {
                writeln!(out, "{:>9}  {example}", "")?;
            }
            let shown = examples.get(&remark).map_or(0, Vec::len) as u64;
            if count > shown {
                writeln!(
                    out,
                    "{:>9}  and {} more (--format jsonl names all)",
                    "",
                    HumanCount(count - shown)
                )?;
            }
        }
    }
    if summary.remarks.is_empty() {
        writeln!(out, "\nEvery file is an object, and none is odd.")?;
    }
    Ok(())
}
