//! The config file, as it is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;

/// The config file. Every option has its flag's name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct File {
    pub root: Option<OneOrMany>,
    pub listen: Option<OneOrMany>,
    pub durability: Option<String>,
    pub keys: Option<String>,
    pub domain: Option<OneOrMany>,
    pub tls_cert: Option<OneOrMany>,
    pub tls_key: Option<OneOrMany>,
    pub tls_client_ca: Option<PathBuf>,
    pub read_only: Option<bool>,
    pub state_dir: Option<PathBuf>,
    pub credentials: Option<PathBuf>,
    pub access_key: Option<String>,
    pub secret_key: Option<String>,
    pub hide: Option<OneOrMany>,
    pub verify: Option<String>,
    pub etag: Option<String>,
    pub seal: Option<String>,
    pub watch: Option<String>,
    pub region: Option<String>,
    pub trusted_proxy: Option<OneOrMany>,
    pub max_connections: Option<usize>,
    pub header_timeout: Option<String>,
    pub body_timeout: Option<String>,
    pub idle_timeout: Option<String>,
    pub drain_timeout: Option<String>,
    pub max_header: Option<String>,
    pub max_put: Option<String>,
    pub abandoned_uploads: Option<String>,
    pub list_cache: Option<String>,
    pub admin: Option<String>,
    pub admin_tls: Option<bool>,
    pub console: Option<String>,
    pub mount: Option<PathBuf>,
    pub mount_allow_other: Option<bool>,
    pub mount_mode: Option<String>,
    pub mount_ttl: Option<String>,
    pub log_format: Option<String>,
    pub log: Option<String>,
    pub buckets: BTreeMap<String, OfBucket>,
}

/// What the config file says of one bucket, in its table `[buckets.NAME]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct OfBucket {
    pub path: Option<PathBuf>,
    pub read_only: Option<bool>,
    pub durability: Option<String>,
    pub hide: Option<OneOrMany>,
    pub symlinks: Option<String>,
    pub etag: Option<String>,
}

/// A list that may be written as a single text.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// Reads the config file that was named, or none.
///
/// # Errors
/// The file cannot be read, or a key of it is unknown or of the wrong kind.
pub fn read_file(path: Option<&Path>) -> Result<File> {
    let Some(path) = path else {
        return Ok(File::default());
    };
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).map_err(|error| anyhow!(complaint(path, &text, &error)))
}

/// The same file as a table, as it is written.
///
/// # Errors
/// As [`read_file`].
pub fn read_table(path: &Path) -> Result<toml::Table> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).map_err(|error| anyhow!(complaint(path, &text, &error)))
}

/// One sentence that says where, what, and what to do about it; never the line itself, which may be a secret.
fn complaint(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or_default();
    let number = before.matches('\n').count();
    let place = format!("{}, line {}", path.display(), number + 1);
    let line = text.lines().nth(number).unwrap_or_default();
    let message = error.message().replace('\n', ", ");
    if let Some(rest) = message.strip_prefix("unknown field `") {
        let mut words = rest.split('`').step_by(2);
        let unknown = words.next().unwrap_or_default();
        let known = message.split('`').skip(3).step_by(2);
        let near = known
            .map(|name| (strsim::damerau_levenshtein(name, unknown), name))
            .min()
            .filter(|(steps, name)| *steps * 3 <= name.len());
        let remedy = match near {
            Some((_, name)) => format!("did you mean {name:?}?"),
            None => "`twintree serve --help` lists all".to_owned(),
        };
        return format!("{place}: there is no setting {unknown:?}: {remedy}");
    }
    match line.split_once('=') {
        Some((name, _)) if name.contains("key") && message.starts_with("invalid type") => {
            format!("{place}: {} must be a text in quotes", name.trim())
        }
        Some((name, _)) => {
            let quotes = match message.ends_with("expected a string") {
                true => ": write it in quotes",
                false => "",
            };
            format!("{place}: {}: {message}{quotes}", name.trim())
        }
        None => format!("{place}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let error = toml::from_str::<File>(text).expect_err(text);
        complaint(Path::new("/f"), text, &error)
    }

    #[test]
    fn a_complaint_is_one_sentence_that_says_where_and_what_to_do() {
        for (text, words) in [
            (
                "\ndurabilty = \"strict\"",
                "/f, line 2: there is no setting \"durabilty\": did you mean \"durability\"?",
            ),
            (
                "colour = 1",
                "/f, line 1: there is no setting \"colour\": `twintree serve --help` lists all",
            ),
            (
                "listen = 5",
                "/f, line 1: listen: expected a text or a list of texts",
            ),
            (
                "region = 5",
                "/f, line 1: region: invalid type: integer `5`, expected a string: write it in quotes",
            ),
            (
                "[buckets.a]\netags = \"md5\"",
                "/f, line 2: there is no setting \"etags\": did you mean \"etag\"?",
            ),
        ] {
            assert_eq!(said(text), words);
        }
        let broken = said("region = \n");
        assert!(
            broken.starts_with("/f, line 1: ") && !broken.contains('\n'),
            "{broken}"
        );
    }

    #[test]
    fn a_complaint_about_a_secret_does_not_say_it() {
        let words = "/f, line 1: secret-key must be a text in quotes";
        assert_eq!(said("secret-key = 1234567890"), words);
        assert!(!said("secret-key = hush-hush").contains("hush"));
        assert!(!said("secret-key = \"hush-hush").contains("hush"));
    }
}
