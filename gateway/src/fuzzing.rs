//! What the fuzzers hold our parsers of requests to: each target is a plain function of bytes that panics
//! where a property does not hold. In builds for tests, and with the feature `fuzzing` that `tests/fuzz`
//! asks for.

mod aws;
mod canonical;
mod chunked;
mod conditions;
mod dates;
#[path = "../../tests/fuzz/shared/draw.rs"]
pub mod draw;
mod headers;
mod range;
mod signature;
mod targets;
mod xml_read;
mod xml_written;

pub use canonical::canonical;
pub use chunked::chunked;
pub use conditions::conditions;
pub use dates::dates;
pub use headers::headers;
pub use range::range;
pub use signature::signature;
pub use targets::targets;
pub use xml_read::xml_read;
pub use xml_written::xml_written;

#[cfg(test)]
#[path = "../../tests/fuzz/shared/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn canonical() {
        replay("canonical", super::canonical);
    }

    #[test]
    fn chunked() {
        replay("chunked", super::chunked);
    }

    #[test]
    fn conditions() {
        replay("conditions", super::conditions);
    }

    #[test]
    fn dates() {
        replay("dates", super::dates);
    }

    #[test]
    fn headers() {
        replay("headers", super::headers);
    }

    #[test]
    fn range() {
        replay("range", super::range);
    }

    #[test]
    fn signature() {
        replay("signature", super::signature);
    }

    #[test]
    fn targets() {
        replay("targets", super::targets);
    }

    #[test]
    fn xml_read() {
        replay("xml_read", super::xml_read);
    }

    #[test]
    fn xml_written() {
        replay("xml_written", super::xml_written);
    }
}
