//! Listings of trees on disk, against S3's rule applied naively to all their keys.
//!
//! The trees are made directly, as a person would make them; the annex by an encoding of the test's own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;
use twintree_store::{
    Access, Bucket, BucketName, Digester, Durability, KeyPolicy, ListPage, ListQuery, Meta,
    ObjectKey, Put, Store, StoreOptions, WriteConditions,
};

#[path = "list/changes.rs"]
mod changes;
#[path = "list/entries.rs"]
mod entries;
#[path = "list/names.rs"]
mod names;
#[path = "list/pages.rs"]
mod pages;

/// A store over a fresh root with one bucket.
struct Rig {
    _root: TempDir,
    top: PathBuf,
    bucket: Bucket,
}

impl Rig {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let top = root.path().join("bucket");
        fs::create_dir(&top).expect("made");
        let store = open(root.path());
        let name = BucketName::parse("bucket").expect("a name");
        let bucket = store.bucket(&name).expect("a bucket");
        Self {
            _root: root,
            top,
            bucket,
        }
    }

    fn file(&self, path: &str) {
        self.raw_file(path.as_bytes());
    }

    fn raw_file(&self, path: &[u8]) {
        let path = self.top.join(OsStr::from_bytes(path));
        let parent = path.parent().expect("below the bucket");
        fs::create_dir_all(parent).expect("made");
        fs::write(path, b"x").expect("written");
    }

    fn dir(&self, path: &str) {
        fs::create_dir_all(self.top.join(path)).expect("made");
    }

    fn annex(&self, key: &str) {
        self.file(&format!(".twintree/annex/{}", annex_path(key)));
    }

    fn page(&self, query: &ListQuery) -> ListPage {
        self.bucket.list(query).expect("listed")
    }

    /// Every key, in one page.
    fn keys(&self) -> Vec<String> {
        texts(&self.page(&query("", "", "", 10_000)))
    }

    /// Follows `next` to the end, and checks that it is exact on the way.
    fn pages(&self, prefix: &str, delimiter: &str, max_keys: usize) -> Vec<String> {
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let page = self.page(&query(prefix, delimiter, &after, max_keys));
            let texts = texts(&page);
            assert!(texts.len() <= max_keys);
            all.extend(texts.iter().cloned());
            match page.next {
                Some(next) => {
                    assert_eq!(texts.len(), max_keys, "a page with a successor is full");
                    assert_eq!(Some(&next), texts.last());
                    assert!(next > after, "{next:?} after {after:?}");
                    after = next;
                }
                None => return all,
            }
        }
    }
}

fn open(root: &Path) -> Arc<Store> {
    let options = StoreOptions {
        root: root.to_owned(),
        durability: Durability::Relaxed,
        keys: KeyPolicy::Any,
        read_only: false,
        hide: vec!["@eaDir".to_owned()],
        verify_mtime_only: false,
        etags: Default::default(),
        buckets: Default::default(),
        more_roots: Vec::new(),
    };
    Store::open(options).expect("opened")
}

fn query(prefix: &str, delimiter: &str, after: &str, max_keys: usize) -> ListQuery {
    ListQuery {
        prefix: prefix.to_owned(),
        delimiter: delimiter.to_owned(),
        after: after.to_owned(),
        max_keys,
    }
}

/// The sizes of a page's objects.
fn sizes(page: &ListPage) -> Vec<u64> {
    page.objects().map(|entry| entry.size).collect()
}

/// Keys and common prefixes of a page in one order; each kind must come in order by itself.
fn texts(page: &ListPage) -> Vec<String> {
    let keys: Vec<String> = page.objects().map(|entry| entry.key.to_owned()).collect();
    assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
    assert!(page.common_prefixes.is_sorted_by(|a, b| a < b));
    let mut texts = keys;
    texts.extend(page.common_prefixes.iter().cloned());
    texts.sort();
    texts
}

/// FORMATS, *Annex*.
fn annex_path(key: &str) -> String {
    let mut names: Vec<String> = Vec::new();
    let components: Vec<&str> = key.split('/').collect();
    for (at, component) in components.iter().enumerate() {
        let mut piece = String::new();
        if component.is_empty() {
            piece.push('%');
        }
        for c in component.chars() {
            let mut unit = c.to_string();
            if ["..", "."].contains(component) || c == '%' || c == '=' || c.is_control() {
                unit = unit.bytes().map(|b| format!("%{b:02X}")).collect();
            }
            if piece.len() + unit.len() > 200 {
                names.push(std::mem::take(&mut piece) + "=c");
            }
            piece.push_str(&unit);
        }
        let suffix = if at + 1 == components.len() {
            "=f"
        } else {
            "=d"
        };
        names.push(piece + suffix);
    }
    names.join("/")
}

/// S3's rule over all keys: prefix, then what comes after the marker, each common prefix once.
fn naive(
    keys: &[String],
    prefix: &str,
    delimiter: &str,
    after: &str,
    max_keys: usize,
) -> (Vec<String>, bool) {
    let group = |key: &str| -> String {
        let rest = &key[prefix.len()..];
        match rest.find(delimiter) {
            Some(at) if !delimiter.is_empty() => {
                key[..prefix.len() + at + delimiter.len()].to_owned()
            }
            _ => key.to_owned(),
        }
    };
    let mut all: Vec<String> = keys
        .iter()
        .filter(|key| key.starts_with(prefix))
        .map(|key| group(key))
        .collect();
    all.sort();
    all.dedup();
    all.retain(|text| text.as_str() > after);
    let more = all.len() > max_keys;
    all.truncate(max_keys);
    (all, more && max_keys > 0)
}

#[test]
fn annex_keys_are_merged_in_order_and_native_files_win() {
    let rig = Rig::new();
    rig.file("a");
    rig.file("b/c");
    for key in ["a/b", "a//b", "..", "b/", "b/c", "/", "//x", "b/%=\n"] {
        rig.annex(key);
    }
    fs::write(rig.top.join(".twintree/annex/b=d/c=f"), b"annexed").expect("written");
    assert_eq!(
        rig.keys(),
        ["..", "/", "//x", "a", "a//b", "a/b", "b/", "b/%=\n", "b/c"]
    );
    let page = rig.page(&query("b/c", "", "", 9));
    assert_eq!(sizes(&page), [1], "the native file");
    assert_eq!(rig.pages("", "/", 1), ["..", "/", "a", "a/", "b/"]);
    assert_eq!(rig.pages("a/", "/", 1), ["a//", "a/b"]);
    fs::remove_file(rig.top.join("b/c")).expect("removed");
    let page = rig.page(&query("b/c", "", "", 9));
    assert_eq!(sizes(&page), [7], "the annexed file");
}

/// What a random tree is made of.
#[derive(Clone, Debug)]
enum Thing {
    File(Vec<String>),
    EmptyDir(Vec<String>),
    Annex(String),
}

fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[ab.-]{1,2}",
        1 => "[ab]é?[\u{1}0]",
        1 => Just("\u{fffd}raw".to_owned()),
    ]
    .prop_filter("no path has it", |name| name != "." && name != "..")
}

fn thing() -> impl Strategy<Value = Thing> {
    let path = || proptest::collection::vec(component(), 1..5);
    prop_oneof![
        6 => path().prop_map(Thing::File),
        1 => path().prop_map(Thing::EmptyDir),
        2 => "[ab./-]{1,6}".prop_map(Thing::Annex),
        1 => "a{199,203}[/b%]{0,3}".prop_map(Thing::Annex),
    ]
}

/// Makes the tree as far as it can be made; gives its keys.
fn build(rig: &Rig, things: &[Thing]) -> Vec<String> {
    // A replacement character stands for a byte that is not UTF-8.
    let raw = |path: &[String]| path.join("/").replace('\u{fffd}', "\u{1}\u{2}");
    let mut keys = BTreeMap::new();
    for thing in things {
        match thing {
            Thing::File(path) => {
                let bytes: Vec<u8> = raw(path)
                    .into_bytes()
                    .split(|b| *b == 2)
                    .flat_map(|part| part.to_vec())
                    .map(|b| if b == 1 { 0xfe } else { b })
                    .collect();
                let disk = rig.top.join(OsStr::from_bytes(&bytes));
                let parent = disk.parent().expect("below the bucket");
                if fs::create_dir_all(parent).is_ok() && fs::write(&disk, b"x").is_ok() {
                    let text: String =
                        String::from_utf8_lossy(&bytes).replace('\u{fffd}', "\u{10fefe}");
                    keys.insert(text, ());
                }
            }
            Thing::EmptyDir(path) => {
                // Where a file is in the way, the tree just lacks the directory.
                let made = fs::create_dir_all(rig.top.join(path.join("/")));
                drop(made);
            }
            Thing::Annex(key) => {
                rig.annex(key);
                keys.insert(key.clone(), ());
            }
        }
    }
    keys.into_keys().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn every_listing_is_what_the_naive_rule_gives(
        things in proptest::collection::vec(thing(), 0..24),
        prefixes in proptest::collection::vec("[ab./-]{0,3}", 3),
        delimiters in proptest::collection::vec(prop_oneof!["/", "[ab./-]{0,2}", "é"], 3),
        markers in proptest::collection::vec("[ab./-]{0,5}", 3),
    ) {
        let rig = Rig::new();
        let keys = build(&rig, &things);
        prop_assert_eq!(rig.keys(), keys.clone());
        for prefix in prefixes.iter().map(String::as_str).chain([""]) {
            for delimiter in delimiters.iter().map(String::as_str).chain(["/"]) {
                let whole = naive(&keys, prefix, delimiter, "", usize::MAX).0;
                for size in 1..=whole.len().min(5) + 1 {
                    prop_assert_eq!(&rig.pages(prefix, delimiter, size), &whole, "{:?} {:?} {}", prefix, delimiter, size);
                }
                for marker in markers.iter().chain(&keys) {
                    let page = rig.page(&query(prefix, delimiter, marker, 3));
                    let (expected, more) = naive(&keys, prefix, delimiter, marker, 3);
                    prop_assert_eq!(texts(&page), expected, "{:?} {:?} after {:?}", prefix, delimiter, marker);
                    prop_assert_eq!(page.next.is_some(), more);
                }
            }
        }
    }
}
