//! Who is at the other end of the connection.

use std::net::IpAddr;

/// Client host that test clients of ASGI frameworks give: the call never left the process.
const TEST_CLIENT: &str = "testclient";

/// Who is at the other end of the connection, as the host saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// An address.
    Ip(IpAddr),
    /// A Unix socket, or a call from this process: no network lies between.
    Local,
    /// Somebody that the host could not name. Counts as remote.
    Unknown,
}

impl Peer {
    /// Reads the client's host as ASGI (`scope["client"][0]`) and Node (`socket.remoteAddress`) give it; none is a Unix
    /// socket or a call from this process.
    ///
    /// ```
    /// use sophia_core::http::Peer;
    ///
    /// assert!(Peer::from_host(None).is_local() && Peer::from_host(Some("::ffff:127.0.0.1")).is_local());
    /// assert!(!Peer::from_host(Some("10.0.0.1")).is_local() && !Peer::from_host(Some("somewhere")).is_local());
    /// ```
    pub fn from_host(host: Option<&str>) -> Peer {
        match host.map(str::trim) {
            None | Some("" | TEST_CLIENT) => Peer::Local,
            Some(host) => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                // A zone (`fe80::1%eth0`) says which interface, not who.
                let host = host.split_once('%').map_or(host, |(address, _)| address);
                host.parse().map_or(Peer::Unknown, Peer::Ip)
            }
        }
    }

    /// Returns whether the peer is on this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Peer::Ip(address) => address.to_canonical().is_loopback(),
            Peer::Local => true,
            Peer::Unknown => false,
        }
    }
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Peer {
        Peer::Ip(address)
    }
}
