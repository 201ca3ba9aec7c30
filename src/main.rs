//! The daemon: read what was said, do it, say what went wrong.
//!
//! Exit codes follow sysexits(3): 64 for a wrong argument or config, 66 where the directory to serve is not there, 69
//! where an address is taken or not ours, 77 where only another user may listen there, 1 for what failed at work; 130 where a signal ended a command that says how far it came.

mod admin;
mod cli;
mod commands;
mod config;
mod logging;
mod memory;
mod reload;
mod secrets;
mod systemd;

use std::process::ExitCode;

use clap::error::ErrorKind;
use twintree_store::import::Source;

/// EX_USAGE of sysexits(3).
const USAGE: u8 = 64;
/// EX_NOINPUT of sysexits(3).
const NO_INPUT: u8 = 66;
/// EX_UNAVAILABLE of sysexits(3).
const UNAVAILABLE: u8 = 69;
/// EX_NOPERM of sysexits(3).
const NO_PERMISSION: u8 = 77;
/// What a shell makes of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    memory::give_back_what_is_freed();
    let cli = match cli::Cli::read() {
        Ok(cli) => cli,
        Err(error) => {
            // Printing to a closed pipe fails, and then there is nobody to tell.
            let _ = error.print();
            let asked = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            return ExitCode::from(if asked { 0 } else { USAGE });
        }
    };
    let result = match cli.command {
        cli::Command::Serve(args) => commands::serve::run(*args),
        cli::Command::Mount(args) => commands::mount::run(*args),
        cli::Command::Doctor {
            dir,
            as_s3: true,
            format,
            ..
        } => commands::as_s3::run(&dir, &format),
        cli::Command::Doctor {
            dir,
            read_only,
            config,
            ..
        } => commands::doctor::run(&dir, read_only, config.as_deref()),
        cli::Command::Inventory(args) => commands::inventory::run(*args),
        cli::Command::Seal(args) => commands::seal::run(*args),
        cli::Command::Generate { dir } => commands::generate::run(&dir),
        cli::Command::Config(cli::ConfigCommand::Check(args)) => commands::config::check(*args),
        cli::Command::Config(cli::ConfigCommand::Show(args)) => commands::config::show(*args),
        cli::Command::Import(cli::ImportCommand::Versitygw { root, yes }) => {
            commands::import::run(Source::Versitygw, &root, yes)
        }
        cli::Command::Import(cli::ImportCommand::MinioFs { root, yes }) => {
            commands::import::run(Source::MinioFs, &root, yes)
        }
        cli::Command::Strip { dir, yes } => commands::strip::run(&dir, yes),
        cli::Command::Inspect { file } => commands::inspect::run(&file),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(commands::Failure::Usage(error)) => {
            eprintln!("twintree: {}", told(&error));
            ExitCode::from(USAGE)
        }
        Err(commands::Failure::Missing(error)) => {
            eprintln!("twintree: {}", told(&error));
            ExitCode::from(NO_INPUT)
        }
        Err(commands::Failure::Unavailable(error)) => {
            eprintln!("twintree: {}", told(&error));
            ExitCode::from(UNAVAILABLE)
        }
        Err(commands::Failure::NotPermitted(error)) => {
            eprintln!("twintree: {}", told(&error));
            ExitCode::from(NO_PERMISSION)
        }
        Err(commands::Failure::Work(error)) => {
            eprintln!("twintree: {}", told(&error));
            ExitCode::FAILURE
        }
        Err(commands::Failure::Interrupted) => ExitCode::from(INTERRUPTED),
    }
}

/// An error and its causes in one line; a cause that its effect's text ends with already is not said twice.
fn told(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.ends_with(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn a_cause_is_said_once() {
        let error = Err::<(), _>(anyhow!("gone")).context("/srv: gone");
        let error = error.context("cannot serve /srv").expect_err("an error");
        assert_eq!(told(&error), "cannot serve /srv: /srv: gone");
    }
}
