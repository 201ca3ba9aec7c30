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

/// Keys and common prefixes of a page in one order; each kind must come in order by itself.
fn texts(page: &ListPage) -> Vec<String> {
    let keys: Vec<String> = page.objects.iter().map(|entry| entry.key.clone()).collect();
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
fn keys_come_in_byte_order_of_the_whole_key() {
    let rig = Rig::new();
    for path in ["a/x", "a-b", "a.b", "a0", "a/y/z", "b"] {
        rig.file(path);
    }
    assert_eq!(rig.keys(), ["a-b", "a.b", "a/x", "a/y/z", "a0", "b"]);
    assert_eq!(rig.pages("", "/", 2), ["a-b", "a.b", "a/", "a0", "b"]);
    assert_eq!(rig.pages("a/", "/", 1), ["a/x", "a/y/"]);
    assert_eq!(rig.pages("a/", "y/", 1), ["a/x", "a/y/"]);
    assert_eq!(rig.pages("", "a", 1), ["a", "b"]);
}

#[test]
fn max_keys_zero_is_an_empty_page_without_a_successor() {
    let rig = Rig::new();
    rig.file("a");
    let page = rig.page(&query("", "", "", 0));
    assert!(page.objects.is_empty() && page.next.is_none());
}

#[test]
fn a_marker_need_not_exist_and_a_common_prefix_skips_its_group() {
    let rig = Rig::new();
    for path in ["a/1", "a/2", "b", "c/1"] {
        rig.file(path);
    }
    let after = |marker: &str, delimiter: &str| texts(&rig.page(&query("", delimiter, marker, 9)));
    assert_eq!(after("a/", "/"), ["b", "c/"]);
    assert_eq!(after("a/1", "/"), ["b", "c/"]);
    assert_eq!(after("a/", ""), ["a/1", "a/2", "b", "c/1"]);
    assert_eq!(after("a/1", ""), ["a/2", "b", "c/1"]);
    assert_eq!(after("a/1/deep/below", ""), ["a/2", "b", "c/1"]);
    assert_eq!(after("a0", ""), ["b", "c/1"]);
    assert_eq!(after("zzz", ""), [""; 0]);
}

#[test]
fn paging_goes_on_after_its_marker_was_deleted() {
    let rig = Rig::new();
    for n in 0..20 {
        rig.file(&format!("d{}/f{n:02}", n / 10));
    }
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = rig.page(&query("", "", &after, 3));
        seen.extend(texts(&page));
        let Some(next) = page.next else { break };
        fs::remove_file(rig.top.join(&next)).expect("removed");
        if next == "d0/f08" {
            fs::remove_dir_all(rig.top.join("d0")).expect("removed");
        }
        after = next;
    }
    let expected: Vec<String> = (0..20).map(|n| format!("d{}/f{n:02}", n / 10)).collect();
    assert_eq!(
        seen,
        expected
            .iter()
            .filter(|key| *key != "d0/f09")
            .cloned()
            .collect::<Vec<_>>()
    );
}

#[test]
fn empty_directories_are_neither_objects_nor_common_prefixes() {
    let rig = Rig::new();
    rig.dir("empty/deep/deeper");
    rig.dir("full/empty");
    rig.file("full/deep/file");
    rig.file("hidden/@eaDir/thumb");
    assert_eq!(rig.keys(), ["full/deep/file"]);
    assert_eq!(rig.pages("", "/", 1), ["full/"]);
    assert_eq!(rig.pages("empty/", "/", 1), [""; 0]);
    assert_eq!(rig.pages("hidden/@eaDir/", "/", 1), [""; 0]);
}

#[test]
fn a_marked_directory_is_an_object_of_its_own() {
    let rig = Rig::new();
    rig.dir("plain/inner");
    rig.dir("marked");
    rig.file("marked-too/file");
    for name in ["marked", "marked-too"] {
        let mark = [&[1u8, 2][..], &1_000_000_007i64.to_le_bytes()].concat();
        if let Err(e) = xattr::set(rig.top.join(name), "user.twintree.dir", &mark) {
            assert_eq!(e.raw_os_error(), Some(libc::EOPNOTSUPP), "{e}");
            return;
        }
    }
    assert_eq!(rig.keys(), ["marked-too/", "marked-too/file", "marked/"]);
    assert_eq!(rig.pages("", "/", 1), ["marked-too/", "marked/"]);
    let page = rig.page(&query("marked/", "/", "", 5));
    assert_eq!(page.objects[0].key, "marked/");
    assert_eq!(
        page.objects[0].etag.to_string(),
        "d41d8cd98f00b204e9800998ecf8427e"
    );
    assert_eq!(page.objects[0].modified.0, 1_000_000_007);
    assert_eq!(
        texts(&rig.page(&query("", "", "marked-too/", 9))),
        ["marked-too/file", "marked/"]
    );
}

#[test]
fn reserved_names_links_out_and_special_files_are_not_shown() {
    let rig = Rig::new();
    for path in [
        "dir/file",
        ".twintree/stage/x",
        "dir/.TwinTree/y",
        "lost+found/z",
        ".nfs0001",
        "@eaDir/t",
    ] {
        rig.file(path);
    }
    let outside = rig.top.parent().expect("a parent").join("outside");
    fs::write(&outside, b"secret").expect("written");
    for (target, link) in [
        ("dir/file", "to-file"),
        ("dir", "to-dir"),
        ("../outside", "to-outside"),
        ("nowhere", "dangling"),
        ("loop", "loop"),
        ("/etc/passwd", "absolute"),
    ] {
        symlink(target, rig.top.join(link)).expect("linked");
    }
    symlink(rig.top.join("dir/file"), rig.top.join("absolute-inside")).expect("linked");
    let fifo = rig.top.join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(rig.top.join("socket")).expect("bound");
    assert_eq!(rig.keys(), ["absolute-inside", "dir/file", "to-file"]);
    assert_eq!(
        rig.pages("", "/", 1),
        ["absolute-inside", "dir/", "to-file"]
    );
    assert_eq!(rig.pages("to-dir/", "", 1), [""; 0]);
    assert_eq!(rig.pages("", "o", 1), ["abso", "dir/file", "to"]);
}

#[test]
fn what_cannot_be_read_is_left_out_and_breaks_nothing() {
    let rig = Rig::new();
    rig.file("a/file");
    rig.file("b/file");
    rig.file("c");
    fs::set_permissions(rig.top.join("a"), fs::Permissions::from_mode(0o000)).expect("set");
    fs::set_permissions(rig.top.join("c"), fs::Permissions::from_mode(0o000)).expect("set");
    // Root reads what it likes; what is left to see then is that mode 0000 is listed.
    let expected: &[&str] = if rustix::process::geteuid().is_root() {
        &["a/file", "b/file", "c"]
    } else {
        &["b/file", "c"]
    };
    assert_eq!(rig.keys(), expected);
    fs::set_permissions(rig.top.join("a"), fs::Permissions::from_mode(0o700)).expect("set");
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
    assert_eq!(page.objects[0].size, 1, "the native file");
    assert_eq!(rig.pages("", "/", 1), ["..", "/", "a", "a/", "b/"]);
    assert_eq!(rig.pages("a/", "/", 1), ["a//", "a/b"]);
    fs::remove_file(rig.top.join("b/c")).expect("removed");
    let page = rig.page(&query("b/c", "", "", 9));
    assert_eq!(page.objects[0].size, 7, "the annexed file");
}

#[test]
fn long_annex_names_come_in_key_order() {
    let rig = Rig::new();
    let stem = |length: usize| "x".repeat(length);
    let keys = [
        stem(300),
        stem(300) + "/y",
        stem(300) + "!",
        stem(299) + "é",
        stem(199) + "%" + &stem(100),
        stem(199) + "é" + &stem(100),
        stem(198) + "\u{1}" + &stem(100),
        stem(700),
        stem(300) + "/",
    ];
    for key in &keys {
        rig.annex(key);
    }
    let mut expected = keys.to_vec();
    expected.sort();
    assert_eq!(rig.keys(), expected);
    assert_eq!(rig.pages("", "", 1), expected);
    assert_eq!(rig.pages("x", "é", 1), naive(&expected, "x", "é", "", 99).0);
}

#[test]
fn names_that_are_not_utf8_sort_by_their_key_text() {
    let rig = Rig::new();
    for name in [
        &b"\xff"[..],
        b"\xf4\x8f\xb8\x80",
        b"z",
        "\u{10ffff}".as_bytes(),
        b"d\x80/f",
        b"d/\x81",
    ] {
        rig.raw_file(name);
    }
    let keys = rig.keys();
    assert_eq!(
        keys,
        [
            "d/\u{10fe81}",
            "d\u{10fe80}/f",
            "z",
            "\u{10fef4}\u{10fe8f}\u{10feb8}\u{10fe80}",
            "\u{10feff}",
            "\u{10ffff}",
        ]
    );
    assert_eq!(rig.pages("", "", 1), keys);
    assert_eq!(rig.pages("d\u{10fe80}/", "/", 1), ["d\u{10fe80}/f"]);
}

#[test]
fn a_deep_tree_neither_overflows_nor_shows_what_no_key_can_name() {
    let rig = Rig::new();
    let mut path = String::new();
    for _ in 0..600 {
        path.push_str("d/");
    }
    // Longer than PATH_MAX allows in one call is not needed: 1,200 bytes are past the longest key.
    rig.file(&format!("{path}file"));
    rig.file(&format!("{}file", &path[..800]));
    assert_eq!(rig.keys(), [format!("{}file", &path[..800])]);
    assert_eq!(rig.pages("", "/", 1), ["d/"]);
    assert_eq!(rig.pages(&path[..900], "/", 1), [""; 0]);
}

#[test]
fn twenty_thousand_files_listed_page_by_page_are_the_sorted_set() {
    let rig = Rig::new();
    let mut expected = Vec::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for n in 0..20_000u64 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(n | 1);
        let name = format!("report-{:08x}-{n}", seed >> 32);
        fs::write(rig.top.join(&name), b"").expect("written");
        expected.push(name);
    }
    expected.sort();
    assert_eq!(rig.pages("", "", 1000), expected);
    assert_eq!(
        rig.pages("report-", "-", 999),
        naive(&expected, "report-", "-", "", 99_999).0
    );
}

#[test]
fn a_new_name_shows_at_once_in_a_directory_that_was_just_listed() {
    let rig = Rig::new();
    for n in 0..200 {
        rig.file(&format!("{n:03}"));
        assert_eq!(rig.keys().len(), n + 1);
    }
    fs::rename(rig.top.join("000"), rig.top.join("x")).expect("renamed");
    assert_eq!(rig.keys().last().map(String::as_str), Some("x"));
}

#[test]
fn what_pages_knew_of_a_file_is_forgotten_when_the_file_changes() {
    let rig = Rig::new();
    let names = [
        "append",
        "chmod",
        "disguised",
        "gone",
        "mark",
        "put",
        "same",
    ];
    names.iter().for_each(|name| rig.file(name));
    let listed = || -> BTreeMap<String, String> {
        let page = rig.page(&query("", "", "", 99));
        let tags = page
            .objects
            .into_iter()
            .map(|entry| (entry.key, entry.etag.to_string()));
        tags.collect()
    };
    let opened = |name: &str| {
        let key = ObjectKey::parse(name).expect("a key");
        let object = rig.bucket.open(&key, Access::Blocking).expect("opened");
        object.info.etag.to_string()
    };
    // Pages keep what they know of files only when these have been quiet for some ticks of the clock.
    let made = fs::metadata(rig.top.join("same"))
        .and_then(|stat| stat.modified())
        .expect("a time");
    let mut before = listed();
    while made.elapsed().expect("time goes on") < std::time::Duration::from_millis(120) {
        before = listed();
    }
    assert_eq!(listed(), before);

    let path = |name: &str| rig.top.join(name);
    fs::OpenOptions::new()
        .append(true)
        .open(path("append"))
        .and_then(|mut file| file.write_all(b"y"))
        .expect("appended");
    fs::set_permissions(path("chmod"), fs::Permissions::from_mode(0o600)).expect("set");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(path("disguised"))
        .expect("opened");
    let time = file
        .metadata()
        .and_then(|stat| stat.modified())
        .expect("a time");
    file.write_all_at(b"z", 0)
        .and_then(|()| file.set_modified(time))
        .expect("changed");
    fs::remove_file(path("gone")).expect("removed");
    xattr::set(path("mark"), "user.twintree", b"no record").expect("set");
    let key = ObjectKey::parse("put").expect("a key");
    let stage = rig.bucket.stage(&key, Some(0)).expect("staged");
    let put = Put {
        digests: Digester::new(&[]).finish(),
        meta: Meta::default(),
        checksum: None,
        conditions: WriteConditions::default(),
    };
    rig.bucket.publish(&key, stage, put).expect("published");

    let after = listed();
    let changed: Vec<&str> = names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .collect();
    assert_eq!(
        changed,
        ["append", "chmod", "disguised", "gone", "mark", "put"]
    );
    assert_eq!(after["put"], "d41d8cd98f00b204e9800998ecf8427e");
    for (name, tag) in &after {
        assert_eq!(*tag, opened(name), "{name}");
    }
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
