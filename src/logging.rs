//! Log output: text for a person, JSON for a collector, on standard error.

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

/// Reads what is to be logged.
///
/// # Errors
/// A filter that cannot be read.
pub fn filter(text: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(text)
        .with_context(|| format!("log: {text:?} is no filter such as info or debug"))
}

/// Changes what is logged from now on.
pub type Refilter = Box<dyn Fn(EnvFilter) -> Result<()> + Send + Sync>;

/// Starts logging; later calls would fail, so it is called once.
///
/// # Errors
/// A filter that cannot be read.
pub fn start(json: bool, filter: &str) -> Result<Refilter> {
    let filter = self::filter(filter)?;
    let builder = tracing_subscriber::fmt()
        // A log that cannot be written (its disk is full, its reader is gone) is no reason to panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_target(false);
    let (started, refilter): (_, Refilter) = if json {
        let builder = builder.json().with_env_filter(filter);
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        let refilter = move |filter| handle.reload(filter).context("log");
        (builder.try_init(), Box::new(refilter))
    } else {
        let builder = builder.with_ansi(false).with_env_filter(filter);
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        let refilter = move |filter| handle.reload(filter).context("log");
        (builder.try_init(), Box::new(refilter))
    };
    started.map_err(|e| anyhow::anyhow!("logging cannot start: {e}"))?;
    Ok(refilter)
}
