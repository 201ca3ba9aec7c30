//! What the kernel has queued, read in one go: what is said again and again is said once.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::fs::inotify::{ReadFlags, Reader};

/// Events read in one go at most: as many as the kernel queues by default, so that a busy tree does not keep us
/// from laying watches.
const MOST: usize = 16_384;
const CONTENT: ReadFlags = ReadFlags::MODIFY.union(ReadFlags::CLOSE_WRITE);
const REPEATED: ReadFlags = CONTENT.union(ReadFlags::ATTRIB);

/// One event, or several of one kind of one name, where the first of them stood.
pub(super) struct Event {
    pub watch: i32,
    pub flags: ReadFlags,
    pub name: Vec<u8>,
}

/// All that had happened.
pub(super) struct Events {
    pub each: Vec<Event>,
    /// Did the kernel have to leave some out?
    pub lost: bool,
}

impl Events {
    /// Reads them without waiting.
    pub fn read(queue: impl AsFd, buffer: &mut [MaybeUninit<u8>]) -> Self {
        let (mut each, mut lost) = (Vec::<Event>::new(), false);
        let mut said = HashMap::new();
        let mut reader = Reader::new(queue, buffer);
        for _ in 0..MOST {
            let Ok(event) = reader.next() else {
                break;
            };
            let (watch, flags) = (event.wd(), event.events());
            lost |= flags.contains(ReadFlags::QUEUE_OVERFLOW);
            let name = event
                .file_name()
                .map_or(Vec::new(), |name| name.to_bytes().to_vec());
            if flags.intersects(REPEATED) {
                let of = (watch, flags.intersects(CONTENT), name.clone());
                let first = *said.entry(of).or_insert(each.len());
                if let Some(first) = each.get_mut(first) {
                    first.flags |= flags;
                    continue;
                }
            }
            each.push(Event { watch, flags, name });
        }
        Self { each, lost }
    }
}
