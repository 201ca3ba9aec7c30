//! `twintree inspect FILE`: what is recorded of a file or a directory, in words.

use std::path::Path;

use anyhow::Context;

use super::Failure;

/// Prints the record of a file and whether it still speaks of its content, or a directory's mark.
///
/// # Errors
/// It cannot be read, or is neither.
pub fn run(file: &Path) -> Result<(), Failure> {
    let report = twintree_store::inspect::describe(file)
        .with_context(|| format!("cannot inspect {}", file.display()))?;
    print!("{report}");
    Ok(())
}
