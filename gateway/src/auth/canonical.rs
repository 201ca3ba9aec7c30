//! The request as it was signed: percent coding, query order and header folding of SigV4.
//!
//! Everything works on the bytes as received. Nothing is normalised: `//`, `.` and `..` are part of a key
//! (S3 API, "Create a canonical request").

use super::{Fields, Head};

/// What a raw `+` in a query stands for. SDKs never send it, so that both readings are met in the wild.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plus {
    /// A form's space: canonical `%20`.
    Space,
    /// Itself: canonical `%2B`.
    Plus,
}

/// How the path goes into the canonical request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathForm {
    /// Decoded, then encoded once: what AWS defines.
    Encoded,
    /// As received: what clients with an encoding of their own signed (`%2F` inside a key).
    Verbatim,
}

/// One reading of the ambiguous parts of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) path: PathForm,
    pub(crate) plus: Plus,
}

impl Reading {
    /// Gives the readings that differ for this request; the defined one comes first.
    pub(crate) fn all(head: &Head<'_>) -> impl Iterator<Item = Reading> + use<> {
        let verbatim = !head.path.bytes().all(|byte| is_plain(byte, true)) && {
            let mut encoded = Vec::with_capacity(head.path.len());
            push_path(&mut encoded, head.path, PathForm::Encoded);
            encoded != head.path.as_bytes()
        };
        let plus = head.query.is_some_and(|query| query.contains('+'));
        [PathForm::Encoded, PathForm::Verbatim]
            .into_iter()
            .flat_map(|path| [Plus::Space, Plus::Plus].map(|plus| Reading { path, plus }))
            .filter(move |reading| {
                (reading.path == PathForm::Encoded || verbatim)
                    && (reading.plus == Plus::Space || plus)
            })
    }
}

/// Builds the canonical request. `signed` are the signed header names as the client listed them,
/// `payload` is the value that stands for the body, `without` is a query parameter to leave out.
pub(crate) fn request(
    head: &Head<'_>,
    reading: Reading,
    signed: &[&str],
    payload: &str,
    without: Option<&str>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b'\n');
    push_path(&mut out, head.path, reading.path);
    out.push(b'\n');
    push_query(&mut out, head.query.unwrap_or(""), reading.plus, without);
    out.push(b'\n');
    for name in signed {
        push_header(&mut out, head, name);
    }
    out.push(b'\n');
    for (n, name) in signed.iter().enumerate() {
        if n > 0 {
            out.push(b';');
        }
        out.extend_from_slice(name.as_bytes());
    }
    out.push(b'\n');
    out.extend_from_slice(payload.as_bytes());
    out
}

fn push_path(out: &mut Vec<u8>, raw: &str, form: PathForm) {
    if raw.is_empty() {
        out.push(b'/');
    } else if form == PathForm::Verbatim || raw.bytes().all(|byte| is_plain(byte, true)) {
        out.extend_from_slice(raw.as_bytes());
    } else {
        for byte in decoded(raw, Plus::Plus) {
            push_encoded(out, byte, true);
        }
    }
}

fn push_query(out: &mut Vec<u8>, raw: &str, plus: Plus, without: Option<&str>) {
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (name, value) in pairs_of(raw) {
        let encode = |text: &str| {
            let mut coded = Vec::with_capacity(text.len());
            decoded(text, plus).for_each(|byte| push_encoded(&mut coded, byte, false));
            coded
        };
        let name = encode(name);
        if without.is_none_or(|without| name != without.as_bytes()) {
            pairs.push((name, encode(value)));
        }
    }
    pairs.sort();
    for (n, (name, value)) in pairs.iter().enumerate() {
        if n > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(name);
        out.push(b'=');
        out.extend_from_slice(value);
    }
}

/// Splits a raw query into its pairs, still encoded; a name without `=` has an empty value.
pub(crate) fn pairs_of(raw: &str) -> impl Iterator<Item = (&str, &str)> {
    raw.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// How often a parameter of this decoded name is there.
pub(crate) fn occurrences(raw: &str, name: &str) -> usize {
    pairs_of(raw)
        .filter(|(found, _)| decoded(found, Plus::Plus).eq(name.bytes()))
        .count()
}

/// Finds a parameter by its decoded name and gives its decoded value, `+` read as itself.
pub(crate) fn parameter(raw: &str, name: &str) -> Option<String> {
    let (_, value) =
        pairs_of(raw).find(|(found, _)| decoded(found, Plus::Plus).eq(name.bytes()))?;
    Some(String::from_utf8_lossy(&decoded(value, Plus::Plus).collect::<Vec<u8>>()).into_owned())
}

/// Decodes `%XX`; what is no valid escape stays as it is.
pub(crate) fn decoded(raw: &str, plus: Plus) -> impl Iterator<Item = u8> + '_ {
    let bytes = raw.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        at += 1;
        if byte == b'+' && plus == Plus::Space {
            return Some(b' ');
        }
        if byte == b'%'
            && let (Some(high), Some(low)) =
                (hex_digit(bytes.get(at)), hex_digit(bytes.get(at + 1)))
        {
            at += 2;
            return Some(high << 4 | low);
        }
        Some(byte)
    })
}

fn hex_digit(byte: Option<&u8>) -> Option<u8> {
    let value = DIGITS_READ[usize::from(*byte?)];
    (value < 16).then_some(value)
}

/// What each byte is as a hex digit, 0xff where it is none. The digits of a signature are random: a branch for each
/// costs more than all else that is done with them.
const DIGITS_READ: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        table[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

/// Does it stand for itself in an encoded text?
fn is_plain(byte: u8, keep_slash: bool) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'_' | b'~')
        || keep_slash && byte == b'/'
}

fn push_encoded(out: &mut Vec<u8>, byte: u8, keep_slash: bool) {
    if is_plain(byte, keep_slash) {
        out.push(byte);
    } else {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        out.extend_from_slice(&[
            b'%',
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ]);
    }
}

fn push_header(out: &mut Vec<u8>, head: &Head<'_>, name: &str) {
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    match head.authority {
        // HTTP/2 sends `:authority` where HTTP/1.1 sends Host; clients sign it as host. Where both are sent, the
        // bucket is the authority's: were Host verified, a request signed for one bucket would open another.
        Some(authority) if name == "host" => out.extend_from_slice(authority.as_bytes()),
        _ => push_values(out, head.headers, name, true),
    }
    out.push(b'\n');
}

/// Joins all values of a header with commas, trimmed; SigV4 also makes runs of spaces one.
pub(crate) fn push_values(out: &mut Vec<u8>, headers: Fields<'_>, name: &str, collapse: bool) {
    for (n, value) in headers.all(name).enumerate() {
        if n > 0 {
            out.push(b',');
        }
        let value = value.trim_ascii();
        if !collapse {
            out.extend_from_slice(value);
            continue;
        }
        // Without a branch, so that it is done for many bytes at a time.
        let has_space = value.iter().fold(false, |has, byte| has | (*byte == b' '));
        if !has_space || !value.windows(2).any(|two| two == b"  ") {
            out.extend_from_slice(value);
            continue;
        }
        let mut last = 0;
        for &byte in value {
            if byte != b' ' || last != b' ' {
                out.push(byte);
            }
            last = byte;
        }
    }
}

/// Writes bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = Vec::with_capacity(2 * bytes.len());
    push_hex(&mut out, bytes);
    String::from_utf8(out).expect("hex digits are ASCII")
}

/// Appends bytes as lower-case hex.
pub(crate) fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    for (pair, byte) in out[start..].chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Reads exactly 32 bytes from 64 hex digits of either case.
pub(crate) fn hex32(text: &[u8]) -> Option<[u8; 32]> {
    let (pairs, _) = text.as_chunks::<2>();
    if text.len() != 64 {
        return None;
    }
    let (mut bytes, mut seen) = ([0; 32], 0);
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let [high, low] = pair.map(|digit| DIGITS_READ[usize::from(digit)]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    (seen < 16).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(raw: &str) -> String {
        let mut out = Vec::new();
        push_path(&mut out, raw, PathForm::Encoded);
        String::from_utf8(out).expect("canonical paths are ASCII")
    }

    fn query(raw: &str, plus: Plus) -> String {
        let mut out = Vec::new();
        push_query(&mut out, raw, plus, Some("X-Amz-Signature"));
        String::from_utf8(out).expect("canonical queries are ASCII")
    }

    #[test]
    fn path_is_encoded_once_and_never_normalised() {
        assert_eq!(path(""), "/");
        assert_eq!(path("/b/a/../b//./x"), "/b/a/../b//./x");
        assert_eq!(path("/b/%ED%95%9C%20a%2Bb.txt"), "/b/%ED%95%9C%20a%2Bb.txt");
        assert_eq!(
            path("/test$file*()!'.text"),
            "/test%24file%2A%28%29%21%27.text"
        );
        assert_eq!(path("/b/%7etilde%2d"), "/b/~tilde-");
        assert_eq!(path("/b/100%"), "/b/100%25");
        assert_eq!(path("/b/한"), "/b/%ED%95%9C");
    }

    #[test]
    fn query_is_sorted_by_encoded_name_then_value() {
        assert_eq!(query("uploads", Plus::Space), "uploads=");
        assert_eq!(
            query("b=2&a=2&a=1&%61=0&&X-Amz-Signature=x", Plus::Space),
            "a=0&a=1&a=2&b=2"
        );
        assert_eq!(query("prefix=a+b", Plus::Space), "prefix=a%20b");
        assert_eq!(query("prefix=a+b", Plus::Plus), "prefix=a%2Bb");
        assert_eq!(
            query("delimiter=%2f&k=a=b", Plus::Space),
            "delimiter=%2F&k=a%3Db"
        );
    }

    #[test]
    fn parameter_is_found_by_decoded_name() {
        assert_eq!(
            parameter("a=1&X%2DAmz=%2B+", "X-Amz").as_deref(),
            Some("++")
        );
        assert_eq!(parameter("a=1", "b"), None);
    }

    #[test]
    fn header_values_are_folded() {
        let mut headers = http::HeaderMap::new();
        headers.append(
            "x-amz-meta-a",
            "  one   two ".parse().expect("a legal value"),
        );
        headers.append("x-amz-meta-a", "three".parse().expect("a legal value"));
        let mut out = Vec::new();
        push_values(&mut out, (&headers).into(), "x-amz-meta-a", true);
        assert_eq!(out, b"one two,three");
    }

    #[test]
    fn hex_reads_what_it_writes() {
        let bytes: [u8; 32] = std::array::from_fn(|n| n as u8 * 7);
        assert_eq!(hex32(hex(&bytes).as_bytes()), Some(bytes));
        assert_eq!(hex32(hex(&bytes).to_uppercase().as_bytes()), Some(bytes));
        assert_eq!(hex32(&[b'g'; 64]), None);
        assert_eq!(hex32(b"00"), None);
        let digits = |byte: u8| hex32(&[byte; 64]).map(|bytes| u32::from(bytes[31] & 15));
        for byte in 0..=255 {
            assert_eq!(digits(byte), char::from(byte).to_digit(16), "{byte}");
        }
        for at in 0..64 {
            let mut one_wrong = [b'0'; 64];
            one_wrong[at] = b'g';
            assert_eq!(hex32(&one_wrong), None, "{at}");
        }
    }
}
