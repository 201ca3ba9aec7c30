//! `twintree seal ROOT [BUCKET[/PREFIX]]`: real ETags and checksums for files that have none.

mod progress;
mod tally;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use twintree_store::{Bucket, RecordState, SealEvent, SealOptions, SealReport, Store};

use self::progress::Progress;
use self::tally::{Tally, counted};
use super::part::Part;
use super::{Failure, tame};
use crate::{cli, config};

/// Threads where nobody says how many: more would keep a disk from its other work.
const MAX_THREADS: usize = 4;

/// What is to be sealed.
struct Job {
    bucket: Bucket,
    prefix: String,
}

/// Seals, and says what was done.
///
/// # Errors
/// `Usage` for what was said wrongly; `Work` where nothing can be recorded, or something could not be;
/// `Interrupted` after SIGINT or SIGTERM.
pub fn run(args: cli::Seal) -> Result<(), Failure> {
    let part = args.part.as_deref().map(Part::parse).transpose();
    let part = part.map_err(Failure::Usage)?;
    let rate = args.rate.as_deref().map(|text| config::size("rate", text));
    let options = SealOptions {
        rate: rate.transpose().map_err(Failure::Usage)?,
        threads: threads(args.threads)?,
        untouched: Duration::ZERO,
    };
    let file = config::read_file(args.tree.config.as_deref()).map_err(Failure::Usage)?;
    let tree = config::tree(args.tree, args.etag, file).map_err(Failure::Usage)?;
    let shown = tree.root.display().to_string();
    let store = Store::open(tree).with_context(|| format!("cannot seal {shown}"))?;
    let tally = Arc::new(Tally::default());
    let jobs = jobs(&store, part, &tally)?;
    let stop = stop_on_signals()?;
    let begun = Instant::now();
    let outcome = match args.dry_run {
        true => jobs.iter().try_for_each(|job| rehearse(job, &tally, &stop)),
        false => seal(&jobs, &options, &tally, &stop),
    };
    let interrupted = stop.load(Ordering::Relaxed);
    let text = match args.dry_run {
        true => tally.rehearsal(),
        false => tally.summary(begun.elapsed(), interrupted),
    };
    say(&text);
    outcome?;
    match tally.troubles() {
        _ if interrupted => Err(Failure::Interrupted),
        0 => Ok(()),
        troubles => Err(anyhow!("{} could not be sealed", counted(troubles, "entry")).into()),
    }
}

fn threads(said: Option<usize>) -> Result<usize, Failure> {
    match said {
        Some(0) => Err(Failure::Usage(anyhow!("threads: at least 1"))),
        Some(threads) => Ok(threads),
        None => Ok(std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS))),
    }
}

/// The buckets that were asked for, where something can be recorded in them.
fn jobs(store: &Arc<Store>, part: Option<Part>, tally: &Tally) -> anyhow::Result<Vec<Job>> {
    if let Some(Part { bucket, prefix }) = part {
        let bucket = store.bucket(&bucket).context("nothing is sealed")?;
        bucket.check_sealable().context("nothing can be recorded")?;
        return Ok(vec![Job { bucket, prefix }]);
    }
    let (mut jobs, mut refused) = (Vec::new(), None);
    for info in store.buckets().context("nothing is sealed")? {
        // One of which the config file says that nothing is written to it is no trouble.
        let is_read_only = |bucket: Bucket| bucket.is_read_only();
        if !store.options().read_only && store.bucket(&info.name).is_ok_and(is_read_only) {
            continue;
        }
        let checked = store.bucket(&info.name).and_then(|bucket| {
            bucket.check_sealable()?;
            Ok(bucket)
        });
        match checked {
            Ok(bucket) => jobs.push(Job {
                bucket,
                prefix: String::new(),
            }),
            Err(e) => {
                tally.trouble();
                let line = format!(
                    "{:#}",
                    anyhow::Error::from(e).context("nothing can be recorded")
                );
                match refused.replace(line.clone()) {
                    None => {}
                    Some(_) => eprintln!("twintree: {line}"),
                }
            }
        }
    }
    match (jobs.is_empty(), refused) {
        (true, Some(line)) => Err(anyhow!(line)),
        (false, Some(line)) => {
            eprintln!("twintree: {line}");
            Ok(jobs)
        }
        (_, None) => Ok(jobs),
    }
}

fn seal(
    jobs: &[Job],
    options: &SealOptions,
    tally: &Arc<Tally>,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let progress = Arc::new(Progress::new());
    for job in jobs {
        count(job, &progress, stop)?;
    }
    progress.counted();
    let report: Arc<SealReport> = {
        let (tally, progress) = (Arc::clone(tally), Arc::clone(&progress));
        Arc::new(move |event: SealEvent<'_>| {
            tally.take(&event);
            progress.take(&event);
        })
    };
    let sealed = jobs.iter().try_for_each(|job| {
        let what = || format!("bucket {:?}", job.bucket.name().as_str());
        job.bucket
            .seal(&job.prefix, options, stop, &report)
            .with_context(what)
    });
    progress.end();
    sealed
}

/// Finds out how much there is to do, so that it can be said how long it takes.
fn count(job: &Job, progress: &Progress, stop: &AtomicBool) -> anyhow::Result<()> {
    // What cannot be read is said when it would be sealed.
    let mut all = job.bucket.inventory(&job.prefix, |_, _| {})?;
    while let Some(stretch) = all.stretch()? {
        for entry in stretch.iter().filter(|e| e.state != RecordState::Valid) {
            progress.expect(entry.size);
        }
        progress.looked(stretch.len());
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(())
}

/// Says of each object what would be done.
fn rehearse(job: &Job, tally: &Arc<Tally>, stop: &AtomicBool) -> anyhow::Result<()> {
    let unread = Arc::clone(tally);
    let mut all = job.bucket.inventory(&job.prefix, move |key, why| {
        eprintln!("twintree: cannot read {key:?}: {}", tame(why));
        unread.trouble();
    })?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    while let Some(stretch) = all.stretch()? {
        for entry in &stretch {
            tally.would(entry);
            if entry.state == RecordState::Valid {
                continue;
            }
            let (bucket, key) = (job.bucket.name(), &entry.key);
            let line = format!(
                "would seal {bucket}/{} ({}, {} bytes)\n",
                key.escape_debug(),
                entry.state.word(),
                entry.size
            );
            if let Err(e) = out.write_all(line.as_bytes()) {
                return closed_pipe_is_fine(e);
            }
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    out.flush().or_else(closed_pipe_is_fine)
}

fn closed_pipe_is_fine<E: From<io::Error>>(error: io::Error) -> Result<(), E> {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error.into()),
    }
}

fn say(text: &str) {
    let mut out = io::stdout().lock();
    // Who has closed it does not want to know.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Set by the first SIGINT or SIGTERM; the second ends the process at once.
fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("no runtime")?;
    let (mut interrupt, mut terminate) = {
        let _within = runtime.enter();
        (
            signal(SignalKind::interrupt()).context("SIGINT")?,
            signal(SignalKind::terminate()).context("SIGTERM")?,
        )
    };
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let wait = move || {
        runtime.block_on(async {
            for _ in 0..2 {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                if stopping.swap(true, Ordering::Relaxed) {
                    // No record is ever half written: each is one system call.
                    std::process::exit(i32::from(crate::INTERRUPTED));
                }
            }
        });
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .context("a thread for signals")?;
    Ok(stop)
}
