//! What the user's words mean: flags over environment over file over default, checked once, before
//! anything is opened.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

mod buckets;
pub mod check;
pub mod document;
mod file;
mod mount;
pub mod show;
mod values;

use anyhow::{Context, Result, anyhow, bail};
use twintree_fuse::MountOptions;
use twintree_gateway::call::Settings;
use twintree_gateway::server::Limits;
use twintree_store::watch::SealPolicy;
use twintree_store::{
    BucketName, BucketOptions, Durability, ETagKind, ETagKinds, KeyPolicy, StoreOptions,
};

use crate::cli;

use file::OfBucket;
pub use file::{File, read_file, read_table};
pub use values::size;
use values::{
    address, admin_address, bytes, domain, duration, is_on, list, paths, verify_mtime_only,
};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

/// Where the console is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleAt {
    /// On the admin listener, where there is one.
    Admin,
    /// On the S3 ports.
    S3,
    /// Nowhere.
    Nowhere,
}

/// Bytes for what listings keep: the store's own default.
const LIST_CACHE: u64 = 172 << 20;

/// Everything that `serve` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The served directory.
    pub root: PathBuf,
    /// More of them.
    pub more_roots: Vec<PathBuf>,
    /// Where to listen.
    pub listen: Vec<Address>,
    /// Where health and metrics are answered.
    pub admin: Vec<Address>,
    /// Over TLS.
    pub admin_tls: bool,
    /// Where the console is.
    pub console: ConsoleAt,
    /// Certificate chains, each with its key.
    pub tls: Vec<(PathBuf, PathBuf)>,
    /// Authorities whose clients alone get in over TLS.
    pub tls_client_ca: Option<PathBuf>,
    /// What is on disk before 200.
    pub durability: Durability,
    /// Which keys are taken.
    pub keys: KeyPolicy,
    /// Write nothing.
    pub read_only: bool,
    /// Our own state.
    pub state_dir: PathBuf,
    /// A file with both keys.
    pub credentials: Option<PathBuf>,
    /// That file was named by a flag, which wins over the environment.
    pub credentials_by_flag: bool,
    /// Names kept back.
    pub hide: Vec<String>,
    /// Equal size and mtime suffice.
    pub verify_mtime_only: bool,
    /// Which ETags objects get.
    pub etags: ETagKinds,
    /// What is said of single buckets.
    pub buckets: BTreeMap<BucketName, BucketOptions>,
    /// What is sealed in the background, and how long after its last change.
    pub seal: SealPolicy,
    /// Another quiet time than the sealer's own.
    pub seal_after: Option<Duration>,
    /// Hear of direct writers at once.
    pub watch: bool,
    /// How long after the start the tree's directories are let be, where not as usual.
    pub watch_after: Option<Duration>,
    /// How often directories without a watch are looked at, where not as usual.
    pub watch_sweep: Option<Duration>,
    /// How many directories are watched at most, where not half of what the system lets us.
    pub watch_most: Option<usize>,
    /// How long a rest is after which free memory is given back, where not as usual.
    pub give_back_after: Option<Duration>,
    /// Uploads that nobody touched for so long are removed.
    pub abandoned_uploads: Duration,
    /// Bytes for what listings keep.
    pub list_cache: u64,
    /// Where and how the buckets are mounted as well.
    pub mount: Option<MountOptions>,
    /// The gateway's own settings.
    pub settings: Settings,
    /// The server's limits.
    pub limits: Limits,
    /// Keys that stand in the config file itself.
    pub inline_keys: Option<(String, String)>,
}

impl Config {
    /// The paths of all roots.
    pub fn roots(&self) -> Vec<PathBuf> {
        let first = std::iter::once(&self.root);
        first.chain(&self.more_roots).cloned().collect()
    }

    /// The paths of all that is served: the roots, and the buckets that are mapped beside it.
    pub fn served(&self) -> impl Iterator<Item = &Path> {
        let mapped = self
            .buckets
            .values()
            .filter_map(|said| said.path.as_deref());
        let more = self.more_roots.iter().map(PathBuf::as_path);
        std::iter::once(self.root.as_path())
            .chain(more)
            .chain(mapped)
    }

    /// How the store is opened.
    pub fn store(&self) -> StoreOptions {
        StoreOptions {
            root: self.root.clone(),
            more_roots: self.more_roots.clone(),
            durability: self.durability,
            keys: self.keys,
            read_only: self.read_only,
            hide: self.hide.clone(),
            verify_mtime_only: self.verify_mtime_only,
            etags: self.etags.clone(),
            buckets: self.buckets.clone(),
        }
    }

    /// What is sealed in the background: nothing where nothing is written.
    pub fn seal_policy(&self) -> SealPolicy {
        match self.read_only {
            true => SealPolicy::Off,
            false => self.seal,
        }
    }
}

/// How to log: format and filter, needed before anything else.
pub fn logging(args: &cli::Serve, file: &File) -> Result<(bool, String)> {
    let json = match args
        .log_format
        .as_ref()
        .or(file.log_format.as_ref())
        .map_or("text", String::as_str)
    {
        "text" => false,
        "json" => true,
        other => bail!("log-format is text or json, not {other:?}"),
    };
    Ok((
        json,
        args.log
            .clone()
            .or_else(|| file.log.clone())
            .unwrap_or_else(|| "info".to_owned()),
    ))
}

/// Joins what was said into what is meant.
///
/// # Errors
/// A value that cannot be: the message names it and what is allowed.
pub fn resolve(args: cli::Serve, file: File) -> Result<Config> {
    let mut roots = paths(args.root, file.root).into_iter();
    let root = roots
        .next()
        .ok_or_else(|| anyhow!("no directory to serve: twintree serve DIR"))?;
    let listen = list(args.listen, file.listen, &["127.0.0.1:9000"]);
    let listen = listen
        .iter()
        .map(|text| address(text))
        .collect::<Result<Vec<_>>>()?
        .concat();
    let admin = args.admin.or(file.admin);
    let admin = admin.as_deref().map_or(Ok(Vec::new()), admin_address)?;
    let (certificates, tls_keys) = (
        paths(args.tls_cert, file.tls_cert),
        paths(args.tls_key, file.tls_key),
    );
    if certificates.len() != tls_keys.len() {
        bail!("tls-cert and tls-key go together, as many of the one as of the other");
    }
    let tls: Vec<_> = certificates.into_iter().zip(tls_keys).collect();
    let tls_client_ca = args.tls_client_ca.or(file.tls_client_ca);
    if tls.is_empty() && tls_client_ca.is_some() {
        bail!("tls-client-ca says who gets in over TLS, which takes tls-cert and tls-key");
    }
    let admin_tls = args.admin_tls.or(file.admin_tls).unwrap_or(false);
    if admin_tls && tls.is_empty() {
        bail!(
            "admin-tls shows the certificates of tls-cert, and there are none: give tls-cert and tls-key"
        );
    }
    let pick = |flag: Option<String>, file: Option<String>, default: &str| {
        flag.or(file).unwrap_or_else(|| default.to_owned())
    };
    let durability = pick(args.durability, file.durability, "strict");
    let durability = buckets::durability("durability", &durability)?;
    let console = match pick(args.console, file.console, "admin").as_str() {
        "admin" => ConsoleAt::Admin,
        "s3" => ConsoleAt::S3,
        "off" => ConsoleAt::Nowhere,
        other => bail!("console is admin, s3 or off, not {other:?}"),
    };
    let keys = match pick(args.keys, file.keys, "any").as_str() {
        "any" => KeyPolicy::Any,
        "posix-only" => KeyPolicy::PosixOnly,
        other => bail!("keys is any or posix-only, not {other:?}"),
    };
    let verify_mtime_only = verify_mtime_only(args.verify, file.verify)?;
    let etags = etags(args.etag, file.etag, &file.buckets)?;
    let buckets = buckets::options(file.buckets)?;
    let seal = match pick(args.seal, file.seal, "written").as_str() {
        "off" => SealPolicy::Off,
        "written" => SealPolicy::Written,
        "all" => SealPolicy::All,
        other => bail!("seal is off, written or all, not {other:?}"),
    };
    let time = |name: &str, text: Option<String>| {
        text.map(|text| duration(&text).with_context(|| format!("{name}: {text:?} is no time")))
            .transpose()
    };
    let seal_after = time("seal-after", args.seal_after)?;
    let watch_after = time("watch-after", args.watch_after)?;
    let watch_sweep = time("watch-sweep", args.watch_sweep)?;
    let give_back_after = time("give-back-after", args.give_back_after)?;
    let watch = is_on("watch", args.watch, file.watch)?;
    let inline_keys = match (file.access_key, file.secret_key) {
        (Some(access), Some(secret)) => Some((access, secret)),
        (None, None) => None,
        _ => bail!("access-key and secret-key go together"),
    };
    let seconds =
        |name: &str, flag: Option<String>, file: Option<String>, default: Duration| match flag
            .or(file)
        {
            Some(text) => duration(&text).with_context(|| {
                format!("{name}: {text:?} is no time such as 500ms, 30s, 2m or 7d")
            }),
            None => Ok(default),
        };
    let size = |name: &str, flag: Option<String>, file: Option<String>, default: u64| match flag
        .or(file)
    {
        Some(text) => bytes(&text)
            .with_context(|| format!("{name}: {text:?} is no size such as 16K, 5M or 5G")),
        None => Ok(default),
    };
    let (defaults, limit) = (Limits::default(), args.limits);
    let limits = Limits {
        connections: limit
            .max_connections
            .or(file.max_connections)
            .unwrap_or(defaults.connections)
            .max(1),
        header_timeout: seconds(
            "header-timeout",
            limit.header_timeout,
            file.header_timeout,
            defaults.header_timeout,
        )?,
        body_idle: seconds(
            "body-timeout",
            limit.body_timeout,
            file.body_timeout,
            defaults.body_idle,
        )?,
        keep_alive_idle: seconds(
            "idle-timeout",
            limit.idle_timeout,
            file.idle_timeout,
            defaults.keep_alive_idle,
        )?,
        drain: seconds(
            "drain-timeout",
            limit.drain_timeout,
            file.drain_timeout,
            defaults.drain,
        )?,
        header_bytes: size(
            "max-header",
            limit.max_header,
            file.max_header,
            defaults.header_bytes as u64,
        )? as usize,
        ..defaults
    };
    let list_cache = size("list-cache", args.list_cache, file.list_cache, LIST_CACHE)?;
    let abandoned_uploads = seconds(
        "abandoned-uploads",
        args.abandoned_uploads,
        file.abandoned_uploads,
        Duration::from_secs(7 * 24 * 3600),
    )?;
    let proxies = list(args.trusted_proxy, file.trusted_proxy, &[]);
    let proxy = |text: &String| {
        text.parse::<IpAddr>()
            .with_context(|| format!("trusted-proxy: {text:?} is no IP address"))
    };
    let settings = Settings {
        domains: list(args.domain, file.domain, &[])
            .iter()
            .map(|text| domain(text))
            .collect::<Result<_>>()?,
        region: pick(args.region, file.region, "us-east-1"),
        max_put: size("max-put", limit.max_put, file.max_put, 5 << 30)?,
        trusted_proxies: proxies.iter().map(proxy).collect::<Result<_>>()?,
        ..Settings::default()
    };
    let mounting = args
        .mounting
        .or(file.mount_allow_other, file.mount_mode, file.mount_ttl);
    let mount = args.mount.or(file.mount);
    let mount = mount.map(|point| mount::options(point, mounting));
    Ok(Config {
        mount: mount.transpose()?,
        root,
        more_roots: roots.collect(),
        listen,
        admin,
        admin_tls,
        console,
        tls,
        tls_client_ca,
        durability,
        keys,
        read_only: args.read_only.or(file.read_only).unwrap_or(false),
        state_dir: args
            .state_dir
            .or(file.state_dir)
            .map_or_else(default_state_dir, Ok)?,
        credentials: args.credentials.or(file.credentials),
        credentials_by_flag: args.credentials_by_flag,
        hide: list(args.hide, file.hide, &[]),
        verify_mtime_only,
        etags,
        buckets,
        seal,
        seal_after,
        watch,
        watch_after,
        watch_sweep,
        watch_most: args.watch_most,
        give_back_after,
        abandoned_uploads,
        list_cache,
        settings,
        limits,
        inline_keys,
    })
}

/// How a command that serves nothing opens the tree; `etag` is its flag, if it has that.
///
/// # Errors
/// As [`resolve`].
pub fn tree(args: cli::Tree, etag: Option<String>, file: File) -> Result<StoreOptions> {
    Ok(StoreOptions {
        etags: etags(etag, file.etag, &file.buckets)?,
        buckets: buckets::options(file.buckets)?,
        root: args.root,
        more_roots: Vec::new(),
        durability: Durability::Strict,
        keys: KeyPolicy::Any,
        read_only: file.read_only.unwrap_or(false),
        hide: list(args.hide, file.hide, &[]),
        verify_mtime_only: verify_mtime_only(args.verify, file.verify)?,
    })
}

/// How `mount` mounts, and what, and whether it hears of direct writers at once.
///
/// # Errors
/// As [`resolve`].
pub fn mount_alone(
    args: cli::MountAlone,
    mut file: File,
) -> Result<(StoreOptions, MountOptions, bool)> {
    let watch = is_on("watch", args.watch, file.watch.take())?;
    let mounting = args.mounting.or(
        file.mount_allow_other,
        file.mount_mode.clone(),
        file.mount_ttl.clone(),
    );
    let mut tree = tree(args.tree, None, file)?;
    tree.read_only |= args.read_only;
    let options = mount::options(args.point, mounting)?;
    Ok((tree, options, watch))
}

/// What is said of one bucket wins over what is said of all, wherever that was said.
fn etags(
    flag: Option<String>,
    file: Option<String>,
    buckets: &BTreeMap<String, OfBucket>,
) -> Result<ETagKinds> {
    let kind = |name: &str, text: &str| match text {
        "md5" => Ok(ETagKind::Md5),
        "crc64" => Ok(ETagKind::Crc64),
        other => bail!("{name} is md5 or crc64, not {other:?}"),
    };
    let mut of_bucket = BTreeMap::new();
    for (name, said) in buckets {
        let bucket = buckets::bucket_name(name)?;
        if let Some(text) = &said.etag {
            of_bucket.insert(bucket, kind(&format!("buckets.{name}.etag"), text)?);
        }
    }
    Ok(ETagKinds {
        usual: kind("etag", flag.or(file).as_deref().unwrap_or("md5"))?,
        of_bucket,
    })
}

/// systemd's, else root's, else the user's.
fn default_state_dir() -> Result<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    if let Some(dir) = set("STATE_DIRECTORY") {
        return Ok(dir);
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/twintree"));
    }
    let home = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    home.map(|dir| dir.join("twintree"))
        .ok_or_else(|| anyhow!("no state directory: give --state-dir DIR"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(durability: Option<&str>) -> cli::Serve {
        cli::Serve {
            root: vec!["/srv".into()],
            state_dir: Some("/state".into()),
            durability: durability.map(str::to_owned),
            ..cli::Serve::default()
        }
    }

    #[test]
    fn what_was_said_first_wins_over_the_file() {
        let file = || {
            toml::from_str::<File>("durability = \"relaxed\"\nlisten = [\"127.0.0.1:1\"]")
                .expect("toml")
        };
        assert_eq!(
            resolve(args(None), file()).expect("config").durability,
            Durability::Relaxed
        );
        assert_eq!(
            resolve(args(Some("strict")), file())
                .expect("config")
                .durability,
            Durability::Strict
        );
        let listens = resolve(args(None), file()).expect("config").listen;
        assert_eq!(
            listens,
            [Address::Tcp("127.0.0.1:1".parse().expect("an address"))]
        );
    }

    #[test]
    fn a_misspelt_key_or_value_is_named() {
        let error = toml::from_str::<File>("durabilty = \"strict\"").expect_err("unknown key");
        assert!(error.to_string().contains("durabilty"), "{error}");
        let error = resolve(args(Some("lax")), File::default()).expect_err("unknown value");
        assert_eq!(
            error.to_string(),
            "durability is strict or relaxed, not \"lax\""
        );
    }

    #[test]
    fn what_is_said_of_one_bucket_wins_over_what_is_said_of_all() {
        let file = || {
            let text = "etag = \"crc64\"\n[buckets.photos]\netag = \"md5\"\n[buckets.empty]";
            toml::from_str::<File>(text).expect("toml")
        };
        let photos = BucketName::parse("photos").expect("a name");
        let expected = |usual| ETagKinds {
            usual,
            of_bucket: [(photos.clone(), ETagKind::Md5)].into(),
        };
        let resolved = |args| resolve(args, file()).expect("config").etags;
        assert_eq!(resolved(args(None)), expected(ETagKind::Crc64));
        let flag = cli::Serve {
            etag: Some("md5".to_owned()),
            ..args(None)
        };
        assert_eq!(resolved(flag), expected(ETagKind::Md5));
        let usual = resolve(args(None), File::default()).expect("config").etags;
        assert_eq!(usual, ETagKinds::default());
    }

    #[test]
    fn a_misspelt_setting_of_a_bucket_is_named() {
        let unknown = toml::from_str::<File>("[buckets.photos]\netags = \"md5\"");
        let error = unknown.expect_err("unknown key").to_string();
        assert!(error.contains("etags"), "{error}");
        for (text, words) in [
            ("etag = \"sha\"", "etag is md5 or crc64, not \"sha\""),
            (
                "[buckets.photos]\netag = \"sha\"",
                "buckets.photos.etag is md5 or crc64, not \"sha\"",
            ),
            (
                "[buckets.\".photos\"]",
                "buckets..photos: bucket names do not start with a dot",
            ),
        ] {
            let file = toml::from_str::<File>(text).expect("toml");
            let error = resolve(args(None), file).expect_err("no such thing");
            assert_eq!(error.to_string(), words);
        }
    }
}
