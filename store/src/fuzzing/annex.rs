//! The names of the annex: every key has one place there, and no other name leads to a key.

use super::keys::check_components;
use crate::list::names::Kind;
use crate::list::read::is_canonical;
use crate::name::{ObjectKey, RESERVED};
use crate::path::{self, AnnexKind};

/// A key's place and back; then a name, and a path, that a person put there.
pub fn annex(data: &[u8]) {
    if let Ok(key) = ObjectKey::parse(&String::from_utf8_lossy(data)) {
        comes_back(&key);
    }
    found(data);
    led_to(data);
}

/// What the mount takes for the path of a key is that key's own, or the way to it.
fn led_to(path: &[u8]) {
    let Some((text, kind)) = path::annex_text(path) else {
        return;
    };
    let ours = path::annex(&ObjectKey::parse(&text).expect("a key, or what keys begin with"));
    match kind {
        AnnexKind::Body => assert_eq!(ours.as_bytes(), path),
        AnnexKind::Directory => assert_eq!(ours.as_bytes(), [path, b"/%=f"].concat()),
        AnnexKind::Continued => assert_eq!(ours.as_bytes().len(), path.len()),
    }
}

fn comes_back(key: &ObjectKey) {
    let path = path::annex(key);
    check_components(&path);
    assert_eq!(
        path::annex_from_bucket(key).as_bytes(),
        [RESERVED.as_bytes(), b"/annex/", path.as_bytes()].concat()
    );
    let mut text = String::new();
    let mut kinds = Vec::new();
    for name in path.components() {
        let (piece, kind) = path::annex_piece(name).expect("our own name");
        assert!(kind != AnnexKind::Continued || path::is_full_piece(name));
        text.push_str(&piece);
        if kind == AnnexKind::Directory {
            text.push('/');
        }
        kinds.push(kind);
    }
    assert_eq!(text, key.as_str());
    let whole = (key.to_string(), AnnexKind::Body);
    assert_eq!(path::annex_text(path.as_bytes()), Some(whole));
    let body = kinds.pop();
    assert_eq!(body, Some(AnnexKind::Body));
    assert!(!kinds.contains(&AnnexKind::Body));
    let last = key.as_str().rsplit('/').next().unwrap_or_default();
    assert!(path.as_bytes().ends_with(&path::annex_body(last)));
}

/// What a listing takes for one of ours is the very name that the key has.
fn found(name: &[u8]) {
    let Some((piece, kind)) = path::annex_piece(name) else {
        return;
    };
    assert!(piece.len() <= name.len());
    let kind = match kind {
        AnnexKind::Body => Kind::File,
        AnnexKind::Directory => Kind::Dir,
        AnnexKind::Continued => return,
    };
    if !is_canonical("", &piece, kind, name) {
        return;
    }
    assert!(!piece.contains('/') && !piece.contains('\0'), "{piece:?}");
    let slash = if kind == Kind::Dir { "/" } else { "" };
    let key = ObjectKey::parse(&format!("{piece}{slash}")).expect("a key was listed");
    let path = path::annex(&key);
    let there = path
        .components()
        .find(|component| !component.ends_with(b"=c"));
    assert_eq!(there, Some(name));
}
