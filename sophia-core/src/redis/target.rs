//! [`Target`]: who is connected to, one server, the master that Sentinels name, or a Cluster.

use std::sync::Arc;

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, ProtocolVersion,
    RedisConnectionInfo, RedisFuture, RedisResult, TlsCertificates, TlsMode, Value,
    aio::{AsyncPushSender, ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};

use super::config::RedisConfig;
use crate::{Error, Result, Secret};

/// Who is connected to.
#[derive(Debug)]
pub(super) struct Target {
    kind: Kind,
    nodes: Vec<ConnectionInfo>,
    certificates: Option<TlsCertificates>,
    config: RedisConfig,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Single,
    Sentinel,
    Cluster,
}

/// A connection that many calls share at once. Cheap to clone.
#[derive(Clone)]
pub(super) enum Connection {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Connection::Node(_) => "Connection::Node",
            Connection::Cluster(_) => "Connection::Cluster",
        })
    }
}

impl Target {
    /// Reads the configuration; connects to nobody.
    ///
    /// # Errors
    /// InvalidConfig for a URL or a file that cannot be used.
    pub fn new(config: &RedisConfig) -> Result<Target> {
        let certificates = match &config.ca_file {
            None => None,
            Some(path) => {
                let read = std::fs::read(path).map_err(|error| {
                    let message = format!("`{}` cannot be read: {error}", path.display());
                    Error::invalid_config("redis.ca_file", message)
                })?;
                Some(TlsCertificates { client_tls: None, root_cert: Some(read) })
            }
        };
        let mut nodes = Vec::new();
        if let Some(url) = &config.url {
            nodes.push(info("redis.url", url)?);
        }
        for (place, url) in config.urls.iter().enumerate() {
            nodes.push(info(&format!("redis.urls[{place}]"), url)?);
        }
        let kind = match (&config.url, &config.sentinel_master) {
            (Some(_), _) => Kind::Single,
            (None, Some(_)) => Kind::Sentinel,
            (None, None) => Kind::Cluster,
        };
        Ok(Target { kind, nodes, certificates, config: config.clone() })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Opens a connection for data.
    pub async fn connect(&self) -> RedisResult<Connection> {
        if self.kind == Kind::Cluster {
            let mut builder = ClusterClient::builder(self.nodes.clone())
                .connection_timeout(self.config.connect_timeout)
                // The caller's own deadline is what counts.
                .response_timeout(self.config.timeout)
                // What was not answered in time is not sent again behind the caller's back, but a moved slot is followed.
                .retries(1);
            if let Some(certificates) = &self.certificates {
                builder = builder.certs(certificates.clone());
            }
            return Ok(Connection::Cluster(builder.build()?.get_async_connection().await?));
        }
        let client = self.master().await?;
        let config = self.connection_config();
        Ok(Connection::Node(client.get_multiplexed_async_connection_with_config(&config).await?))
    }

    /// Returns who the masters are.
    pub async fn masters(&self) -> RedisResult<Vec<Client>> {
        match self.kind {
            Kind::Cluster => self.cluster_masters().await,
            Kind::Single | Kind::Sentinel => Ok(vec![self.master().await?]),
        }
    }

    /// Opens a connection for what a master says unasked.
    pub async fn connect_to_master(
        &self,
        master: &Client,
        pushed: Arc<dyn AsyncPushSender>,
    ) -> RedisResult<MultiplexedConnection> {
        let info = master.get_connection_info().clone();
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let config = self.connection_config().set_push_sender(move |message| pushed.send(message));
        Client::open(info.set_redis_settings(settings))?.get_multiplexed_async_connection_with_config(&config).await
    }

    fn connection_config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(None)
    }

    async fn master(&self) -> RedisResult<Client> {
        let (Kind::Sentinel, Some(name)) = (self.kind, &self.config.sentinel_master) else {
            return self.client(self.nodes[0].clone());
        };
        let mut settings = RedisConnectionInfo::default();
        if let Some(username) = &self.config.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &self.config.password {
            settings = settings.set_password(password.expose());
        }
        let mut node = SentinelNodeConnectionInfo::default().set_redis_connection_info(settings);
        if matches!(self.nodes[0].addr(), ConnectionAddr::TcpTls { .. }) {
            node = node.set_tls_mode(TlsMode::Secure);
        }
        let mut sentinel = SentinelClient::build(self.nodes.clone(), name, Some(node), SentinelServerType::Master)?;
        let client = sentinel.async_get_client().await?;
        self.client(client.get_connection_info().clone())
    }

    fn client(&self, info: ConnectionInfo) -> RedisResult<Client> {
        match (&self.certificates, info.addr()) {
            (Some(certificates), ConnectionAddr::TcpTls { .. }) => Client::build_with_tls(info, certificates.clone()),
            _ => Client::open(info),
        }
    }

    /// Asks the nodes, one after the other, who the masters are.
    async fn cluster_masters(&self) -> RedisResult<Vec<Client>> {
        let mut failure = None;
        for node in &self.nodes {
            match self.masters_by(node).await {
                Ok(masters) if !masters.is_empty() => return Ok(masters),
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| (redis::ErrorKind::ClusterConnectionNotFound, "no node knows the slots").into()))
    }

    async fn masters_by(&self, node: &ConnectionInfo) -> RedisResult<Vec<Client>> {
        let client = self.client(node.clone())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&self.connection_config()).await?;
        let slots: Value = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
        let mut addresses: Vec<(String, u16)> = Vec::new();
        for range in redis::from_redis_value::<Vec<Vec<Value>>>(slots)? {
            let Some(master) = range.get(2) else { continue };
            let fields: Vec<Value> = redis::from_redis_value(master.clone())?;
            let (Some(host), Some(port)) = (fields.first(), fields.get(1)) else { continue };
            let mut host: String = redis::from_redis_value(host.clone()).unwrap_or_default();
            if host.is_empty() {
                // The node that was asked does not know its own name.
                if let ConnectionAddr::Tcp(own, _) | ConnectionAddr::TcpTls { host: own, .. } = node.addr() {
                    host.clone_from(own);
                }
            }
            let address = (host, redis::from_redis_value(port.clone())?);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let at = |(host, port): (String, u16)| {
            let address = match client.get_connection_info().addr().clone() {
                ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                    ConnectionAddr::TcpTls { host, port, insecure, tls_params }
                }
                _ => ConnectionAddr::Tcp(host, port),
            };
            Client::open(client.get_connection_info().clone().set_addr(address))
        };
        addresses.into_iter().map(at).collect()
    }
}

fn info(path: &str, url: &Secret) -> Result<ConnectionInfo> {
    let wrong =
        || Error::invalid_config(path, "must be like redis://[user:password@]host[:port][/database] or rediss://…");
    let text = url.expose();
    if !["redis://", "rediss://", "valkey://", "valkeys://"].iter().any(|scheme| text.starts_with(scheme)) {
        return Err(wrong());
    }
    // Its own error may show the URL, and with it a password.
    text.into_connection_info().map_err(|_| wrong())
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Connection::Node(connection) => connection.req_packed_command(command),
            Connection::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Connection::Node(connection) => connection.req_packed_commands(pipeline, offset, count),
            Connection::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Connection::Node(connection) => connection.get_db(),
            Connection::Cluster(connection) => connection.get_db(),
        }
    }
}
