//! The names of one directory in key order, in one arena: a byte string and eight bytes of index per name.
//!
//! Names are kept as the text that they have in keys, and a directory's ends in `/`, so that byte order here
//! is key order. Nothing here touches the disk.

use crate::{Result, StoreError};

/// What a name is, as the directory says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file, or a body of the annex.
    File,
    /// A symbolic link: an object only if it leads to a file inside the bucket.
    Link,
    /// A directory; its text ends in `/`.
    Dir,
}

/// Where a name's text lies in the arena.
#[derive(Clone, Copy)]
struct Slot {
    offset: u32,
    length: u16,
    kind: Kind,
}

/// A sorted directory.
#[derive(Default)]
pub(crate) struct Names {
    arena: String,
    slots: Vec<Slot>,
}

/// One name of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name<'a> {
    /// Its text in keys; a directory's ends in `/`.
    pub text: &'a str,
    /// What it is.
    pub kind: Kind,
}

impl Names {
    /// Adds a name, before [`Names::sort`].
    ///
    /// # Errors
    /// `Exhausted` beyond 4 GiB of names in one directory.
    pub fn push(&mut self, text: &str, kind: Kind) -> Result<()> {
        let slash = usize::from(kind == Kind::Dir);
        let too_many = || StoreError::Exhausted("the names of one directory".to_owned());
        let offset = u32::try_from(self.arena.len()).map_err(|_| too_many())?;
        let length = u16::try_from(text.len() + slash).map_err(|_| too_many())?;
        self.arena.push_str(text);
        if slash > 0 {
            self.arena.push('/');
        }
        self.slots.push(Slot {
            offset,
            length,
            kind,
        });
        Ok(())
    }

    /// Puts the names in key order: by eight bytes after what all have in common, ties by the whole. Their text too,
    /// since pages read it in that order, and a directory gives it in that of its hashes.
    pub fn sort(&mut self) {
        let common = self.common_prefix();
        let mut keyed: Vec<(u64, Slot)> = self
            .slots
            .iter()
            .map(|slot| (eight_bytes(&self.bytes(*slot)[common..]), *slot))
            .collect();
        keyed.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0)
                .then_with(|| self.bytes(a.1).cmp(self.bytes(b.1)))
        });
        self.slots.clear();
        self.slots.extend(keyed.into_iter().map(|(_, slot)| slot));
        self.slots.shrink_to_fit();
        let mut ordered = String::with_capacity(self.arena.len());
        for slot in &mut self.slots {
            let start = slot.offset as usize;
            // No longer than the arena before, whose length fits.
            slot.offset = ordered.len() as u32;
            ordered.push_str(&self.arena[start..start + usize::from(slot.length)]);
        }
        self.arena = ordered;
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The name at `at`, which is below [`Names::len`].
    pub fn get(&self, at: usize) -> Name<'_> {
        let slot = self.slots[at];
        let start = slot.offset as usize;
        Name {
            text: &self.arena[start..start + usize::from(slot.length)],
            kind: slot.kind,
        }
    }

    /// The first position from `from` on for which `before` no longer holds; `before` holds for a head of the list.
    pub fn seek(&self, from: usize, before: impl Fn(&str) -> bool) -> usize {
        let slots = &self.slots[from.min(self.slots.len())..];
        from + slots.partition_point(|slot| {
            let start = slot.offset as usize;
            before(&self.arena[start..start + usize::from(slot.length)])
        })
    }

    /// Memory held, in bytes.
    pub fn size(&self) -> usize {
        self.arena.capacity() + self.slots.capacity() * size_of::<Slot>()
    }

    fn bytes(&self, slot: Slot) -> &[u8] {
        &self.arena.as_bytes()[slot.offset as usize..][..usize::from(slot.length)]
    }

    fn common_prefix(&self) -> usize {
        let Some(first) = self.slots.first().map(|slot| self.bytes(*slot)) else {
            return 0;
        };
        self.slots.iter().fold(first.len(), |common, slot| {
            first[..common]
                .iter()
                .zip(self.bytes(*slot))
                .take_while(|(a, b)| a == b)
                .count()
        })
    }
}

/// The first eight bytes as a number that compares as they do; missing ones count as zero, which names never hold.
fn eight_bytes(text: &[u8]) -> u64 {
    let mut key = [0; 8];
    let length = text.len().min(8);
    key[..length].copy_from_slice(&text[..length]);
    u64::from_be_bytes(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(texts: &[(String, Kind)]) -> Names {
        let mut names = Names::default();
        for (text, kind) in texts {
            names.push(text, *kind).expect("few names");
        }
        names.sort();
        names
    }

    #[test]
    fn a_slot_takes_eight_bytes() {
        assert_eq!(size_of::<Slot>(), 8);
    }

    #[test]
    fn a_directory_sorts_by_its_slash() {
        let kinds = [
            ("a", Kind::Dir),
            ("a-b", Kind::File),
            ("a.b", Kind::File),
            ("a0", Kind::Link),
        ];
        let names = names(&kinds.map(|(text, kind)| (text.to_owned(), kind)));
        let order: Vec<&str> = (0..names.len()).map(|at| names.get(at).text).collect();
        assert_eq!(order, ["a-b", "a.b", "a/", "a0"]);
    }

    proptest! {
        #[test]
        fn names_come_in_byte_order(
            texts in proptest::collection::vec(("(common-prefix)?[ab\u{10FE80}é.-]{1,12}", any::<bool>()), 0..40)
        ) {
            let texts: Vec<(String, Kind)> = texts.into_iter()
                .map(|(text, dir)| (text, if dir { Kind::Dir } else { Kind::File })).collect();
            let names = names(&texts);
            let mut expected: Vec<String> = texts.iter()
                .map(|(text, kind)| if *kind == Kind::Dir { format!("{text}/") } else { text.clone() }).collect();
            expected.sort();
            let found: Vec<&str> = (0..names.len()).map(|at| names.get(at).text).collect();
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(&names.arena, &expected.concat(), "in memory too");
            for probe in &expected {
                let at = names.seek(0, |text| text <= probe.as_str());
                prop_assert_eq!(at, expected.partition_point(|text| text <= probe));
            }
        }
    }
}
