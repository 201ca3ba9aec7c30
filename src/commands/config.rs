//! `twintree config`: what `serve` would make of its settings, without serving.

use std::io::Write;

use anyhow::{Context, Result};

use super::Failure;
use super::serve::set;
use crate::config::show::{self, ShownKeys};
use crate::config::{self, Config};
use crate::{cli, secrets};

/// Judges all of it.
///
/// # Errors
/// The first thing that `serve` would not take, in its words.
pub fn check(args: cli::Serve) -> Result<(), Failure> {
    let file = config::read_file(args.config.as_deref()).map_err(Failure::Usage)?;
    let (_, log) = config::logging(&args, &file).map_err(Failure::Usage)?;
    let config = config::resolve(args, file).map_err(Failure::Usage)?;
    config::check::served(&config).map_err(Failure::Missing)?;
    let hidden = match config.store().shadowed() {
        Err(e) => return Err(Failure::Usage(e.into())),
        Ok(hidden) => hidden,
    };
    config::check::rest(&config, &log, set).map_err(Failure::Usage)?;
    let mut text = String::new();
    for (dir, other) in hidden {
        text.push_str(&format!(
            "{} would not be served: {} is the bucket of its name\n",
            dir.display(),
            other.display()
        ));
    }
    let served: Vec<String> = config
        .served()
        .map(|dir| dir.display().to_string())
        .collect();
    let served = served.join(", ");
    text.push_str(&format!(
        "{served} would be served: the configuration is good\n"
    ));
    print(&text)
}

/// Prints every setting.
///
/// # Errors
/// A word that cannot be; what is not there is shown all the same.
pub fn show(mut args: cli::Serve) -> Result<(), Failure> {
    let path = args.config.clone();
    let file = config::read_file(path.as_deref()).map_err(Failure::Usage)?;
    let table = path.as_deref().map(config::read_table).transpose();
    let table = table.map_err(Failure::Usage)?;
    let said = std::mem::take(&mut args.said);
    let config = config::resolve(args, file).map_err(Failure::Usage)?;
    let keys = keys(&config).map_err(Failure::Usage)?;
    print(&show::text(
        &said,
        path.as_deref().zip(table.as_ref()),
        &keys,
        &config.state_dir,
    ))
}

/// The keys that would count. None are made for this.
fn keys(config: &Config) -> Result<ShownKeys> {
    if let Some(keys) = secrets::given(config, set)? {
        return Ok(ShownKeys {
            access: Some(keys.access),
            source: keys.source,
        });
    }
    let kept = secrets::place_of_kept(config);
    let source = match kept.exists() {
        true => format!("kept in {}", kept.display()),
        false => format!("made at the first start, in {}", kept.display()),
    };
    Ok(ShownKeys {
        access: None,
        source,
    })
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(written.context("cannot print")?)
}
