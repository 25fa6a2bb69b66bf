//! Whether a port accepts connections.

use async_trait::async_trait;
use tokio::net::{TcpStream, lookup_host};

use super::address::is_allowed;
use crate::{
    Error, ErrorKind, Result,
    health::{Probe, ProbeOutcome, Status, names::check_name},
    resilience::Deadline,
};

/// Opens a TCP connection and closes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpProbe {
    host: String,
    port: u16,
}

impl TcpProbe {
    /// Creates a probe of a name or an address.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where the host cannot be one, or the port is 0.
    pub fn new(host: impl Into<String>, port: u16) -> Result<TcpProbe> {
        let host = host.into();
        check_name("health.register", "probe.host", &host)?;
        if port == 0 {
            return Err(Error::invalid("health.register", "probe.port", "must not be 0"));
        }
        Ok(TcpProbe { host, port })
    }
}

#[async_trait]
impl Probe for TcpProbe {
    fn kind(&self) -> &'static str {
        "tcp"
    }

    async fn probe(&self, deadline: Deadline) -> Result<ProbeOutcome> {
        const OPERATION: &str = "health.check";
        let unreachable =
            |error: std::io::Error| Error::new(ErrorKind::Unavailable, OPERATION, "no connection").with_source(error);
        deadline
            .run(OPERATION, async {
                let addresses: Vec<_> = lookup_host((self.host.as_str(), self.port))
                    .await
                    .map_err(unreachable)?
                    .filter(|address| is_allowed(address.ip()))
                    .collect();
                if addresses.is_empty() {
                    return Err(Error::invalid(OPERATION, "probe.host", "has no address that may be asked"));
                }
                TcpStream::connect(addresses.as_slice()).await.map_err(unreachable)?;
                Ok(ProbeOutcome::new(Status::Healthy))
            })
            .await
    }
}
