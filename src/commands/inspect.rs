//! `twintree inspect FILE`: what is recorded of a file, in words.

use std::path::Path;

use anyhow::Context;

use super::Failure;

/// Prints the record of a file and whether it still speaks of its content.
///
/// # Errors
/// The file cannot be read.
pub fn run(file: &Path) -> Result<(), Failure> {
    let report = twintree_store::inspect::describe(file)
        .with_context(|| format!("cannot inspect {}", file.display()))?;
    print!("{report}");
    Ok(())
}
