//! What the fuzzers hold our codecs to: each target is a plain function of bytes that panics where a
//! property does not hold. In builds for tests, and with the feature `fuzzing` that `tests/fuzz` asks for.

mod annex;
mod documents;
#[path = "../../tests/fuzz/shared/draw.rs"]
pub mod draw;
mod keys;
mod names;
mod record;
mod slots;

pub use annex::annex;
pub use documents::documents;
pub use keys::keys;
pub use names::names;
pub use record::record;
pub use slots::slots;

#[cfg(test)]
#[path = "../../tests/fuzz/shared/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::replay::replay;

    #[test]
    fn record() {
        replay("record", super::record);
    }

    #[test]
    fn slots() {
        replay("slots", super::slots);
    }

    #[test]
    fn keys() {
        replay("keys", super::keys);
    }

    #[test]
    fn annex() {
        replay("annex", super::annex);
    }

    #[test]
    fn documents() {
        replay("documents", super::documents);
    }

    #[test]
    fn names() {
        replay("names", super::names);
    }
}
