//! Which addresses may be reached.
//!
//! This crate is told URLs by files, by people and by services that announce themselves. Whoever can write one of them must
//! not thereby reach the cloud's metadata service, which hands out credentials to anyone who can open a connection from this
//! machine. So link-local and metadata addresses are refused always, whether they are written in the URL or come from a name;
//! a name is checked at each connection, so that one that changes its mind is refused as well. Loopback and private addresses
//! are where in-house servers live; they are refused only where a configuration says so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// Metadata services outside link-local space: AWS over IPv6, Alibaba, Oracle, Azure.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// What may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AddressPolicy {
    /// Private addresses and this machine, too.
    AllowPrivate,
    /// Public addresses alone.
    PublicOnly,
}

impl AddressPolicy {
    /// Says why an address is refused, if it is.
    pub(crate) fn refuses(self, address: IpAddr) -> Option<&'static str> {
        let address = match address {
            IpAddr::V6(v6) => inner(v6).map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        };
        if METADATA.contains(&address) {
            return Some("is a cloud metadata service");
        }
        let (link_local, multicast, private) = match address {
            IpAddr::V4(v4) => {
                let [a, b, ..] = v4.octets();
                let shared = a == 100 && (64..128).contains(&b);
                // For benchmarks, for protocols, and for nobody.
                let special = a == 198 && (b == 18 || b == 19) || v4.octets()[..3] == [192, 0, 0] || a >= 240;
                let private = v4.is_private() || a == 0 || shared || special;
                (v4.is_link_local(), v4.is_multicast() || v4.is_broadcast(), private)
            }
            IpAddr::V6(v6) => {
                // What was site-local once, a network of its own all the same.
                let site_local = v6.segments()[0] & 0xffc0 == 0xfec0;
                let private = v6.is_unique_local() || v6.is_unspecified() || site_local;
                (v6.is_unicast_link_local(), v6.is_multicast(), private)
            }
        };
        if link_local {
            return Some("is link-local, where cloud metadata services are");
        }
        if multicast {
            return Some("is not one server's address");
        }
        if (private || address.is_loopback()) && self == AddressPolicy::PublicOnly {
            return Some("is private, which is not allowed (`registry.allow_private`)");
        }
        None
    }

    /// Reads a URL, and refuses one whose address is written in it and may not be reached.
    ///
    /// # Errors
    /// What is wrong with it, to stand after the name of its field; names are resolved, and checked, when they are
    /// connected to.
    pub(crate) fn url(self, text: &str) -> std::result::Result<Url, String> {
        let url = Url::parse(text).map_err(|_| "is not a URL such as \"http://host:port/path\"")?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("must begin with http:// or https://".to_owned());
        }
        let host = url.host_str().ok_or("has no host")?;
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = plain.parse::<IpAddr>()
            && let Some(why) = self.refuses(address)
        {
            return Err(format!("leads to {address}, which {why}"));
        }
        if plain.trim_end_matches('.').eq_ignore_ascii_case("metadata.google.internal") {
            return Err("leads to a cloud metadata service".to_owned());
        }
        Ok(url)
    }

    /// Resolves a name with the system's resolver, without the addresses that may not be reached.
    ///
    /// # Errors
    /// Where the name is not known, or leads to nothing else.
    pub(crate) async fn resolve(self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
        let allowed: Vec<_> = found.iter().copied().filter(|found| self.refuses(found.ip()).is_none()).collect();
        match (found.first(), allowed.is_empty()) {
            (Some(refused), true) => {
                let why = self.refuses(refused.ip()).unwrap_or_default();
                let message = format!("`{host}` leads to {}, which {why}", refused.ip());
                Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, message))
            }
            _ => Ok(allowed),
        }
    }
}

/// Returns the IPv4 address that packets to an IPv6 address are sent on to, where it is mapped (RFC 4291), compatible,
/// translated (RFC 2765), behind NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn inner(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        // The loopback address and the unspecified one are none of these.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

impl Resolve for AddressPolicy {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = *self;
        Box::pin(async move {
            let allowed = policy.resolve(name.as_str(), 0).await?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_and_link_local_are_refused_in_every_spelling() {
        let policy = AddressPolicy::AllowPrivate;
        for host in [
            "169.254.169.254",
            "[::ffff:169.254.169.254]",
            "[::ffff:0:169.254.169.254]",
            "[::169.254.169.254]",
            "[64:ff9b::169.254.169.254]",
            "[2002:a9fe:a9fe::1]",
            "[::ffff:100.100.100.200]",
            "168.63.129.16",
            "169.254.169.254.",
            "0xa9.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "0251.0376.0251.0376",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "100.100.100.200",
            "metadata.google.internal",
            "metadata.google.internal.",
            "224.0.0.1",
        ] {
            assert!(policy.url(&format!("http://{host}/latest")).is_err(), "{host}");
        }
        for text in ["", "github", "ftp://host", "file:///etc/passwd", "http://"] {
            assert!(policy.url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn private_addresses_are_a_matter_of_configuration() {
        for host in [
            "127.0.0.1",
            "localhost.test",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "[::1]",
            "[fc00::1]",
            "100.64.0.1",
            "0.0.0.0",
            "127.1",
            "0x7f000001",
            "017700000001",
            "2130706433",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::127.0.0.1]",
            "[2002:7f00:1::]",
            "[fec0::1]",
            "[::]",
            "198.18.0.1",
            "192.0.0.8",
            "240.0.0.1",
        ] {
            let url = format!("http://{host}:9007");
            assert!(AddressPolicy::AllowPrivate.url(&url).is_ok(), "{host}");
            // A name is checked when it is resolved.
            assert_eq!(AddressPolicy::PublicOnly.url(&url).is_ok(), host == "localhost.test", "{host}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_refused_address_is_refused() {
        let refused = AddressPolicy::PublicOnly.resolve("localhost", 0).await.unwrap_err();
        assert!(refused.to_string().contains("private"));
        assert!(!AddressPolicy::AllowPrivate.resolve("localhost", 0).await.unwrap().is_empty());
    }
}
