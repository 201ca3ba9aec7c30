//! The load client of `bench/run`: a few commands, no dependencies.
//!
//! `load` replays prepared (and signed) HTTP/1.1 requests over N kept-alive connections, one blocking thread
//! each, and ends with an error at the first answer that is not the expected one. `raw` makes files with plain
//! system calls, as the limit that a PUT is held against, and `names` reads a directory and sorts it, as that of a
//! listing. `many` makes the trees of a million files, `slow` is a disk that takes its time. `files` does with files what programs do, below a mount or
//! a bare directory. Each prints one line of JSON. What is asked, how often and what it means is decided by `bench/run`.

mod files;
mod load;
mod looks;
mod names;
mod plan;
mod raw;
mod slow;

use std::collections::HashMap;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let outcome = Options::parse(words).and_then(|options| match command.as_str() {
        "load" => load::run(&options),
        "raw" => raw::run(&options),
        "names" => names::sorted(&options),
        "many" => names::make(&options),
        "slow" => slow::run(&options),
        "files" => files::run(&options),
        other => Err(format!(
            "no command {other:?}: load, raw, names, many, slow or files"
        )),
    });
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("bench-client: {message}");
            ExitCode::FAILURE
        }
    }
}

/// `--name value` pairs.
pub struct Options(HashMap<String, String>);

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut pairs = HashMap::new();
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else {
                return Err(format!("unexpected word {word:?}"));
            };
            let value = words.next().ok_or(format!("--{name} needs a value"))?;
            pairs.insert(name.to_owned(), value);
        }
        Ok(Self(pairs))
    }

    /// An option that may be missing.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// An option that must be there.
    pub fn text(&self, name: &str) -> Result<&str, String> {
        self.get(name).ok_or(format!("--{name} is missing"))
    }

    /// A number that must be there.
    pub fn number(&self, name: &str) -> Result<usize, String> {
        let text = self.text(name)?;
        text.parse()
            .map_err(|_| format!("--{name}: {text:?} is no number"))
    }
}
