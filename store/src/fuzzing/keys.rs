//! Keys and paths: no key leads out of its bucket or into what is reserved, two keys never meet in one
//! path, every path gives its key back, and a directory sorts as its keys do.

use super::draw::Draw;
use crate::list::names::{Kind, Names};
use crate::name::{MAX_KEY, ObjectKey};
use crate::path::{self, DiskPath};

/// Two keys by themselves and beside each other, and the directory of their components.
pub fn keys(data: &[u8]) {
    let mut draw = Draw::new(data);
    let first = draw.bytes(300);
    let first = String::from_utf8_lossy(first);
    let second = String::from_utf8_lossy(draw.rest());
    let [one, two] = [&first, &second].map(|text| parsed(text));
    if let (Some(one), Some(two)) = (&one, &two)
        && one != two
    {
        let natives = (path::native(one), path::native(two));
        assert!(natives.0.is_none() || natives.0 != natives.1);
        assert_ne!(path::annex(one), path::annex(two));
    }
    sorts_by_bytes(&first, &second);
}

fn parsed(text: &str) -> Option<ObjectKey> {
    let reserved = text
        .split('/')
        .any(|component| component.eq_ignore_ascii_case(".twintree"));
    let legal =
        !text.is_empty() && text.len() <= MAX_KEY && !text.bytes().any(|b| b == 0) && !reserved;
    let key = ObjectKey::parse(text).ok();
    assert_eq!(key.is_some(), legal);
    let key = key?;
    assert_eq!(key.as_str(), text);
    if let Some(native) = path::native(&key) {
        check_components(&native);
        assert_eq!(text_of(&native), text);
    }
    Some(key)
}

/// What every path of ours keeps to, wherever its key came from.
pub(super) fn check_components(path: &DiskPath) {
    assert!(!path.as_bytes().starts_with(b"/"));
    for name in path.components() {
        assert!(!name.is_empty() && name.len() <= path::NAME_MAX);
        assert!(name != b"." && name != b"..");
        assert!(!name.contains(&0));
        assert!(!name.eq_ignore_ascii_case(b".twintree"));
    }
    let found = DiskPath::from_bytes(path.as_bytes()).expect("a path that can be resolved");
    assert_eq!(found.as_bytes(), path.as_bytes());
}

fn text_of(path: &DiskPath) -> String {
    let components: Vec<_> = path.components().map(path::key_text).collect();
    components.join("/") + if path.trailing_slash { "/" } else { "" }
}

/// A directory of these names is walked in the byte order of the keys below it.
fn sorts_by_bytes(first: &str, second: &str) {
    let mut names = Names::default();
    let mut expected = Vec::new();
    for (n, name) in first.split('/').chain(second.split('/')).enumerate() {
        if name.is_empty() || name.contains('\0') {
            continue;
        }
        let name = path::key_text(name.as_bytes());
        let (kind, slash) = if n % 3 == 0 {
            (Kind::Dir, "/")
        } else {
            (Kind::File, "")
        };
        names.push(&name, kind).expect("few names");
        expected.push(format!("{name}{slash}"));
    }
    names.sort();
    expected.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    let found: Vec<&str> = (0..names.len()).map(|at| names.get(at).text).collect();
    assert_eq!(found, expected);
    for probe in &expected {
        let at = names.seek(0, |text| text < probe.as_str());
        assert_eq!(names.get(at).text, probe);
    }
}
