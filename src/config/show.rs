//! Every setting with what counts and where it was said, as a config file that says the same.

use std::fmt::Write;
use std::path::Path;

use toml::Value;

use super::document::{SETTINGS, Setting};
use crate::cli::{Said, Source};

/// What was said of the keys: the access key id, and where the pair is from.
pub struct ShownKeys {
    /// `None`: nobody gave any.
    pub access: Option<String>,
    /// Where they are from, or will be.
    pub source: String,
}

/// The settings of `said` over those of the file (which is named) over the defaults, one a line.
/// `state_dir` is where our state lies where nobody said where.
pub fn text(
    said: &Said,
    file: Option<(&Path, &toml::Table)>,
    keys: &ShownKeys,
    state_dir: &Path,
) -> String {
    let mut out = String::new();
    for setting in SETTINGS.iter() {
        let name = setting.name;
        let (value, source) = match name {
            "access-key" => (keys.access.clone().map(Value::from), keys.source.clone()),
            // Never the secret itself, nor its length.
            "secret-key" => {
                let hidden = keys.access.as_ref().map(|_| Value::from("(not shown)"));
                (hidden, keys.source.clone())
            }
            _ => counts(setting, said, file),
        };
        // Its default is another one for each user.
        let (value, source) = match (name, value) {
            ("state-dir", None) => (
                Some(Value::from(state_dir.display().to_string())),
                "default".to_owned(),
            ),
            (_, value) => (value, source),
        };
        line(&mut out, name, value.as_ref(), &source);
    }
    if let Some((path, table)) = file
        && let Some(Value::Table(buckets)) = table.get("buckets")
    {
        for (bucket, settings) in buckets {
            let bucket = toml::Table::from_iter([(bucket.clone(), Value::Boolean(true))]);
            let quoted = bucket.to_string();
            let quoted = quoted.trim_end().trim_end_matches("= true").trim_end();
            let _infallible = writeln!(out, "\n[buckets.{quoted}]");
            for (name, value) in settings.as_table().into_iter().flatten() {
                let source = format!("file {}", path.display());
                line(&mut out, name, Some(value), &source);
            }
        }
    }
    out
}

/// Every setting with the value that counts. Those of single buckets are read again whenever they change.
pub fn values<'a>(
    said: &'a Said,
    file: Option<(&'a Path, &'a toml::Table)>,
) -> impl Iterator<Item = (&'static str, Option<Value>)> + 'a {
    let of = move |setting: &Setting| (setting.name, counts(setting, said, file).0);
    SETTINGS.iter().map(of)
}

/// What counts, and where it was said.
fn counts(
    setting: &Setting,
    said: &Said,
    file: Option<(&Path, &toml::Table)>,
) -> (Option<Value>, String) {
    let name = setting.name;
    if let Some((source, words)) = said.of_setting(name) {
        let source = match source {
            Source::Flag if name == "root" => "argument".to_owned(),
            Source::Flag => format!("flag --{name}"),
            Source::Environment => format!(
                "environment TWINTREE_{}",
                name.to_uppercase().replace('-', "_")
            ),
        };
        return (Some(typed(&setting.value, words)), source);
    }
    if let Some((path, table)) = file
        && let Some(value) = table.get(name)
    {
        return (Some(value.clone()), format!("file {}", path.display()));
    }
    match setting.is_default {
        true => (Some(setting.value.clone()), "default".to_owned()),
        false => (None, "not set".to_owned()),
    }
}

/// Words as a value of a kind.
fn typed(kind: &Value, words: &[String]) -> Value {
    let one = || words.last().cloned().unwrap_or_default();
    match kind {
        Value::Array(_) => Value::Array(words.iter().cloned().map(Value::from).collect()),
        // As clap reads a switch.
        Value::Boolean(_) => {
            let word = one().to_lowercase();
            Value::from(!matches!(
                word.as_str(),
                "n" | "no" | "f" | "false" | "off" | "0"
            ))
        }
        Value::Integer(_) => one()
            .parse::<i64>()
            .map_or_else(|_| Value::from(one()), Value::from),
        // One or many, as `tls-cert` is.
        _ if words.len() > 1 => Value::Array(words.iter().cloned().map(Value::from).collect()),
        _ => Value::from(one()),
    }
}

fn line(out: &mut String, name: &str, value: Option<&Value>, source: &str) {
    let said = match value {
        Some(value) => format!("{name} = {value}"),
        None => format!("#{name} ="),
    };
    // A control character in a path must not end the comment.
    let source = crate::commands::tame(source);
    let _infallible = writeln!(out, "{said:<40} # {source}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_a_config_file_that_says_the_same() {
        let table = "read-only = true\nhide = \"x\"\nmax-connections = 7\nsecret-key = \"hush-hush\"\n[buckets.\"a.b\"]\netag = \"crc64\"";
        let table: toml::Table = table.parse().expect("toml");
        let keys = ShownKeys {
            access: Some("AK".to_owned()),
            source: "the config file".to_owned(),
        };
        let file = (Path::new("/f\nx"), &table);
        let text = text(&Said::default(), Some(file), &keys, Path::new("/state"));
        let shown: toml::Table = text.parse().expect(&text);
        for (name, value) in &table {
            if name != "secret-key" {
                assert_eq!(shown.get(name), Some(value), "{text}");
            }
        }
        assert!(!text.contains("hush"), "{text}");
        assert_eq!(shown["durability"], Value::from("strict"));
        assert_eq!(shown["state-dir"], Value::from("/state"));
        assert!(!shown.contains_key("tls-cert"), "it is not set");
    }

    #[test]
    fn a_switch_is_read_as_the_command_line_reads_it() {
        let switch = |word: &str| typed(&Value::from(true), &[word.to_owned()]);
        for word in ["1", "true", "YES", "on"] {
            assert_eq!(switch(word), Value::from(true), "{word}");
        }
        for word in ["0", "False", "no", "off", "n", "f"] {
            assert_eq!(switch(word), Value::from(false), "{word}");
        }
    }
}
