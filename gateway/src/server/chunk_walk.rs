//! Finds the end of a chunked body (RFC 9112, 7.1) as it passes by, in the pieces in which it comes.
//!
//! It steps over chunks by their length and looks at the lines between them only. It agrees with hyper's decoder on
//! every body that hyper takes; one that hyper fails ends the connection, and nothing behind it is found here either.

/// Where the walk stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ChunkWalk {
    /// Before the first digit of a size.
    #[default]
    Start,
    /// Behind so many of a chunk's size.
    Size(u64),
    /// Behind a size and blanks.
    Blanks(u64),
    /// In a chunk's extension, of which nobody knows anything.
    Extension(u64),
    /// Behind the CR of a size line.
    SizeLf(u64),
    /// So many bytes before the end of a chunk.
    Within(u64),
    /// Behind a chunk.
    DataCr,
    /// Behind the CR behind a chunk.
    DataLf,
    /// At the start of a trailer, or of the empty line that ends the body.
    LineStart,
    /// In a trailer.
    Trailer,
    /// Behind the CR of a trailer.
    TrailerLf,
    /// Behind the CR of the empty line.
    EndLf,
    /// The body has ended.
    Ended,
    /// It is no chunked body.
    Broken,
}

impl ChunkWalk {
    /// Walks over bytes and says how many belong to the body: all of them, unless it ends among them or breaks.
    pub(crate) fn walk(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && !matches!(self, Self::Ended | Self::Broken) {
            if let Self::Within(left) = self {
                let step = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len() - at);
                *left -= step as u64;
                at += step;
                if *left == 0 {
                    *self = Self::DataCr;
                }
                continue;
            }
            *self = self.step(bytes[at]);
            at += 1;
        }
        at
    }

    fn step(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::Start, _) => Self::with_digit(0, byte),
            (Self::Size(size) | Self::Blanks(size), b' ' | b'\t') => Self::Blanks(size),
            (Self::Size(size) | Self::Blanks(size), b';') => Self::Extension(size),
            (Self::Size(size) | Self::Blanks(size) | Self::Extension(size), b'\r') => {
                Self::SizeLf(size)
            }
            (Self::Size(size), _) => Self::with_digit(size, byte),
            (Self::Extension(size), other) if other != b'\n' => Self::Extension(size),
            (Self::SizeLf(0), b'\n') => Self::LineStart,
            (Self::SizeLf(size), b'\n') => Self::Within(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Start,
            (Self::LineStart, b'\r') => Self::EndLf,
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::LineStart | Self::Trailer, _) => Self::Trailer,
            (Self::TrailerLf, b'\n') => Self::LineStart,
            (Self::EndLf, b'\n') => Self::Ended,
            _ => Self::Broken,
        }
    }

    fn with_digit(size: u64, byte: u8) -> Self {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        let longer = digit.and_then(|digit| size.checked_mul(16)?.checked_add(digit));
        longer.map_or(Self::Broken, Self::Size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How the body goes on behind its first bytes, for every way of cutting it into two pieces.
    fn ends(body: &[u8]) -> (ChunkWalk, usize) {
        let mut whole = ChunkWalk::default();
        let taken = whole.walk(body);
        for cut in 0..=body.len() {
            let mut walk = ChunkWalk::default();
            let first = walk.walk(&body[..cut]);
            let second = if first == cut {
                walk.walk(&body[cut..])
            } else {
                0
            };
            assert_eq!((walk, first + second), (whole, taken), "cut at {cut}");
        }
        (whole, taken)
    }

    #[test]
    fn a_body_ends_behind_its_trailers_and_what_follows_is_no_part_of_it() {
        for body in [
            &b"0\r\n\r\n"[..],
            b"5\r\nabcde\r\n0\r\n\r\n",
            b"005 \t;a=b\r\n0\r\n\r\n\r\n000\r\n\r\n",
            b"A\r\n0123456789\r\na\r\n\r\n\r\n\r\n\r\n\r\n\r\n0;x\r\nx-a: b\r\nx-c: d\r\n\r\n",
        ] {
            let long = [body, b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(ends(body), (ChunkWalk::Ended, body.len()));
            assert_eq!(ends(&long), (ChunkWalk::Ended, body.len()));
        }
    }

    #[test]
    fn what_hyper_refuses_breaks_and_what_is_not_whole_goes_on() {
        for body in [
            &b"\r\n"[..],
            b" 5\r\n",
            b"-5\r\n",
            b"0x5\r\n",
            b"5\nabcde\n",
            b"5;a\n",
            b"5 5\r\n",
            b"2\r\nabcde\r\n",
            b"1\r\na0\r\n\r\n",
            b"ffffffffffffffff1\r\n",
            b"0\r\nx-a: b\r0",
            b"0\r\n\r\r",
        ] {
            let broken = ends(body).0;
            assert_eq!(
                broken,
                ChunkWalk::Broken,
                "{:?}",
                String::from_utf8_lossy(body)
            );
        }
        assert_eq!(
            ends(b"ffffffffffffffff\r\nabc").0,
            ChunkWalk::Within(u64::MAX - 3)
        );
    }
}
