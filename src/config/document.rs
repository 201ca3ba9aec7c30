//! The documented config file, `packaging/twintree.toml`: it knows every setting, its kind and its default.

use std::sync::LazyLock;

/// The file as it is installed.
const TEXT: &str = include_str!("../../packaging/twintree.toml");
/// What a line ends with whose value is no default.
const EXAMPLE: &str = "# an example";

/// One setting, as the file shows it.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its name in the file, and its flag's.
    pub name: &'static str,
    /// A value of its kind.
    pub value: toml::Value,
    /// Is that what counts where nothing is said?
    pub is_default: bool,
}

/// All settings but those of single buckets, in the file's order.
pub static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
    let of_all = TEXT.lines().take_while(|line| !line.starts_with("#["));
    of_all.filter_map(setting).collect()
});

/// A line such as `#name = value`; prose has a blank behind the #.
fn setting(line: &'static str) -> Option<Setting> {
    let bare = line.strip_prefix('#').unwrap_or(line);
    if !bare.starts_with(|c: char| c.is_ascii_lowercase()) {
        return None;
    }
    let mut table: toml::Table = bare.parse().ok()?;
    let name = bare.split_once(" = ")?.0;
    Some(Setting {
        name,
        value: table.remove(name)?,
        is_default: line.starts_with('#') && !line.ends_with(EXAMPLE),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli;
    use crate::config::{File, resolve};

    /// What has no flag: a secret on a command line is everybody's.
    const FILE_ALONE: [&str; 2] = ["access-key", "secret-key"];

    fn names() -> BTreeSet<String> {
        SETTINGS
            .iter()
            .map(|setting| setting.name.to_owned())
            .collect()
    }

    fn flags() -> Vec<clap::Arg> {
        let mut command = cli::Cli::command();
        let serve = command.find_subcommand_mut("serve").expect("serve").clone();
        let shown = |arg: &&clap::Arg| {
            !arg.is_hide_set() && !["help", "config"].contains(&arg.get_id().as_str())
        };
        serve.get_arguments().filter(shown).cloned().collect()
    }

    fn flag_name(arg: &clap::Arg) -> String {
        arg.get_long().unwrap_or(arg.get_id().as_str()).to_owned()
    }

    #[test]
    fn it_the_flags_and_the_parser_have_the_same_settings() {
        assert_eq!(names().len(), SETTINGS.len(), "each once");
        let mut flags: BTreeSet<String> = flags().iter().map(flag_name).collect();
        flags.extend(FILE_ALONE.map(str::to_owned));
        assert_eq!(names(), flags);
        let error = toml::from_str::<File>("no-such-setting = 1").expect_err("unknown");
        let (_, known) = error
            .message()
            .split_once("expected one of")
            .expect("a list");
        let known = known.split('`').skip(1).step_by(2).map(str::to_owned);
        let known: BTreeSet<String> = known.filter(|name| name != "buckets").collect();
        assert_eq!(names(), known);
    }

    #[test]
    fn each_flag_is_a_variable_of_the_environment_too() {
        for arg in flags() {
            let name = flag_name(&arg).to_uppercase().replace('-', "_");
            let variable = arg.get_env().expect(&name);
            assert_eq!(variable.to_str(), Some(format!("TWINTREE_{name}").as_str()));
        }
    }

    #[test]
    fn it_is_taken_as_it_stands_and_its_defaults_change_nothing() {
        let args = || cli::Serve {
            root: vec!["/srv/twintree".into()],
            ..cli::Serve::default()
        };
        let meant = |text: &str| {
            let file = toml::from_str::<File>(text).expect(text);
            format!("{:?}", resolve(args(), file).expect(text))
        };
        let usual = meant("");
        assert_eq!(meant(TEXT), usual);
        for setting in SETTINGS.iter() {
            let line = format!("{} = {}", setting.name, setting.value);
            match setting.is_default {
                true => assert_eq!(meant(&line), usual, "{line}"),
                false => drop(toml::from_str::<File>(&line).expect(&line)),
            }
        }
        let of_a_bucket: String = TEXT
            .lines()
            .skip_while(|line| !line.starts_with("#["))
            .map(|line| format!("{}\n", line.trim_start_matches('#')))
            .collect();
        assert_ne!(meant(&of_a_bucket), usual);
    }
}
