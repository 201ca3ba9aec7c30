//! Which uploads are under way: a page of them in order, and the sweep of those that nobody ends.

use std::time::Duration;

use rustix::fs;

use super::folder::{self, Folder, names, open_dir, open_uploads};
use super::id::UploadId;
use super::slot::State;
use crate::root::system;
use crate::{Algorithm, Bucket, ChecksumType, Result, Timestamp};

/// An upload that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadInfo {
    /// The key it will become, as text.
    pub key: String,
    /// Its id.
    pub id: UploadId,
    /// When it was created.
    pub initiated: Timestamp,
    /// The access key id of who created it.
    pub initiator: Option<String>,
    /// The checksum that it was created with.
    pub checksum: Option<(Algorithm, ChecksumType)>,
    /// The storage class that it was created with, if it is not the usual one.
    pub storage_class: Option<String>,
}

impl UploadInfo {
    pub(super) fn of(folder: &Folder) -> Self {
        let document = &folder.document;
        Self {
            key: document.key.clone(),
            id: folder.id.clone(),
            initiated: document.initiated,
            initiator: document.spec.initiator.clone(),
            checksum: document.spec.checksum,
            storage_class: document.spec.storage_class(),
        }
    }
}

/// One page's question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadQuery {
    /// Only keys that begin with it.
    pub prefix: String,
    /// Groups keys into common prefixes; any text; empty: none.
    pub delimiter: String,
    /// Exclusive: only keys (and common prefixes) after it; empty: from the start.
    pub after_key: String,
    /// With `after_key`: also this key's uploads that began after the one with this id.
    pub after_id: Option<UploadId>,
    /// At most so many uploads and common prefixes together.
    pub max: usize,
}

/// One page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadPage {
    /// Uploads by key, then by when they began.
    pub uploads: Vec<UploadInfo>,
    /// Common prefixes, in order.
    pub common_prefixes: Vec<String>,
    /// Where the next page begins: `after_key` and, behind an upload, `after_id`; `None`: this was the last.
    pub next: Option<(String, Option<UploadId>)>,
}

impl Bucket {
    /// Lists one page of the uploads that are under way. Blocking.
    ///
    /// # Errors
    /// What the disk says of the directory of uploads; one bad upload never breaks the list.
    pub fn list_uploads(&self, query: &UploadQuery) -> Result<UploadPage> {
        let mut found = Vec::new();
        self.each_upload(|folder| {
            if folder.document.key.starts_with(&query.prefix) && is_under_way(&folder)? {
                found.push(UploadInfo::of(&folder));
            }
            Ok(())
        })?;
        Ok(page(found, query))
    }

    /// Removes uploads that nobody touched for so long, and what ended ones left. Blocking. Gives how
    /// many abandoned ones there were.
    ///
    /// # Errors
    /// What the disk says of the directory of uploads.
    pub fn sweep_uploads(&self, older_than: Duration) -> Result<usize> {
        self.check_writable()?;
        let mut abandoned = 0;
        let age = i64::try_from(older_than.as_nanos()).unwrap_or(i64::MAX);
        let oldest = Timestamp(Timestamp::now().0.saturating_sub(age));
        self.each_upload(|folder| {
            if folder.head()?.is_some() && !is_under_way(&folder)? {
                // Ended, and its process died before it had cleaned up (or is about to).
                let ending = folder.lock_ending()?;
                folder.remove();
                drop(ending);
            } else if folder.last_touched()? < oldest {
                if folder.head()?.is_none() {
                    folder.remove(); // damaged: nobody can end it
                    return Ok(());
                }
                let id = folder.id.clone();
                (super::Upload {
                    folder: folder.into(),
                })
                .abort()?;
                tracing::info!(
                    bucket = self.name().as_str(),
                    upload = id.as_str(),
                    "abandoned: removed"
                );
                abandoned += 1;
            }
            Ok(())
        })?;
        self.sweep_unborn(oldest)?;
        Ok(abandoned)
    }

    /// Calls `visit` with every directory that is an upload, ended or not.
    fn each_upload(&self, mut visit: impl FnMut(Folder) -> Result<()>) -> Result<()> {
        let Some(uploads) = open_uploads(self, false)? else {
            return Ok(());
        };
        for name in names(&uploads)? {
            let Ok(id) = UploadId::parse(&name) else {
                continue;
            };
            let visited =
                Folder::open(self, &id).and_then(|folder| folder.map_or(Ok(()), &mut visit));
            if let Err(e) = visited {
                tracing::warn!(
                    bucket = self.name().as_str(),
                    upload = name,
                    "the upload is passed over: {e}"
                );
            }
        }
        Ok(())
    }

    /// Removes directories that never became uploads, or that a removal left without their document.
    fn sweep_unborn(&self, oldest: Timestamp) -> Result<()> {
        let Some(uploads) = open_uploads(self, false)? else {
            return Ok(());
        };
        for name in names(&uploads)? {
            let Ok(id) = UploadId::parse(&name) else {
                continue;
            };
            let Ok(dir) = open_dir(&uploads, &name) else {
                continue;
            };
            let stat = fs::fstat(&dir).map_err(|e| system(&name, e))?;
            let changed = Timestamp::from_parts(stat.st_mtime, stat.st_mtime_nsec as i64);
            if changed < oldest && !folder::has_document(&dir)? {
                folder::remove_dir(&uploads, &id);
            }
        }
        Ok(())
    }
}

/// Does the upload take parts? Of one whose file was renamed away only the directory is left.
fn is_under_way(folder: &Folder) -> Result<bool> {
    match folder.head()? {
        Some(head) if matches!(head.state, State::Open | State::Publishing(_)) => {
            folder.is_alive(head)
        }
        _ => Ok(false),
    }
}

/// Sorts, groups and cuts.
fn page(mut found: Vec<UploadInfo>, query: &UploadQuery) -> UploadPage {
    found.sort_unstable_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
    let mut page = UploadPage::default();
    let mut last = None;
    for upload in found {
        if !is_after(&upload, query) {
            continue;
        }
        let group = group_of(&upload.key, query);
        if let Some(group) = group
            && (page
                .common_prefixes
                .last()
                .is_some_and(|last| last == group)
                || group == query.after_key)
        {
            continue;
        }
        if page.uploads.len() + page.common_prefixes.len() >= query.max {
            // A page of nothing has no next one: it would never come forward.
            page.next = last;
            return page;
        }
        match group {
            Some(group) => {
                last = Some((group.to_owned(), None));
                page.common_prefixes.push(group.to_owned());
            }
            None => {
                last = Some((upload.key.clone(), Some(upload.id.clone())));
                page.uploads.push(upload);
            }
        }
    }
    page
}

fn is_after(upload: &UploadInfo, query: &UploadQuery) -> bool {
    match (upload.key.as_str().cmp(&query.after_key), &query.after_id) {
        (std::cmp::Ordering::Greater, _) => true,
        (std::cmp::Ordering::Equal, Some(id)) => upload.id > *id,
        _ => false,
    }
}

/// The common prefix that a key falls into.
fn group_of<'a>(key: &'a str, query: &UploadQuery) -> Option<&'a str> {
    if query.delimiter.is_empty() {
        return None;
    }
    let start = query.prefix.len();
    let at = key[start..].find(&query.delimiter)?;
    Some(&key[..start + at + query.delimiter.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(key: &str, at: i64) -> UploadInfo {
        UploadInfo {
            key: key.to_owned(),
            id: UploadId::new(Timestamp(at)),
            initiated: Timestamp(at),
            initiator: None,
            checksum: None,
            storage_class: None,
        }
    }

    /// All entries, page by page, as `key@time` or `prefix*`.
    fn all(found: &[UploadInfo], mut query: UploadQuery) -> Vec<String> {
        let mut entries = Vec::new();
        for _ in 0..100 {
            let page = page(found.to_vec(), &query);
            assert!(page.uploads.len() + page.common_prefixes.len() <= query.max);
            entries.extend(
                page.uploads
                    .iter()
                    .map(|u| format!("{}@{}", u.key, u.initiated.0)),
            );
            entries.extend(page.common_prefixes.iter().map(|p| format!("{p}*")));
            match page.next {
                Some((key, id)) => (query.after_key, query.after_id) = (key, id),
                None => return entries,
            }
        }
        panic!("paging does not end");
    }

    #[test]
    fn pages_of_any_size_name_every_upload_once_in_order() {
        let found = [
            upload("b", 3),
            upload("a", 2),
            upload("a", 1),
            upload("a/x", 5),
            upload("b", 1),
        ];
        for max in 1..7 {
            let query = UploadQuery {
                max,
                ..UploadQuery::default()
            };
            assert_eq!(all(&found, query), ["a@1", "a@2", "a/x@5", "b@1", "b@3"]);
        }
    }

    #[test]
    fn a_common_prefix_counts_once_over_all_pages() {
        let found = [
            upload("a/1", 1),
            upload("a/2", 1),
            upload("b", 1),
            upload("c/1", 1),
            upload("c/2", 1),
        ];
        for max in 1..5 {
            let query = UploadQuery {
                max,
                delimiter: "/".to_owned(),
                ..UploadQuery::default()
            };
            let mut entries = all(&found, query);
            entries.sort();
            assert_eq!(entries, ["a/*", "b@1", "c/*"]);
        }
    }

    #[test]
    fn a_prefix_is_not_part_of_what_the_delimiter_splits() {
        let found = [upload("a/b/c", 1), upload("a/d", 1)];
        let query = UploadQuery {
            prefix: "a/".to_owned(),
            delimiter: "/".to_owned(),
            max: 10,
            ..UploadQuery::default()
        };
        assert_eq!(all(&found, query), ["a/d@1", "a/b/*"]);
    }

    #[test]
    fn a_page_of_nothing_is_the_last() {
        assert_eq!(
            page(vec![upload("a", 1)], &UploadQuery::default()),
            UploadPage::default()
        );
    }

    #[test]
    fn without_an_id_the_marker_skips_all_uploads_of_its_key() {
        let found = [upload("a", 1), upload("a", 2), upload("b", 1)];
        let query = UploadQuery {
            after_key: "a".to_owned(),
            max: 10,
            ..UploadQuery::default()
        };
        assert_eq!(all(&found, query), ["b@1"]);
    }
}
