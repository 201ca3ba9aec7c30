//! What the user said: arguments and environment, as text. What it means is `config.rs`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::{BoolishValueParser, Resettable};
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

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

const KEYS: &str = "\
Keys:
  --credentials FILE, else TWINTREE_ACCESS_KEY and TWINTREE_SECRET_KEY (or TWINTREE_ACCESS_KEY_FILE and
  TWINTREE_SECRET_KEY_FILE with the paths of files), else systemd's credential \"twintree.credentials\", else
  TWINTREE_CREDENTIALS, else the config file, else the state directory, where the first start makes a key and
  prints it once.";

const IMPORT: &str = "\
Every file that the other gateway recorded an ETag of is read once. Where its bytes bear the ETag out (by their MD5; of
an upload in parts, by the MD5s of the parts or a checksum of the whole) S3 shows the same ETag, checksum, metadata and tags as before; else the
ETag of its bytes. Only extended attributes change, and what is the other's stays. Interrupt it when you like, and repeat.
Not taken over: users, ACLs and policies, uploads under way, versions, and what lies in a sidecar directory.

  twintree import versitygw /srv/s3          say what is there
  twintree import versitygw /srv/s3 --yes    take it over";

const STRIP: &str = "\
It takes out the xattrs user.twintree and user.twintree.*, and the directories .twintree, after it said what is lost
with them: metadata and tags that S3 clients gave, objects whose keys no path can hold, uploads that are not
completed. Files, folders, links, other xattrs and mtimes stay. Exit code 1: something was left, and is named.

  twintree strip /srv/nas          say what is there
  twintree strip /srv/nas --yes    take it out";
const SEAL: &str = "\
A file that came by cp or rsync has an ETag at once, but one that is derived from its times and ends in -1. This
reads such files once and records their MD5 as ETag (or what --etag says) and their CRC64NVME as checksum, in an
extended attribute; also of files that were changed or touched since they were recorded. Content, mtime and (where we may) atime
stay as they are. The ETag from before goes on being accepted in If-Match.

It may run beside `twintree serve` on the same tree and beside programs that write: a file that is being written
is left for later, and no record is made of what changed while it was read. Interrupt it at any time and run it
again: what is recorded already is not read again.

Exit code: 0; 1 where something could not be read or recorded (it is named on standard error); 130 after SIGINT.

  twintree seal /srv/s3 --dry-run
  twintree seal /srv/s3 photos/2024 --rate 100MiB";

const INVENTORY: &str = "\
Fields: key, size in bytes, mtime (UTC, nanoseconds), etag as HEAD answers it, crc64nvme (base64), state.
States:
  valid       the record speaks of the content: etag and checksum are of these bytes
  stale       the file was changed since it was recorded: etag is derived from inode, size and times
  unverified  it was touched (chmod, mv, cp -a): etag is derived until the content was read again
  none        nobody PUT it and it was not sealed: etag is derived
Only valid rows have a checksum. `twintree seal` makes the others valid.

Nothing is written into the tree. An entry that cannot be read is named on standard error, the rest is printed,
and the exit code is 1.

Before and after a migration that keeps extended attributes (cp -a, rsync -aX); sealed first, so that every ETag is one
that a copy keeps:
  twintree seal /old photos
  twintree inventory /old photos > before.csv
  cp -a /old /new
  twintree inventory /new photos --verify mtime > after.csv
  diff before.csv after.csv";

const MOUNT: &str = "\
Example:
  mkdir -p /mnt/buckets && twintree mount /srv/s3 /mnt/buckets
ends with SIGTERM or Ctrl-C, and unmounts. Beside a `serve` of its own on the same tree, each shows what the
other did within a second (--mount-ttl); one process does it at once: `twintree serve /srv/s3 --mount
/mnt/buckets`.";

impl Cli {
    /// Reads the command line and the environment. A variable that is set and empty counts as not set.
    ///
    /// # Errors
    /// What clap says, help and version included.
    pub fn read() -> Result<Self, clap::Error> {
        Self::read_from(std::env::args_os())
    }

    /// What `serve` would be told for a directory, by this config file and the environment.
    ///
    /// # Errors
    /// A word in the environment that cannot be.
    pub fn serve_of(dir: &Path, config: Option<&Path>) -> Result<Serve, clap::Error> {
        let mut words: Vec<OsString> = vec!["twintree".into(), "serve".into()];
        if let Some(config) = config {
            words.extend(["--config".into(), config.into()]);
        }
        words.extend(["--".into(), dir.into()]);
        match Self::read_from(words)?.command {
            Command::Serve(serve) => Ok(*serve),
            _ => unreachable!("it is what was asked for"),
        }
    }

    fn read_from(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let empty = |arg: &clap::Arg| {
            let variable = arg.get_env().and_then(std::env::var_os);
            variable.is_some_and(|value| value.is_empty())
        };
        let without_empty = |command: clap::Command| {
            command.mut_args(|arg| match empty(&arg) {
                true => arg.env(Resettable::Reset),
                false => arg,
            })
        };
        let mut command = Self::command();
        for name in ["serve", "mount", "doctor", "seal", "inventory"] {
            command = command.mut_subcommand(name, without_empty);
        }
        command = command.mut_subcommand("config", |mut command| {
            for name in ["check", "show"] {
                command = command.mut_subcommand(name, without_empty);
            }
            command
        });
        let matches = command.try_get_matches_from(words)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        let mut found = &matches;
        while let Some((_, inner)) = found.subcommand() {
            found = inner;
        }
        if let Some(serve) = cli.serve() {
            serve.said = Said::of(found);
            let credentials = serve.said.of_setting("credentials");
            serve.credentials_by_flag =
                credentials.is_some_and(|(source, _)| source == Source::Flag);
        }
        Ok(cli)
    }

    /// The options of `serve`, where they were asked for.
    fn serve(&mut self) -> Option<&mut Serve> {
        match &mut self.command {
            Command::Serve(serve) => Some(serve),
            Command::Config(ConfigCommand::Check(serve) | ConfigCommand::Show(serve)) => {
                Some(serve)
            }
            _ => None,
        }
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the directories under ROOT as S3 buckets
    #[command(after_help = KEYS)]
    Serve(Box<Serve>),
    /// Mount the buckets under ROOT as a file system, without serving S3
    #[command(after_help = MOUNT)]
    Mount(Box<MountAlone>),
    /// Probe a directory's filesystem and explain what twintree can do on it
    Doctor {
        /// The directory; the probe works in a directory of its own there and removes it again
        dir: PathBuf,
        /// Look only: make nothing, not even for the probe
        #[arg(long)]
        read_only: bool,
        /// The config file of `serve`: its addresses and its mount point are looked at
        #[arg(long, value_name = "FILE", env = "TWINTREE_CONFIG")]
        config: Option<PathBuf>,
        /// Tell instead what the directory is as S3: which files are no objects, and which keys or files are odd; writes nothing
        #[arg(long)]
        as_s3: bool,
        /// With --as-s3: `text`, or `jsonl` for each finding as a line of JSON and a summary as the last
        #[arg(
            long,
            value_name = "FORMAT",
            default_value = "text",
            requires = "as_s3"
        )]
        format: String,
    },
    /// Compute ETag (MD5) and checksum of files that nobody PUT, so that S3 clients see real ones
    #[command(after_help = SEAL)]
    Seal(Box<Seal>),
    /// List every object of a bucket with size, mtime, ETag and checksum, to compare before and after a migration
    #[command(after_help = INVENTORY)]
    Inventory(Box<Inventory>),
    /// Write man pages and completions, for packages
    #[command(hide = true)]
    Generate {
        /// Where `man/` and `completions/` are made
        dir: PathBuf,
    },
    /// Judge the configuration of `serve`, or show it, without serving
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Take over, in place, what another gateway recorded of a tree
    #[command(subcommand)]
    Import(ImportCommand),
    /// Take out of a tree what twintree put there: say what it is, and with --yes do it
    #[command(after_help = STRIP)]
    Strip {
        /// The served directory, or one bucket of it; no daemon may serve it meanwhile
        dir: PathBuf,
        /// Do it; without this it is only said what would be taken out, and what would be lost
        #[arg(long)]
        yes: bool,
    },
    /// Print what is recorded of a file, in words
    Inspect {
        /// The file
        file: PathBuf,
    },
}

/// What is done with the configuration of `serve`: the same flags, variables and file count.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether `serve` would take it: words, values, the directory, keys, certificate, mount point
    Check(Box<Serve>),
    /// Print every setting with what counts and where it was said; secrets are not shown
    Show(Box<Serve>),
}

/// Whose records are taken over.
#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Of versitygw's posix backend: ETags, checksums, metadata and tags that lie in its extended attributes
    #[command(after_help = IMPORT)]
    Versitygw {
        /// The directory that it served, whose directories are buckets
        root: PathBuf,
        /// Do it; without this it is only said what would be taken over
        #[arg(long)]
        yes: bool,
    },
    /// Of MinIO's filesystem mode (releases before June 2022): ETags, metadata and tags that lie in its .minio.sys
    #[command(name = "minio-fs", after_help = IMPORT)]
    MinioFs {
        /// The directory that it served, with .minio.sys in it
        root: PathBuf,
        /// Do it; without this it is only said what would be taken over
        #[arg(long)]
        yes: bool,
    },
}

/// Where a word came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
}

/// The words that were said of each setting, and where.
#[derive(Clone, Debug, Default)]
pub struct Said(BTreeMap<String, (Source, Vec<String>)>);

impl Said {
    fn of(found: &clap::ArgMatches) -> Self {
        let mut said = BTreeMap::new();
        for id in found.ids().map(clap::Id::as_str) {
            let source = match found.value_source(id) {
                Some(ValueSource::CommandLine) => Source::Flag,
                Some(ValueSource::EnvVariable) => Source::Environment,
                _ => continue,
            };
            // A group of arguments has no words of its own.
            if let Ok(Some(words)) = found.try_get_raw(id) {
                let words = words.map(|word| word.to_string_lossy().into_owned());
                said.insert(id.replace('_', "-"), (source, words.collect()));
            }
        }
        Self(said)
    }

    /// What was said of a setting.
    pub fn of_setting(&self, name: &str) -> Option<(Source, &[String])> {
        let (source, words) = self.0.get(name)?;
        Some((*source, words))
    }
}

/// The tree that a command works on, as `serve` sees it.
#[derive(Debug, Default, Args)]
pub struct Tree {
    /// The directory whose directories are buckets, as for `serve`
    pub root: PathBuf,
    /// The config file of `serve` (TOML): its `hide`, `verify`, `etag` and `read-only` count here too
    #[arg(long, value_name = "FILE", env = "TWINTREE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Name to leave out at every depth (* stands for any text), as for `serve`; may be given several times
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
}

/// Options of `seal`.
#[derive(Debug, Args)]
pub struct Seal {
    /// The tree.
    #[command(flatten)]
    pub tree: Tree,
    /// Only this bucket, or the part of it whose keys begin with PREFIX [default: every bucket]
    #[arg(value_name = "BUCKET[/PREFIX]")]
    pub part: Option<OsString>,
    /// Read no more than so many bytes a second, all threads together, e.g. 100MiB [default: no limit]
    #[arg(long, value_name = "BYTES")]
    pub rate: Option<String>,
    /// md5|crc64: which ETag is recorded, as for `serve` [default: md5]
    #[arg(long, value_name = "md5|crc64", env = "TWINTREE_ETAG")]
    pub etag: Option<String>,
    /// Files read at once [default: one for each processor, four at most]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Print what would be read, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Options of `inventory`.
#[derive(Debug, Args)]
pub struct Inventory {
    /// The tree.
    #[command(flatten)]
    pub tree: Tree,
    /// The bucket, or the part of it whose keys begin with PREFIX
    #[arg(value_name = "BUCKET[/PREFIX]")]
    pub part: OsString,
    /// csv (RFC 4180, with a header line) or jsonl (one JSON object a line)
    #[arg(long, value_name = "csv|jsonl", default_value = "csv")]
    pub format: String,
}

/// Options of `serve`. Each may also stand in the environment or in the config file; a flag wins over the
/// environment, which wins over the file.
#[derive(Clone, Debug, Default, Args)]
pub struct Serve {
    /// The directory whose directories are buckets; several: new buckets are made in the first, which has a name before others
    #[arg(env = "TWINTREE_ROOT")]
    pub root: Vec<PathBuf>,
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
    /// Domain for virtual-host style requests (BUCKET.DOMAIN), a port is ignored; may be given several times
    #[arg(
        long,
        value_name = "NAME",
        env = "TWINTREE_DOMAIN",
        value_delimiter = ','
    )]
    pub domain: Vec<String>,
    /// TLS certificate chain (PEM); given several times, each with its key, clients are shown the one for the name that they ask for
    #[arg(
        long,
        value_name = "FILE",
        env = "TWINTREE_TLS_CERT",
        value_delimiter = ','
    )]
    pub tls_cert: Vec<PathBuf>,
    /// TLS private key (PEM), one for each certificate, in their order
    #[arg(
        long,
        value_name = "FILE",
        env = "TWINTREE_TLS_KEY",
        value_delimiter = ','
    )]
    pub tls_key: Vec<PathBuf>,
    /// Authorities (PEM): only clients that show a certificate signed by one of them get in over TLS
    #[arg(long, value_name = "FILE", env = "TWINTREE_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,
    /// Refuse every write; write nothing at all into the tree
    // Only with an equals sign, or `--read-only DIR` would take the directory for its value.
    #[arg(
        long,
        value_name = "true|false",
        env = "TWINTREE_READ_ONLY",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    pub read_only: Option<bool>,
    /// Where our own state lies, outside the served tree [default: $STATE_DIRECTORY, else
    /// /var/lib/twintree for root, else ~/.local/state/twintree]
    #[arg(long, value_name = "DIR", env = "TWINTREE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// File with the access key and the secret key, one a line
    #[arg(long, value_name = "FILE", env = "TWINTREE_CREDENTIALS")]
    pub credentials: Option<PathBuf>,
    /// Was `credentials` a flag? Then it wins over keys in the environment.
    #[arg(skip)]
    pub credentials_by_flag: bool,
    /// All words, as they were said.
    #[arg(skip)]
    pub said: Said,
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
    /// md5: the ETag of an object is its MD5; crc64: its CRC64NVME and random bits, 32 digits and -1, for which nothing
    /// is computed that is not anyway. Of one bucket: `[buckets.NAME]` in the config file [default: md5]
    #[arg(long, value_name = "md5|crc64", env = "TWINTREE_ETAG")]
    pub etag: Option<String>,
    /// Which files are read in the background, for an ETag of their content, ten seconds after their last change.
    /// off: none; written: those that arrive or change while we run; all: also those that were there before [default:
    /// written]
    #[arg(long, value_name = "off|written|all", env = "TWINTREE_SEAL")]
    pub seal: Option<String>,
    /// For tests: another quiet time than ten seconds.
    #[arg(long, hide = true, value_name = "TIME", env = "TWINTREE_SEAL_AFTER")]
    pub seal_after: Option<String>,
    /// on: hear at once of what direct writers do (inotify), for sealing and for the mount; off: changes show as
    /// correctly, but in the mount after its TTL, and what arrives directly is not sealed by itself [default: on]
    #[arg(long, value_name = "on|off", env = "TWINTREE_WATCH")]
    pub watch: Option<String>,
    /// For tests: how long after the start the tree's directories are let be.
    #[arg(long, hide = true, value_name = "TIME", env = "TWINTREE_WATCH_AFTER")]
    pub watch_after: Option<String>,
    /// For tests: how often directories without a watch are looked at.
    #[arg(long, hide = true, value_name = "TIME", env = "TWINTREE_WATCH_SWEEP")]
    pub watch_sweep: Option<String>,
    /// For tests: how many directories are watched at most.
    #[arg(long, hide = true, value_name = "N", env = "TWINTREE_WATCH_MOST")]
    pub watch_most: Option<usize>,
    /// For tests: another rest than twenty seconds, after which free memory is given back.
    #[arg(
        long,
        hide = true,
        value_name = "TIME",
        env = "TWINTREE_GIVE_BACK_AFTER"
    )]
    pub give_back_after: Option<String>,
    /// Multipart uploads that nobody touched for so long are removed [default: 7d]
    #[arg(long, value_name = "TIME", env = "TWINTREE_ABANDONED_UPLOADS")]
    pub abandoned_uploads: Option<String>,
    /// Memory for what listings keep: sorted names of folders and ETags; the longest unused goes [default: 172MiB]
    #[arg(long, value_name = "BYTES", env = "TWINTREE_LIST_CACHE")]
    pub list_cache: Option<String>,
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
    /// Also mount the buckets on this empty directory: what S3 finished shows there at once, and the other way
    #[arg(long, value_name = "DIR", env = "TWINTREE_MOUNT")]
    pub mount: Option<PathBuf>,
    /// How it is mounted.
    #[command(flatten)]
    pub mounting: Mounting,
    /// Limits of the HTTP face.
    #[command(flatten)]
    pub limits: Limits,
    /// Where /health/live, /health/ready and /metrics are answered, without a key: ADDR:PORT, :PORT (127.0.0.1 alone) or
    /// unix:PATH [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", env = "TWINTREE_ADMIN")]
    pub admin: Option<String>,
    /// Speak TLS on the admin listener too, with the same certificates [default: in the clear]
    #[arg(
        long,
        value_name = "true|false",
        env = "TWINTREE_ADMIN_TLS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    pub admin_tls: Option<bool>,
    /// Where the console is, a page for browsers at /.twintree/ui/. admin: on the admin listener, where there is one; s3:
    /// beside the objects on the S3 ports; off: nowhere [default: admin]
    #[arg(long, value_name = "admin|s3|off", env = "TWINTREE_CONSOLE")]
    pub console: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "text|json", env = "TWINTREE_LOG_FORMAT")]
    pub log_format: Option<String>,
    /// What to log, as tracing-subscriber's EnvFilter [default: info]
    #[arg(long, value_name = "FILTER", env = "TWINTREE_LOG")]
    pub log: Option<String>,
}

/// How the buckets are mounted.
#[derive(Clone, Debug, Default, Args)]
pub struct Mounting {
    /// Let all users into the mount; the kernel checks their permissions [default: the daemon's user alone]
    #[arg(
        long,
        value_name = "true|false",
        env = "TWINTREE_MOUNT_ALLOW_OTHER",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = BoolishValueParser::new()
    )]
    pub mount_allow_other: Option<bool>,
    /// passthrough: the kernel reads and writes the files itself (Linux 6.9, CAP_SYS_ADMIN); plain: through the
    /// daemon; auto: the former where it can be had [default: auto]
    #[arg(
        long,
        value_name = "auto|plain|passthrough",
        env = "TWINTREE_MOUNT_MODE"
    )]
    pub mount_mode: Option<String>,
    /// How long the mount may show what direct writers changed meanwhile; S3's changes show at once [default: 1s]
    #[arg(long, value_name = "TIME", env = "TWINTREE_MOUNT_TTL")]
    pub mount_ttl: Option<String>,
    /// For tests: `off` leaves the kernel untold of what S3 changes.
    #[arg(
        long,
        hide = true,
        value_name = "on|off",
        env = "TWINTREE_MOUNT_NOTIFY"
    )]
    pub mount_notify: Option<String>,
    /// For tests: mount options in the kernel's words.
    #[arg(
        long,
        hide = true,
        value_name = "OPTION",
        env = "TWINTREE_MOUNT_OPTIONS",
        value_delimiter = ','
    )]
    pub mount_option: Vec<String>,
}

/// Options of `mount`.
#[derive(Debug, Default, Args)]
pub struct MountAlone {
    /// The tree.
    #[command(flatten)]
    pub tree: Tree,
    /// The empty directory to mount on
    pub point: PathBuf,
    /// Let nothing be written through the mount
    #[arg(long)]
    pub read_only: bool,
    /// on: what direct writers change shows at once (inotify); off: after the TTL [default: on]
    #[arg(long, value_name = "on|off", env = "TWINTREE_WATCH")]
    pub watch: Option<String>,
    /// How it is mounted.
    #[command(flatten)]
    pub mounting: Mounting,
    /// What to log, as tracing-subscriber's EnvFilter [default: info]
    #[arg(long, value_name = "FILTER", env = "TWINTREE_LOG")]
    pub log: Option<String>,
}

/// Limits, each with a default that suits a NAS.
#[derive(Clone, Debug, Default, Args)]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn serve(words: &[&str]) -> Result<Serve, clap::Error> {
        let words = ["twintree", "serve"]
            .iter()
            .chain(words)
            .map(OsString::from);
        match Cli::read_from(words)?.command {
            Command::Serve(serve) => Ok(*serve),
            other => panic!("serve was asked for, not {other:?}"),
        }
    }

    #[test]
    fn a_switch_before_the_directory_leaves_the_directory_alone() {
        let said = serve(&["--read-only", "/srv"]).expect("a command line");
        assert_eq!(
            (said.read_only, said.root),
            (Some(true), vec!["/srv".into()])
        );
        let said = serve(&["--read-only=no", "/srv"]).expect("a command line");
        assert_eq!(said.read_only, Some(false));
        assert!(serve(&["--read-only=perhaps", "/srv"]).is_err());
    }

    #[test]
    fn a_credentials_flag_is_known_as_one() {
        let said = serve(&["/srv", "--credentials", "keys"]).expect("a command line");
        assert!(said.credentials_by_flag);
        assert!(
            !serve(&["/srv"])
                .expect("a command line")
                .credentials_by_flag
        );
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
