//! Which addresses a probe may ask.

use std::net::{IpAddr, Ipv6Addr};

/// The metadata address of EC2 over IPv6, which is not link-local.
const EC2_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// Returns whether a probe may ask this address: link-local and cloud metadata addresses give away credentials.
pub(super) fn is_allowed(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local() && address != EC2_METADATA,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_addresses_are_refused_in_every_spelling() {
        for address in ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254"] {
            assert!(!is_allowed(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1", "10.0.0.1", "::1", "93.184.216.34"] {
            assert!(is_allowed(address.parse().unwrap()), "{address}");
        }
    }
}
