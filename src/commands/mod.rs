//! One file per subcommand.

pub mod background;
pub mod config;
pub mod doctor;
pub mod generate;
pub mod inspect;
pub mod inventory;
pub mod mount;
mod part;
pub mod seal;
pub mod serve;
mod snippets;
pub mod strip;

/// How a command fails.
pub enum Failure {
    /// What was asked cannot be: exit code 64.
    Usage(anyhow::Error),
    /// What should be served is not there: exit code 66.
    Missing(anyhow::Error),
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
