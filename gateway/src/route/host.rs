//! Virtual-host style: which bucket a host names, if any.

use std::net::IpAddr;

/// Gives the bucket that `host` names under one of `domains`; `None` is path style.
///
/// The longest matching domain wins, so that `s3.example.com` beside `example.com` is no bucket `s3`. An IP address
/// is always path style; the port is never looked at.
pub(super) fn bucket(host: &str, domains: &[String]) -> Option<String> {
    let host = without_port(host).to_ascii_lowercase();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<IpAddr>().is_ok() {
        return None;
    }
    let host = host.strip_suffix('.').unwrap_or(&host);
    if domains.iter().any(|domain| domain == host) {
        return None;
    }
    domains
        .iter()
        .filter_map(|domain| host.strip_suffix(domain.as_str())?.strip_suffix('.'))
        .filter(|bucket| !bucket.is_empty())
        .min_by_key(|bucket| bucket.len())
        .map(str::to_owned)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // In `[::1]` the last colon is inside the brackets and separates no port.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}
