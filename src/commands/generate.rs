//! `twintree generate DIR`: man pages and completions, of the very words that the command line and the config file
//! take, and the operations of S3 as they are answered. Hidden: who makes packages and pages calls it (`packaging/build`,
//! `tests/compatibility`).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Arg, Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use twintree_gateway::route::{Operation, Supported};

use super::Failure;
use crate::cli::Cli;

/// What the config file takes and no flag does.
const FILE_ONLY: [(&str, &str, &str); 3] = [
    (
        "access-key",
        "\"TEXT\"",
        "The access key id, beside secret-key. Whoever reads the file can use it: better in a file of its own \
         (credentials), or in systemd's credential twintree.credentials.",
    ),
    (
        "secret-key",
        "\"TEXT\"",
        "The secret access key, beside access-key.",
    ),
    (
        "buckets",
        "a table for each bucket, [buckets.NAME]",
        "What is said there of one bucket wins over what is said of all: path, the directory that is the bucket, outside \
         the root (it must be there when the daemon starts); read-only; durability; hide, names beside those of all; \
         symlinks, inside (those are followed that stay in the bucket) or refuse (none is, and no link is an object); \
         etag. A reload lets read-only, durability and etag count at once, the others wait for a restart.",
    ),
];

const EXIT: [(&str, &str); 7] = [
    (
        "0",
        "What was asked is done; of serve and mount: they were ended by SIGTERM or SIGINT.",
    ),
    ("1", "It was tried and failed; standard error says what."),
    (
        "64",
        "A wrong argument, variable or line of the config file (EX_USAGE).",
    ),
    (
        "66",
        "serve and config check: the directory to serve is not there (EX_NOINPUT).",
    ),
    (
        "69",
        "serve and mount: an address is taken or not here, /dev/fuse is missing, too few files may be open, or the clock \
         was never set (EX_UNAVAILABLE).",
    ),
    ("77", "serve and mount: it takes another user (EX_NOPERM)."),
    (
        "130",
        "A signal ended seal or inventory, which have said how far they came.",
    ),
];

const FILES: [(&str, &str); 4] = [
    (
        "/etc/twintree/twintree.toml",
        "What twintree.service reads: twintree.toml(5).",
    ),
    (
        "/etc/credstore/twintree.credentials",
        "Two lines, access key and secret key, which systemd hands to the service and to nobody else.",
    ),
    (
        "/var/lib/twintree",
        "State of the service: the key that the first start makes where nobody gave one. Never in the served tree.",
    ),
    (
        "DIR/.twintree, DIR/BUCKET/.twintree",
        "In the served tree: bodies on their way, uploads, and objects whose keys no path can hold.",
    ),
];

/// Writes `man/`, `completions/` and `operations.tsv` into a directory.
///
/// # Errors
/// A file cannot be written.
pub fn run(dir: &Path) -> Result<(), Failure> {
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    for folder in [&man, &completions] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut command = Cli::command();
    command.build();
    for (name, text) in pages(&command).context("a page")? {
        let path = man.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "twintree", &completions)
            .with_context(|| format!("cannot write into {}", completions.display()))?;
    }
    let path = dir.join("operations.tsv");
    fs::write(&path, operations()).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

/// Every operation of S3, a line each: name, sub-resource of the bucket or nothing, how it is answered.
fn operations() -> String {
    let all = Operation::all();
    let lines = all.iter().map(|one| {
        let Supported {
            name,
            subresource,
            support,
        } = one;
        format!("{name}\t{subresource}\t{}\n", support.word())
    });
    lines.collect()
}

/// Every page by the name of its file.
fn pages(command: &Command) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    gather("twintree".to_owned(), command, &mut all);
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    let mut pages = Vec::new();
    for (name, command) in &all {
        pages.push((format!("{name}.1"), page(command, name, &names)?));
    }
    pages.push(("twintree.toml.5".to_owned(), of_the_file(command)?));
    Ok(pages)
}

/// A command and all below it, each under the name of its page.
fn gather<'a>(name: String, command: &'a Command, all: &mut Vec<(String, &'a Command)>) {
    all.push((name.clone(), command));
    for sub in shown_of(command) {
        gather(format!("{name}-{}", sub.get_name()), sub, all);
    }
}

fn shown_of(command: &Command) -> impl Iterator<Item = &Command> {
    let all = command.get_subcommands();
    all.filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
}

/// The page of one command.
fn page(command: &Command, name: &str, names: &[&str]) -> Result<Vec<u8>> {
    let named = command.clone().name(name.to_owned());
    let man = Man::new(named.version(env!("CARGO_PKG_VERSION")));
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    let mut rest = Roff::new();
    if shown_of(command).next().is_some() {
        rest.control("SH", ["COMMANDS"]);
    }
    for sub in shown_of(command) {
        let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
        let page = format!("{name}-{}(1)", sub.get_name());
        rest.control("TP", [])
            .text([bold(page)])
            .text([roman(about)]);
    }
    if let Some(help) = command.get_after_help() {
        notes(&mut rest, &help.to_string());
    }
    terms(&mut rest, "EXIT STATUS", &EXIT);
    terms(&mut rest, "FILES", &FILES);
    let others = names.iter().filter(|other| **other != name);
    let mut others: Vec<String> = others.map(|other| format!("{other}(1)")).collect();
    others.push("twintree.toml(5)".to_owned());
    rest.control("SH", ["SEE ALSO"])
        .text([roman(others.join(", "))]);
    rest.to_writer(&mut out)?;
    Ok(out)
}

/// What the help says at its end: what is indented there stays as it stands.
fn notes(page: &mut Roff, text: &str) {
    page.control("SH", ["NOTES"]);
    for line in text.lines() {
        match line.trim() {
            "" => page.control("PP", []),
            _ if line.starts_with("  ") => {
                page.control("nf", []).text([roman(line)]).control("fi", [])
            }
            words => page.text([roman(words)]),
        };
    }
}

fn terms(page: &mut Roff, title: &str, terms: &[(&str, &str)]) {
    page.control("SH", [title]);
    for (term, text) in terms {
        page.control("TP", [])
            .text([bold(*term)])
            .text([roman(*text)]);
    }
}

/// twintree.toml(5): each option of `serve` under its flag's name, and what stands in the file alone.
fn of_the_file(command: &Command) -> Result<Vec<u8>> {
    let serve = command.find_subcommand("serve").context("there is serve")?;
    let mut page = Roff::new();
    page.control("TH", ["twintree.toml", "5", "", &format!("twintree {}", env!("CARGO_PKG_VERSION")), ""])
        .control("SH", ["NAME"])
        .text([roman("twintree.toml - what twintree serve is told in a file")])
        .control("SH", ["DESCRIPTION"])
        .text([
            roman("A TOML file that "),
            bold("twintree serve --config "),
            italic("FILE"),
            roman(
                " reads; twintree.service reads /etc/twintree/twintree.toml. Every option of serve may stand in it \
                 under the name of its flag. A flag wins over the environment (TWINTREE_ and the name), which wins over \
                 the file. A line that is not known is an error.",
            ),
        ])
        .control("PP", [])
        .text([roman(
            "A list may be written as a single text. A TIME is a text such as \"500ms\", \"30s\", \"2m\" or \"7d\", BYTES one \
             such as \"16K\", \"5M\" or \"5G\".",
        )])
        .control("SH", ["KEYS"]);
    for arg in serve.get_arguments().filter(|arg| is_key(arg)) {
        let name = arg.get_long().unwrap_or("root");
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        page.control("TP", [])
            .text([bold(name), roman(" = "), italic(kind(arg))])
            .text([roman(help)]);
    }
    for (name, kind, help) in FILE_ONLY {
        page.control("TP", [])
            .text([bold(name), roman(" = "), italic(kind)])
            .text([roman(help)]);
    }
    page.control("SH", ["EXAMPLE"]).control("nf", []);
    for line in include_str!("../../packaging/twintree.toml").lines() {
        page.text([roman(line)]);
    }
    page.control("fi", [])
        .control("SH", ["SEE ALSO"])
        .text([roman("twintree-serve(1), systemd.exec(5)")]);
    let mut out = Vec::new();
    page.to_writer(&mut out)?;
    Ok(out)
}

/// Options that say where the file is, or that are flags alone, are no keys.
fn is_key(arg: &Arg) -> bool {
    !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "config" | "help" | "version")
}

/// What stands to the right of the equals sign.
fn kind(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let name = names.first().map(ToString::to_string).unwrap_or_default();
    match name.as_str() {
        "true|false" | "N" => name,
        _ if arg.get_value_delimiter().is_some() => format!("[\"{name}\", ...]"),
        _ => format!("\"{name}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn text(name: &str) -> String {
        let mut command = Cli::command();
        command.build();
        let pages = pages(&command).expect("pages");
        let page = pages.into_iter().find(|(known, _)| known == name);
        String::from_utf8(page.expect("the page").1).expect("UTF-8")
    }

    #[test]
    fn every_key_of_the_config_file_has_its_paragraph() {
        let error = toml::from_str::<config::File>("no-such-key = 1").expect_err("refused");
        let said = error.to_string();
        let (_, known) = said
            .split_once("expected one of")
            .expect("serde lists them");
        let keys: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        assert!(keys.len() > 30, "{keys:?}");
        let page = text("twintree.toml.5").replace('\\', "");
        for key in keys {
            assert!(
                page.contains(&format!("fB{key}fR")),
                "{key} is not in twintree.toml(5)"
            );
        }
    }
}
