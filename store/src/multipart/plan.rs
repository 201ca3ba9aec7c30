//! How the listed parts become one file, at the least cost and without harming a part: pure.
//!
//! A failed Complete keeps the upload, so nothing that any slot refers to may be overwritten or cut
//! off, whether this Complete lists it or not.

use super::slot::{Base, Slot, Source};

/// One part on its way to its place in the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The part's number.
    pub number: u16,
    /// Where its bytes lie now.
    pub source: Source,
    /// Where they belong in the object.
    pub target: u64,
    /// How many there are.
    pub size: u64,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// This file becomes the object once these pieces were copied into it and it was cut to `size`.
    InPlace {
        /// The assembly, or the only part's own file.
        base: Base,
        /// Pieces from files of their own, each into a region of the assembly that no slot refers to.
        patches: Vec<Piece>,
    },
    /// The pieces are copied, in order, into a new file.
    Gather(Vec<Piece>),
}

/// Decides for the `listed` parts, in order; `stored` are all that the upload has.
pub(crate) fn plan(listed: &[(u16, Slot)], stored: &[(u16, Slot)], files: Files) -> Plan {
    let pieces = pieces(listed);
    if files == Files::Foreign {
        return Plan::Gather(pieces);
    }
    if let [
        Piece {
            source: source @ Source::File(_),
            number,
            ..
        },
    ] = pieces[..]
    {
        return Plan::InPlace {
            base: Base { number, source },
            patches: Vec::new(),
        };
    }
    if files == Files::Quiet && fits_in_place(&pieces, stored) {
        let patches = pieces
            .into_iter()
            .filter(|p| matches!(p.source, Source::File(_)))
            .collect();
        let base = Base {
            number: 0,
            source: Source::Assembly(0),
        };
        return Plan::InPlace { base, patches };
    }
    Plan::Gather(pieces)
}

/// Which of the upload's files may become the object by a rename?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// All: nobody writes into the assembly, and nobody will.
    Quiet,
    /// All but the assembly, into which somebody still writes a part.
    Busy,
    /// None: they lie on another filesystem than the target.
    Foreign,
}

fn pieces(listed: &[(u16, Slot)]) -> Vec<Piece> {
    let mut target = 0;
    listed
        .iter()
        .map(|(number, slot)| {
            let piece = Piece {
                number: *number,
                source: slot.source,
                target,
                size: slot.size,
            };
            target += slot.size;
            piece
        })
        .collect()
}

fn fits_in_place(pieces: &[Piece], stored: &[(u16, Slot)]) -> bool {
    let total = pieces.last().map_or(0, |p| p.target + p.size);
    let mut in_assembly = false;
    for piece in pieces {
        if let Source::Assembly(offset) = piece.source {
            in_assembly = true;
            if offset != piece.target && piece.size > 0 {
                return false;
            }
        }
    }
    let kept: Vec<(u64, u64)> = stored
        .iter()
        .filter_map(|(_, slot)| match slot.source {
            Source::Assembly(offset) if slot.size > 0 => Some((offset, offset + slot.size)),
            _ => None,
        })
        .collect();
    let patched = |p: &&Piece| matches!(p.source, Source::File(_)) && p.size > 0;
    in_assembly
        && kept.iter().all(|(_, end)| *end <= total)
        && pieces.iter().filter(patched).all(|p| {
            kept.iter()
                .all(|(start, end)| p.target + p.size <= *start || *end <= p.target)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    fn slot(source: Source, size: u64) -> Slot {
        Slot {
            source,
            size,
            md5: [0; 16],
            crc64: 0,
            checksum: None,
            modified: Timestamp(0),
            boot: [0; 16],
            unsynced: false,
        }
    }

    fn at(number: u16, size: u64) -> (u16, Slot) {
        (
            number,
            slot(Source::Assembly(u64::from(number - 1) * 10), size),
        )
    }

    fn own(number: u16, size: u64) -> (u16, Slot) {
        (number, slot(Source::File(u64::from(number)), size))
    }

    fn planned(listed: &[(u16, Slot)], stored: &[(u16, Slot)]) -> Plan {
        plan(listed, stored, Files::Quiet)
    }

    fn patched(plan: &Plan) -> Vec<(u16, u64)> {
        match plan {
            Plan::InPlace {
                base:
                    Base {
                        number: 0,
                        source: Source::Assembly(0),
                    },
                patches,
            } => patches.iter().map(|p| (p.number, p.target)).collect(),
            other => panic!("not in place: {other:?}"),
        }
    }

    #[test]
    fn uniform_parts_with_a_short_last_are_in_place() {
        let parts = [at(1, 10), at(2, 10), at(3, 4)];
        assert_eq!(patched(&planned(&parts, &parts)), []);
    }

    #[test]
    fn a_writer_in_the_assembly_means_gathering() {
        let parts = [at(1, 10), at(2, 10)];
        assert!(matches!(plan(&parts, &parts, Files::Busy), Plan::Gather(_)));
    }

    #[test]
    fn a_part_sent_again_and_a_last_part_sent_first_are_patched_in() {
        let parts = [at(1, 10), own(2, 10), at(3, 10), own(4, 3)];
        assert_eq!(patched(&planned(&parts, &parts)), [(2, 10), (4, 30)]);
    }

    #[test]
    fn a_patch_never_runs_over_a_stored_part() {
        // Part 2 was sent again and is longer than the stride: it would run into part 3.
        let parts = [at(1, 10), own(2, 12), at(3, 10)];
        assert!(matches!(planned(&parts, &parts), Plan::Gather(_)));
        // The last listed part would lie where an unlisted one still lies.
        let stored = [at(1, 10), at(2, 10), own(3, 5)];
        assert!(matches!(
            planned(&[stored[0].clone(), stored[2].clone()], &stored),
            Plan::Gather(_)
        ));
    }

    #[test]
    fn cutting_off_an_unlisted_part_is_refused() {
        let stored = [at(1, 10), at(2, 10), at(3, 10)];
        assert!(matches!(planned(&stored[..2], &stored), Plan::Gather(_)));
    }

    #[test]
    fn skipped_parts_and_a_short_part_in_the_middle_are_gathered_in_order() {
        let stored = [at(1, 10), at(2, 4), at(3, 10)];
        for listed in [&stored[..], &stored[1..]] {
            match planned(listed, &stored) {
                Plan::Gather(pieces) => {
                    let mut end = 0;
                    for piece in pieces {
                        assert_eq!(piece.target, end);
                        end += piece.size;
                    }
                }
                other => panic!("not gathered: {other:?}"),
            }
        }
    }

    #[test]
    fn the_only_part_becomes_the_object_wherever_it_lies() {
        let parts = [own(5, 7)];
        assert_eq!(
            planned(&parts, &parts),
            Plan::InPlace {
                base: Base {
                    number: 5,
                    source: Source::File(5)
                },
                patches: Vec::new()
            }
        );
        assert!(matches!(
            plan(&parts, &parts, Files::Busy),
            Plan::InPlace { .. }
        ));
        assert!(matches!(
            plan(&parts, &parts, Files::Foreign),
            Plan::Gather(_)
        ));
        let first = [at(1, 7)];
        assert_eq!(patched(&planned(&first, &first)), []);
        let fifth = [at(5, 7)];
        assert!(matches!(planned(&fifth, &fifth), Plan::Gather(_)));
    }

    #[test]
    fn parts_without_the_assembly_are_gathered() {
        let parts = [own(1, 10), own(2, 10)];
        assert!(matches!(planned(&parts, &parts), Plan::Gather(_)));
    }
}
