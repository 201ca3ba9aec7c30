//! What a filesystem is, as far as the hot paths must know it before anything is probed: local or remote.

use std::os::fd::AsFd;

use rustix::fs;

/// Filesystems on which a cached read or a buffered write is known not to wait for another machine.
const LOCAL: [(i64, &str); 14] = [
    (0xEF53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58F6, "ramfs"),
    (0x2FC1_2FC1, "zfs"),
    (0xF2F5_2010, "f2fs"),
    (0x794C_7630, "overlay"),
    (0xCA45_1A4E, "bcachefs"),
    (0x4D44, "vfat"),
    (0x2011_BAB0, "exfat"),
    (0x7366_746E, "ntfs3"),
    (0x3153_464A, "jfs"),
    (0x5265_4973, "reiserfs"),
];
const REMOTE: [(i64, &str); 9] = [
    (0x6969, "nfs"),
    (0xFF53_4D42, "cifs"),
    (0xFE53_4D42, "smb2"),
    (0x00C3_6400, "ceph"),
    (0x6573_5546, "fuse"),
    (0x0102_1997, "9p"),
    (0x5346_414F, "afs"),
    (0x0BD0_0BD0, "lustre"),
    (0x0116_1970, "gfs2"),
];

/// Name and kind of a filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsFacts {
    /// As mount(8) calls it; `unknown` where we do not know the number.
    pub name: &'static str,
    /// Another machine (or a FUSE server, or something unknown) stands behind it.
    pub remote: bool,
}

/// Tells what filesystem a descriptor lies on; what cannot be told counts as remote, which is only slower.
pub fn facts(fd: impl AsFd) -> FsFacts {
    let magic = fs::fstatfs(fd).map_or(0, |stat| stat.f_type);
    let named = |table: &'static [(i64, &'static str)]| {
        table
            .iter()
            .find(|(m, _)| *m == magic)
            .map(|(_, name)| *name)
    };
    match (named(&LOCAL), named(&REMOTE)) {
        (Some(name), _) => FsFacts {
            name,
            remote: false,
        },
        (None, Some(name)) => FsFacts { name, remote: true },
        (None, None) => FsFacts {
            name: "unknown",
            remote: true,
        },
    }
}
