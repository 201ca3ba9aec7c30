//! What `benches/` measures and nobody else sees: with the feature `benching`, which our own dev-dependency asks for.

use crate::Result;
use crate::list::names::{Kind, Names};

/// A directory's names in key order.
pub struct Sorted(Names);

impl Sorted {
    /// Takes names as a directory gives them, and sorts them.
    ///
    /// # Errors
    /// `Exhausted` beyond 4 GiB of names.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut sorted = Names::default();
        for name in names {
            sorted.push(name, Kind::File)?;
        }
        sorted.sort();
        Ok(Self(sorted))
    }

    /// Where a page begins that goes on after `marker`.
    pub fn after(&self, marker: &str) -> usize {
        self.0.seek(0, |name| name <= marker)
    }
}
