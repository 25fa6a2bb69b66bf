//! Whether a port accepts connections.

use async_trait::async_trait;
use tokio::net::TcpStream;

use crate::{
    Error, ErrorKind, Result,
    health::{Probe, ProbeOutcome, Status, names::check_name},
    http_client::AddressPolicy,
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
                let addresses = AddressPolicy::AllowPrivate.resolve(&self.host, self.port).await.map_err(|error| {
                    match error.kind() {
                        std::io::ErrorKind::PermissionDenied => {
                            Error::invalid(OPERATION, "probe.host", error.to_string())
                        }
                        _ => unreachable(error),
                    }
                })?;
                TcpStream::connect(addresses.as_slice()).await.map_err(unreachable)?;
                Ok(ProbeOutcome::new(Status::Healthy))
            })
            .await
    }
}
