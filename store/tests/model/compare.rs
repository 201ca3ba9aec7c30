//! The comparison after a step: what the store's door and the disk show, against the model.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use twintree_store::{Access, ListQuery, StoreError};

use crate::reference::{self, Tag, parents};
use crate::run::{Outcome, Run, count, failed, key};

/// One listing that is compared after a step.
#[derive(Clone, Debug)]
pub struct Look {
    /// Of the keys.
    pub prefix: String,
    /// Empty: none.
    pub delimiter: String,
    /// Keys and common prefixes of a page.
    pub page: usize,
}

impl Run<'_> {
    /// Compares everything.
    pub fn compare(&mut self, looks: &[Look]) -> Outcome {
        let keys: Vec<String> = self.model.objects().into_keys().collect();
        for name in &keys {
            count(&self.reached.objects);
            self.compare_object(name)?;
        }
        self.compare_absent(&keys)?;
        self.compare_disk()?;
        self.compare_listed(&keys)?;
        looks
            .iter()
            .try_for_each(|look| self.compare_pages(&keys, look))
    }

    fn compare_object(&mut self, name: &str) -> Outcome {
        let object = self.bucket.open(&key(name), Access::Blocking);
        let object = object.map_err(|e| TestCaseError::fail(format!("{name:?}: {e}")))?;
        let mut bytes = Vec::new();
        if let Some(file) = &object.file {
            (&**file).read_to_end(&mut bytes).expect("read");
        }
        let in_annex = self.model.annex.contains_key(name);
        let fine = self.fine;
        let body = self
            .model
            .get_mut(name)
            .expect("it is one of the model's keys");
        prop_assert_eq!(&bytes, &body.bytes, "{:?}", name);
        prop_assert_eq!(object.info.size, bytes.len() as u64);
        let tag = object.info.etag.to_string();
        let old = body.seen.replace(tag.clone());
        let moved = std::mem::take(&mut body.moved);
        let right = match (&body.tag, &old) {
            (Tag::Sure, _) => tag == body.md5(),
            (Tag::Either, _) if tag == body.md5() => true,
            (Tag::Either | Tag::Derived, Some(old)) if is_derived(old) => {
                is_derived(&tag)
                    && if moved {
                        tag != *old || !fine
                    } else {
                        tag == *old
                    }
            }
            (Tag::Either | Tag::Derived, _) => is_derived(&tag),
        };
        prop_assert!(
            right,
            "{:?} is tagged {} after {:?}: {:?}",
            name,
            tag,
            old,
            body
        );
        prop_assert_eq!(object.info.checksum.is_some(), !is_derived(&tag));
        if !moved && !is_derived(&tag) {
            // Found again what it is, by a restart or by a condition: the tag it had meanwhile still counts.
            let meanwhile = old.clone().filter(|old| is_derived(old));
            body.derived = meanwhile.or(body.derived.take());
        }
        if in_annex
            && self
                .model
                .get(name)
                .is_some_and(|body| std::ptr::eq(body, &self.model.annex[name]))
        {
            count(&self.reached.annex_hits);
        }
        if let Some(old) = old.filter(|old| *old != tag) {
            self.former.insert(name.to_owned(), old);
        }
        Ok(())
    }

    /// Neighbours of keys are no objects because of them.
    fn compare_absent(&self, keys: &[String]) -> Outcome {
        let near = keys.iter().flat_map(|name| {
            let above = parents(name).flat_map(|path| [path.to_owned(), format!("{path}/")]);
            above.chain([format!("{name}/"), format!("{name}a")])
        });
        let absent: BTreeSet<String> = near
            .filter(|name| !name.is_empty() && !keys.contains(name))
            .collect();
        for name in absent {
            let answer = self.bucket.open(&key(&name), Access::Blocking);
            prop_assert!(
                matches!(answer, Err(StoreError::NoSuchKey(_))),
                "{:?}: {:?}",
                name,
                answer
            );
        }
        Ok(())
    }

    /// The tree itself: objects are plain files, and directories come and go as a person expects.
    fn compare_disk(&self) -> Outcome {
        let mut found = (BTreeSet::new(), BTreeSet::new());
        let mut pending = vec![String::new()];
        while let Some(path) = pending.pop() {
            for entry in fs::read_dir(self.disk(&path)).expect("a directory") {
                let entry = entry.expect("an entry");
                let name = entry.file_name().into_string().expect("text");
                let path = if path.is_empty() {
                    name
                } else {
                    format!("{path}/{name}")
                };
                match entry.file_type().expect("a type").is_dir() {
                    true if path == ".twintree" => {}
                    true => {
                        found.1.insert(path.clone());
                        pending.push(path);
                    }
                    false => {
                        found.0.insert(path);
                    }
                }
            }
        }
        prop_assert_eq!(
            &found.0,
            &self.model.files.keys().cloned().collect(),
            "files"
        );
        prop_assert_eq!(
            &found.1,
            &self.model.dirs.keys().cloned().collect(),
            "directories"
        );
        Ok(())
    }

    /// LIST agrees with HEAD in everything.
    fn compare_listed(&self, keys: &[String]) -> Outcome {
        let query = ListQuery {
            max_keys: 100_000,
            ..ListQuery::default()
        };
        let page = self.bucket.list(&query).map_err(failed)?;
        let listed: Vec<&str> = page.objects().map(|entry| entry.key).collect();
        prop_assert_eq!(&listed, keys);
        prop_assert!(page.next.is_none() && page.common_prefixes.is_empty());
        for entry in page.objects() {
            let body = self.model.get(entry.key).expect("it was compared");
            prop_assert_eq!(entry.size, body.bytes.len() as u64);
            prop_assert_eq!(
                Some(entry.etag.to_string()),
                body.seen.clone(),
                "{:?}",
                entry.key
            );
            prop_assert_eq!(
                entry.checksum.is_some(),
                !is_derived(&entry.etag.to_string())
            );
        }
        Ok(())
    }

    fn compare_pages(&self, keys: &[String], look: &Look) -> Outcome {
        let Look {
            prefix,
            delimiter,
            page,
        } = look;
        let mut after = String::new();
        loop {
            let (expected, following) = reference::list(keys, prefix, delimiter, &after, *page);
            let query = ListQuery {
                prefix: prefix.clone(),
                delimiter: delimiter.clone(),
                after: after.clone(),
                max_keys: *page,
            };
            let found = self.bucket.list(&query).map_err(failed)?;
            let mut texts: Vec<String> =
                found.objects().map(|entry| entry.key.to_owned()).collect();
            texts.extend(found.common_prefixes);
            texts.sort();
            prop_assert_eq!(&texts, &expected, "{:?} after {:?}", look, after);
            prop_assert_eq!(
                found.next.is_some(),
                following.is_some(),
                "{:?} after {:?}",
                look,
                after
            );
            let (Some(next), Some(following)) = (found.next, following) else {
                return Ok(());
            };
            prop_assert_eq!(Some(&next), texts.last());
            let inside = next
                .rfind('/')
                .is_some_and(|slash| following.starts_with(&next[..=slash]));
            if inside {
                count(&self.reached.pages_ending_inside_a_prefix);
            }
            after = next;
        }
    }
}

fn is_derived(tag: &str) -> bool {
    let hex = |text: &str| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    tag.strip_suffix("-1").is_some_and(hex)
}
