//! Where the keys come from. There are no default keys: a first start without any makes one and keeps it
//! in a 0600 file outside the served tree.

use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use twintree_gateway::auth::Secret;

use crate::config::Config;

/// The most that is read of a key file, in bytes.
const MAX_BYTES: u64 = 64 << 10;
/// What the state directory keeps the keys in.
const FILE: &str = "credentials";
/// The name of the credential that a service manager (`LoadCredential=`) may hand over.
const CREDENTIAL: &str = "twintree.credentials";

/// A key pair, and where it came from.
pub struct Keys {
    /// The access key id.
    pub access: String,
    /// The secret access key.
    pub secret: Secret,
    /// Where they were found, for the operator.
    pub source: String,
    /// They were made just now, and may be shown once.
    pub fresh: bool,
}

/// Finds the keys that somebody gave us: the file that a flag named, the environment, the service manager's credential,
/// the file that the environment or the config file named, the config file itself. `None`: nobody gave any.
///
/// # Errors
/// A half-set pair, a file that cannot be read, a key that cannot be one.
pub fn given(config: &Config, env: impl Fn(&str) -> Option<String>) -> Result<Option<Keys>> {
    let named = config.credentials.as_deref().map(from_file);
    if config.credentials_by_flag {
        return named.transpose();
    }
    if let Some(keys) = from_environment(&env)? {
        return Ok(Some(keys));
    }
    if let Some(keys) = from_credential(&env)? {
        return Ok(Some(keys));
    }
    if named.is_some() {
        return named.transpose();
    }
    match &config.inline_keys {
        Some((access, secret)) => {
            let source = "the config file".to_owned();
            checked(access.clone(), secret.clone(), source).map(Some)
        }
        None => Ok(None),
    }
}

/// The keys that an earlier start made; the first start makes them.
///
/// # Errors
/// The state directory cannot be used.
pub fn kept(config: &Config) -> Result<Keys> {
    let path = place_of_kept(config);
    match path.exists() {
        true => from_file(&path),
        false => make(config, &path),
    }
}

/// Where the first start keeps the keys that it makes.
pub fn place_of_kept(config: &Config) -> PathBuf {
    config.state_dir.join(FILE)
}

/// systemd.exec(5), `LoadCredential=`: a file that only this service can read, in a directory of its own.
fn from_credential(env: &impl Fn(&str) -> Option<String>) -> Result<Option<Keys>> {
    let path = env("CREDENTIALS_DIRECTORY").map(|dir| Path::new(&dir).join(CREDENTIAL));
    let path = path.filter(|path| path.exists());
    path.as_deref().map(from_file).transpose()
}

fn from_environment(env: &impl Fn(&str) -> Option<String>) -> Result<Option<Keys>> {
    let read = |name: &str| -> Result<Option<String>> {
        if let Some(value) = env(name) {
            return Ok(Some(value));
        }
        match env(&format!("{name}_FILE")) {
            Some(path) => Ok(Some(first_line(Path::new(&path))?)),
            None => Ok(None),
        }
    };
    match (read("TWINTREE_ACCESS_KEY")?, read("TWINTREE_SECRET_KEY")?) {
        (Some(access), Some(secret)) => {
            checked(access, secret, "the environment".to_owned()).map(Some)
        }
        (None, None) => Ok(None),
        _ => {
            bail!("TWINTREE_ACCESS_KEY and TWINTREE_SECRET_KEY go together (or their _FILE forms)")
        }
    }
}

fn read_small(path: &Path) -> Result<String> {
    let mut text = String::new();
    let file =
        std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.take(MAX_BYTES)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}

fn first_line(path: &Path) -> Result<String> {
    Ok(read_small(path)?
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned())
}

/// Two lines: access key, secret key. Empty lines and comments (#) do not count.
fn from_file(path: &Path) -> Result<Keys> {
    let text = read_small(path)?;
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    match (lines.next(), lines.next(), lines.next()) {
        (Some(access), Some(secret), None) => checked(
            access.to_owned(),
            secret.to_owned(),
            path.display().to_string(),
        ),
        _ => bail!(
            "{} does not hold two lines: the access key and the secret key",
            path.display()
        ),
    }
}

fn checked(access: String, secret: String, source: String) -> Result<Keys> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ',' | '=');
    if access.len() < 3 || access.len() > 128 || !access.chars().all(plain) {
        bail!(
            "the access key from {source} must have 3 to 128 visible ASCII characters without / , ="
        );
    }
    if secret.len() < 8 || !secret.chars().all(|c| c.is_ascii_graphic()) {
        bail!(
            "the secret key from {source} must have at least 8 visible ASCII characters and no blank"
        );
    }
    Ok(Keys {
        access,
        secret: Secret::new(secret),
        source,
        fresh: false,
    })
}

fn make(config: &Config, path: &Path) -> Result<Keys> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.state_dir)
        .with_context(|| {
            format!(
                "cannot make the state directory {}: give --state-dir DIR",
                config.state_dir.display()
            )
        })?;
    let access = format!(
        "TT{}",
        random_text(18, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")?
    );
    let secret = random_text(
        40,
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
    )?;
    // Two first starts at once must end with one key: the loser of the link reads the winner's.
    let temporary = path.with_extension(format!("{}", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(|| format!("cannot write {}", temporary.display()))?;
    let written = writeln!(
        file,
        "# Made at the first start. Access key, then secret key.\n{access}\n{secret}"
    )
    .and_then(|()| file.sync_all())
    .and_then(|()| std::fs::hard_link(&temporary, path));
    std::fs::remove_file(&temporary)
        .with_context(|| format!("cannot remove {}", temporary.display()))?;
    match written {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => return from_file(path),
        Err(e) => return Err(e).with_context(|| format!("cannot write {}", path.display())),
    }
    Ok(Keys {
        fresh: true,
        ..checked(access, secret, path.display().to_string())?
    })
}

/// Refuses a state directory that lies in anything that is served.
///
/// # Errors
/// It does, or what is to be served is not there.
pub fn refuse_served(config: &Config) -> Result<()> {
    let mut served = Vec::new();
    for dir in config.served() {
        let shown = || format!("cannot serve {}", dir.display());
        served.push(dir.canonicalize().with_context(shown)?);
    }
    refuse_inside(served.iter().map(PathBuf::as_path), &config.state_dir)
}

/// Refuses a state directory that lies in the served trees: the key in it would be served. They are absolute and without
/// links, and need not be there: a disk that is gone, or does not answer, keeps nobody from asking.
///
/// # Errors
/// It does.
pub fn refuse_inside<'a>(mut served: impl Iterator<Item = &'a Path>, state: &Path) -> Result<()> {
    let absolute = std::path::absolute(state).unwrap_or_else(|_| state.to_owned());
    let nearest = absolute
        .ancestors()
        .find_map(|dir| dir.canonicalize().ok())
        .unwrap_or_else(|| PathBuf::from("/"));
    if served.any(|dir| nearest.starts_with(dir)) {
        bail!(
            "the state directory {} lies in the served tree: give --state-dir DIR",
            state.display()
        );
    }
    Ok(())
}

fn random_text(length: usize, alphabet: &[u8]) -> Result<String> {
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut bytes = [0u8; 64];
        let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .context("no random bytes")?;
        // Only whole multiples of the alphabet, so that every character is equally likely.
        let fair = 256 - 256 % alphabet.len();
        let picked = bytes[..got].iter().filter(|b| usize::from(**b) < fair);
        text.extend(
            picked
                .map(|b| char::from(alphabet[usize::from(*b) % alphabet.len()]))
                .take(length - text.len()),
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli, config};

    fn config(dir: &Path) -> Config {
        let args = cli::Serve {
            root: vec![dir.join("tree")],
            state_dir: Some(dir.join("state")),
            ..cli::Serve::default()
        };
        std::fs::create_dir_all(dir.join("tree")).expect("a directory");
        config::resolve(args, config::File::default()).expect("a config")
    }

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn a_flag_wins_over_the_environment_which_wins_over_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("keys");
        std::fs::write(&file, "# by hand\nINFILE\nsecret-in-file\n").expect("a file");
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "secret-in-its-own-file\n").expect("a file");
        let environment = |name: &str| match name {
            "TWINTREE_ACCESS_KEY" => Some("INENV".to_owned()),
            "TWINTREE_SECRET_KEY_FILE" => Some(secret.display().to_string()),
            _ => None,
        };
        let mut config = config(dir.path());
        let found = |config: &Config, env: &dyn Fn(&str) -> Option<String>| {
            given(config, env)
                .expect("keys")
                .map(|keys| (keys.access, keys.secret.expose().to_owned()))
        };
        let pair = |access: &str, secret: &str| Some((access.to_owned(), secret.to_owned()));
        assert_eq!(found(&config, &nothing), None);
        config.inline_keys = pair("INLINE", "secret-inline");
        assert_eq!(found(&config, &nothing), pair("INLINE", "secret-inline"));
        config.credentials = Some(file);
        assert_eq!(found(&config, &nothing), pair("INFILE", "secret-in-file"));
        let credential = "INCREDENTIAL\nsecret-in-credential\n";
        std::fs::write(dir.path().join(CREDENTIAL), credential).expect("a file");
        let manager = |name: &str| {
            (name == "CREDENTIALS_DIRECTORY").then(|| dir.path().display().to_string())
        };
        assert_eq!(
            found(&config, &manager),
            pair("INCREDENTIAL", "secret-in-credential")
        );
        let both = |name: &str| environment(name).or_else(|| manager(name));
        assert_eq!(
            found(&config, &both),
            pair("INENV", "secret-in-its-own-file")
        );
        assert_eq!(
            found(&config, &environment),
            pair("INENV", "secret-in-its-own-file")
        );
        config.credentials_by_flag = true;
        assert_eq!(
            found(&config, &environment),
            pair("INFILE", "secret-in-file")
        );
    }

    #[test]
    fn half_a_pair_is_an_error_that_names_both() {
        let dir = tempfile::tempdir().expect("a directory");
        let half = |name: &str| (name == "TWINTREE_ACCESS_KEY").then(|| "INENV".to_owned());
        let error = given(&config(dir.path()), half)
            .err()
            .expect("an error")
            .to_string();
        assert!(error.contains("TWINTREE_SECRET_KEY"), "{error}");
    }

    #[test]
    fn the_first_start_makes_a_key_that_the_second_finds() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let config = config(dir.path());
        let (first, second) = (kept(&config).expect("made"), kept(&config).expect("found"));
        assert!(first.fresh && !second.fresh);
        assert_eq!(
            (&first.access, first.secret.expose()),
            (&second.access, second.secret.expose())
        );
        let mode = |path: &Path| {
            std::fs::metadata(path)
                .expect("is there")
                .permissions()
                .mode()
        };
        assert_eq!(mode(&config.state_dir) & 0o777, 0o700);
        assert_eq!(mode(&config.state_dir.join(FILE)) & 0o777, 0o600);
        assert_eq!(
            std::fs::read_dir(&config.state_dir)
                .expect("is there")
                .count(),
            1
        );
    }

    #[test]
    fn a_state_directory_in_the_tree_is_refused_also_by_a_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = config(dir.path());
        let root = config.root.clone();
        std::os::unix::fs::symlink(&root, dir.path().join("link")).expect("a link");
        for inside in [
            root.clone(),
            root.join("a/b"),
            dir.path().join("link/state"),
        ] {
            config.state_dir = inside;
            let shown = config.state_dir.display();
            assert!(refuse_served(&config).is_err(), "{shown}");
        }
        for beside in ["state", "tree-beside"] {
            config.state_dir = dir.path().join(beside);
            assert!(refuse_served(&config).is_ok(), "{beside}");
        }
    }
}
