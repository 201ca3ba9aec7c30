//! What was said of the mount.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use twintree_fuse::{Mode, MountOptions};

use crate::cli;

impl cli::Mounting {
    /// What the config file says counts where nothing else was said.
    pub(super) fn or(
        self,
        allow_other: Option<bool>,
        mode: Option<String>,
        ttl: Option<String>,
    ) -> Self {
        Self {
            mount_allow_other: self.mount_allow_other.or(allow_other),
            mount_mode: self.mount_mode.or(mode),
            mount_ttl: self.mount_ttl.or(ttl),
            ..self
        }
    }
}

/// What was said, and what is meant by it.
///
/// # Errors
/// A value that cannot be.
pub fn options(point: PathBuf, args: cli::Mounting) -> Result<MountOptions> {
    Ok(MountOptions {
        point,
        allow_other: args.mount_allow_other.unwrap_or(false),
        mode: match args.mount_mode.as_deref().unwrap_or("auto") {
            "auto" => Mode::Auto,
            "plain" => Mode::Plain,
            "passthrough" => Mode::Passthrough,
            other => bail!("mount-mode is auto, plain or passthrough, not {other:?}"),
        },
        ttl: match args.mount_ttl {
            None => Duration::from_secs(1),
            Some(text) => super::values::duration(&text)
                .with_context(|| format!("mount-ttl: {text:?} is no time such as 500ms or 1s"))?,
        },
        notify: match args.mount_notify.as_deref().unwrap_or("on") {
            "on" => true,
            "off" => false,
            other => bail!("mount-notify is on or off, not {other:?}"),
        },
        extra: args.mount_option,
    })
}
