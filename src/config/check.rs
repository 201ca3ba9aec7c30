//! What can be judged of a configuration before anything is opened, beyond its words.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use twintree_gateway::server::tls::{self, Certificates};

use super::Config;
use crate::{logging, secrets};

/// Is there a directory to serve, and one for each bucket that is mapped?
///
/// # Errors
/// In one sentence, with what to do about it.
pub fn served(config: &Config) -> Result<()> {
    config.served().try_for_each(directory)
}

fn directory(dir: &Path) -> Result<()> {
    let shown = dir.display();
    match dir.metadata() {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => bail!("cannot serve {shown}: it is not a directory: name the directory above it"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => bail!(
            "cannot serve {shown}: there is no such directory: make it (mkdir -p {shown}), mount its disk, or name another"
        ),
        Err(e) => Err(anyhow!(e).context(format!("cannot serve {shown}"))),
    }
}

/// All but what is served: the keys, where our state would lie, the certificate, the mount point, the log's filter.
///
/// # Errors
/// The first that would not do.
pub fn rest(config: &Config, log: &str, env: impl Fn(&str) -> Option<String>) -> Result<()> {
    logging::filter(log)?;
    if secrets::given(config, env)?.is_none() {
        secrets::refuse_served(config)?;
    }
    if !config.tls.is_empty() {
        let certificates = Certificates::read(&config.tls).context("TLS")?;
        let clients = config.tls_client_ca.as_deref();
        tls::with_certificates(Arc::new(certificates), clients).context("TLS")?;
    }
    if let Some(mount) = &config.mount
        && !mount.point.is_dir()
    {
        let point = mount.point.display();
        bail!("mount: there is no directory {point}: make it (mkdir -p {point})");
    }
    Ok(())
}
