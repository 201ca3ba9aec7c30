//! What a service manager hands over and wants to hear: listening sockets, readiness, watchdog pings.
//!
//! sd_listen_fds(3) and sd_notify(3), which are a few lines each. Without a service manager nothing here does anything.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use tokio::time::timeout;

/// SD_LISTEN_FDS_START: the first descriptor that a service manager hands over.
const FIRST: RawFd = 3;
/// What sockets of the admin listener are called.
const ADMIN: &str = "admin";
/// More sockets than anybody means.
const MOST: RawFd = 256;
/// How often the state is looked at where there is no watchdog.
const USUAL: Duration = Duration::from_secs(10);

/// The sockets that a service manager holds for us, each list in its order; empty where it handed over none to this
/// process.
#[derive(Debug, Default)]
pub struct Held {
    /// Those of the S3 face.
    pub s3: Vec<OwnedFd>,
    /// Those with the name `admin` (`FileDescriptorName=`).
    pub admin: Vec<OwnedFd>,
}

/// Takes over what a service manager holds for us.
///
/// # Errors
/// The environment promises what is not there.
pub fn sockets(env: impl Fn(&str) -> Option<String>) -> Result<Held> {
    let mine = env("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    let Some(count) = env("LISTEN_FDS").filter(|_| mine) else {
        return Ok(Held::default());
    };
    let count = count.parse::<RawFd>().ok();
    let Some(count) = count.filter(|count| (0..=MOST).contains(count)) else {
        bail!("LISTEN_FDS is no number from 0 to {MOST}");
    };
    let names = env("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut held = Held::default();
    for number in FIRST..FIRST + count {
        let list = match names.next() {
            Some(ADMIN) => &mut held.admin,
            _ => &mut held.s3,
        };
        list.push(take(number)?);
    }
    Ok(held)
}

/// Takes a descriptor over that a service manager left open for us.
fn take(number: RawFd) -> Result<OwnedFd> {
    let promised = || format!("LISTEN_FDS promises descriptor {number}");
    // SAFETY: it is only asked for its flags, which fails where it is not open.
    let seen = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(seen).with_context(promised)?;
    // No helper (fusermount3) may keep the socket open after us.
    fcntl_setfd(seen, flags | FdFlags::CLOEXEC).with_context(promised)?;
    // SAFETY: it is open, and nobody in this process knows it: sockets() is called once, and what we open ourselves
    // gets numbers that are free.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The way to tell a service manager how we are.
#[derive(Debug)]
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Finds out whom to tell, and how often.
    ///
    /// # Errors
    /// `NOTIFY_SOCKET` is no address.
    pub fn new(env: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let to = match env("NOTIFY_SOCKET") {
            Some(text) => {
                let address = address(&text).with_context(|| format!("NOTIFY_SOCKET={text}"))?;
                let socket = UnixDatagram::unbound().context("no socket")?;
                // Who does not read what we say must not stop us.
                socket.set_nonblocking(true).context("no socket")?;
                Some((socket, address))
            }
            None => None,
        };
        let mine = env("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let micros = env("WATCHDOG_USEC").filter(|_| mine && to.is_some());
        let micros = micros.and_then(|text| text.parse::<u64>().ok());
        let watchdog = micros.filter(|n| *n > 0).map(Duration::from_micros);
        Ok(Self { to, watchdog })
    }

    /// We serve.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// We leave, and take `time` at most.
    pub fn stopping(&self, time: Duration) {
        let micros = time.as_micros();
        self.tell(&format!(
            "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC={micros}"
        ));
    }

    fn tell(&self, state: &str) {
        let Some((socket, address)) = &self.to else {
            return;
        };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::warn!(%error, "the service manager cannot be told {state:?}");
        }
    }

    /// Tells that we live for as long as we do: a ping goes out only after the service, asked on this very runtime, has
    /// answered. What the root says goes into the status alone: a disk that hangs would hang after a restart as well.
    pub async fn keep_telling<Answer>(
        self: Arc<Self>,
        ask: impl Fn() -> Answer,
        roots: Vec<PathBuf>,
        serving: String,
    ) where
        Answer: Future<Output = bool>,
    {
        if self.to.is_none() {
            return;
        }
        let every = self.watchdog.map_or(USUAL, |within| within / 3);
        let mut turns = tokio::time::interval(every);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut said = serving.clone();
        let mut look = None;
        loop {
            turns.tick().await;
            if timeout(every, ask()).await == Ok(true) && self.watchdog.is_some() {
                self.tell("WATCHDOG=1");
            }
            // One look at a time: a disk that hangs takes one thread, not one more at each turn.
            let task = look.get_or_insert_with(|| {
                let roots = roots.clone();
                tokio::task::spawn_blocking(move || {
                    let gone =
                        |root: PathBuf| std::fs::symlink_metadata(&root).err().map(|e| (root, e));
                    roots.into_iter().find_map(gone)
                })
            });
            let status = match timeout(every, &mut *task).await {
                Err(_elapsed) => format!("{} does not answer", listed(&roots)),
                Ok(seen) => {
                    look = None;
                    match seen {
                        Ok(None) => serving.clone(),
                        Ok(Some((root, error))) => format!("{}: {error}", root.display()),
                        Err(_) => continue, // the runtime ends
                    }
                }
            };
            if status != said {
                tracing::warn!(status, "the state changed");
                self.tell(&format!("STATUS={status}"));
                said = status;
            }
        }
    }
}

/// Paths in words.
pub fn listed(roots: &[PathBuf]) -> String {
    let shown: Vec<String> = roots
        .iter()
        .map(|root| root.display().to_string())
        .collect();
    shown.join(", ")
}

/// A path, or `@` and a name in the abstract namespace.
fn address(text: &str) -> Result<SocketAddr> {
    Ok(match text.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if Path::new(text).is_absolute() => SocketAddr::from_pathname(text)?,
        None => return Err(anyhow!("neither a path nor an abstract name")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        let pairs: Vec<(String, String)> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        move |name| {
            pairs
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
        }
    }

    #[test]
    fn what_another_process_was_handed_is_not_taken() {
        let mine = std::process::id().to_string();
        let none = |pairs: &[(&str, &str)]| {
            let held = sockets(said(pairs)).expect("no error");
            held.s3.is_empty() && held.admin.is_empty()
        };
        assert!(none(&[]));
        assert!(none(&[("LISTEN_FDS", "1")]));
        assert!(none(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "1")]));
        assert!(none(&[("LISTEN_FDS", "0"), ("LISTEN_PID", &mine)]));
        for wrong in ["-1", "x", "257"] {
            let refused = sockets(said(&[("LISTEN_FDS", wrong), ("LISTEN_PID", &mine)]));
            assert!(refused.is_err(), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_goes_out_only_after_an_answer() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let heard = UnixDatagram::bind(&path).expect("a socket");
        heard.set_nonblocking(true).expect("a socket");
        let pings = || {
            let mut message = [0; 256];
            let mut count = 0;
            while let Ok(length) = heard.recv(&mut message) {
                count += usize::from(&message[..length] == b"WATCHDOG=1");
            }
            count
        };
        let path = path.display().to_string();
        let pairs = [
            ("NOTIFY_SOCKET", path.as_str()),
            ("WATCHDOG_USEC", "3000000"),
        ];
        let notifier = Arc::new(Notifier::new(said(&pairs)).expect("an address"));
        let (say, asked) = tokio::sync::watch::channel("yes");
        let ask = move || {
            let said = *asked.borrow();
            async move {
                match said {
                    "never" => std::future::pending().await,
                    other => other == "yes",
                }
            }
        };
        let root = dir.path().to_owned();
        tokio::spawn(notifier.keep_telling(ask, vec![root], "serving".to_owned()));
        for (answer, heard) in [
            ("yes", true),
            ("no", false),
            ("yes", true),
            ("never", false),
        ] {
            say.send_replace(answer);
            tokio::time::sleep(Duration::from_secs(3)).await; // what was on its way
            pings();
            tokio::time::sleep(Duration::from_secs(30)).await;
            assert_eq!(pings() > 5, heard, "{answer}");
        }
    }

    #[test]
    fn the_watchdog_of_another_process_is_not_fed() {
        let within =
            |pairs: &[(&str, &str)]| Notifier::new(said(pairs)).expect("an address").watchdog;
        let (socket, usec) = (
            ("NOTIFY_SOCKET", "@twintree-test"),
            ("WATCHDOG_USEC", "3000000"),
        );
        let three = Some(Duration::from_secs(3));
        assert_eq!(within(&[socket, usec]), three);
        let mine = std::process::id().to_string();
        assert_eq!(within(&[socket, usec, ("WATCHDOG_PID", &mine)]), three);
        assert_eq!(within(&[socket, usec, ("WATCHDOG_PID", "1")]), None);
        assert_eq!(within(&[usec]), None);
        assert!(Notifier::new(said(&[("NOTIFY_SOCKET", "relative")])).is_err());
    }
}
