//! The registry with real parts: child processes, sockets, files.

mod configurations;
mod finding;
mod health;
mod over_http;
mod over_stdio;

use std::{
    future::Future,
    sync::LazyLock,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::join_all};
use serde_json::{Value, json};
use sophia_core::{
    Config, Scope, Sophia, operations,
    registry::{
        ChangeKind, CheckAll, ConflictKind, Discover, Fallback, ListTools, Load, Registry, Select, Server, Status,
        ToolCall, ToolFormat, ToolResult,
    },
    resilience::BreakerState,
};
use tokio::net::TcpListener;
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{body_json, header, method, path},
};

fn sophia() -> Sophia {
    sophia_with(json!({}))
}

fn sophia_with(registry: Value) -> Sophia {
    Sophia::new(Config::read(json!({"registry": registry})).unwrap()).unwrap()
}

/// The small server in `stdio_server.py`.
fn small(id: &str) -> Server {
    Server::new(id).command(python(), [concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/registry/stdio_server.py")])
}

fn small_with(flags: &[&str]) -> Server {
    let mut server = small("small");
    server.args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    server
}

/// The interpreter itself: what is on `PATH` may be a script that adds to the environment before it starts one.
fn python() -> &'static str {
    static PYTHON: LazyLock<String> = LazyLock::new(|| {
        let print = ["-c", "import sys; print(sys.executable)"];
        let output = std::process::Command::new("python3").args(print).output().expect("this test needs python3");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    });
    &PYTHON
}

fn rest(id: &str, url: &str) -> Server {
    Server::new(id).url(url).rest("*", "/{tool}")
}

async fn call(registry: &Registry, server: &str, tool: &str, arguments: Value) -> ToolResult {
    registry.call(ToolCall::new(server, tool).arguments(arguments)).await.unwrap()
}

/// A port on which nobody listens.
async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A server that takes connections and says nothing.
async fn hung() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

async fn answers(status: u16, body: &str) -> MockServer {
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(status).set_body_raw(body.to_owned(), "application/json");
    Mock::given(wiremock::matchers::any()).respond_with(answer).mount(&server).await;
    server
}

/// Whether a process is there, be it as a zombie.
fn exists(pid: &str) -> bool {
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::test_kill_process(pid).is_ok()
}

async fn until<F: Future<Output = bool>>(condition: impl Fn() -> F) {
    tokio::time::timeout(Duration::from_secs(20), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the condition never came true");
}

/// The command line of the reference server, from the environment.
fn everything() -> (String, Vec<String>) {
    let line = std::env::var("EVERYTHING").unwrap_or_else(|_| {
        panic!(
            "this test needs the reference server: run `npm install --prefix /tmp/everything \
             @modelcontextprotocol/server-everything` and set \
             EVERYTHING='/tmp/everything/node_modules/.bin/mcp-server-everything stdio'"
        )
    });
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.collect())
}

async fn operation(sophia: &Sophia, name: &'static str, arguments: Value) -> sophia_core::Result<Value> {
    let reply = operations::call(sophia, name, arguments)?.await?;
    Ok(serde_json::to_value(reply).unwrap())
}

#[tokio::test]
async fn operations_take_what_python_sends() {
    let rest = answers(200, r#"{"result": "from rest"}"#).await;
    let sophia = sophia();
    let server = json!({
        "id": "main", "name": null, "url": rest.uri(), "command": null, "args": [], "env": null, "transport": "rest",
        "rest": {"*": "/{tool}"}, "capabilities": ["Analytics"], "tier": null, "group": null, "tags": [], "health_path": null,
        "fallback": [], "weight": 1.0, "priority": 0, "max_connections": null, "timeout": null, "headers": null, "auth": null,
    });
    operation(&sophia, "registry.register", json!({"server": server})).await.unwrap();
    let call = json!({"server": "main", "tool": "x", "arguments": {}, "capability": null, "scope": null, "timeout": null,
        "fallback": true, "idempotent": null});
    let result = operation(&sophia, "registry.call", call).await.unwrap();
    assert_eq!(
        (result["ok"].as_bool(), result["text"].as_str(), result["error"].is_null()),
        (Some(true), Some("from rest"), true)
    );
    assert_eq!(operation(&sophia, "registry.breaker", json!({"id": "main"})).await.unwrap()["state"], "closed");
    assert_eq!(operation(&sophia, "registry.status", json!({})).await.unwrap()["main"]["calls"], 1);
    let load = json!({"config": {"a": 9001}, "source": null});
    assert_eq!(operation(&sophia, "registry.load", load).await.unwrap()["loaded"], json!(["a"]));
    let select = json!({"capability": "analytics", "strategy": null, "prefer": null, "avoid": []});
    assert_eq!(operation(&sophia, "registry.select", select).await.unwrap()["server"], "main");
    let error = operation(&sophia, "registry.register", json!({"server": {"id": "x", "ulr": "y"}})).await.unwrap_err();
    assert!(error.message().contains("did you mean `url`"), "{error}");
    assert_eq!(operation(&sophia, "registry.deregister", json!({"id": "MAIN"})).await.unwrap(), true);
}
