//! Where connections come from: TCP and Unix listeners, bound before the server starts, so that a
//! test binds port 0 and a wrong address is an error of the start.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpStream, UnixStream};

/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 1024;

/// A bound listener, in the clear or with TLS.
pub struct Listener {
    kind: Kind,
    tls: Option<Arc<rustls::ServerConfig>>,
}

enum Kind {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// Where a Unix socket lies.
enum SocketFile {
    /// We made it, and remove it.
    Ours(OwnedPath),
    /// Who handed the socket over keeps it.
    Theirs(PathBuf),
}

impl SocketFile {
    fn path(&self) -> &Path {
        match self {
            Self::Ours(OwnedPath(path)) | Self::Theirs(path) => path,
        }
    }
}

/// A socket file that is ours to remove.
struct OwnedPath(PathBuf);

impl Drop for OwnedPath {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "the socket file stays");
        }
    }
}

/// Where a listener can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An address and port, and whether TLS is spoken there.
    Tcp {
        /// The bound address.
        address: SocketAddr,
        /// Is TLS spoken?
        tls: bool,
    },
    /// A socket file.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, tls } => {
                write!(f, "{}://{address}", if *tls { "https" } else { "http" })
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listener {
    /// Binds TCP addresses. `[::]:PORT` also takes IPv4 clients, unless an IPv4 address with the same
    /// port is among them.
    ///
    /// # Errors
    /// What binding says, with the address.
    pub fn tcp(addresses: &[SocketAddr]) -> io::Result<Vec<Self>> {
        let bind_one = |address: &SocketAddr| {
            let listener = bind_tcp(*address, leaves_v4_alone(*address, addresses));
            listener.map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
        };
        addresses.iter().map(bind_one).collect()
    }

    /// Binds a Unix socket; a socket file that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// What binding says, with the path; `AddrInUse` also where the path is no socket.
    pub fn unix(path: &Path) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        remove_stale_socket(path).map_err(named)?;
        let listener = std::os::unix::net::UnixListener::bind(path).map_err(named)?;
        listener.set_nonblocking(true).map_err(named)?;
        Ok(Self {
            kind: Kind::Unix(listener, SocketFile::Ours(OwnedPath(path.to_owned()))),
            tls: None,
        })
    }

    /// Takes a listening socket of any kind that a service manager holds, and goes on holding after us: what comes while
    /// nobody serves waits in its backlog.
    ///
    /// # Errors
    /// `InvalidInput` where it is no listening stream socket of ours to serve, with the reason.
    pub fn held(socket: OwnedFd) -> io::Result<Self> {
        let refused = |why: &str| {
            let text = format!("descriptor {} {why}", socket.as_raw_fd());
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        let is_stream = sockopt::socket_type(&socket).map(|kind| kind == SocketType::STREAM);
        if !is_stream.map_err(|_| refused("is no socket"))? {
            return Err(refused("is no stream socket"));
        }
        if !sockopt::socket_acceptconn(&socket)? {
            return Err(refused("does not listen"));
        }
        match sockopt::socket_domain(&socket)? {
            AddressFamily::INET | AddressFamily::INET6 => Self::from_tcp(socket.into()),
            AddressFamily::UNIX => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                let address = listener.local_addr()?;
                let path = match (address.as_pathname(), address.as_abstract_name()) {
                    (Some(path), _) => path.to_owned(),
                    (None, Some(name)) => PathBuf::from(format!("@{}", name.escape_ascii())),
                    (None, None) => PathBuf::from("@"),
                };
                Ok(Self {
                    kind: Kind::Unix(listener, SocketFile::Theirs(path)),
                    tls: None,
                })
            }
            _ => Err(refused("is neither TCP nor Unix")),
        }
    }

    /// Do its clients come over TCP?
    pub fn is_tcp(&self) -> bool {
        matches!(self.kind, Kind::Tcp(_))
    }

    /// Takes a TCP listener that somebody else bound (systemd, a test).
    ///
    /// # Errors
    /// What making it non-blocking says.
    pub fn from_tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            kind: Kind::Tcp(listener),
            tls: None,
        })
    }

    /// Speaks TLS on it.
    pub fn with_tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Where it can be reached: the real port where port 0 was asked for.
    ///
    /// # Errors
    /// What getsockname says.
    pub fn endpoint(&self) -> io::Result<Endpoint> {
        Ok(match &self.kind {
            Kind::Tcp(listener) => Endpoint::Tcp {
                address: listener.local_addr()?,
                tls: self.tls.is_some(),
            },
            Kind::Unix(_, file) => Endpoint::Unix(file.path().to_owned()),
        })
    }

    /// Gives it to the runtime.
    pub(crate) fn start(self) -> io::Result<Accepting> {
        let kind = match self.kind {
            Kind::Tcp(listener) => AcceptingKind::Tcp(tokio::net::TcpListener::from_std(listener)?),
            Kind::Unix(listener, file) => {
                AcceptingKind::Unix(tokio::net::UnixListener::from_std(listener)?, file)
            }
        };
        Ok(Accepting {
            kind,
            tls: self.tls,
        })
    }
}

/// Says whether an IPv4 address among the others wants the same port: then the IPv6 one must not take it.
fn leaves_v4_alone(address: SocketAddr, all: &[SocketAddr]) -> bool {
    address.is_ipv6()
        && address.port() != 0
        && all
            .iter()
            .any(|other| other.is_ipv4() && other.port() == address.port())
}

fn bind_tcp(address: SocketAddr, only_v6: bool) -> io::Result<Listener> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, only_v6)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Listener::from_tcp(socket.into())
}

fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let is_socket = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type().is_socket(),
        Err(_) => return Ok(()), // binding will say what is wrong
    };
    if !is_socket {
        return Ok(());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => Ok(()), // somebody listens: binding fails with AddrInUse
    }
}

/// A listener at work.
pub(crate) struct Accepting {
    kind: AcceptingKind,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
}

enum AcceptingKind {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener, SocketFile),
}

/// An accepted connection.
pub(crate) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// An address.
    Tcp(SocketAddr),
    /// A process on this machine.
    Unix,
}

impl Accepting {
    /// Waits for the next connection. Safe to drop while waiting.
    pub(crate) async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match &self.kind {
            AcceptingKind::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok((Accepted::Tcp(stream), Peer::Tcp(address)))
            }
            AcceptingKind::Unix(listener, _file) => {
                let (stream, _unnamed) = listener.accept().await?;
                Ok((Accepted::Unix(stream), Peer::Unix))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v6_beside_v4_on_one_port_leaves_v4_alone() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let all = [
            address("0.0.0.0:9000"),
            address("[::]:9000"),
            address("[::]:9001"),
        ];
        assert_eq!(
            all.map(|address| leaves_v4_alone(address, &all)),
            [false, true, false]
        );

        let bound = Listener::tcp(&[address("127.0.0.1:0")]).expect("loopback has a free port");
        let Endpoint::Tcp {
            address: v4,
            tls: false,
        } = bound[0].endpoint().expect("a bound socket has a name")
        else {
            panic!("a TCP listener has a TCP endpoint");
        };
        assert_ne!(v4.port(), 0);
        drop(bound);
        let both = Listener::tcp(&[v4, SocketAddr::new(address("[::1]:0").ip(), v4.port())])
            .expect("both bind");
        assert_eq!(
            both[1].endpoint().expect("a name").to_string(),
            format!("http://[::1]:{}", v4.port())
        );
        let taken = Listener::tcp(&[v4]).err().expect("the port is taken");
        assert!(
            taken.kind() == io::ErrorKind::AddrInUse
                && taken.to_string().starts_with(&v4.to_string())
        );
    }

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_live_one_or_a_plain_file_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("s3.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket file")); // leaves the file
        let listener = Listener::unix(&path).expect("a stale socket is replaced");
        assert_eq!(
            Listener::unix(&path).err().map(|e| e.kind()),
            Some(io::ErrorKind::AddrInUse)
        );
        drop(listener);
        assert!(!path.exists(), "our socket file goes with the listener");
        std::fs::write(&path, "mine").expect("a plain file");
        assert!(Listener::unix(&path).is_err());
        assert_eq!(std::fs::read(&path).expect("it is still there"), b"mine");
    }
}
