//! `sophia serve`.

use std::process::ExitCode;

use serde_json::json;

use super::output::{Output, note};
use crate::{
    Config, Result, Sophia,
    http::{self, Surface},
};

pub(super) async fn run(output: Output, config: Config) -> Result<ExitCode> {
    let sophia = Sophia::new(config)?;
    let server = &sophia.config().server;
    let surface = Surface::new(sophia.clone())?;
    let listener = http::bind(server).await?;
    sophia.start().await?;
    let address = listener.local_addr().map_or_else(|_| server.host.clone(), |address| address.to_string());
    let who = match server.keys.len() {
        0 => "for this machine only: no keys are set".to_owned(),
        1 => "with 1 key".to_owned(),
        keys => format!("with {keys} keys"),
    };
    let kept = match &sophia.config().data_dir {
        _ if sophia.config().postgres.is_set() => "keeps its data in Postgres".to_owned(),
        Some(data_dir) => format!("keeps its data in {}", data_dir.display()),
        None => "keeps nothing after its end (--data-dir keeps it)".to_owned(),
    };
    let url = format!("http://{address}");
    output.show(&json!({"url": url}), |_| format!("Sophia listens on {url} {who}; {kept}"))?;
    let served = tokio::select! {
        served = http::serve(surface, listener, interrupted()) => served,
        () = twice_interrupted() => {
            note("stopped at once");
            Ok(())
        }
    };
    sophia.shutdown().await?;
    served.map(|()| ExitCode::SUCCESS)
}

async fn twice_interrupted() {
    interrupted().await;
    interrupted().await;
}

/// Waits for Ctrl-C or a request to terminate.
async fn interrupted() {
    #[cfg(unix)]
    let terminate = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        result = tokio::signal::ctrl_c() => if result.is_err() { std::future::pending().await },
        () = terminate => {}
    }
}
