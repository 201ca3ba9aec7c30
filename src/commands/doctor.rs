//! `twintree doctor DIR`: what a filesystem can do, and what that means for what is served from it.

use std::path::Path;

use anyhow::Context;

use super::Failure;

/// Probes the directory and prints each finding with its consequence.
///
/// # Errors
/// The directory cannot be probed.
pub fn run(dir: &Path, read_only: bool) -> Result<(), Failure> {
    let report = twintree_store::probe::examine(dir, read_only)
        .with_context(|| format!("cannot examine {}", dir.display()))?;
    for finding in &report.findings {
        println!(
            "{:<6} {:<24} {}",
            finding.grade.word(),
            finding.what,
            finding.meaning
        );
    }
    println!("\n{}", report.summary());
    Ok(())
}
