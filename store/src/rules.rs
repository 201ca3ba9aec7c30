//! What is said of single buckets and wins over what is said of all: where a bucket's directory lies, what of it is
//! kept back, and what a write to it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::path::HideList;
use crate::{BucketName, Durability, StoreOptions};

/// What becomes of the symbolic links in a bucket, in S3; a mount shows them as links in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Symlinks {
    /// Those are followed that stay inside the bucket.
    #[default]
    Inside,
    /// None is followed: a link, and what it alone leads to, is no object.
    Refuse,
}

/// What is said of one bucket. What is not said is as for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BucketOptions {
    /// The directory that is the bucket, outside the root; `None`: the root's directory of its name.
    pub path: Option<PathBuf>,
    /// Refuse every write, and write nothing ourselves. Where all is read-only, no bucket is not.
    pub read_only: bool,
    /// What is on disk before a write is answered.
    pub durability: Option<Durability>,
    /// Names hidden and refused at every depth, beside those of all buckets.
    pub hide: Vec<String>,
    /// What becomes of symbolic links.
    pub symlinks: Symlinks,
}

/// What of a bucket is kept back, for as long as the store is open.
#[derive(Clone)]
pub(crate) struct Scope {
    pub hide: Arc<HideList>,
    pub symlinks: Symlinks,
}

/// What a write to a bucket is. It may change while the store is open; a request keeps what it began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    pub read_only: bool,
    pub durability: Durability,
}

impl Rules {
    /// What both allow, and on disk before an answer what either wants there.
    fn or_stricter(self, other: Self) -> Self {
        let strict = [self.durability, other.durability].contains(&Durability::Strict);
        Self {
            read_only: self.read_only || other.read_only,
            durability: if strict {
                Durability::Strict
            } else {
                Durability::Relaxed
            },
        }
    }
}

/// The scopes of all buckets.
pub(crate) struct Scopes {
    usual: Scope,
    of_bucket: BTreeMap<BucketName, Scope>,
}

/// The rules of all buckets.
pub(crate) struct AllRules {
    usual: Rules,
    of_bucket: BTreeMap<BucketName, Rules>,
}

impl Scope {
    /// Of a directory of which nothing is said.
    pub fn of_hide(hide: Arc<HideList>) -> Self {
        let symlinks = Symlinks::default();
        Self { hide, symlinks }
    }
}

impl Scopes {
    /// What is said of all and of each.
    pub fn new(options: &StoreOptions) -> Self {
        let of = |said: &BucketOptions| {
            let names = [options.hide.as_slice(), &said.hide].concat();
            Scope {
                hide: Arc::new(HideList::new(&names)),
                symlinks: said.symlinks,
            }
        };
        let differs =
            |said: &BucketOptions| !said.hide.is_empty() || said.symlinks != Symlinks::default();
        let all = options.buckets.iter().filter(|(_, said)| differs(said));
        Self {
            usual: Scope::of_hide(Arc::new(HideList::new(&options.hide))),
            of_bucket: all.map(|(name, said)| (name.clone(), of(said))).collect(),
        }
    }

    /// A bucket's own, or the usual one.
    pub fn of(&self, bucket: &BucketName) -> &Scope {
        self.of_bucket.get(bucket).unwrap_or(&self.usual)
    }

    /// Has it one of its own?
    pub fn has(&self, bucket: &BucketName) -> bool {
        self.of_bucket.contains_key(bucket)
    }

    /// That of buckets of which nothing is said.
    pub fn usual(&self) -> &Scope {
        &self.usual
    }

    /// Is it the same for all buckets?
    pub fn is_one(&self) -> bool {
        self.of_bucket.is_empty()
    }
}

impl AllRules {
    /// What is said of all, and now of each.
    pub fn new(options: &StoreOptions, buckets: &BTreeMap<BucketName, BucketOptions>) -> Self {
        let usual = Rules {
            read_only: options.read_only,
            durability: options.durability,
        };
        let of = |said: &BucketOptions| Rules {
            read_only: usual.read_only || said.read_only,
            durability: said.durability.unwrap_or(usual.durability),
        };
        let all = buckets.iter().map(|(name, said)| (name.clone(), of(said)));
        let of_bucket = all.filter(|(_, rules)| *rules != usual).collect();
        Self { usual, of_bucket }
    }

    /// Lets what is said now count. What is said of those that `wait` for a restart may be meant for another directory,
    /// or for none: until then each is as strict as it was, or as is said, whichever is more.
    pub fn change(
        &mut self,
        options: &StoreOptions,
        buckets: &BTreeMap<BucketName, BucketOptions>,
        wait: &[BucketName],
    ) {
        let mut now = Self::new(options, buckets);
        for name in wait {
            let rules = self.of(name).or_stricter(now.of(name));
            now.of_bucket.insert(name.clone(), rules);
        }
        now.of_bucket.retain(|_, rules| *rules != now.usual);
        *self = now;
    }

    /// A bucket's own, or the usual ones.
    pub fn of(&self, bucket: &BucketName) -> Rules {
        self.of_bucket.get(bucket).copied().unwrap_or(self.usual)
    }

    /// Has it rules of its own?
    pub fn has(&self, bucket: &BucketName) -> bool {
        self.of_bucket.contains_key(bucket)
    }

    /// May some buckets not be written that are not among all that may not?
    pub fn any_is_read_only(&self) -> bool {
        self.of_bucket.values().any(|rules| rules.read_only)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_one_bucket_wins_but_a_store_that_is_read_only_is_so_everywhere() {
        let name = |text: &str| BucketName::parse(text).expect("a name");
        let said = BucketOptions {
            durability: Some(Durability::Relaxed),
            ..BucketOptions::default()
        };
        let mut options = StoreOptions::of("/nowhere");
        let buckets = BTreeMap::from([
            (name("quick"), said),
            (name("as-all"), BucketOptions::default()),
        ]);
        let rules = AllRules::new(&options, &buckets);
        assert_eq!(rules.of(&name("quick")).durability, Durability::Relaxed);
        assert_eq!(rules.of(&name("other")).durability, Durability::Strict);
        assert!(!rules.any_is_read_only() && rules.of_bucket.len() == 1);
        options.read_only = true;
        assert!(
            AllRules::new(&options, &buckets)
                .of(&name("quick"))
                .read_only
        );
    }

    #[test]
    fn a_bucket_that_waits_for_a_restart_only_becomes_stricter() {
        let name = BucketName::parse("photos").expect("a name");
        let options = StoreOptions::of("/nowhere");
        let said = |read_only, durability| {
            let said = BucketOptions {
                read_only,
                durability: Some(durability),
                ..BucketOptions::default()
            };
            BTreeMap::from([(name.clone(), said)])
        };
        let (read_only, relaxed) = (
            said(true, Durability::Relaxed),
            said(false, Durability::Relaxed),
        );
        let mut rules = AllRules::new(&options, &read_only);
        rules.change(&options, &BTreeMap::new(), std::slice::from_ref(&name));
        let strictest = Rules {
            read_only: true,
            durability: Durability::Strict,
        };
        assert_eq!(rules.of(&name), strictest);
        rules.change(&options, &relaxed, std::slice::from_ref(&name));
        assert_eq!(rules.of(&name), strictest);
        rules.change(&options, &relaxed, &[]);
        assert_eq!(rules.of(&name), AllRules::new(&options, &relaxed).of(&name));
    }
}
