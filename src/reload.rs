//! SIGHUP: what can change while we serve is read again, all of it or nothing; of the rest it is said that it waits
//! for a restart.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::signal::unix::Signal;
use toml::Value;
use twintree_gateway::auth::Credentials;
use twintree_gateway::server::tls::Certificates;
use twintree_store::{BucketName, Store};

use crate::commands::serve::set;
use crate::config::{self, Config, show};
use crate::logging::Refilter;
use crate::{cli, logging, secrets};

/// What is read again. The files that they name are read whether or not the name changed.
const RELOADED: [&str; 7] = [
    "access-key",
    "secret-key",
    "credentials",
    "tls-cert",
    "tls-key",
    "log",
    "etag",
];

/// Every setting and what it was set to when we last looked.
pub type Values = BTreeMap<&'static str, Option<Value>>;

/// All that is needed to read the settings again, and to let them count.
pub struct Reload {
    /// What the command line and the environment say: that stays.
    pub args: cli::Serve,
    /// Who may sign.
    pub credentials: Arc<Credentials>,
    /// What TLS shows; `None`: it is not spoken.
    pub certificates: Option<Arc<Certificates>>,
    /// What is logged.
    pub refilter: Refilter,
    /// Which ETags objects get, and what is said of single buckets.
    pub store: Arc<Store>,
    /// What every setting was when we started.
    pub values: Values,
    /// Were we started at a terminal?
    pub at_terminal: bool,
}

impl Reload {
    /// Reads all of it again at each SIGHUP. Ends where the signal says that the terminal we were started at has gone.
    pub async fn at_each(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            if self.at_terminal && !std::io::stdin().is_terminal() {
                return;
            }
            match tokio::task::block_in_place(|| self.again()) {
                Ok(now) => {
                    say(&self.values, &now);
                    self.values = now;
                }
                Err(error) => {
                    tracing::error!("nothing is reloaded, everything stays as it was: {error:#}")
                }
            }
        }
        // No signal can come any more: wait for the others.
        std::future::pending().await
    }

    /// Reads everything first, so that a mistake anywhere changes nothing.
    fn again(&self) -> Result<Values> {
        let args = self.args.clone();
        let file = config::read_file(args.config.as_deref())?;
        let (_, filter) = config::logging(&args, &file)?;
        let filter = logging::filter(&filter)?;
        let config = config::resolve(args.clone(), file)?;
        let values = values(&args)?;
        let keys = match secrets::given(&config, set)? {
            Some(keys) => Some(keys),
            None if secrets::place_of_kept(&config).exists() => {
                secrets::refuse_inside(self.store.locations(), &config.state_dir)?;
                Some(secrets::kept(&config)?)
            }
            // Those of now stay: a pair that is made here would be shown to nobody.
            None => None,
        };
        let certificates = self.certificates_of(&config)?;
        if let Some(keys) = keys {
            self.credentials.replace([(keys.access, keys.secret)]);
        }
        if let Some((shown, new)) = certificates {
            shown.replace(new);
        }
        self.store.set_etags(config.etags);
        let fixed = self.store.set_bucket_rules(&config.buckets);
        if !fixed.is_empty() {
            let buckets: Vec<&str> = fixed.iter().map(BucketName::as_str).collect();
            tracing::warn!(
                buckets = buckets.join(", "),
                "path, hide or symlinks of these buckets changed and count after a restart only; until then they stay read-only and strict where they were"
            );
        }
        (self.refilter)(filter)?;
        Ok(values)
    }

    /// The certificates that are shown, and those that shall be from now on; none where TLS is not spoken now, or shall
    /// not be any more.
    fn certificates_of(&self, config: &Config) -> Result<Option<(&Certificates, Certificates)>> {
        let Some(shown) = self
            .certificates
            .as_deref()
            .filter(|_| !config.tls.is_empty())
        else {
            return Ok(None);
        };
        let new = Certificates::read(&config.tls).context("TLS")?;
        Ok(Some((shown, new)))
    }
}

/// What every setting is set to now.
///
/// # Errors
/// The config file cannot be read.
pub fn values(args: &cli::Serve) -> Result<Values> {
    let path = args.config.as_deref();
    let table = path.map(config::read_table).transpose()?;
    let file: Option<(&Path, &toml::Table)> = path.zip(table.as_ref());
    Ok(show::values(&args.said, file).collect())
}

/// Says what is another now, by name, and what of it does not count yet.
fn say(before: &Values, now: &Values) {
    let changed =
        |(name, value): &(&&'static str, &Option<Value>)| before.get(*name) != Some(value);
    let changed: Vec<&str> = now.iter().filter(changed).map(|(name, _)| *name).collect();
    let (reloaded, waiting): (Vec<&str>, Vec<&str>) = changed
        .into_iter()
        .partition(|name| RELOADED.contains(name));
    if !waiting.is_empty() {
        let settings = waiting.join(", ");
        tracing::warn!(
            settings,
            "these settings changed and count after a restart only"
        );
    }
    tracing::info!(
        changed = reloaded.join(", "),
        "reloaded: keys, certificate, what is logged, kinds of ETags and the rules of single buckets are read again"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::document::SETTINGS;

    #[test]
    fn what_is_reloaded_are_settings() {
        for name in RELOADED {
            assert!(
                SETTINGS.iter().any(|setting| setting.name == name),
                "{name}"
            );
        }
    }
}
