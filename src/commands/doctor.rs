//! `twintree doctor DIR`: what a filesystem can do, and what that means for what is served from it; and what a daemon on it
//! would find of the machine.

mod machine;

use std::path::Path;

use anyhow::Context;

use super::Failure;

/// Probes the directory and the machine and prints each finding with its consequence.
///
/// # Errors
/// The directory cannot be probed.
pub fn run(dir: &Path, read_only: bool, config: Option<&Path>) -> Result<(), Failure> {
    let mut report = twintree_store::probe::examine(dir, read_only)
        .with_context(|| format!("cannot examine {}", dir.display()))?;
    report.findings.extend(machine::findings(dir, config));
    for finding in &report.findings {
        println!(
            "{:<6} {:<24} {}",
            finding.grade.word(),
            finding.what,
            super::tame(&finding.meaning)
        );
    }
    println!("\n{}", report.summary());
    Ok(())
}
