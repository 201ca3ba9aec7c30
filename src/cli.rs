//! What the user said: arguments and environment, as text. What it means is `config.rs`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Serves an existing directory tree as S3: buckets are directories, objects are files.
#[derive(Debug, Parser)]
#[command(name = "twintree", version, about, after_help = AFTER)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER: &str = "\
Five-minute start:
  mkdir -p ~/s3/photos && twintree serve ~/s3
prints an endpoint, a key and ready snippets for boto3, aws-cli and rclone.";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the directories under ROOT as S3 buckets
    Serve(Box<Serve>),
    /// Probe a directory's filesystem and explain what twintree can do on it
    Doctor {
        /// The directory; the probe works in a directory of its own there and removes it again
        dir: PathBuf,
        /// Look only: make nothing, not even for the probe
        #[arg(long)]
        read_only: bool,
    },
    /// Print what is recorded of a file, in words
    Inspect {
        /// The file
        file: PathBuf,
    },
}

/// Options of `serve`. Each may also stand in the environment or in the config file; a flag wins over the
/// environment, which wins over the file.
#[derive(Debug, Default, Args)]
pub struct Serve {
    /// The directory whose directories are buckets
    pub root: Option<PathBuf>,
    /// Address and port, [IPv6]:port or unix:PATH; may be given several times [default: 127.0.0.1:9000]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "TWINTREE_LISTEN",
        value_delimiter = ','
    )]
    pub listen: Vec<String>,
    /// Config file (TOML); every option may stand in it under its own name
    #[arg(long, value_name = "FILE", env = "TWINTREE_CONFIG")]
    pub config: Option<PathBuf>,
    /// strict: data, record and name are on disk before 200; relaxed: the kernel's write-back [default: strict]
    #[arg(long, value_name = "strict|relaxed", env = "TWINTREE_DURABILITY")]
    pub durability: Option<String>,
    /// any: every legal key; posix-only: refuse keys that cannot be a path [default: any]
    #[arg(long, value_name = "any|posix-only", env = "TWINTREE_KEYS")]
    pub keys: Option<String>,
    /// Domain for virtual-host style requests (BUCKET.DOMAIN); may be given several times
    #[arg(
        long,
        value_name = "NAME",
        env = "TWINTREE_DOMAIN",
        value_delimiter = ','
    )]
    pub domain: Vec<String>,
    /// TLS certificate chain (PEM)
    #[arg(long, value_name = "FILE", env = "TWINTREE_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// TLS private key (PEM)
    #[arg(long, value_name = "FILE", env = "TWINTREE_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Refuse every write; write nothing at all into the tree
    #[arg(long, env = "TWINTREE_READ_ONLY", num_args = 0..=1, default_missing_value = "true")]
    pub read_only: Option<bool>,
    /// Where our own state lies, outside the served tree [default: $STATE_DIRECTORY, else
    /// /var/lib/twintree for root, else ~/.local/state/twintree]
    #[arg(long, value_name = "DIR", env = "TWINTREE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// File with the access key and the secret key, one a line
    #[arg(long, value_name = "FILE", env = "TWINTREE_CREDENTIALS")]
    pub credentials: Option<PathBuf>,
    /// Name to hide and refuse at every depth (* stands for any text); may be given several times
    #[arg(
        long,
        value_name = "NAME",
        env = "TWINTREE_HIDE",
        value_delimiter = ','
    )]
    pub hide: Vec<String>,
    /// stamp: a record counts while size, mtime and ctime say so; mtime: size and mtime suffice [default: stamp]
    #[arg(long, value_name = "stamp|mtime", env = "TWINTREE_VERIFY")]
    pub verify: Option<String>,
    /// off: never read files in the background; written: verify what was sealed before [default: written]
    #[arg(long, value_name = "off|written", env = "TWINTREE_SEAL")]
    pub seal: Option<String>,
    /// Multipart uploads that nobody touched for so long are removed [default: 7d]
    #[arg(long, value_name = "TIME", env = "TWINTREE_ABANDONED_UPLOADS")]
    pub abandoned_uploads: Option<String>,
    /// The region answered to clients that ask [default: us-east-1]
    #[arg(long, value_name = "NAME", env = "TWINTREE_REGION")]
    pub region: Option<String>,
    /// Proxy whose X-Forwarded-For is believed, for the log; may be given several times
    #[arg(
        long,
        value_name = "IP",
        env = "TWINTREE_TRUSTED_PROXY",
        value_delimiter = ','
    )]
    pub trusted_proxy: Vec<String>,
    /// Limits of the HTTP face.
    #[command(flatten)]
    pub limits: Limits,
    /// text or json [default: text]
    #[arg(long, value_name = "text|json", env = "TWINTREE_LOG_FORMAT")]
    pub log_format: Option<String>,
    /// What to log, as tracing-subscriber's EnvFilter [default: info]
    #[arg(long, value_name = "FILTER", env = "TWINTREE_LOG")]
    pub log: Option<String>,
}

/// Limits, each with a default that suits a NAS.
#[derive(Debug, Default, Args)]
pub struct Limits {
    /// Connections at once [default: 4096]
    #[arg(long, value_name = "N", env = "TWINTREE_MAX_CONNECTIONS")]
    pub max_connections: Option<usize>,
    /// From the first byte of a request to the end of its head, e.g. 30s [default: 30s]
    #[arg(long, value_name = "TIME", env = "TWINTREE_HEADER_TIMEOUT")]
    pub header_timeout: Option<String>,
    /// How long a body may bring no byte [default: 60s]
    #[arg(long, value_name = "TIME", env = "TWINTREE_BODY_TIMEOUT")]
    pub body_timeout: Option<String>,
    /// How long a connection may stay open without a request [default: 120s]
    #[arg(long, value_name = "TIME", env = "TWINTREE_IDLE_TIMEOUT")]
    pub idle_timeout: Option<String>,
    /// How long requests in flight may go on after SIGTERM [default: 30s]
    #[arg(long, value_name = "TIME", env = "TWINTREE_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<String>,
    /// Bytes of request line and headers together, e.g. 16K [default: 16K]
    #[arg(long, value_name = "BYTES", env = "TWINTREE_MAX_HEADER")]
    pub max_header: Option<String>,
    /// The largest body of one PUT or part, e.g. 5G [default: 5G]
    #[arg(long, value_name = "BYTES", env = "TWINTREE_MAX_PUT")]
    pub max_put: Option<String>,
}
