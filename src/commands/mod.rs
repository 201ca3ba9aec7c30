//! One file per subcommand.

pub mod as_s3;
pub mod background;
pub mod config;
pub mod doctor;
pub mod generate;
pub mod import;
pub mod inspect;
pub mod inventory;
pub mod mount;
mod part;
pub mod seal;
pub mod serve;
mod snippets;
pub mod strip;
pub mod surroundings;

use std::io::{self, ErrorKind, IsTerminal};
use std::time::Duration;

use anyhow::anyhow;
use indicatif::{ProgressBar, ProgressStyle};
use twintree_fuse::MountError;

/// How a command fails.
pub enum Failure {
    /// What was asked cannot be: exit code 64.
    Usage(anyhow::Error),
    /// What should be served is not there: exit code 66.
    Missing(anyhow::Error),
    /// What it needs is taken, or not there: exit code 69.
    Unavailable(anyhow::Error),
    /// Only another user may: exit code 77.
    NotPermitted(anyhow::Error),
    /// It was tried and failed: exit code 1.
    Work(anyhow::Error),
    /// It was ended by SIGINT or SIGTERM, and has said how far it came: exit code 130.
    Interrupted,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Work(error)
    }
}

/// Why an address cannot be listened on, and what helps; `setting` is what named it.
pub fn cannot_listen(setting: &str, error: &io::Error) -> Failure {
    let told = |remedy: &str| anyhow!("cannot listen on {error}: {remedy}");
    match error.kind() {
        ErrorKind::AddrInUse => Failure::Unavailable(told(&format!(
            "stop what listens there, or name another address with {setting}"
        ))),
        ErrorKind::AddrNotAvailable => Failure::Unavailable(told(&format!(
            "this machine has no such address; name one of its own with {setting}"
        ))),
        ErrorKind::PermissionDenied => Failure::NotPermitted(told(
            "a port below 1024 takes root or CAP_NET_BIND_SERVICE, a socket file a directory that may be written",
        )),
        _ => Failure::Work(anyhow!("cannot listen on {error}")),
    }
}

/// Why nothing is mounted, and what helps.
pub fn cannot_mount(error: MountError) -> Failure {
    let kind = match &error {
        MountError::Device(e) if e.kind() == ErrorKind::PermissionDenied => Failure::NotPermitted,
        MountError::Device(_) | MountError::NoHelper | MountError::NoPassthrough(_) => {
            Failure::Unavailable
        }
        MountError::Refused(_) | MountError::Mount(..) | MountError::Tree(_) => Failure::Work,
    };
    kind(anyhow!(error).context("cannot mount"))
}

/// A line that counts, for a person who waits; hidden where nobody sees it.
pub fn counting(what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = format!("{{spinner}} {{human_pos}} {what}, {{per_sec}} ({{elapsed}})");
    let style = ProgressStyle::with_template(&template).expect("a template that is tested");
    let bar = ProgressBar::new_spinner().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A line of a message without what a terminal would act on: names on disk may hold anything.
pub fn tame(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counting_line_is_one_that_can_be_drawn() {
        let template = "{spinner} {human_pos} things, {per_sec} ({elapsed})";
        ProgressStyle::with_template(template).expect("drawn");
        counting("things");
    }
}
