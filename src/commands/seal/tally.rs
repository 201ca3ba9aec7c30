//! What became of everything, counted by several threads, and told at the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{BinaryBytes, HumanCount};
use twintree_store::{InventoryEntry, Left, RecordState, SealEvent};

/// Counts.
#[derive(Default)]
pub struct Tally {
    sealed: AtomicU64,
    sealed_bytes: AtomicU64,
    read: AtomicU64,
    already: AtomicU64,
    changed: AtomicU64,
    skipped: [AtomicU64; REASONS.len()],
    troubles: AtomicU64,
    would: Mutex<BTreeMap<RecordState, (u64, u64)>>,
}

/// Why objects are skipped, in words.
const REASONS: [(Left, &str); 4] = [
    (Left::Open, "open for writing"),
    (Left::Young, "changed only now"),
    (Left::Gone, "gone meanwhile"),
    (Left::Foreign, "recorded by a later version"),
];

impl Tally {
    /// Counts an event, and names what failed.
    pub fn take(&self, event: &SealEvent<'_>) {
        match event {
            SealEvent::Read(bytes) => add(&self.read, *bytes),
            SealEvent::Already(_) => add(&self.already, 1),
            SealEvent::Sealed(entry) => {
                add(&self.sealed, 1);
                add(&self.sealed_bytes, entry.size);
            }
            SealEvent::Left(_, Left::Changed) => add(&self.changed, 1),
            SealEvent::Left(_, left) => {
                if let Some(at) = REASONS.iter().position(|(reason, _)| reason == left) {
                    add(&self.skipped[at], 1);
                }
            }
            SealEvent::Failed(..) | SealEvent::Unread(..) => self.trouble(),
        }
    }

    /// Counts something that could not be read or recorded.
    pub fn trouble(&self) {
        add(&self.troubles, 1);
    }

    /// How often that was.
    pub fn troubles(&self) -> u64 {
        self.troubles.load(Ordering::Relaxed)
    }

    /// Counts an object that was only looked at.
    pub fn would(&self, entry: &InventoryEntry) {
        let mut would = self.would.lock().unwrap_or_else(PoisonError::into_inner);
        let (objects, bytes) = would.entry(entry.state).or_default();
        *objects += 1;
        *bytes += entry.size;
    }

    /// What was done.
    pub fn summary(&self, took: Duration, interrupted: bool) -> String {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        let rate = get(&self.read) as f64 / seconds.max(0.001);
        let reasons: Vec<String> = REASONS
            .iter()
            .zip(&self.skipped)
            .filter(|(_, count)| get(count) > 0)
            .map(|((_, words), count)| format!("{} {words}", HumanCount(get(count))))
            .collect();
        let skipped: u64 = self.skipped.iter().map(get).sum();
        let mut text = String::new();
        if interrupted {
            text.push_str("interrupted; run it again to go on\n");
        }
        text.push_str(&format!(
            "sealed                 {}, {}\n\
             already sealed         {}\n\
             changed while reading  {}\n\
             skipped                {}{}\n\
             failed                 {}\n\
             read                   {} in {seconds:.1} s, {}/s\n",
            counted(get(&self.sealed), "object"),
            BinaryBytes(get(&self.sealed_bytes)),
            HumanCount(get(&self.already)),
            HumanCount(get(&self.changed)),
            HumanCount(skipped),
            match reasons.is_empty() {
                true => String::new(),
                false => format!(": {}", reasons.join(", ")),
            },
            HumanCount(self.troubles()),
            BinaryBytes(get(&self.read)),
            BinaryBytes(rate as u64),
        ));
        text
    }

    /// What would be done.
    pub fn rehearsal(&self) -> String {
        let would = self.would.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |state| would.get(&state).copied().unwrap_or_default();
        let missing = [
            RecordState::None,
            RecordState::Stale,
            RecordState::Unverified,
        ]
        .map(of);
        let objects = missing.iter().map(|(objects, _)| objects).sum();
        let bytes = missing.iter().map(|(_, bytes)| bytes).sum();
        format!(
            "would seal      {}, {}: {} without a record, {} stale, {} unverified\n\
             already sealed  {}\n",
            counted(objects, "object"),
            BinaryBytes(bytes),
            HumanCount(missing[0].0),
            HumanCount(missing[1].0),
            HumanCount(missing[2].0),
            HumanCount(of(RecordState::Valid).0),
        )
    }
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// A number and its noun: `1 object`, `2 objects`, `2 entries`.
pub fn counted(count: u64, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{} {stem}ies", HumanCount(count)),
        (_, None) => format!("{} {noun}s", HumanCount(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_a_line_for_each_fate() {
        let tally = Tally::default();
        tally.take(&SealEvent::Read(2048));
        let text = tally.summary(Duration::from_secs(2), true);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 7, "{text}");
        assert!(lines[0].contains("run it again"), "{text}");
        assert_eq!(
            lines[6],
            "read                   2.00 KiB in 2.0 s, 1.00 KiB/s"
        );
    }

    #[test]
    fn numbers_have_their_nouns() {
        assert_eq!(counted(1, "entry"), "1 entry");
        assert_eq!(counted(0, "entry"), "0 entries");
        assert_eq!(counted(2000, "object"), "2,000 objects");
    }
}
