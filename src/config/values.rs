//! Words and what they mean: addresses, names, times, sizes, switches.

use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::Address;
use super::file::OneOrMany;

pub fn is_on(name: &str, flag: Option<String>, file: Option<String>) -> Result<bool> {
    match flag.or(file).as_deref().unwrap_or("on") {
        "on" => Ok(true),
        "off" => Ok(false),
        other => bail!("{name} is on or off, not {other:?}"),
    }
}

pub fn verify_mtime_only(flag: Option<String>, file: Option<String>) -> Result<bool> {
    match flag.or(file).as_deref().unwrap_or("stamp") {
        "stamp" => Ok(false),
        "mtime" => Ok(true),
        other => bail!("verify is stamp or mtime, not {other:?}"),
    }
}

/// A size such as `100MiB`, of a command's option; none is 0.
///
/// # Errors
/// It is no size, or 0.
pub fn size(name: &str, text: &str) -> Result<u64> {
    match bytes(text) {
        Some(size) if size > 0 => Ok(size),
        _ => bail!("{name}: {text:?} is no size such as 16K, 5M or 100MiB"),
    }
}

/// Paths of flags, or of the file.
pub fn paths(flags: Vec<PathBuf>, file: Option<OneOrMany>) -> Vec<PathBuf> {
    match flags.is_empty() {
        false => flags,
        true => list(Vec::new(), file, &[])
            .into_iter()
            .map(PathBuf::from)
            .collect(),
    }
}

pub fn list(flags: Vec<String>, file: Option<OneOrMany>, default: &[&str]) -> Vec<String> {
    if !flags.is_empty() {
        return flags;
    }
    file.map_or_else(
        || default.iter().map(|s| (*s).to_owned()).collect(),
        OneOrMany::into_vec,
    )
}

/// `ADDR:PORT`, `[IPv6]:PORT`, `HOST:PORT`, `:PORT` (all addresses) or `unix:PATH`.
pub fn address(text: &str) -> Result<Vec<Address>> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            bail!("listen: unix: wants the path of a socket");
        }
        return Ok(vec![Address::Unix(PathBuf::from(path))]);
    }
    let full = if text.starts_with(':') {
        format!("[::]{text}")
    } else {
        text.to_owned()
    };
    let found = full
        .to_socket_addrs()
        .with_context(|| format!("listen: {text:?} is no ADDR:PORT or unix:PATH"))?;
    let mut found: Vec<Address> = found.map(Address::Tcp).collect();
    found.dedup();
    Ok(found)
}

/// As [`address`], but on this machine alone where no address is said.
pub fn admin_address(text: &str) -> Result<Vec<Address>> {
    let full = match text.starts_with(':') {
        true => format!("127.0.0.1{text}"),
        false => text.to_owned(),
    };
    address(&full).map_err(|e| anyhow!("{}", e.to_string().replacen("listen", "admin", 1)))
}

/// A domain without its port: the port of a request's Host is not looked at either.
pub fn domain(text: &str) -> Result<String> {
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => text,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let name = name.trim_matches('.').to_ascii_lowercase();
    if name.is_empty() || !name.chars().all(plain) || name.parse::<IpAddr>().is_ok() {
        bail!("domain: {text:?} is no name such as s3.example.net");
    }
    Ok(name)
}

pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" | "" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        "d" => Some(Duration::from_secs(number.checked_mul(24 * 3600)?)),
        _ => None,
    }
}

pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(duration("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(duration("x"), None);
        assert_eq!(bytes("16K"), Some(16384));
        assert_eq!(bytes("99999999999T"), None);
    }

    #[test]
    fn listeners_are_addresses_or_sockets() {
        assert_eq!(
            address("unix:/run/t.sock").expect("a path"),
            [Address::Unix("/run/t.sock".into())]
        );
        assert_eq!(
            address("[::1]:9000").expect("an address"),
            [Address::Tcp("[::1]:9000".parse().expect("an address"))]
        );
        assert_eq!(
            address(":80").expect("all"),
            [Address::Tcp("[::]:80".parse().expect("an address"))]
        );
        assert!(address("9000x").is_err());
        assert!(address("unix:").is_err());
    }

    #[test]
    fn the_admin_listener_is_on_this_machine_alone_unless_told_otherwise() {
        let tcp = |text: &str| [Address::Tcp(text.parse().expect("an address"))];
        let is = |text| admin_address(text).expect("an address");
        assert_eq!(is(":9001"), tcp("127.0.0.1:9001"));
        assert_eq!(is("0.0.0.0:9001"), tcp("0.0.0.0:9001"));
        assert_eq!(is("unix:/run/a"), [Address::Unix("/run/a".into())]);
        let error = admin_address("9001").expect_err("no address").to_string();
        assert!(
            error.starts_with("admin: \"9001\" is no ADDR:PORT"),
            "{error}"
        );
    }

    #[test]
    fn a_domain_is_a_name_and_its_port_does_not_count() {
        for (text, name) in [
            ("S3.Example.net", "s3.example.net"),
            ("localhost:9000", "localhost"),
        ] {
            assert_eq!(domain(text).expect(text), name);
        }
        for text in ["", ":9000", "http://s3", "10.0.0.1", "a b", "[::1]:9000"] {
            assert!(domain(text).is_err(), "{text}");
        }
    }
}
