//! What was said of single buckets, in the tables `[buckets.NAME]` of the config file.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};
use twintree_store::{BucketName, BucketOptions, Durability, Symlinks};

use super::file::{OfBucket, OneOrMany};

/// What is meant by it, but for the kind of ETags.
///
/// # Errors
/// A name that is no bucket's, a path that begins nowhere, a word that is none of those there are.
pub fn options(said: BTreeMap<String, OfBucket>) -> Result<BTreeMap<BucketName, BucketOptions>> {
    let all = said.into_iter().map(|(name, said)| {
        let bucket = bucket_name(&name)?;
        Ok((bucket, of_bucket(&name, said)?))
    });
    all.collect()
}

/// The name of a table as a bucket's.
///
/// # Errors
/// It is none.
pub fn bucket_name(name: &str) -> Result<BucketName> {
    BucketName::parse(name).map_err(|e| anyhow!("buckets.{name}: {e}"))
}

/// What is on disk before a write is answered.
///
/// # Errors
/// Another word.
pub fn durability(name: &str, word: &str) -> Result<Durability> {
    match word {
        "strict" => Ok(Durability::Strict),
        "relaxed" => Ok(Durability::Relaxed),
        other => bail!("{name} is strict or relaxed, not {other:?}"),
    }
}

fn of_bucket(name: &str, said: OfBucket) -> Result<BucketOptions> {
    if let Some(path) = said.path.as_ref().filter(|path| !path.is_absolute()) {
        bail!(
            "buckets.{name}.path: {:?} is no absolute path: begin it with /",
            path.display().to_string()
        );
    }
    let word = said.durability.as_deref();
    let durability = word.map(|word| durability(&format!("buckets.{name}.durability"), word));
    let symlinks = match said.symlinks.as_deref() {
        None | Some("inside") => Symlinks::Inside,
        Some("refuse") => Symlinks::Refuse,
        Some(other) => bail!("buckets.{name}.symlinks is inside or refuse, not {other:?}"),
    };
    Ok(BucketOptions {
        path: said.path,
        read_only: said.read_only.unwrap_or(false),
        durability: durability.transpose()?,
        hide: said.hide.map(OneOrMany::into_vec).unwrap_or_default(),
        symlinks,
    })
}
