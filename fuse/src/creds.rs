//! Whose calls they are: what is made belongs to the caller, and no thread keeps a right that would keep
//! set-id bits alive.
//!
//! The kernel checks permissions (`default_permissions`); these ids only say who owns what is new. All of it
//! is per thread, by raw system calls: glibc would change the whole process.

use std::cell::Cell;

use fuser::Request;
use rustix::fs::Mode;
use rustix::io::Errno;

use crate::face::Answer;

const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_FSETID: u32 = 4;
const CAP_SYS_RESOURCE: u32 = 24;
/// _LINUX_CAPABILITY_VERSION_3.
const VERSION: u32 = 0x2008_0522;

thread_local! {
    static PREPARED: Cell<bool> = const { Cell::new(false) };
}

/// Prepares the thread that a request came to, once: with KILLPRIV_V2 it is the backing file system that
/// clears set-id bits when somebody writes, and it does not where the writer has CAP_FSETID; with CAP_SYS_RESOURCE
/// nobody's quota would hold in the mount; and each caller's umask is set while something is made for him, which
/// other threads (and S3) must not see.
pub fn prepare_thread() {
    if PREPARED.get() {
        return;
    }
    PREPARED.set(true);
    // SAFETY: unshare without pointers; from here on this thread's umask and working directory are its own.
    if unsafe { libc::unshare(libc::CLONE_FS) } == 0 {
        rustix::process::umask(Mode::empty());
    } else {
        tracing::warn!(
            "a thread of the mount keeps the daemon's umask: {}",
            std::io::Error::last_os_error()
        );
    }
    change(CAP_FSETID, false);
    change(CAP_SYS_RESOURCE, false);
}

/// Who asks for something to be made.
#[derive(Clone, Copy)]
pub struct Caller {
    /// His user and group.
    pub ids: (u32, u32),
    /// What he does not want to be permitted.
    pub umask: u32,
    /// The thread that asks.
    pub thread: u32,
}

impl Caller {
    /// Of a request.
    pub fn of(request: &Request, umask: u32) -> Self {
        Self {
            ids: (request.uid(), request.gid()),
            umask: umask & 0o777,
            thread: request.pid(),
        }
    }

    /// Is he of a group, or above all of them? Requests do not carry supplementary groups: while it asks, the
    /// kernel knows the thread's.
    pub fn is_in(self, group: u32) -> bool {
        let (user, own) = self.ids;
        let more = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.thread)).ok()?;
            let groups = status
                .lines()
                .find_map(|line| line.strip_prefix("Groups:"))?;
            Some(groups.split_whitespace().any(|id| id.parse() == Ok(group)))
        };
        user == 0 || own == group || more().unwrap_or(false)
    }
}

/// Makes something for the caller: as his, with his ids and his umask, which the filesystem below applies unless
/// a default ACL takes its place.
///
/// # Errors
/// EPERM where we cannot take his ids (CAP_SETUID and CAP_SETGID are lacking): nothing is made as root for him. And what
/// `make` says.
pub fn as_caller<T>(caller: Caller, make: impl FnOnce() -> Answer<T>) -> Answer<T> {
    rustix::process::umask(Mode::from_raw_mode(caller.umask));
    let _none = NoUmask;
    let (user, group) = caller.ids;
    if (user == 0 && group == 0) || !rustix::process::geteuid().is_root() {
        return make();
    }
    let taken = set_ids(user, group);
    let _back = Back;
    if !taken {
        tracing::error!(
            "nothing can be made for user {user}, group {group}: the mount lacks CAP_SETUID or CAP_SETGID"
        );
        return Err(Errno::PERM);
    }
    if user != 0 {
        // Linux: leaving 0 cleared them; without them the backing directory would be checked a second time,
        // and without the caller's supplementary groups.
        change(CAP_DAC_OVERRIDE, true);
        change(CAP_DAC_READ_SEARCH, true);
    }
    make()
}

/// Does what only an explicit chmod may do: keep a set-group-id bit.
pub fn keeping_set_ids<T>(change_mode: impl FnOnce() -> T) -> T {
    change(CAP_FSETID, true);
    let done = change_mode();
    change(CAP_FSETID, false);
    done
}

struct NoUmask;

impl Drop for NoUmask {
    fn drop(&mut self) {
        rustix::process::umask(Mode::empty());
    }
}

struct Back;

impl Drop for Back {
    fn drop(&mut self) {
        if !set_ids(0, 0) {
            tracing::error!("a thread of the mount keeps the ids of a caller");
        }
        // Linux: coming back to 0 raised all of them.
        change(CAP_FSETID, false);
    }
}

/// Takes a user's and a group's place; whether we have both now.
fn set_ids(user: u32, group: u32) -> bool {
    /// What no id is: asking to have it changes nothing.
    const NONE: u32 = u32::MAX;
    // SAFETY: calls on integers. Linux: they say of no failure, and answer the id that was (setfsuid(2), BUGS).
    let now = unsafe {
        libc::syscall(libc::SYS_setfsgid, group);
        libc::syscall(libc::SYS_setfsuid, user);
        let now_user = libc::syscall(libc::SYS_setfsuid, NONE);
        (now_user, libc::syscall(libc::SYS_setfsgid, NONE))
    };
    // Ids above i32::MAX come back as they are: the answer is a long.
    now == (i64::from(user), i64::from(group))
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Raises or drops one effective capability of this thread, as far as it is permitted.
fn change(capability: u32, raise: bool) {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: both structures have the layout of capget(2), version 3, and outlive the calls.
    let done = unsafe {
        if libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) == 0 {
            let bit = 1 << capability & data[0].permitted;
            if raise {
                data[0].effective |= bit;
            } else {
                data[0].effective &= !(1 << capability);
            }
            libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr())
        } else {
            -1
        }
    };
    if done != 0 {
        tracing::debug!(
            "a capability cannot be changed: {}",
            std::io::Error::last_os_error()
        );
    }
}
