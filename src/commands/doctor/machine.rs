//! What a daemon would find of the machine: its settings, addresses, clock, rights and mount. Looks only.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use rustix::fs::{Access, access};
use twintree_store::probe::{Finding, Grade};

use super::super::{Failure, cannot_listen, surroundings};
use crate::cli::Cli;
use crate::config::{self, Address, Config};

/// Directories whose rights are looked at, at most.
const MOST_BUCKETS: usize = 1000;
/// How long a mount is given to answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// All of it, in the order of a start.
pub fn findings(dir: &Path, file: Option<&Path>) -> Vec<Finding> {
    let mut found = Vec::new();
    let config = settings(dir, file);
    match &config {
        Ok(_) => found.push(good("settings", "what serve would be told can be taken")),
        Err(why) => found.push(bad("settings", why.clone())),
    }
    let config = config.ok();
    if let Some(config) = &config {
        let listen = config.listen.iter().map(|one| ("--listen", one));
        let admin = config.admin.iter().map(|one| ("--admin", one));
        found.extend(listen.chain(admin).map(|(flag, one)| address(flag, one)));
    }
    found.push(clock());
    let read_only = config.as_ref().is_some_and(|config| config.read_only);
    found.push(rights(dir, read_only));
    found.extend(config.iter().flat_map(buckets));
    found.push(mount(config.as_ref()));
    found
}

fn finding(grade: Grade, what: &'static str, meaning: impl Into<String>) -> Finding {
    let meaning = meaning.into();
    Finding {
        what,
        grade,
        meaning,
    }
}

fn good(what: &'static str, meaning: impl Into<String>) -> Finding {
    finding(Grade::Good, what, meaning)
}

fn weak(what: &'static str, meaning: impl Into<String>) -> Finding {
    finding(Grade::Weak, what, meaning)
}

fn bad(what: &'static str, meaning: impl Into<String>) -> Finding {
    finding(Grade::Bad, what, meaning)
}

fn settings(dir: &Path, file: Option<&Path>) -> Result<Config, String> {
    let args = Cli::serve_of(dir, file).map_err(|e| {
        let text = e.to_string();
        text.lines().next().unwrap_or_default().to_owned()
    })?;
    let file = config::read_file(file).map_err(|e| format!("{e:#}"))?;
    config::resolve(args, file).map_err(|e| format!("{e:#}"))
}

/// Could it be listened on?
fn address(flag: &str, address: &Address) -> Finding {
    match address {
        Address::Tcp(tcp) => port(flag, *tcp),
        Address::Unix(path) => match path.parent().map(|parent| access(parent, Access::WRITE_OK)) {
            Some(Err(e)) => bad(
                "address",
                format!("unix:{}: its directory: {e}", path.display()),
            ),
            _ => good("address", format!("unix:{} can be made", path.display())),
        },
    }
}

fn port(flag: &str, tcp: SocketAddr) -> Finding {
    match TcpListener::bind(tcp) {
        Ok(_given_back) => good("address", format!("{tcp} is free")),
        Err(e) if e.kind() == ErrorKind::AddrInUse => weak(
            "address",
            format!(
                "{tcp} is taken: all is well where that is a twintree that runs; else stop what listens there (ss -ltnp 'sport = :{}'), or name another address with {flag}",
                tcp.port()
            ),
        ),
        Err(e) => {
            match cannot_listen(flag, &std::io::Error::new(e.kind(), format!("{tcp}: {e}"))) {
                Failure::Unavailable(why) | Failure::NotPermitted(why) | Failure::Work(why) => {
                    bad("address", format!("{why:#}"))
                }
                _ => bad("address", format!("{tcp}: {e}")),
            }
        }
    }
}

/// Is it set, and does anything keep it right?
fn clock() -> Finding {
    if let Err(Failure::Unavailable(why)) = surroundings::clock(SystemTime::now()) {
        return bad("clock", why.to_string());
    }
    match surroundings::is_synchronised() {
        Some(true) => good("clock", "the kernel says that it is kept right"),
        Some(false) => weak(
            "clock",
            "nothing keeps it right, as the kernel has it: 15 minutes off, and every signature is refused; timedatectl set-ntp true",
        ),
        None => finding(
            Grade::Unknown,
            "clock",
            "the kernel does not say whether anything keeps it right",
        ),
    }
}

/// Has each bucket that is mapped a directory of its own, and is none of the root hidden behind it?
fn buckets(config: &Config) -> Vec<Finding> {
    if config.served().count() == 1 {
        return Vec::new();
    }
    match config.store().shadowed() {
        Err(e) => vec![bad("buckets", e.to_string())],
        Ok(hidden) if hidden.is_empty() => {
            vec![good(
                "buckets",
                "those that are mapped have directories of their own",
            )]
        }
        Ok(hidden) => {
            let all = hidden.into_iter().map(|(dir, other)| {
                let (dir, other) = (dir.display(), other.display());
                weak(
                    "buckets",
                    format!(
                        "{dir} is not served: {other} is the bucket of its name; rename one of them"
                    ),
                )
            });
            all.collect()
        }
    }
}

/// May this user read and write the root and each directory that would be a bucket?
fn rights(dir: &Path, read_only: bool) -> Finding {
    let wanted = match read_only {
        true => Access::READ_OK | Access::EXEC_OK,
        false => Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK,
    };
    let does = if read_only { "read" } else { "read and write" };
    let user = rustix::process::getuid().as_raw();
    if let Err(e) = access(dir, wanted) {
        let dir = dir.display();
        return bad(
            "rights",
            format!("user {user} may not {does} {dir} ({e}): namei -l {dir} shows why"),
        );
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let buckets = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let buckets: Vec<_> = buckets
        .map(|entry| entry.path())
        .take(MOST_BUCKETS)
        .collect();
    let refused: Vec<_> = buckets
        .iter()
        .filter(|one| access(one.as_path(), wanted).is_err())
        .collect();
    match refused.first() {
        None => good(
            "rights",
            format!(
                "user {user} may {does} here and in all {} directories",
                buckets.len()
            ),
        ),
        Some(first) => weak(
            "rights",
            format!(
                "user {user} may not {does} {} of {} directories, {} among them: requests there get AccessDenied",
                refused.len(),
                buckets.len(),
                first.display()
            ),
        ),
    }
}

/// The mount point, and what stands there.
fn mount(config: Option<&Config>) -> Finding {
    let device = twintree_fuse::look_for_device();
    let Some(options) = config.and_then(|config| config.mount.as_ref()) else {
        return match device {
            Ok(()) => good("mount", "none is asked for; it could be had"),
            Err(e) => weak(
                "mount",
                format!("none is asked for, and none could be had: {e}"),
            ),
        };
    };
    let point = options.point.clone();
    let shown = point.display().to_string();
    if let Err(e) = device {
        return bad("mount", e.to_string());
    }
    let (told, answer) = mpsc::channel();
    let asked = point.clone();
    // A mount whose daemon hangs answers nobody; the thread goes with the process.
    // What is kept of a dead mount's attributes still shows; its space is asked for each time.
    std::thread::spawn(move || {
        let space = rustix::fs::statvfs(&asked).map_err(std::io::Error::from);
        let stands = space.and_then(|_| asked.metadata().map(|found| found.is_dir()));
        // Nobody waits any more where it took too long.
        let _ = told.send(stands);
    });
    match answer.recv_timeout(PATIENCE) {
        Err(_) => bad(
            "mount",
            format!("{shown} does not answer: its daemon hangs"),
        ),
        Ok(Err(e)) if e.raw_os_error() == Some(libc::ENOTCONN) => bad(
            "mount",
            format!(
                "what was mounted on {shown} is dead: the next start clears it away, or umount -l {shown}"
            ),
        ),
        Ok(Ok(true)) if twintree_fuse::stands_on(&point) => {
            good("mount", format!("a twintree stands on {shown}"))
        }
        Ok(Ok(true)) => good(
            "mount",
            format!("nothing stands on {shown}; serve mounts there"),
        ),
        Ok(Ok(false)) => bad("mount", format!("{shown} is no directory")),
        Ok(Err(e)) => bad("mount", format!("{shown}: {e}: mkdir -p it first")),
    }
}
