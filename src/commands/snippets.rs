//! What a first start prints: the key, and lines for three clients that work as they are pasted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use twintree_gateway::server::Endpoint;

use crate::config::Config;
use crate::secrets::Keys;

/// The text for the first endpoint that these clients can reach; they do not speak to sockets in the file system.
pub fn text(endpoints: &[Endpoint], keys: &Keys, config: &Config) -> String {
    let (access, secret) = (&keys.access, keys.secret.expose());
    let url = endpoints.iter().find_map(url);
    let mut text = format!(
        "
A key was made for you. It is kept in {} and not shown again.

  endpoint    {}
  access key  {access}
  secret key  {secret}
",
        keys.source,
        url.clone()
            .or_else(|| endpoints.first().map(ToString::to_string))
            .unwrap_or_default()
    );
    if let Some(url) = url {
        text.push_str(&clients(&url, access, secret, &config.settings.region));
    }
    text
}

/// An address that a client on this machine reaches: `0.0.0.0` and `[::]` are for listening only.
fn url(endpoint: &Endpoint) -> Option<String> {
    let Endpoint::Tcp { address, tls } = endpoint else {
        return None;
    };
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let scheme = if *tls { "https" } else { "http" };
    Some(format!(
        "{scheme}://{}",
        SocketAddr::new(host, address.port())
    ))
}

/// Nothing is indented but what continues a line: Python and a shell take it as it is.
fn clients(url: &str, access: &str, secret: &str, region: &str) -> String {
    // Which file a client should trust is not for us to guess: a chain from a public authority needs none.
    let trust = match url.starts_with("https:") {
        true => {
            "
# A certificate that no public authority signed: export AWS_CA_BUNDLE=FILE RCLONE_CA_CERT=FILE
"
        }
        false => "",
    };
    format!(
        "{trust}
# boto3
import boto3
s3 = boto3.client('s3', endpoint_url='{url}', region_name='{region}',
                  aws_access_key_id='{access}', aws_secret_access_key='{secret}')
s3.create_bucket(Bucket='my-bucket')
s3.put_object(Bucket='my-bucket', Key='hello.txt', Body=b'hello')
print([o['Key'] for o in s3.list_objects_v2(Bucket='my-bucket')['Contents']])

# aws-cli
export AWS_ACCESS_KEY_ID={access} AWS_SECRET_ACCESS_KEY={secret} AWS_DEFAULT_REGION={region}
aws --endpoint-url {url} s3 ls

# rclone
rclone config create twintree s3 provider=Other endpoint={url} \\
    access_key_id={access} secret_access_key={secret} region={region}
rclone lsd twintree:

"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_address_can_be_reached() {
        for (bound, reached) in [
            ("127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("0.0.0.0:9000", "http://127.0.0.1:9000"),
            ("[::]:9000", "http://[::1]:9000"),
        ] {
            let address = bound.parse().expect("an address");
            assert_eq!(
                url(&Endpoint::Tcp {
                    address,
                    tls: false
                })
                .as_deref(),
                Some(reached)
            );
        }
        assert_eq!(url(&Endpoint::Unix("/run/s3.sock".into())), None);
    }

    #[test]
    fn no_line_of_python_is_indented_but_a_continued_one() {
        let text = clients("http://h:1", "KEY", "SECRET", "us-east-1");
        let python = text.split("# aws-cli").next().expect("a first part");
        let indented: Vec<_> = python
            .lines()
            .filter(|line| line.starts_with(' '))
            .collect();
        assert_eq!(indented.len(), 1, "{python}");
    }
}
