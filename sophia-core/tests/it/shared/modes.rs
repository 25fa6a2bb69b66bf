//! The ways to a server: TLS, a password, Sentinel.

use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

/// Ends TLS in front of a server, since not every Redis is built with it. Returns the port that it listens on.
async fn behind_tls(server: &RedisServer, made: &CertifiedKey<KeyPair>) -> u16 {
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let (acceptor, redis) = (TlsAcceptor::from(Arc::new(config)), server.port());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Fails where the client does not trust the certificate.
                let Ok(mut secret) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(("127.0.0.1", redis)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut secret, &mut plain).await;
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_tls_and_with_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = directory.path().join("cert.pem");
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    let server = RedisServer::start();
    let port = behind_tls(&server, &made).await;
    server.ask("CONFIG SET requirepass hunter2");
    let redis = |password: &str| {
        let mut redis = RedisConfig::url(format!("rediss://:{password}@localhost:{port}"));
        redis.ca_file = Some(certificate.clone());
        redis
    };
    let (one, two) = (engine(redis("hunter2"), None).await, engine(redis("hunter2"), None).await);
    set(&one, "k", json!(1)).await;
    assert_eq!(found_in(&two, "k").await, Some("l2"));
    set(&one, "k", json!(2)).await;
    until("changes are heard", async || read(&two, "k").await == Some(json!(2))).await;

    // Who is refused goes on alone, and says why without the secret.
    let refused = Sophia::new(config(redis("wrong"), None)).unwrap();
    set(&refused, "k", json!(3)).await;
    let tier = refused.memory().health().await.tiers["l2"].clone();
    assert_eq!(tier.status, TierStatus::Unhealthy);
    let detail = tier.detail.unwrap();
    assert!(detail.contains("credential") && !detail.contains("wrong"), "{detail}");
    // A certificate that is not trusted.
    let strange = RedisConfig::url(format!("rediss://:hunter2@localhost:{port}"));
    let strange = Sophia::new(config(strange, None)).unwrap();
    assert_eq!(l2(&strange).await, TierStatus::Unhealthy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_sentinel_the_next_master_is_found() {
    let mut master = RedisServer::start();
    let replica = RedisServer::replica_of(&master);
    let sentinel = RedisServer::sentinel_of("mymaster", &master);
    until("the replica is in step, and known", async || {
        let known =
            sentinel.ask("SENTINEL replicas mymaster").is_some_and(|said| said.contains(&replica.port().to_string()));
        known && replica.ask("INFO replication").is_some_and(|said| said.contains("master_link_status:up"))
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let redis = || RedisConfig::sentinel([sentinel.url()], "mymaster");
    let (one, two) = (engine(redis(), Some(directory.path())).await, engine(redis(), Some(directory.path())).await);
    set(&one, "k", json!(1)).await;
    assert_eq!(found_in(&two, "k").await, Some("l2"));
    master.kill();
    set(&one, "k", json!(2)).await;
    assert_eq!(read(&one, "k").await, Some(json!(2)));
    for sophia in [&one, &two] {
        until("the next master is found", async || l2(sophia).await == TierStatus::Healthy).await;
        assert_eq!(read(sophia, "k").await, Some(json!(2)));
    }
    set(&two, "k", json!(3)).await;
    until("changes are heard from it", async || read(&one, "k").await == Some(json!(3))).await;
}
