//! `twintree inventory ROOT BUCKET[/PREFIX]`: every object with what is recorded of it, a line each.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use indicatif::ProgressBar;
use serde::Serialize;
use twintree_store::{InventoryEntry, Store, StoreOptions};

use super::part::Part;
use super::{Failure, counting, tame};
use crate::{cli, config};

/// Bytes that are written at once.
const BUFFER: usize = 64 << 10;

#[derive(Clone, Copy, Debug)]
enum Format {
    Csv,
    Jsonl,
}

/// One line. The order of the fields is that of the columns.
#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    size: u64,
    mtime: String,
    etag: String,
    crc64nvme: Option<String>,
    state: &'static str,
}

/// Prints the inventory.
///
/// # Errors
/// `Usage` for what was said wrongly; `Work` where the bucket cannot be walked, or an entry could not be read.
pub fn run(args: cli::Inventory) -> Result<(), Failure> {
    let format = match args.format.as_str() {
        "csv" => Format::Csv,
        "jsonl" => Format::Jsonl,
        other => {
            return Err(Failure::Usage(anyhow!(
                "format is csv or jsonl, not {other:?}"
            )));
        }
    };
    let part = Part::parse(&args.part).map_err(Failure::Usage)?;
    let file = config::read_file(args.tree.config.as_deref()).map_err(Failure::Usage)?;
    let options = StoreOptions {
        read_only: true,
        ..config::tree(args.tree, None, file).map_err(Failure::Usage)?
    };
    let shown = options.root.display().to_string();
    let store = Store::open(options).with_context(|| format!("cannot read {shown}"))?;
    let bucket = store.bucket(&part.bucket).context("no inventory")?;
    let bar = progress();
    let unread = Arc::new(AtomicU64::new(0));
    let complain = {
        let (bar, unread) = (bar.clone(), Arc::clone(&unread));
        move |key: &str, why: &str| {
            unread.fetch_add(1, Ordering::Relaxed);
            bar.suspend(|| eprintln!("twintree: cannot read {key:?}: {}", tame(why)));
        }
    };
    let mut inventory = bucket
        .inventory(&part.prefix, complain)
        .context("no inventory")?;
    let mut out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
    let mut print = || -> anyhow::Result<()> {
        if let Format::Csv = format {
            out.write_all(HEADER).context(OUT)?;
        }
        while let Some(stretch) = inventory.stretch().context("the inventory is cut short")? {
            for entry in &stretch {
                write(&mut out, format, &Row::of(entry)).context(OUT)?;
            }
            bar.inc(stretch.len() as u64);
        }
        out.flush().context(OUT)
    };
    let printed = print();
    bar.finish_and_clear();
    // Who reads no further knows that there is more.
    if let Err(e) = printed
        && !is_closed_pipe(&e)
    {
        return Err(e.into());
    }
    match unread.load(Ordering::Relaxed) {
        0 => Ok(()),
        1 => Err(anyhow!("1 entry could not be read").into()),
        many => Err(anyhow!("{many} entries could not be read").into()),
    }
}

const OUT: &str = "standard output";
const HEADER: &[u8] = b"key,size,mtime,etag,crc64nvme,state\r\n";

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// How far we are, for a person who sees nothing else of it.
fn progress() -> ProgressBar {
    match io::stdout().is_terminal() {
        true => ProgressBar::hidden(),
        false => counting("objects"),
    }
}

impl<'a> Row<'a> {
    fn of(entry: &'a InventoryEntry) -> Self {
        Self {
            key: &entry.key,
            size: entry.size,
            mtime: entry.modified.rfc3339(),
            etag: entry.etag.to_string(),
            crc64nvme: entry.crc64.map(|crc| STANDARD.encode(crc.to_be_bytes())),
            state: entry.state.word(),
        }
    }
}

fn write(out: &mut impl Write, format: Format, row: &Row) -> io::Result<()> {
    match format {
        Format::Jsonl => {
            serde_json::to_writer(&mut *out, row)?;
            out.write_all(b"\n")
        }
        Format::Csv => {
            write_field(out, row.key)?;
            let crc = row.crc64nvme.as_deref().unwrap_or_default();
            write!(
                out,
                ",{},{},{},{crc},{}\r\n",
                row.size, row.mtime, row.etag, row.state
            )
        }
    }
}

/// RFC 4180, 2.5 to 2.7: quoted where it has to be, quotes doubled.
fn write_field(out: &mut impl Write, text: &str) -> io::Result<()> {
    if !text.contains(['"', ',', '\r', '\n']) && text.trim() == text {
        return out.write_all(text.as_bytes());
    }
    write!(out, "\"{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: Format, key: &str) -> String {
        let row = Row {
            key,
            size: 5,
            mtime: "2024-02-29T12:34:56.000000001Z".into(),
            etag: "e".into(),
            crc64nvme: None,
            state: "none",
        };
        let mut bytes = Vec::new();
        write(&mut bytes, format, &row).expect("written");
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn keys_are_quoted_where_rfc_4180_asks_for_it() {
        let rest = ",5,2024-02-29T12:34:56.000000001Z,e,,none\r\n";
        for (key, shown) in [
            ("a/b", "a/b"),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("a\nb", "\"a\nb\""),
            (" a", "\" a\""),
        ] {
            assert_eq!(line(Format::Csv, key), format!("{shown}{rest}"));
        }
    }

    #[test]
    fn a_json_line_has_the_columns_as_names() {
        assert_eq!(
            line(Format::Jsonl, "a\n\"b"),
            "{\"key\":\"a\\n\\\"b\",\"size\":5,\"mtime\":\"2024-02-29T12:34:56.000000001Z\",\"etag\":\"e\",\
             \"crc64nvme\":null,\"state\":\"none\"}\n"
        );
    }
}
