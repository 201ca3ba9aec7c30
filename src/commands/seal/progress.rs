//! How far sealing is: a bar for who looks at a terminal, else a line every few seconds, on standard error.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use twintree_store::{InventoryEntry, SealEvent};

use super::super::tame;
use super::tally::counted;

/// How often a line is printed where there is no terminal.
const EVERY: Duration = Duration::from_secs(5);
/// What a file takes beside reading it, in bytes that could be read meanwhile.
const OBJECT: u64 = 128 << 10;
/// How often a bar is drawn.
const TICK: Duration = Duration::from_millis(200);

/// What was done of what is to do.
#[derive(Default)]
struct Done {
    objects: AtomicU64,
    all_objects: AtomicU64,
    bytes: AtomicU64,
    all_bytes: AtomicU64,
    /// Read of files whose end has not come; files that are read twice count once in the end.
    ahead: AtomicU64,
}

/// Says how far it is.
pub struct Progress {
    bar: Option<ProgressBar>,
    done: Arc<Done>,
    lines: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

impl Progress {
    /// Begins with counting what is to do.
    pub fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} counting: {human_pos} objects")
                .expect("a constant that is tested");
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.enable_steady_tick(TICK);
            bar
        });
        Self {
            bar,
            done: Arc::default(),
            lines: Mutex::default(),
        }
    }

    /// So many objects more were looked at.
    pub fn looked(&self, objects: usize) {
        if let Some(bar) = &self.bar {
            bar.inc(objects as u64);
        }
    }

    /// One object more is to be sealed.
    pub fn expect(&self, bytes: u64) {
        self.done.all_objects.fetch_add(1, Ordering::Relaxed);
        self.done.all_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Everything is counted: from now on it is read.
    pub fn counted(&self) {
        let Some(bar) = &self.bar else {
            *self.lines.lock().unwrap_or_else(PoisonError::into_inner) = lines(&self.done);
            return;
        };
        let style = ProgressStyle::with_template("{wide_bar} {msg}, {eta} left")
            .expect("a constant that is tested");
        bar.reset();
        bar.set_style(style);
        bar.set_length(self.done.all_work());
        self.draw();
    }

    /// Shows what an event changes.
    pub fn take(&self, event: &SealEvent<'_>) {
        match event {
            SealEvent::Read(bytes) => {
                self.done.ahead.fetch_add(*bytes, Ordering::Relaxed);
            }
            SealEvent::Already(entry) | SealEvent::Sealed(entry) | SealEvent::Left(entry, _) => {
                self.end_of(entry);
            }
            SealEvent::Failed(entry, why) => {
                self.end_of(entry);
                self.line(&format!("cannot seal {:?}: {why}", entry.key));
            }
            SealEvent::Unread(key, why) => self.line(&format!("cannot read {key:?}: {why}")),
        }
        self.draw();
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let lines = self
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((stop, thread)) = lines {
            drop(stop);
            // A line that could not be printed is no reason to fail.
            let _ = thread.join();
        }
    }

    fn end_of(&self, entry: &InventoryEntry) {
        if entry.state == twintree_store::RecordState::Valid {
            return; // it was not counted
        }
        let done = &self.done;
        done.objects.fetch_add(1, Ordering::Relaxed);
        done.bytes.fetch_add(entry.size, Ordering::Relaxed);
        let less = |ahead: u64| Some(ahead.saturating_sub(entry.size));
        // Always Some: the closure never refuses.
        let _ = done
            .ahead
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn line(&self, text: &str) {
        let text = tame(text);
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("twintree: {text}")),
            None => eprintln!("twintree: {text}"),
        }
    }

    fn draw(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.done.work());
            bar.set_message(self.done.told(bar.elapsed()));
        }
    }
}

impl Done {
    /// Bytes, at most those that there are.
    fn position(&self) -> u64 {
        let bytes = self.bytes.load(Ordering::Relaxed) + self.ahead.load(Ordering::Relaxed);
        bytes.min(self.all_bytes.load(Ordering::Relaxed))
    }

    fn of_objects(&self) -> String {
        format!(
            "{} of {}",
            HumanCount(self.objects.load(Ordering::Relaxed)),
            counted(self.all_objects.load(Ordering::Relaxed), "object")
        )
    }

    /// What is done, in a measure that time goes by: files take theirs also where they are empty.
    fn work(&self) -> u64 {
        self.position() + self.objects.load(Ordering::Relaxed) * OBJECT
    }

    fn all_work(&self) -> u64 {
        let objects = self.all_objects.load(Ordering::Relaxed);
        self.all_bytes.load(Ordering::Relaxed) + objects * OBJECT
    }

    /// What is done of what, and how fast, after so long.
    fn told(&self, after: Duration) -> String {
        let position = self.position();
        let rate = position as f64 / after.as_secs_f64().max(0.001);
        format!(
            "{}, {} of {}, {}/s",
            self.of_objects(),
            BinaryBytes(position),
            BinaryBytes(self.all_bytes.load(Ordering::Relaxed)),
            BinaryBytes(rate as u64),
        )
    }

    /// All of it in a line, after so long.
    fn line(&self, after: Duration) -> String {
        let (work, all) = (self.work(), self.all_work());
        let told = self.told(after);
        if work == 0 {
            return format!("sealing: {told}");
        }
        let left = after.as_secs_f64() * all.saturating_sub(work) as f64 / work as f64;
        let left = HumanDuration(Duration::from_secs_f64(left.min(1e9)));
        format!("sealing: {told}, {left} left")
    }
}

/// A thread that prints a line now and then; `None` where there is none to be had.
fn lines(done: &Arc<Done>) -> Option<(Sender<()>, JoinHandle<()>)> {
    let (stop, stopped) = channel();
    let (done, begun) = (Arc::clone(done), Instant::now());
    let print = move || {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(EVERY) {
            eprintln!("twintree: {}", done.line(begun.elapsed()));
        }
    };
    let thread = std::thread::Builder::new()
        .name("progress".to_owned())
        .spawn(print);
    Some((stop, thread.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_much_of_how_much_and_how_long_yet() {
        let progress = Progress::new();
        for _ in 0..4 {
            progress.expect(1 << 20);
        }
        progress.take(&SealEvent::Read(1 << 20));
        let line = progress.done.line(Duration::from_secs(1));
        assert_eq!(
            line,
            "sealing: 0 of 4 objects, 1.00 MiB of 4.00 MiB, 1.00 MiB/s, 4 seconds left"
        );
    }
}
