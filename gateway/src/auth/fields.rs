//! The header fields of a request, wherever they lie: in hyper's map, or as the express way read them.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Header fields; names are in lower case.
#[derive(Clone, Copy, Debug)]
pub enum Fields<'a> {
    /// Those of a whole request.
    Map(&'a HeaderMap),
    /// Each name once, and all values visible ASCII.
    Few(&'a [(&'a str, &'a str)]),
}

impl<'a> Fields<'a> {
    /// All values of a name, in their order.
    pub(crate) fn all<'n>(self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let (map, few) = self.either();
        map.into_iter()
            .flat_map(move |map| map.get_all(name))
            .map(HeaderValue::as_bytes)
            .chain(
                few.iter()
                    .filter(move |(found, _)| *found == name)
                    .map(|(_, value)| value.as_bytes()),
            )
    }

    /// The first value of a name.
    pub(crate) fn get(self, name: &str) -> Option<&'a [u8]> {
        match self {
            Self::Map(map) => map.get(name).map(HeaderValue::as_bytes),
            Self::Few(few) => {
                let found = few.iter().find(|(found, _)| *found == name);
                found.map(|(_, value)| value.as_bytes())
            }
        }
    }

    /// The first value of a name, where it is visible ASCII.
    pub(crate) fn text(self, name: &str) -> Option<Result<&'a str, NotAscii>> {
        let visible = |byte: &u8| (b' '..=b'~').contains(byte) || *byte == b'\t';
        let map = match self {
            Self::Map(map) => map,
            Self::Few(few) => {
                let found = few.iter().find(|(found, _)| *found == name);
                return found.map(|(_, value)| Ok(*value));
            }
        };
        map.get(name).map(|value| {
            let text = Some(value.as_bytes()).filter(|value| value.iter().all(visible));
            text.and_then(|value| std::str::from_utf8(value).ok())
                .ok_or(NotAscii)
        })
    }

    /// Is the name there?
    pub(crate) fn has(self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// All names.
    pub(crate) fn names(self) -> impl Iterator<Item = &'a str> {
        let (map, few) = self.either();
        map.into_iter()
            .flat_map(HeaderMap::keys)
            .map(HeaderName::as_str)
            .chain(few.iter().map(|(name, _)| *name))
    }

    fn either(self) -> (Option<&'a HeaderMap>, &'a [(&'a str, &'a str)]) {
        match self {
            Self::Map(map) => (Some(map), &[]),
            Self::Few(few) => (None, few),
        }
    }
}

/// A value that is not visible ASCII.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotAscii;

impl<'a> From<&'a HeaderMap> for Fields<'a> {
    fn from(map: &'a HeaderMap) -> Self {
        Self::Map(map)
    }
}
