//! What MinIO recorded of a bucket: `.minio.sys/buckets/BUCKET/.metadata.bin`, four bytes and a MessagePack map from names to
//! documents. Of MessagePack only what stands in it is read; whatever else there is ends the reading.

use super::BucketClaim;

/// Where the map begins: behind format and version, 16 bits each.
const HEAD: usize = 4;
/// What is not taken over where it holds anything, and what it is called.
const OTHERS: [(&str, &str); 8] = [
    ("PolicyConfigJSON", "policy"),
    ("LifecycleConfigXML", "lifecycle rules"),
    ("NotificationConfigXML", "notifications"),
    ("ObjectLockConfigXML", "object lock"),
    ("VersioningConfigXML", "versioning"),
    ("EncryptionConfigXML", "encryption"),
    ("QuotaConfigJSON", "quota"),
    ("ReplicationConfigXML", "replication"),
];

/// Reads it, as far as it can be read.
pub(super) fn read(bytes: &[u8]) -> BucketClaim {
    let mut claim = BucketClaim::default();
    let mut rest = bytes.get(HEAD..).unwrap_or_default();
    let Some(count) = map(&mut rest) else {
        return claim;
    };
    for _ in 0..count {
        let (Some(name), Some(value)) = (value(&mut rest), value(&mut rest)) else {
            break;
        };
        if value.is_empty() {
            continue;
        }
        if name == b"TaggingConfigXML" {
            claim.tags = tags(&String::from_utf8_lossy(value));
        }
        let other = OTHERS.iter().find(|(known, _)| known.as_bytes() == name);
        claim.others.extend(other.map(|(_, what)| *what));
    }
    claim
}

/// How many pairs a map has.
fn map(rest: &mut &[u8]) -> Option<usize> {
    match take(rest, 1)? {
        [short @ 0x80..=0x8f] => Some(usize::from(short & 0x0f)),
        [0xde] => length(rest, 2),
        _ => None,
    }
}

/// The bytes of a text or of binary data; of anything else that stands there none.
fn value<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let many = match take(rest, 1)? {
        [short @ 0xa0..=0xbf] => usize::from(short & 0x1f),
        [0xc4 | 0xd9] => length(rest, 1)?,
        [0xc5 | 0xda] => length(rest, 2)?,
        [0xc6 | 0xdb] => length(rest, 4)?,
        [0x00..=0x7f | 0xc0 | 0xc2 | 0xc3] => return Some(&[]),
        // A time: its length, its type, and itself.
        [0xc7] => {
            let many = length(rest, 1)?;
            take(rest, many + 1)?;
            return Some(&[]);
        }
        _ => return None,
    };
    take(rest, many)
}

fn length(rest: &mut &[u8], bytes: usize) -> Option<usize> {
    let digits = take(rest, bytes)?.iter();
    Some(digits.fold(0, |length, byte| length << 8 | usize::from(*byte)))
}

fn take<'a>(rest: &mut &'a [u8], many: usize) -> Option<&'a [u8]> {
    let (taken, later) = rest.split_at_checked(many)?;
    *rest = later;
    Some(taken)
}

/// The pairs of a tag set, as Go writes XML.
fn tags(xml: &str) -> Vec<(String, String)> {
    let each = xml.split("<Tag>").skip(1);
    each.filter_map(|tag| {
        Some((
            between(tag, "Key")?,
            between(tag, "Value").unwrap_or_default(),
        ))
    })
    .collect()
}

fn between(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let known = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ];
    let plain = known.iter();
    Some(plain.fold(text.to_owned(), |text, (escaped, plain)| {
        text.replace(escaped, plain)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> Vec<u8> {
        let mut bytes = vec![0xa0 | name.len() as u8];
        bytes.extend(name.as_bytes());
        bytes.extend([0xc5, 0, value.len() as u8]);
        bytes.extend(value.as_bytes());
        bytes
    }

    #[test]
    fn tags_and_what_else_there_is_are_read() {
        let xml = "<Tagging><TagSet><Tag><Key>a&amp;lt;</Key><Value>b &#39;c</Value></Tag><Tag><Key>d</Key></Tag></TagSet></Tagging>";
        let mut bytes = vec![1, 0, 1, 0, 0xde, 0, 5];
        bytes.extend(b"\xa4Name\xa3one\xabLockEnabled\xc2");
        bytes.extend(b"\xa7Created\xc7\x0c\x05abcdefghijkl");
        bytes.extend(pair("TaggingConfigXML", xml));
        bytes.extend(pair("PolicyConfigJSON", "{}"));
        let claim = read(&bytes);
        let tags = [("a&lt;", "b 'c"), ("d", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(claim.tags, tags);
        assert_eq!(claim.others, ["policy"]);
    }

    #[test]
    fn what_is_cut_or_something_else_is_read_as_far_as_it_goes() {
        let mut bytes = vec![1, 0, 1, 0, 0x82];
        bytes.extend(pair("PolicyConfigJSON", "{}"));
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).others.is_empty(), "{cut}");
        }
        assert_eq!(read(&bytes).others, ["policy"]);
        bytes.extend(b"\xc1\xff\xff");
        assert_eq!(read(&bytes).others, ["policy"]);
        assert_eq!(read(&[0xff; 64]), BucketClaim::default());
    }
}
