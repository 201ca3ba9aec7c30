//! Are the roots still there, and what is mapped, the same, and can they be written?

use rustix::fs::{self, AtFlags, StatVfsMountFlags, StatxFlags};

use crate::served::Served;
use crate::{Access, Store};

impl Store {
    /// Why what is served cannot be as it was meant to, one sentence each; none: all is well. May wait for the disk.
    pub fn troubles(&self) -> Vec<String> {
        let roots = self.roots.iter();
        let mut troubles: Vec<String> = roots.flat_map(|root| self.troubles_of(root)).collect();
        for (name, mapped) in &self.mapped {
            let (location, shown) = (mapped.location.display(), name.as_str());
            if mapped.check(Access::Blocking).is_err() {
                troubles.push(format!(
                    "the directory {location} of bucket {shown:?} is gone or was replaced by another: bring it back, or restart to serve what is there now"
                ));
                continue;
            }
            let flags = fs::fstatvfs(&mapped.dir).map(|facts| facts.f_flag);
            let read_only = flags.is_ok_and(|flags| flags.contains(StatVfsMountFlags::RDONLY));
            if read_only && !self.rules_of(name).read_only {
                troubles.push(format!(
                    "the directory {location} of bucket {shown:?} is read-only: see the kernel's log for errors of its disk, and remount it for writing (or say read-only = true of the bucket)"
                ));
            }
        }
        troubles
    }

    fn troubles_of(&self, root: &Served) -> Vec<String> {
        let location = root.location.display();
        // By its path, as whoever writes into it directly finds it.
        let wanted = StatxFlags::INO | StatxFlags::MNT_ID;
        let here = match fs::statx(fs::CWD, &root.location, AtFlags::empty(), wanted) {
            Ok(_) if root.is_there(Access::Blocking) => &root.dir,
            Ok(_) => {
                return vec![format!(
                    "the served directory {location} was replaced by another, or something was mounted on it or unmounted: restart to serve what is there now"
                )];
            }
            Err(e) => {
                return vec![format!(
                    "the served directory {location} is gone ({e}): bring it back, or mount its disk"
                )];
            }
        };
        let mut troubles = Vec::new();
        match fs::fstatvfs(here) {
            Ok(facts) if facts.f_flag.contains(StatVfsMountFlags::RDONLY) => {
                if !self.options().read_only {
                    troubles.push(format!(
                        "the served directory {location} is read-only: see the kernel's log for errors of its disk, and remount it for writing (or serve with --read-only)"
                    ));
                }
            }
            Ok(_) => {}
            Err(e) => troubles.push(format!(
                "the filesystem of the served directory {location} does not answer: {e}"
            )),
        }
        troubles
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_root_that_was_moved_or_replaced_is_a_trouble_until_it_is_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, aside) = (dir.path().join("root"), dir.path().join("aside"));
        std::fs::create_dir(&root).expect("a directory");
        let store = Store::open(testing::options(&root)).expect("a store");
        let is = |words: &str| {
            let troubles = store.troubles();
            assert!(
                troubles.len() == 1 && troubles[0].contains(words),
                "{troubles:?}"
            );
        };
        assert_eq!(store.troubles(), [""; 0]);
        std::fs::rename(&root, &aside).expect("moved");
        is("is gone");
        std::fs::create_dir(&root).expect("another");
        is("was replaced");
        std::fs::remove_dir(&root).expect("removed");
        std::fs::rename(&aside, &root).expect("moved back");
        assert_eq!(store.troubles(), [""; 0]);
    }
}
