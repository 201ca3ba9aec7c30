//! What a listing asks for, as pure functions on key text: which keys are in, which common prefix a key
//! rolls up into, and from where to go on.

/// Prefix and delimiter of a listing.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    /// Only keys that begin with it.
    pub prefix: String,
    /// Empty: none.
    pub delimiter: String,
}

/// Where to go on: after everything that the bound covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// After this key (which need not exist); the empty text covers nothing.
    Key(String),
    /// After every key that begins with this text.
    Group(String),
}

impl Scope {
    /// The common prefix that a key (or every key that begins with `text`) rolls up into.
    pub fn group<'a>(&self, text: &'a str) -> Option<&'a str> {
        if self.delimiter.is_empty() {
            return None;
        }
        let rest = text.strip_prefix(self.prefix.as_str())?;
        let at = rest.find(self.delimiter.as_str())?;
        Some(&text[..self.prefix.len() + at + self.delimiter.len()])
    }

    /// Is it clear that no file of the directory whose keys begin with `text` rolls up, whatever its name?
    pub fn shows_files_of(&self, text: &str) -> bool {
        // Behind the prefix there is then only (a part of) a name, which holds no slash.
        let is_name = text.len() <= self.prefix.len();
        self.delimiter.is_empty() || is_name && self.delimiter.contains('/')
    }

    /// Where a page begins that comes after `marker`.
    ///
    /// Semantics: a common prefix is after the marker or it is not, as a whole; a marker inside of a group
    /// lies after the group's own text, so the group is not listed again.
    pub fn after(&self, marker: &str) -> Bound {
        match self.group(marker) {
            Some(group) => Bound::Group(group.to_owned()),
            None => Bound::Key(marker.to_owned()),
        }
    }

    /// The text of the directory that holds every key with the prefix.
    pub fn directory(&self) -> &str {
        self.prefix
            .rfind('/')
            .map_or("", |slash| &self.prefix[..=slash])
    }
}

impl Bound {
    /// The bound's own text.
    pub fn text(&self) -> &str {
        match self {
            Self::Key(text) | Self::Group(text) => text,
        }
    }

    /// Is this key before the place to go on from?
    pub fn covers(&self, key: &str) -> bool {
        match self {
            Self::Key(bound) => !bound.is_empty() && key <= bound.as_str(),
            Self::Group(bound) => key <= bound.as_str() || key.starts_with(bound.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(prefix: &str, delimiter: &str) -> Scope {
        Scope {
            prefix: prefix.to_owned(),
            delimiter: delimiter.to_owned(),
        }
    }

    #[test]
    fn a_key_rolls_up_to_the_first_delimiter_after_the_prefix() {
        assert_eq!(scope("", "/").group("a/b/c"), Some("a/"));
        assert_eq!(scope("a/", "/").group("a/b/c"), Some("a/b/"));
        assert_eq!(scope("a/", "/").group("a/"), None);
        assert_eq!(scope("a", "/").group("a/"), Some("a/"));
        assert_eq!(scope("", "").group("a/b"), None);
        assert_eq!(scope("", "b/c").group("aab/cd"), Some("aab/c"));
        assert_eq!(scope("x", "/").group("a/b"), None);
    }

    #[test]
    fn files_are_shown_where_no_delimiter_can_be_behind_the_prefix() {
        assert!(scope("", "").shows_files_of("a/b/"));
        assert!(scope("", "/").shows_files_of(""));
        assert!(scope("a/b", "/").shows_files_of("a/"));
        assert!(scope("a/", "x/").shows_files_of("a/"));
        assert!(!scope("", "x/").shows_files_of("x/"));
        assert!(!scope("a/", "-").shows_files_of("a/"));
    }

    #[test]
    fn a_marker_that_is_or_lies_in_a_group_skips_the_group() {
        assert_eq!(scope("", "/").after("a/"), Bound::Group("a/".into()));
        assert_eq!(scope("", "/").after("a/b"), Bound::Group("a/".into()));
        assert_eq!(scope("", "/").after("a"), Bound::Key("a".into()));
        assert!(Bound::Group("a/".into()).covers("a/zzz"));
        assert!(!Bound::Key("a/".into()).covers("a/zzz"));
        assert!(!Bound::Key(String::new()).covers(""));
    }
}
