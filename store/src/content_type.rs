//! Content types: of files nobody PUT, by extension; and the codes that spare a record its text.

/// Record code: the type is in the meta half (or nowhere).
pub(crate) const IN_META: u8 = 0;
/// Record code: the client sent none.
pub(crate) const NOT_SENT: u8 = 1;
/// What S3 answers where no type was sent.
pub(crate) const NONE: &str = "binary/octet-stream";

/// Types with a code: code 2 is the first. Append-only: a code on disk means the same forever.
const CODED: [&str; 40] = [
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "text/plain",
    "text/plain; charset=utf-8",
    "text/html",
    "text/html; charset=utf-8",
    "text/css",
    "text/csv",
    "text/xml",
    "text/markdown",
    "text/javascript",
    "application/javascript",
    "application/json",
    "application/xml",
    "application/pdf",
    "application/zip",
    "application/gzip",
    "application/x-gzip",
    "application/x-tar",
    "application/zstd",
    "application/x-bzip2",
    "application/x-xz",
    "application/x-7z-compressed",
    "application/x-directory",
    "application/vnd.apache.parquet",
    "application/wasm",
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/svg+xml",
    "image/tiff",
    "image/heic",
    "video/mp4",
    "video/quicktime",
    "video/x-matroska",
    "audio/mpeg",
    "audio/flac",
    "audio/wav",
    "binary/octet-stream",
];

/// Types by extension in lower case, sorted by extension.
const BY_EXTENSION: [(&str, &str); 104] = [
    ("7z", "application/x-7z-compressed"),
    ("aac", "audio/aac"),
    ("apk", "application/vnd.android.package-archive"),
    ("avi", "video/x-msvideo"),
    ("avif", "image/avif"),
    ("bin", "application/octet-stream"),
    ("bmp", "image/bmp"),
    ("bz2", "application/x-bzip2"),
    ("c", "text/x-c"),
    ("cfg", "text/plain"),
    ("conf", "text/plain"),
    ("css", "text/css"),
    ("csv", "text/csv"),
    ("deb", "application/vnd.debian.binary-package"),
    ("dmg", "application/x-apple-diskimage"),
    ("doc", "application/msword"),
    (
        "docx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ),
    ("eml", "message/rfc822"),
    ("eot", "application/vnd.ms-fontobject"),
    ("epub", "application/epub+zip"),
    ("exe", "application/vnd.microsoft.portable-executable"),
    ("flac", "audio/flac"),
    ("flv", "video/x-flv"),
    ("geojson", "application/geo+json"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("h", "text/x-c"),
    ("heic", "image/heic"),
    ("heif", "image/heif"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("ico", "image/vnd.microsoft.icon"),
    ("ics", "text/calendar"),
    ("ini", "text/plain"),
    ("iso", "application/x-iso9660-image"),
    ("jar", "application/java-archive"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript"),
    ("json", "application/json"),
    ("jsonl", "application/jsonl"),
    ("jxl", "image/jxl"),
    ("kml", "application/vnd.google-earth.kml+xml"),
    ("log", "text/plain"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("m4a", "audio/mp4"),
    ("m4v", "video/mp4"),
    ("md", "text/markdown"),
    ("mid", "audio/midi"),
    ("mjs", "text/javascript"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("mpeg", "video/mpeg"),
    ("mpg", "video/mpeg"),
    ("ndjson", "application/x-ndjson"),
    ("odp", "application/vnd.oasis.opendocument.presentation"),
    ("ods", "application/vnd.oasis.opendocument.spreadsheet"),
    ("odt", "application/vnd.oasis.opendocument.text"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/opus"),
    ("otf", "font/otf"),
    ("parquet", "application/vnd.apache.parquet"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("ppt", "application/vnd.ms-powerpoint"),
    (
        "pptx",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ),
    ("ps", "application/postscript"),
    ("psd", "image/vnd.adobe.photoshop"),
    ("py", "text/x-python"),
    ("rar", "application/vnd.rar"),
    ("rpm", "application/x-rpm"),
    ("rs", "text/x-rust"),
    ("rtf", "application/rtf"),
    ("sh", "application/x-sh"),
    ("sql", "application/sql"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("tgz", "application/gzip"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("toml", "application/toml"),
    ("ts", "video/mp2t"),
    ("tsv", "text/tab-separated-values"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain"),
    ("vcf", "text/vcard"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xhtml", "application/xhtml+xml"),
    ("xls", "application/vnd.ms-excel"),
    (
        "xlsx",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ),
    ("xml", "application/xml"),
    ("xz", "application/x-xz"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("zip", "application/zip"),
];

/// The code of a type that a client sent (`None`: it sent none); [`IN_META`] where it has none.
pub(crate) fn code(kind: Option<&[u8]>) -> u8 {
    let Some(kind) = kind else { return NOT_SENT };
    let found = CODED.iter().position(|coded| coded.as_bytes() == kind);
    found.map_or(IN_META, |index| 2 + index as u8)
}

/// The type that a code stands for; `None` for [`IN_META`], [`NOT_SENT`] and codes of a later time.
pub(crate) fn coded(code: u8) -> Option<&'static str> {
    CODED.get(usize::from(code).checked_sub(2)?).copied()
}

/// The type of a file nobody PUT, by the extension of its key; `None` where it tells nothing.
pub(crate) fn by_extension(key: &str) -> Option<&'static str> {
    let name = key.rsplit('/').next()?;
    let (stem, extension) = name.rsplit_once('.')?;
    if stem.is_empty() {
        return None; // `.profile` has no extension.
    }
    let extension = extension.to_ascii_lowercase();
    let index = BY_EXTENSION
        .binary_search_by(|(known, _)| (*known).cmp(&extension))
        .ok()?;
    Some(BY_EXTENSION[index].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_they_always_meant() {
        for (code_, kind) in [
            (2, "application/octet-stream"),
            (4, "text/plain"),
            (14, "application/json"),
            (41, NONE),
        ] {
            assert_eq!(coded(code_), Some(kind));
            assert_eq!(code(Some(kind.as_bytes())), code_);
        }
        assert_eq!(code(None), NOT_SENT);
        assert_eq!(code(Some(b"text/x-odd")), IN_META);
        assert_eq!(
            (coded(IN_META), coded(NOT_SENT), coded(255)),
            (None, None, None)
        );
    }

    #[test]
    fn extensions_are_sorted_as_the_search_needs() {
        assert!(BY_EXTENSION.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn type_comes_from_the_extension_of_the_last_component() {
        assert_eq!(by_extension("a/b.JPG"), Some("image/jpeg"));
        assert_eq!(by_extension("x.tar.gz"), Some("application/gzip"));
        for key in ["a.txt/b", "noext", ".txt", "a.", "a.unheard-of"] {
            assert_eq!(by_extension(key), None, "{key}");
        }
    }
}
