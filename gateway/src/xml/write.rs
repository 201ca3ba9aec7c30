//! The writer of every document that we send: one `Vec<u8>`, clean runs copied whole.

use std::borrow::Cow;

use twintree_store::Timestamp;

use crate::date::Iso8601;

/// The namespace of S3's success documents.
pub const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// What every document begins with, at byte 0.
pub const DECLARATION: &[u8] = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// Control characters that XML 1.0 cannot carry are shown as this plane's characters plus the byte (FORMATS,
/// *Names that are not UTF-8*); GET accepts both forms.
const ESCAPE_BASE: u32 = 0x10_FE00;

/// Writes one document. Elements nest by [`Writer::open`] and [`Writer::close`]; names are ours and never escaped.
#[derive(Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    root: &'static str,
    dates: Iso8601,
}

impl Writer {
    /// Starts a document whose root has no namespace.
    pub fn document(root: &'static str) -> Self {
        Self::start(root, None, 512)
    }

    /// Starts a document whose root carries S3's namespace, with room for `capacity` bytes.
    pub fn s3(root: &'static str, capacity: usize) -> Self {
        Self::start(root, Some(NAMESPACE), capacity)
    }

    fn start(root: &'static str, namespace: Option<&str>, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity.max(256));
        bytes.extend_from_slice(DECLARATION);
        bytes.push(b'<');
        bytes.extend_from_slice(root.as_bytes());
        if let Some(namespace) = namespace {
            bytes.extend_from_slice(b" xmlns=\"");
            bytes.extend_from_slice(namespace.as_bytes());
            bytes.push(b'"');
        }
        bytes.push(b'>');
        Writer {
            bytes,
            root,
            dates: Iso8601::default(),
        }
    }

    /// Opens an element.
    pub fn open(&mut self, name: &str) {
        self.bytes.push(b'<');
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b'>');
    }

    /// Opens an element with attributes that are ours, such as the grantee's type.
    pub fn open_with(&mut self, name: &str, attributes: &str) {
        self.bytes.push(b'<');
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b' ');
        self.bytes.extend_from_slice(attributes.as_bytes());
        self.bytes.push(b'>');
    }

    /// Closes an element.
    pub fn close(&mut self, name: &str) {
        self.bytes.extend_from_slice(b"</");
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b'>');
    }

    /// Writes an element that holds text, escaped.
    pub fn text(&mut self, name: &str, value: &str) {
        self.open(name);
        self.escaped(value);
        self.close(name);
    }

    /// Writes an element that holds text that is known to need no escape: our own words, hex, base64.
    pub fn plain(&mut self, name: &str, value: &str) {
        self.open(name);
        self.bytes.extend_from_slice(value.as_bytes());
        self.close(name);
    }

    /// Writes an element that holds a key or prefix: percent-encoded if the client asked for it, else escaped.
    pub fn name(&mut self, element: &str, value: &str, encoding: Encoding) {
        self.open(element);
        self.push_name(value, encoding);
        self.close(element);
    }

    /// Appends a key or prefix, for an element that the caller opened.
    pub fn push_name(&mut self, value: &str, encoding: Encoding) {
        match encoding {
            Encoding::Plain => self.escaped(value),
            Encoding::Url => url_encode_into(&mut self.bytes, value),
        }
    }

    /// Writes an element that holds a number.
    pub fn number(&mut self, name: &str, value: u64) {
        self.open(name);
        self.push_decimal(value);
        self.close(name);
    }

    /// Writes an element that holds `true` or `false`.
    pub fn flag(&mut self, name: &str, value: bool) {
        self.plain(name, if value { "true" } else { "false" });
    }

    /// Writes an element that holds an ETag in quotes, as everywhere but in GetObjectAttributes.
    pub fn etag(&mut self, name: &str, unquoted: &str) {
        self.open(name);
        self.bytes.extend_from_slice(b"&quot;");
        self.escaped(unquoted);
        self.bytes.extend_from_slice(b"&quot;");
        self.close(name);
    }

    /// Writes an element that holds a moment as ISO 8601 with milliseconds.
    pub fn time(&mut self, name: &str, moment: Timestamp) {
        self.open(name);
        self.push_time(moment);
        self.close(name);
    }

    /// Appends a moment, for an element that the caller opened.
    pub fn push_time(&mut self, moment: Timestamp) {
        self.bytes.extend_from_slice(self.dates.of(moment));
    }

    /// Writes an element that holds bytes as lower-case hex.
    pub fn hex(&mut self, name: &str, value: &[u8]) {
        self.open(name);
        self.push_hex(value);
        self.close(name);
    }

    /// Appends bytes as lower-case hex, for an element that the caller opened.
    pub fn push_hex(&mut self, value: &[u8]) {
        // Without a table and in pieces of one size, the compiler does all digits of an MD5 at once.
        let digit = |four: u8| four + if four < 10 { b'0' } else { b'a' - 10 };
        let (pieces, rest) = value.as_chunks::<16>();
        for piece in pieces {
            self.bytes.extend_from_slice(
                piece
                    .map(|byte| [digit(byte >> 4), digit(byte & 15)])
                    .as_flattened(),
            );
        }
        for byte in rest {
            self.bytes
                .extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
    }

    /// Appends bytes that are already XML, for fragments that were rendered before.
    #[inline]
    pub fn raw(&mut self, fragment: &[u8]) {
        self.bytes.extend_from_slice(fragment);
    }

    /// Appends text, escaped, for an element that the caller opened.
    pub fn escaped(&mut self, value: &str) {
        escape_into(&mut self.bytes, value);
    }

    /// Gives the length so far, the root's open tag included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Says whether nothing was written; never true, because the root is open from the start.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Closes the root and gives the document.
    pub fn finish(mut self) -> Vec<u8> {
        let root = self.root;
        self.close(root);
        self.bytes
    }

    /// Writes digits.
    pub fn push_decimal(&mut self, mut value: u64) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.bytes.extend_from_slice(&digits[at..]);
    }
}

/// How keys and prefixes go into a reply: `encoding-type=url` or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// XML escapes only.
    Plain,
    /// Percent-encoded.
    Url,
}

/// Appends text with XML's escapes, copying clean runs whole.
pub fn escape_into(out: &mut Vec<u8>, value: &str) {
    let bytes = value.as_bytes();
    // Nearly every text is clean: one look without a branch tells.
    let is_dirty = |dirty, byte: &u8| dirty | NEEDS_ESCAPE[usize::from(*byte)];
    if !bytes.iter().fold(false, is_dirty) {
        return out.extend_from_slice(bytes);
    }
    let mut clean_from = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let width = match byte {
            _ if !NEEDS_ESCAPE[usize::from(byte)] => 0,
            0xEF => noncharacter_width(&bytes[at..]),
            _ => 1,
        };
        if width == 0 {
            at += 1;
            continue;
        }
        out.extend_from_slice(&bytes[clean_from..at]);
        for &escaped in &bytes[at..at + width] {
            push_escape(out, escaped);
        }
        at += width;
        clean_from = at;
    }
    out.extend_from_slice(&bytes[clean_from..]);
}

/// U+FFFE and U+FFFF are the only characters above the controls that XML 1.0 cannot carry.
fn noncharacter_width(bytes: &[u8]) -> usize {
    if matches!(bytes, [0xEF, 0xBF, 0xBE | 0xBF, ..]) {
        3
    } else {
        0
    }
}

fn push_escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'&' => out.extend_from_slice(b"&amp;"),
        b'<' => out.extend_from_slice(b"&lt;"),
        b'>' => out.extend_from_slice(b"&gt;"),
        b'"' => out.extend_from_slice(b"&quot;"),
        // A reader would turn a bare CR into LF.
        b'\r' => out.extend_from_slice(b"&#13;"),
        unsayable => {
            let shown = char::from_u32(ESCAPE_BASE + u32::from(unsayable))
                .expect("plane 16 holds every byte's escape");
            out.extend_from_slice(shown.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

/// Gives the name that a client means which read it in a document of ours: the inverse of the escape, for what
/// [`escape_into`] shows by it and nothing else.
pub fn unescape(name: &str) -> Cow<'_, str> {
    // The characters of the escape begin with these bytes; names without them are nearly all.
    if !name.as_bytes().windows(2).any(|pair| pair == [0xF4, 0x8F]) {
        return Cow::Borrowed(name);
    }
    let mut meant = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let shown = UNSAYABLE.iter().find(|(shown, _)| rest.starts_with(shown));
        if let Some((shown, character)) = shown {
            meant.push(*character);
            rest = &rest[shown.len()..];
        } else {
            let control = u32::from(first).checked_sub(ESCAPE_BASE).filter(|byte| {
                *byte != 0 && *byte < 0x20 && *byte != 0x0D && NEEDS_ESCAPE[*byte as usize]
            });
            meant.push(control.and_then(char::from_u32).unwrap_or(first));
            rest = &rest[first.len_utf8()..];
        }
    }
    Cow::Owned(meant)
}

/// The two non-characters as they are shown.
const UNSAYABLE: [(&str, char); 2] = [
    ("\u{10FEEF}\u{10FEBF}\u{10FEBE}", '\u{FFFE}'),
    ("\u{10FEEF}\u{10FEBF}\u{10FEBF}", '\u{FFFF}'),
];

const NEEDS_ESCAPE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = byte != b'\t' as usize && byte != b'\n' as usize;
        byte += 1;
    }
    table[b'&' as usize] = true;
    table[b'<' as usize] = true;
    table[b'>' as usize] = true;
    table[b'"' as usize] = true;
    table[0xEF] = true;
    table
};

/// Appends a key as `encoding-type=url` wants it: `/` and the unreserved stay, all else is `%XX`.
///
/// Semantics: botocore decodes `+` as a space, so both must be written as `%20` and `%2B`.
pub fn url_encode_into(out: &mut Vec<u8>, value: &str) {
    const HEX_UPPER: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in value.as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/' | b'*') {
            out.push(byte);
        } else {
            out.push(b'%');
            out.push(HEX_UPPER[usize::from(byte >> 4)]);
            out.push(HEX_UPPER[usize::from(byte & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(value: &str) -> String {
        let mut out = Vec::new();
        escape_into(&mut out, value);
        String::from_utf8(out).expect("escapes are UTF-8")
    }

    fn url(value: &str) -> String {
        let mut out = Vec::new();
        url_encode_into(&mut out, value);
        String::from_utf8(out).expect("percent-encoding is ASCII")
    }

    #[test]
    fn clean_runs_stay_and_markup_is_escaped() {
        assert_eq!(escaped("plain"), "plain");
        assert_eq!(escaped("a<b>&\"c'"), "a&lt;b&gt;&amp;&quot;c'");
        assert_eq!(escaped("\r\n\t"), "&#13;\n\t");
        assert_eq!(escaped(""), "");
    }

    #[test]
    fn characters_that_xml_cannot_carry_are_shown_by_our_escape() {
        assert_eq!(escaped("a\u{1}b"), "a\u{10FE01}b");
        assert_eq!(escaped("\u{FFFE}"), "\u{10FEEF}\u{10FEBF}\u{10FEBE}");
        assert_eq!(escaped("\u{FFFD}\u{FF0C}"), "\u{FFFD}\u{FF0C}");
        assert_eq!(escaped("\u{7f}\u{85}"), "\u{7f}\u{85}");
    }

    #[test]
    fn what_is_shown_by_the_escape_comes_back_and_nothing_else_changes() {
        for name in [
            "a\u{1}b\u{1f}",
            "\u{FFFE}\u{FFFF}",
            "plain",
            "\u{10FE80}",
            "\u{10FEEF}\u{10FEBF}",
            "한\u{7}",
        ] {
            assert_eq!(unescape(&escaped(name)), name, "{name:?}");
        }
        assert_eq!(
            unescape("\u{10FE00}\u{10FE0A}\u{10FE41}"),
            "\u{10FE00}\u{10FE0A}\u{10FE41}"
        );
    }

    #[test]
    fn url_encoding_keeps_slash_and_hides_plus_and_space() {
        assert_eq!(url("a/b c+d"), "a/b%20c%2Bd");
        assert_eq!(url("한\u{1}%"), "%ED%95%9C%01%25");
        assert_eq!(url("-_.~*"), "-_.~*");
    }

    #[test]
    fn document_nests_and_carries_the_namespace() {
        let mut xml = Writer::s3("R", 0);
        xml.open("A");
        xml.number("N", 10_307);
        xml.number("Z", 0);
        xml.flag("F", false);
        xml.etag("ETag", "abc");
        xml.hex("H", &[0, 0xfe]);
        xml.hex("M", b"\0\x1f\x9a0123456789abc\xff");
        xml.time("T", Timestamp(-1));
        xml.close("A");
        let text = String::from_utf8(xml.finish()).expect("the writer makes UTF-8");
        let body = text
            .strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")
            .expect("the declaration is at byte 0");
        assert_eq!(
            body,
            "<R xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><A><N>10307</N><Z>0</Z><F>false</F>\
             <ETag>&quot;abc&quot;</ETag><H>00fe</H>\
             <M>001f9a30313233343536373839616263ff</M><T>1969-12-31T23:59:59.999Z</T></A></R>"
        );
    }
}
