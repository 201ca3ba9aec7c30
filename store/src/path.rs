//! How keys and paths map to each other: the native path, the annex path, the escape of names that
//! are not UTF-8, and the names that are kept back. Pure: no system call.
//!
//! A key is *native* exactly when its path gives back the same key, so that the map is injective
//! whatever the key holds; every other key lives in the annex.

use std::borrow::Cow;

use crate::name::{ObjectKey, RESERVED};

/// The longest name of a directory entry, in bytes.
pub(crate) const NAME_MAX: usize = 255;
/// The longest piece of an annex component, in bytes, before its suffix.
const ANNEX_PIECE: usize = 200;
/// The longest that one character becomes: four bytes as `%XX`.
const LONGEST_UNIT: usize = 12;
/// Byte `b` that is not part of valid UTF-8 shows as this character plus `b`.
const ESCAPE: u32 = 0x10_FE00;
/// Names that filesystems and their tools keep for themselves.
const FILESYSTEM_NAMES: [&str; 7] = [
    ".snapshot",
    ".zfs",
    ".snap",
    ".glusterfs",
    ".nfs*",
    ".fuse_hidden*",
    "lost+found",
];

/// A relative path below a bucket (or its annex): no component is empty, `.`, `..`, over 255 bytes,
/// holds NUL or names the reserved directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DiskPath {
    bytes: Vec<u8>,
    /// The key ended in `/`: it means the directory.
    pub trailing_slash: bool,
}

impl DiskPath {
    /// A path of names that are there; `None` where a component is none that we resolve.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let legal = |name: &[u8]| {
            !matches!(name, b"" | b"." | b"..") && !name.eq_ignore_ascii_case(RESERVED.as_bytes())
        };
        bytes.split(|b| *b == b'/').all(legal).then(|| Self {
            bytes: bytes.to_vec(),
            trailing_slash: false,
        })
    }

    /// The whole path, without a trailing slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.bytes.split(|b| *b == b'/')
    }

    /// The last component.
    pub fn name(&self) -> &[u8] {
        self.components()
            .next_back()
            .expect("a path has at least one component")
    }

    /// The path of the directory that holds it; `None` at the top.
    pub fn parent(&self) -> Option<Self> {
        let slash = self.bytes.iter().rposition(|b| *b == b'/')?;
        Some(Self {
            bytes: self.bytes[..slash].to_vec(),
            trailing_slash: false,
        })
    }
}

/// The key's own path, or `None` where no path can hold the key.
pub(crate) fn native(key: &ObjectKey) -> Option<DiskPath> {
    let text = key.as_str();
    let (text, trailing_slash) = text.strip_suffix('/').map_or((text, false), |t| (t, true));
    let mut bytes = Vec::with_capacity(text.len());
    for component in text.split('/') {
        let start = bytes.len() + usize::from(!bytes.is_empty());
        if start > 0 {
            bytes.push(b'/');
        }
        unescape(component, &mut bytes);
        let name = &bytes[start..];
        let legal = !name.is_empty() && name != b"." && name != b".." && name.len() <= NAME_MAX;
        if !legal || (!component.is_ascii() && key_text(name) != component) {
            return None;
        }
    }
    Some(DiskPath {
        bytes,
        trailing_slash,
    })
}

/// The text of a disk name in a key. Borrowed where nothing needs the escape.
pub fn key_text(name: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(name)
        && !text.chars().any(is_escape)
    {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(name.len() * 4);
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_escape(c) {
                let mut utf8 = [0; 4];
                c.encode_utf8(&mut utf8)
                    .bytes()
                    .for_each(|b| out.push(escape(b)));
            } else {
                out.push(c);
            }
        }
        chunk.invalid().iter().for_each(|b| out.push(escape(*b)));
    }
    Cow::Owned(out)
}

/// The character that stands for a byte outside UTF-8 (also used where XML cannot carry a character).
pub fn escape(byte: u8) -> char {
    char::from_u32(ESCAPE + u32::from(byte)).expect("the escape block lies inside plane 16")
}

/// The byte that an escape character stands for.
pub fn escaped_byte(c: char) -> Option<u8> {
    is_escape(c).then(|| (c as u32 - ESCAPE) as u8)
}

fn is_escape(c: char) -> bool {
    (ESCAPE..ESCAPE + 256).contains(&(c as u32))
}

/// The disk name that has this text, which came from [`key_text`].
pub(crate) fn disk_name(text: &str) -> Cow<'_, [u8]> {
    if text.is_ascii() || !text.contains(is_escape) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut name = Vec::with_capacity(text.len());
    unescape(text, &mut name);
    Cow::Owned(name)
}

/// Key text to disk bytes; what does not come back as it was is caught by the caller.
fn unescape(text: &str, out: &mut Vec<u8>) {
    if text.is_ascii() {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for c in text.chars() {
        match escaped_byte(c) {
            Some(byte) if byte >= 0x80 => out.push(byte),
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// The annex's path of a body whose key's last component is this, below its directory.
pub(crate) fn annex_body(component: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(component.len() + 8);
    push_annex_component(component, "=f", &mut bytes);
    bytes
}

/// The key's path below `.twintree/annex/`.
pub(crate) fn annex(key: &ObjectKey) -> DiskPath {
    let mut bytes = Vec::with_capacity(key.as_str().len() + 16);
    let mut components = key.as_str().split('/').peekable();
    while let Some(component) = components.next() {
        let kind = if components.peek().is_some() {
            "=d"
        } else {
            "=f"
        };
        push_annex_component(component, kind, &mut bytes);
    }
    DiskPath {
        bytes,
        trailing_slash: false,
    }
}

/// The annex path of a key, from the bucket's own directory.
pub(crate) fn annex_from_bucket(key: &ObjectKey) -> DiskPath {
    let mut bytes = b".twintree/annex/".to_vec();
    bytes.extend_from_slice(&annex(key).bytes);
    DiskPath {
        bytes,
        trailing_slash: false,
    }
}

fn push_annex_component(component: &str, kind: &str, out: &mut Vec<u8>) {
    if !out.is_empty() {
        out.push(b'/');
    }
    let whole = matches!(component, "." | "..");
    let mut piece = 0;
    if component.is_empty() {
        out.push(b'%');
    }
    for c in component.chars() {
        let mut unit = Vec::with_capacity(4);
        let mut utf8 = [0; 4];
        let utf8 = c.encode_utf8(&mut utf8).as_bytes();
        if whole || matches!(c, '%' | '=') || c.is_control() {
            utf8.iter()
                .for_each(|b| unit.extend_from_slice(format!("%{b:02X}").as_bytes()));
        } else {
            unit.extend_from_slice(utf8);
        }
        // A cut never falls inside a character, so that every piece reads as text.
        if piece + unit.len() > ANNEX_PIECE {
            out.extend_from_slice(b"=c/");
            piece = 0;
        }
        piece += unit.len();
        out.extend_from_slice(&unit);
    }
    out.extend_from_slice(kind.as_bytes());
}

/// Did we cut a component here? We cut only where the next character would not have fitted; a person's
/// shorter pieces would make a tree of any depth that spells one short name.
pub(crate) fn is_full_piece(name: &[u8]) -> bool {
    name.strip_suffix(b"=c")
        .is_some_and(|piece| piece.len() + LONGEST_UNIT > ANNEX_PIECE)
}

/// What an entry of the annex is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnnexKind {
    /// A directory whose name goes on in its entries.
    Continued,
    /// A directory: a component that ends here, followed by `/`.
    Directory,
    /// A body.
    Body,
}

/// Reads one name of the annex tree: the key text of this piece, and what it is. `None`: not ours.
pub(crate) fn annex_piece(name: &[u8]) -> Option<(String, AnnexKind)> {
    let (body, kind) = match name.split_last_chunk::<2>()? {
        (body, b"=c") => (body, AnnexKind::Continued),
        (body, b"=d") => (body, AnnexKind::Directory),
        (body, b"=f") => (body, AnnexKind::Body),
        _ => return None,
    };
    if body == b"%" {
        return Some((String::new(), kind));
    }
    let mut bytes = Vec::with_capacity(body.len());
    let mut rest = body.iter();
    while let Some(b) = rest.next() {
        if *b == b'%' {
            let high = (*rest.next()? as char).to_digit(16)?;
            let low = (*rest.next()? as char).to_digit(16)?;
            bytes.push((high * 16 + low) as u8);
        } else {
            bytes.push(*b);
        }
    }
    Some((String::from_utf8(bytes).ok()?, kind))
}

/// Reads a path below `.twintree/annex/`: the text of the key that it leads to, or so far, and what its last
/// name is. `None`: a path that we would not have written, which no key leads to.
pub(crate) fn annex_text(path: &[u8]) -> Option<(String, AnnexKind)> {
    let (mut text, mut last) = (String::new(), AnnexKind::Directory);
    for name in path.split(|byte| *byte == b'/') {
        let (piece, kind) = annex_piece(name)?;
        if last == AnnexKind::Body || (kind == AnnexKind::Continued && !is_full_piece(name)) {
            return None;
        }
        text.push_str(&piece);
        if kind == AnnexKind::Directory {
            text.push('/');
        }
        last = kind;
    }
    let ours = annex(&ObjectKey::parse(&text).ok()?);
    let (whole, above) = (ours.as_bytes(), ours.parent());
    let is_ours = match last {
        AnnexKind::Body => whole == path,
        // Its last component is the empty one behind the slash.
        AnnexKind::Directory => above.is_some_and(|above| above.as_bytes() == path),
        AnnexKind::Continued => whole.strip_suffix(b"=f") == path.strip_suffix(b"=c"),
    };
    is_ours.then_some((text, last))
}

/// Names that are hidden in listings and refused everywhere, at every depth.
#[derive(Clone, Debug)]
pub struct HideList {
    /// What the administrator listed.
    listed: Vec<String>,
}

impl HideList {
    /// The names that filesystems reserve, and these; `*` stands for any text.
    pub fn new(listed: &[String]) -> Self {
        Self {
            listed: listed.to_vec(),
        }
    }

    /// Is this disk name kept back (ours, the filesystem's, or on the list)?
    pub fn hides(&self, name: &[u8]) -> bool {
        name.eq_ignore_ascii_case(RESERVED.as_bytes())
            || FILESYSTEM_NAMES
                .iter()
                .any(|pattern| matches(pattern.as_bytes(), name))
            || self.is_listed(name)
    }

    /// Is it on the administrator's list?
    pub(crate) fn is_listed(&self, name: &[u8]) -> bool {
        self.listed
            .iter()
            .any(|pattern| matches(pattern.as_bytes(), name))
    }
}

/// Does `name` match `pattern`, where `*` stands for any text? Linear: it backtracks to the last star only.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            star = Some((p + 1, n));
            p += 1;
        } else if p < pattern.len() && pattern[p] == name[n] {
            p += 1;
            n += 1;
        } else if let Some((after, from)) = star {
            p = after;
            n = from + 1;
            star = Some((after, n));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> ObjectKey {
        ObjectKey::parse(text).expect("a legal key")
    }

    #[test]
    fn plain_keys_are_their_own_path() {
        let path = native(&key("a/b c/é.txt")).expect("native");
        assert_eq!(path.as_bytes(), "a/b c/é.txt".as_bytes());
        assert_eq!(path.name(), "é.txt".as_bytes());
        assert!(native(&key("dir/")).expect("native").trailing_slash);
    }

    #[test]
    fn keys_that_no_path_can_hold_go_to_the_annex() {
        let long = "x".repeat(256);
        for text in [
            "a//b",
            "/a",
            "//",
            "/",
            "./a",
            "a/../b",
            "..",
            "a/.",
            "a//",
            long.as_str(),
        ] {
            assert_eq!(native(&key(text)), None, "{text:?}");
        }
    }

    #[test]
    fn annex_names_are_as_the_format_says() {
        let shown = |text: &str| String::from_utf8(annex(&key(text)).bytes).expect("text");
        assert_eq!(shown("a/b"), "a=d/b=f");
        assert_eq!(shown("dir/"), "dir=d/%=f");
        assert_eq!(shown("a//b"), "a=d/%=d/b=f");
        assert_eq!(shown("../%=\n"), "%2E%2E=d/%25%3D%0A=f");
        assert_eq!(
            shown(&"x".repeat(401)),
            format!("{0}=c/{0}=c/x=f", "x".repeat(200))
        );
    }

    #[test]
    fn only_our_own_paths_of_the_annex_lead_to_keys() {
        let led = |path: &str| annex_text(path.as_bytes());
        let to = |text: &str, kind| Some((text.to_owned(), kind));
        assert_eq!(led("a=d/%=d"), to("a//", AnnexKind::Directory));
        assert_eq!(led("a=d/%=d/b=f"), to("a//b", AnnexKind::Body));
        let full = "x".repeat(200);
        assert_eq!(led(&format!("{full}=c")), to(&full, AnnexKind::Continued));
        for path in [
            "a",
            "=f",
            "%=f",
            "%2e=d",
            "%61=f",
            "a=f/b=f",
            "x=c",
            "x=c/y=f",
            ".=d",
            ".twintree=d",
            "%00=f",
            "%FF=f",
            "a=d/",
        ] {
            assert_eq!(led(path), None, "{path:?}");
        }
        assert_eq!(
            led(&format!("{}=c/x=f", "x".repeat(195))),
            None,
            "cut too early"
        );
    }

    #[test]
    fn hidden_names_are_matched_with_stars() {
        let hide = HideList::new(&["@eaDir".into(), "*.tmp".into(), "a*b*c".into()]);
        for name in [
            ".TwinTree",
            ".nfs0001",
            "lost+found",
            "@eaDir",
            "x.tmp",
            "abc",
            "axxbyyc",
        ] {
            assert!(hide.hides(name.as_bytes()), "{name}");
        }
        for name in ["nfs", "lost", "x.tmpx", "ab", "eaDir"] {
            assert!(!hide.hides(name.as_bytes()), "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_disk_name_comes_back_from_its_key(name in proptest::collection::vec(1u8..=255, 1..60)) {
            prop_assume!(!name.contains(&b'/') && name != b"." && name != b"..");
            prop_assume!(!name.eq_ignore_ascii_case(RESERVED.as_bytes()));
            let key = key(&key_text(&name));
            let path = native(&key).expect("a disk name is native");
            prop_assert_eq!(path.as_bytes(), &name[..]);
        }

        #[test]
        fn every_key_comes_back_from_its_annex_path(text in "[\\PC\n\u{1}\u{10FE00}-\u{10FEFF}./%=]{1,300}") {
            prop_assume!(text.len() <= 1024);
            let Ok(key) = ObjectKey::parse(&text) else { return Ok(()) };
            let path = annex(&key);
            let mut back = String::new();
            for name in path.components() {
                prop_assert!(name.len() <= NAME_MAX);
                prop_assert!(!name.ends_with(b"=c") || is_full_piece(name));
                let (piece, kind) = annex_piece(name).expect("ours");
                back.push_str(&piece);
                if kind == AnnexKind::Directory { back.push('/'); }
            }
            prop_assert_eq!(back, text);
        }

        #[test]
        fn two_keys_never_share_a_path(a in "[ab\u{10FE41}\u{10FEC3}\u{10FEA9}é/.]{1,6}", b in "[ab\u{10FE41}\u{10FEC3}\u{10FEA9}é/.]{1,6}") {
            prop_assume!(a != b);
            let (Ok(a), Ok(b)) = (ObjectKey::parse(&a), ObjectKey::parse(&b)) else { return Ok(()) };
            if let (Some(x), Some(y)) = (native(&a), native(&b)) { prop_assert_ne!(x, y); }
        }
    }
}
