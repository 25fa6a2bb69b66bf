//! The registry with real parts: child processes, sockets, files.

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
    Server::new(id).command(python(), [concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/stdio_server.py")])
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

mod configurations {
    use super::*;

    #[tokio::test]
    async fn two_files_that_disagree_are_merged_and_reported() {
        let sophia = sophia();
        let registry = sophia.registry();
        let first = registry
            .load_json(r#"{"servers": [{"name": "github", "port": 9007, "capabilities": ["code"]}]}"#, "a.yaml")
            .await
            .unwrap();
        assert_eq!((first.loaded, first.updated), (vec!["github".to_owned()], vec![]));
        let second =
            registry.load_json(r#"{"active_servers": {"github": 9016, "git-hub": 9007}}"#, "b.json").await.unwrap();
        assert_eq!((second.loaded, second.updated), (vec![], vec!["github".to_owned()]));

        let conflicts = registry.lint();
        let find = |kind| conflicts.iter().find(|conflict| conflict.kind == kind).unwrap();
        let mismatch = find(ConflictKind::PortMismatch);
        assert!(mismatch.message.contains("9007 in a.yaml and b.json; 9016 in b.json"), "{}", mismatch.message);
        let collision = find(ConflictKind::PortCollision);
        assert_eq!(
            (collision.servers.clone(), collision.sources.clone()),
            (vec!["github".into(), "git-hub".into()], vec!["a.yaml".into(), "b.json".into()])
        );
        assert_eq!(find(ConflictKind::Alias).servers, ["github", "git-hub"]);
        assert_eq!(registry.get("Git_Hub").unwrap().capabilities, ["code"]);
        assert_eq!(registry.list().len(), 1);
    }

    #[tokio::test]
    async fn a_source_that_is_loaded_again_replaces_what_it_claimed() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry.load_json(r#"{"a": 1, "b": 1}"#, "x.json").await.unwrap();
        assert_eq!(registry.lint()[0].kind, ConflictKind::PortCollision);
        let report = registry.load_json(r#"{"a": 1}"#, "x.json").await.unwrap();
        assert!(registry.lint().is_empty() && report.warnings[0].contains("`b` is no longer in x.json"), "{report:?}");
        for _ in 0..3 {
            registry.load(Load::value(json!({"c": 2}))).await.unwrap();
        }
        assert!(registry.lint().is_empty());
        registry.load(Load::value(json!({"c": 3}))).await.unwrap();
        assert_eq!(registry.lint()[0].kind, ConflictKind::PortMismatch);
    }

    #[tokio::test]
    async fn files_are_read_as_json_with_comments_and_as_yaml() {
        let (dir, sophia) = (tempfile::tempdir().unwrap(), sophia());
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let yaml = "servers:\n  - name: crm\n    port: 9100\n    tier: primary\n    capabilities: [Deals, contacts]\n";
        let json = "{\n  // for VS Code\n  \"servers\": {\"docs\": {\"type\": \"http\", \"url\": \"https://docs.example/mcp\",},},\n}";
        let registry = sophia.registry();
        let path = file("servers.yaml", yaml);
        let report = registry.load(Load::file(&path)).await.unwrap();
        assert_eq!((report.loaded, report.source), (vec!["crm".to_owned()], path.to_string_lossy().into_owned()));
        let report = registry.load(Load::file(file("mcp.json", json)).source("vscode")).await.unwrap();
        assert_eq!((report.dialect.as_str(), report.source.as_str()), ("servers (VS Code)", "vscode"));
        let crm = registry.get("crm").unwrap();
        assert_eq!((crm.tier.as_deref(), crm.url.as_deref()), (Some("primary"), Some("http://127.0.0.1:9100")));

        let missing = registry.load(Load::file(dir.path().join("nowhere.json"))).await.unwrap_err();
        assert_eq!(missing.code(), "NOT_FOUND");
        for text in ["{", "a: [", ""] {
            let error = registry.load(Load::file(file("broken.yaml", text))).await.unwrap_err();
            assert_eq!(error.code(), "INVALID_INPUT");
        }
    }

    #[tokio::test]
    async fn one_wrong_entry_does_not_keep_the_others_out() {
        let sophia = sophia();
        let config = json!({"mcpServers": {
            "good": {"command": "npx", "env": {"TOKEN": "${NO_SUCH_TOKEN_SET}"}},
            "bad": {"args": []},
            "metadata": {"url": "http://169.254.169.254/latest"},
            "off": {"command": "x", "disabled": true},
        }});
        let report = sophia.registry().load(Load::value(config)).await.unwrap();
        assert_eq!(report.loaded, ["good"]);
        let wrong: Vec<_> = report.errors.iter().map(|error| error.server.as_deref().unwrap()).collect();
        assert_eq!(wrong, ["bad", "metadata"]);
        let warned = report.warnings.join("\n");
        assert!(warned.contains("NO_SUCH_TOKEN_SET") && warned.contains("`off`"), "{warned}");
    }

    #[tokio::test]
    async fn an_unknown_form_says_what_it_saw_and_what_is_known() {
        let sophia = sophia();
        let error = sophia.registry().load(Load::value(json!({"theme": "dark", "editor": {}}))).await.unwrap_err();
        assert_eq!(error.code(), "INVALID_INPUT");
        assert!(error.message().contains("`theme`, `editor`") && error.message().contains("mcpServers"), "{error}");
        assert!(sophia.registry().list().is_empty());
    }

    #[tokio::test]
    async fn lint_finds_what_one_file_alone_gets_wrong() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry
            .register(
                Server::new("a")
                    .command("no-such-program-of-mine", [""; 0])
                    .env("A_TOKEN", "s3cret")
                    .fallback("nobody"),
            )
            .unwrap();
        let conflicts = registry.lint();
        let kinds: Vec<_> = conflicts.iter().map(|conflict| conflict.kind).collect();
        assert_eq!(kinds, [ConflictKind::UnknownCommand, ConflictKind::UnknownFallback, ConflictKind::SecretInTheOpen]);
        assert!(!serde_json::to_string(&conflicts).unwrap().contains("s3cret"));
        assert!(conflicts[2].fix.contains("${A_TOKEN}"), "{}", conflicts[2].fix);
    }

    #[tokio::test]
    async fn gateways_share_a_port_without_a_collision() {
        let sophia = sophia();
        let config = json!({"mcpServers": {
            "a": {"url": "https://mcp.example/a"}, "b": {"url": "https://mcp.example/b"}, "c": {"url": "https://mcp.example/a/"},
        }});
        sophia.registry().load(Load::value(config)).await.unwrap();
        let conflicts = sophia.registry().lint();
        assert_eq!(conflicts.len(), 1);
        assert_eq!(conflicts[0].servers, ["a", "c"]);
    }

    #[tokio::test]
    async fn an_export_loads_again_and_holds_no_secret() {
        let sophia = sophia();
        sophia.registry().register(small("small").env("API_TOKEN", "s3cret")).unwrap();
        for dialect in ["mcpServers", "vscode"] {
            let exported = operation(&sophia, "registry.export", json!({"dialect": dialect})).await.unwrap();
            assert!(!exported.to_string().contains("s3cret"));
            let other = super::sophia();
            assert_eq!(other.registry().load(Load::value(exported)).await.unwrap().loaded, ["small"]);
        }
    }
}

mod finding {
    use super::*;

    #[tokio::test]
    async fn look_up_ignores_case_and_dashes_and_names_the_nearest() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(small("io.github.acme/Git-Hub")).unwrap();
        for id in ["io.github.acme/git_hub", "github", "GIT-HUB"] {
            assert_eq!(registry.get(id).unwrap().id, "io.github.acme/Git-Hub");
        }
        registry.register(small("analytics")).unwrap();
        let error = registry.get("analytcs").unwrap_err();
        assert!(error.code() == "NOT_FOUND" && error.message().contains("did you mean `analytics`"), "{error}");
        assert!(registry.deregister("Analytics") && !registry.deregister("analytics"));
    }

    #[tokio::test]
    async fn servers_are_found_by_all_that_is_asked() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(small("a").capability("Code").capability("issues").tier("1").tag("eu")).unwrap();
        registry.register(small("b").capability("code").group("core").tag("us")).unwrap();
        let ids = async |wanted: Value| -> Vec<String> {
            let found = operation(&sophia, "registry.discover", wanted).await.unwrap();
            found.as_array().unwrap().iter().map(|server| server["id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(ids(json!({"capability": "CODE"})).await, ["a", "b"]);
        assert_eq!(ids(json!({"all_of": ["code", "Issues"]})).await, ["a"]);
        assert_eq!(ids(json!({"group": "CORE", "capability": "code"})).await, ["b"]);
        assert_eq!(ids(json!({"tags": ["us", "apac"]})).await, ["b"]);
        assert_eq!(ids(json!({"tier": "1", "tags": ["us"]})).await, [""; 0]);
        assert_eq!(ids(json!({"status": "unknown", "capability": null, "all_of": null})).await, ["a", "b"]);
        assert_eq!(registry.discover(&Discover::capability("nothing")).len(), 0);
    }

    #[tokio::test]
    async fn a_server_that_is_registered_again_is_replaced() {
        let sophia = sophia();
        let registry = sophia.registry();
        let mut changes = registry.watch();
        registry.register(small("a").capability("x")).unwrap();
        registry.register(small("A").capability("y")).unwrap();
        registry.deregister("a");
        let kinds = [
            changes.next().await.unwrap().kind,
            changes.next().await.unwrap().kind,
            changes.next().await.unwrap().kind,
        ];
        assert_eq!(kinds, [ChangeKind::Registered, ChangeKind::Updated, ChangeKind::Deregistered]);
    }

    #[tokio::test]
    async fn addresses_that_no_server_may_have_are_refused() {
        let sophia = sophia_with(json!({"allow_private": false}));
        for url in ["http://169.254.169.254/x", "http://127.0.0.1:1", "http://10.0.0.1", "file:///etc/passwd"] {
            let error = sophia.registry().register(rest("a", url)).unwrap_err();
            assert_eq!((error.code(), error.get("field")), ("INVALID_INPUT", Some("url")), "{url}");
        }
        sophia.registry().register(rest("named", "http://localhost:1")).unwrap();
        let result = call(sophia.registry(), "named", "x", json!({})).await;
        let error = result.error.unwrap();
        assert!(!result.ok && error.message.contains("private"), "{error:?}");
    }
}

mod over_stdio {
    use super::*;

    #[tokio::test]
    async fn many_calls_share_one_process() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(small("small")).unwrap();
        let pids = join_all((0..20).map(|_| call(registry, "small", "pid", json!({})))).await;
        assert!(pids.iter().all(|result| result.ok && result.text == pids[0].text));
        // A slow call does not hold the others up.
        let slow = call(registry, "small", "sleep", json!({"seconds": 1.5}));
        let quick = async {
            let started = Instant::now();
            assert_eq!(call(registry, "small", "echo", json!({"message": "hi"})).await.text, "hi");
            started.elapsed()
        };
        let (slow, quick) = tokio::join!(slow, quick);
        assert!(slow.ok && quick < Duration::from_secs(1), "{quick:?}");
        sophia.shutdown().await.unwrap();
        assert!(!exists(&pids[0].text));
    }

    #[tokio::test]
    async fn a_server_that_dies_in_a_call_is_an_answer_and_is_started_again() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(small("small")).unwrap();
        let first = call(registry, "small", "pid", json!({})).await.text;
        let died = call(registry, "small", "exit", json!({})).await;
        let error = died.error.unwrap();
        assert!(!died.ok && error.code == "UNAVAILABLE" && error.retryable, "{error:?}");
        assert!(error.message.contains("exit status: 3") && error.message.contains("about to fall over"), "{error:?}");
        let second = call(registry, "small", "pid", json!({})).await;
        assert!(second.ok && second.text != first && !exists(&first));
        sophia.shutdown().await.unwrap();
        // A later use opens again.
        let third = call(registry, "small", "pid", json!({})).await;
        assert!(third.ok && third.text != second.text && !exists(&second.text));
        sophia.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_server_killed_from_outside_in_the_middle_of_a_call_is_an_answer() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(small("small")).unwrap();
        let pid = call(registry, "small", "pid", json!({})).await.text;
        let sleeping = call(registry, "small", "sleep", json!({"seconds": 60}));
        let killing = async {
            until(async || registry.status()["small"].in_flight == 1).await;
            let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        };
        let (result, ()) = tokio::join!(sleeping, killing);
        assert!(!result.ok && result.error.unwrap().message.contains("signal: 9"));
        assert!(call(registry, "small", "echo", json!({"message": "x"})).await.ok);
        sophia.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn nothing_is_left_after_a_shutdown_not_even_by_a_server_that_will_not_leave() {
        let sophia = sophia_with(json!({"stop_timeout": "200ms"}));
        let registry = sophia.registry();
        let mut lingering = small("small");
        lingering.args.push("--linger".to_owned());
        registry.register(lingering).unwrap();
        let pid = call(registry, "small", "pid", json!({})).await.text;
        let grandchild = call(registry, "small", "child", json!({})).await.text;
        assert!(exists(&pid) && exists(&grandchild));
        sophia.shutdown().await.unwrap();
        assert!(!exists(&pid));
        // Its parent is gone, so the system's first process reaps it.
        until(async || !exists(&grandchild)).await;
    }

    #[tokio::test]
    async fn a_deregistered_server_ends() {
        let sophia = sophia();
        sophia.registry().register(small("small")).unwrap();
        let pid = call(sophia.registry(), "small", "pid", json!({})).await.text;
        sophia.registry().deregister("small");
        until(async || !exists(&pid)).await;
    }

    #[tokio::test]
    async fn an_engine_that_is_dropped_leaves_nothing() {
        let sophia = sophia();
        sophia.registry().register(small("small")).unwrap();
        let pid = call(sophia.registry(), "small", "pid", json!({})).await.text;
        drop(sophia);
        until(async || !exists(&pid)).await;
    }

    #[test]
    fn a_runtime_that_ends_takes_its_processes_along_and_the_next_one_starts_anew() {
        let sophia = sophia();
        sophia.registry().register(small("small")).unwrap();
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(call(sophia.registry(), "small", "pid", json!({}))).text
        };
        let (first, second) = (run(), run());
        assert_ne!(first, second);
        let gone = |pid: &str| {
            let started = Instant::now();
            while exists(pid) && started.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(10));
                // What was left behind is reaped when another child of a runtime ends.
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async { tokio::process::Command::new("true").status().await.unwrap() });
            }
            !exists(pid)
        };
        assert!(gone(&first) && gone(&second));
    }

    #[tokio::test]
    async fn the_environment_is_clean() {
        let sophia = sophia();
        sophia.registry().register(small("small").env("GREETING", "${NO_SUCH_GREETING:-hello}")).unwrap();
        let result = call(sophia.registry(), "small", "env", json!({})).await;
        let env = result.data.unwrap();
        let mut names: Vec<_> = env.as_object().unwrap().keys().map(String::as_str).collect();
        // Python sets this one itself where no locale is given.
        names.retain(|name| *name != "LC_CTYPE");
        names.sort_unstable();
        assert_eq!((names, env["GREETING"].as_str()), (vec!["GREETING", "HOME", "PATH"], Some("hello")));
        sophia.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn what_a_tool_refuses_is_not_held_against_the_server() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(small("small").fallback("other")).unwrap();
        registry.register(small("other")).unwrap();
        for _ in 0..10 {
            let failed = call(registry, "small", "fail", json!({})).await;
            assert_eq!(
                (failed.ok, failed.text.as_str(), failed.error.unwrap().code.as_str()),
                (false, "no such deal", "TOOL_ERROR")
            );
            let unknown = call(registry, "small", "nothing", json!({})).await;
            assert_eq!((unknown.attempts.len(), unknown.error.unwrap().code.as_str()), (1, "INVALID_INPUT"));
        }
        assert_eq!(registry.breaker("small").unwrap().state, BreakerState::Closed);
        assert_eq!(registry.status()["small"].errors, 0);
        sophia.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_is_named() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(Server::new("a").command("no-such-program-of-mine", ["x"])).unwrap();
        let result = call(registry, "a", "x", json!({})).await;
        let error = result.error.unwrap();
        assert!(
            !result.ok && error.code == "UNAVAILABLE" && error.message.contains("no-such-program-of-mine"),
            "{error:?}"
        );
        let error = registry.tools(Some("a")).await.unwrap_err();
        assert_eq!((error.code(), error.get("command")), ("UNAVAILABLE", Some("no-such-program-of-mine")));
        let status = registry.check("a").await.unwrap();
        assert!(status.status == Status::Unhealthy && status.latency_ms.is_none(), "{status:?}");
    }

    #[tokio::test]
    async fn a_server_that_does_not_speak_mcp_is_an_answer_with_its_last_words() {
        let sophia = sophia();
        let registry = sophia.registry();
        let script = "import sys; print('port 9007 is taken', file=sys.stderr); sys.exit(7)";
        registry.register(Server::new("a").command("python3", ["-c", script])).unwrap();
        let error = call(registry, "a", "x", json!({})).await.error.unwrap();
        assert!(error.message.contains("port 9007 is taken") && error.message.contains("exit status: 7"), "{error:?}");
        sophia.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_call_that_takes_too_long_is_an_answer_in_time() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(small("small")).unwrap();
        call(registry, "small", "pid", json!({})).await;
        let started = Instant::now();
        let slow =
            ToolCall::new("small", "sleep").arguments(json!({"seconds": 60})).timeout(Duration::from_millis(200));
        let result = registry.call(slow).await.unwrap();
        assert_eq!((result.ok, result.error.unwrap().code.as_str()), (false, "TIMEOUT"));
        assert!(started.elapsed() < Duration::from_secs(2));
        assert!(call(registry, "small", "echo", json!({"message": "x"})).await.ok);
        sophia.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_dropped_call_counts_for_nothing_and_the_session_goes_on() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(small("small")).unwrap();
        let pid = call(registry, "small", "pid", json!({})).await.text;
        let dropped = call(registry, "small", "sleep", json!({"seconds": 60}));
        assert!(tokio::time::timeout(Duration::from_millis(100), dropped).await.is_err());
        let overview = registry.status()["small"].clone();
        assert_eq!((overview.in_flight, overview.calls, overview.errors), (0, 1, 0));
        assert_eq!(call(registry, "small", "pid", json!({})).await.text, pid);
        sophia.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_first_caller_who_leaves_does_not_stop_the_start() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(small("small")).unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(1), call(registry, "small", "pid", json!({}))).await.is_err()
        );
        assert!(call(registry, "small", "pid", json!({})).await.ok);
        sophia.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn tools_are_listed_in_every_form_and_called_by_qualified_name() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(small("small")).unwrap();
        registry.register(rest("refusing", &closed_port().await)).unwrap();
        let one = registry.tools(Some("small")).await.unwrap();
        assert_eq!((one[0].name.as_str(), one[0].server.as_str()), ("echo", "small"));
        let all = registry.list_tools(ListTools::default().format(ToolFormat::Openai)).await.unwrap();
        let all = serde_json::to_value(all).unwrap();
        assert_eq!(all[0]["function"]["name"], "small__echo");
        let one =
            operation(&sophia, "registry.list_tools", json!({"server": "small", "format": "anthropic"})).await.unwrap();
        assert_eq!((one[0]["name"].as_str(), one[0]["input_schema"]["type"].as_str()), (Some("echo"), Some("object")));
        for name in ["small__echo", "echo"] {
            let result = registry.call(ToolCall::any(name).arguments(json!({"message": "hi"}))).await.unwrap();
            assert_eq!((result.text.as_str(), result.server.as_str()), ("hi", "small"));
        }
        assert_eq!(registry.call(ToolCall::any("nothing")).await.unwrap_err().code(), "NOT_FOUND");
        assert_eq!(registry.tools(Some("refusing")).await.unwrap_err().code(), "UNSUPPORTED");
        sophia.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn both_eras_are_spoken() {
        let sophia = sophia();
        let registry = sophia.registry();
        for (flag, version) in [("--modern", "MCP 2026-07-28"), ("--shy", "MCP 2025-11-25"), ("", "MCP 2025-11-25")] {
            let mut server = small("small");
            server.args.push(flag.to_owned());
            registry.register(server).unwrap();
            let result = call(registry, "small", "echo", json!({"message": "hi"})).await;
            assert!(result.ok && result.text == "hi", "{flag}: {result:?}");
            assert_eq!(registry.tools(Some("small")).await.unwrap()[0].name, "echo");
            let status = registry.check("small").await.unwrap();
            assert!(status.status == Status::Healthy && status.detail.unwrap().contains(version), "{flag}");
            sophia.shutdown().await.unwrap();
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn starting_and_stopping_again_and_again_leaves_nothing_open() {
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(small("small")).unwrap();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mut before = 0;
        for round in 0..20 {
            let pid = call(registry, "small", "pid", json!({})).await.text;
            match round % 2 {
                0 => assert!(!call(registry, "small", "exit", json!({})).await.ok),
                _ => sophia.shutdown().await.unwrap(),
            }
            assert!(!exists(&pid), "round {round}");
            if round == 3 {
                before = open();
            }
        }
        assert!(open() <= before, "{} > {before}", open());
    }

    #[tokio::test]
    async fn the_reference_server_is_listed_called_and_checked() {
        let (command, args) = everything();
        let sophia = sophia();
        let registry = sophia.registry();
        let config = json!({"mcpServers": {"everything": {"command": command, "args": args}}});
        let report = registry.load(Load::value(config)).await.unwrap();
        assert_eq!((report.loaded, report.errors.len()), (vec!["everything".to_owned()], 0));
        let tools = registry.tools(Some("everything")).await.unwrap();
        assert!(tools.iter().any(|tool| tool.name == "echo" && tool.input_schema["properties"]["message"].is_object()));
        let results =
            join_all((0..10).map(|n| call(registry, "everything", "echo", json!({"message": format!("hello {n}")}))))
                .await;
        for (n, result) in results.iter().enumerate() {
            assert!(
                result.ok && result.text.contains(&format!("hello {n}")) && result.server == "everything",
                "{result:?}"
            );
        }
        let status = registry.check("everything").await.unwrap();
        assert!(status.status == Status::Healthy && status.detail.unwrap().contains("MCP 20"));
        sophia.shutdown().await.unwrap();
    }
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

mod over_http {
    use super::*;

    #[tokio::test]
    async fn the_reference_server_is_called_over_streamable_http() {
        let (command, mut args) = everything();
        *args.last_mut().unwrap() = "streamableHttp".to_owned();
        let port = closed_port().await.rsplit(':').next().unwrap().to_owned();
        let mut server =
            tokio::process::Command::new(command).args(args).env("PORT", &port).kill_on_drop(true).spawn().unwrap();
        let sophia = sophia();
        let registry = sophia.registry();
        // Without a path, as a list of ports gives it.
        registry.load(Load::value(json!({"everything": port.parse::<u16>().unwrap()}))).await.unwrap();
        until(async || registry.check("everything").await.unwrap().status == Status::Healthy).await;
        assert!(registry.tools(Some("everything")).await.unwrap().len() > 3);
        let results =
            join_all((0..20).map(|n| call(registry, "everything", "echo", json!({"message": format!("hello {n}")}))))
                .await;
        assert!(results.iter().enumerate().all(|(n, result)| result.ok && result.text.contains(&format!("hello {n}"))));

        server.kill().await.unwrap();
        let gone = call(registry, "everything", "echo", json!({"message": "x"})).await;
        assert!(!gone.ok && gone.error.unwrap().code == "UNAVAILABLE");
        sophia.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn faults_of_an_mcp_server_over_http_are_answers() {
        let (locked, failing, garbage, nowhere) =
            (answers(401, "").await, answers(503, "busy").await, answers(200, "<html>").await, answers(404, "").await);
        let (_listener, hanging) = hung().await;
        let cases = [
            (locked.uri(), "UNAUTHORIZED"),
            (failing.uri(), "UNAVAILABLE"),
            (garbage.uri(), "UNAVAILABLE"),
            (nowhere.uri(), "NOT_FOUND"),
            (closed_port().await, "UNAVAILABLE"),
            (hanging, "TIMEOUT"),
        ];
        let sophia = sophia();
        let registry = sophia.registry();
        for (url, code) in cases {
            registry.register(Server::new("a").url(&url).timeout(Duration::from_millis(500))).unwrap();
            let error = call(registry, "a", "x", json!({})).await.error.unwrap();
            assert_eq!(error.code, code, "{url}: {}", error.message);
        }
        registry.register(Server::new("old").url("http://127.0.0.1:1/sse")).unwrap();
        let error = call(registry, "old", "x", json!({})).await.error.unwrap();
        assert!(error.code == "UNSUPPORTED" && error.message.contains("streamable HTTP"), "{error:?}");
        sophia.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn rest_servers_are_called_by_their_routes() {
        let server = MockServer::start().await;
        let answer = |text: &str| ResponseTemplate::new(200).set_body_json(json!({"result": text}));
        Mock::given(method("POST"))
            .and(path("/api/top_deals"))
            .and(body_json(json!({"n": 3})))
            .and(header("authorization", "Bearer k"))
            .respond_with(answer("deals"))
            .mount(&server)
            .await;
        Mock::given(method("GET")).and(path("/api/clock")).respond_with(answer("noon")).mount(&server).await;
        Mock::given(path("/api/execute"))
            .and(body_json(json!({"name": "other", "arguments": {}})))
            .respond_with(answer("executed"))
            .mount(&server)
            .await;
        let sophia = sophia();
        let registry = sophia.registry();
        let url = format!("{}/api", server.uri());
        registry.register(rest("a", &url).rest("clock", "GET /clock").auth("k")).unwrap();
        registry.register(Server::new("b").url(&url).rest("*", "/execute")).unwrap();
        assert_eq!(call(registry, "a", "top_deals", json!({"n": 3})).await.text, "deals");
        assert_eq!(call(registry, "a", "clock", json!({})).await.text, "noon");
        assert_eq!(call(registry, "b", "other", json!({})).await.text, "executed");
        let missing = call(registry, "a", "nothing", json!({})).await;
        assert_eq!(missing.error.unwrap().code, "NOT_FOUND");
        assert_eq!(registry.status()["a"].errors, 0);
    }

    #[tokio::test]
    async fn every_fault_of_a_server_is_an_answer_that_counts_against_it() {
        let (failing, garbage) = (answers(503, "busy").await, answers(200, "<html>").await);
        let (_listener, hanging) = hung().await;
        let sophia = sophia();
        let registry = sophia.registry();
        let faults = [
            ("refusing", closed_port().await, "UNAVAILABLE"),
            ("failing", failing.uri(), "UNAVAILABLE"),
            ("garbage", garbage.uri(), "UNAVAILABLE"),
            ("hanging", hanging, "TIMEOUT"),
        ];
        for (id, url, code) in &faults {
            registry.register(rest(id, url).timeout(Duration::from_millis(200))).unwrap();
            let result = call(registry, id, "x", json!({})).await;
            let error = result.error.unwrap();
            assert_eq!((result.ok, error.code.as_str(), error.retryable), (false, *code, true), "{id}");
            assert_eq!(registry.breaker(id).unwrap().failures, 1, "{id}");
        }
    }

    #[tokio::test]
    async fn fallbacks_are_followed_and_every_try_is_told() {
        let spare = answers(200, r#"{"result": "from rest"}"#).await;
        let (_listener, hanging) = hung().await;
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(rest("main", &closed_port().await).fallback("hanging").fallback("gone")).unwrap();
        registry.register(rest("hanging", &hanging).timeout(Duration::from_millis(100)).fallback("spare")).unwrap();
        registry.register(rest("spare", &spare.uri())).unwrap();
        let result = call(registry, "main", "top_deals", json!({})).await;
        assert!(result.ok && result.fallback_used && result.text == "from rest");
        let tries: Vec<_> = result.attempts.iter().map(|attempt| (attempt.server.as_str(), attempt.ok)).collect();
        assert_eq!(tries, [("main", false), ("hanging", false), ("spare", true)]);

        let alone = ToolCall::new("main", "x").fallback(Fallback::Configured(false));
        let alone = registry.call(alone).await.unwrap();
        assert!(!alone.ok && !alone.fallback_used && alone.attempts.len() == 1);
        let named = ToolCall::new("main", "x").fallback(Fallback::Servers(vec!["Spare".into()]));
        assert_eq!(registry.call(named).await.unwrap().server, "spare");
        // Nobody knows whether the one that hangs has begun.
        let once = ToolCall::new("hanging", "x").idempotent(false);
        assert_eq!(registry.call(once).await.unwrap().attempts.len(), 1);
    }

    #[tokio::test]
    async fn a_server_that_hangs_leaves_time_for_its_fallback() {
        let spare = answers(200, r#"{"result": 1}"#).await;
        let (_listener, hanging) = hung().await;
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(rest("main", &hanging).fallback("spare")).unwrap();
        registry.register(rest("spare", &spare.uri())).unwrap();
        let result = registry.call(ToolCall::new("main", "x").timeout(Duration::from_millis(600))).await.unwrap();
        assert!(result.ok && result.server == "spare" && result.latency_ms < 600.0, "{result:?}");
    }

    #[tokio::test]
    async fn an_open_breaker_does_not_ask_and_names_the_server() {
        let server = answers(503, "busy").await;
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(rest("spare", &server.uri())).unwrap();
        for _ in 0..20 {
            assert!(!call(registry, "spare", "x", json!({})).await.ok);
        }
        assert_eq!(registry.breaker("spare").unwrap().state, BreakerState::Open);
        assert_eq!(server.received_requests().await.unwrap().len(), 5);
        let started = Instant::now();
        let error = call(registry, "spare", "x", json!({})).await.error.unwrap();
        assert!(started.elapsed() < Duration::from_millis(50));
        assert!(
            error.code == "CIRCUIT_OPEN" && error.message.contains("`spare`") && error.retry_after.is_some(),
            "{error:?}"
        );
        let text = sophia.telemetry().prometheus();
        assert!(text.contains(r#"sophia_mcp_requests_total{server="spare",status="error"} 5"#), "{text}");
        assert!(text.contains(r#"sophia_mcp_server_status{server="spare"} 0"#), "{text}");
    }

    #[tokio::test]
    async fn a_refused_key_and_a_wrong_argument_are_not_the_servers_failure() {
        let (locked, picky) = (answers(401, "who are you").await, answers(422, "n must be positive").await);
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(rest("locked", &locked.uri())).unwrap();
        registry.register(rest("picky", &picky.uri()).fallback("locked")).unwrap();
        for _ in 0..10 {
            assert_eq!(call(registry, "locked", "x", json!({})).await.error.unwrap().code, "UNAUTHORIZED");
            let result = call(registry, "picky", "x", json!({})).await;
            assert_eq!((result.attempts.len(), result.error.unwrap().code.as_str()), (1, "INVALID_INPUT"));
        }
        assert_eq!(registry.breaker("locked").unwrap().failures, 0);
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let target = answers(200, r#"{"result": "secret"}"#).await;
        let server = MockServer::start().await;
        let away = ResponseTemplate::new(307).insert_header("location", target.uri().as_str());
        Mock::given(wiremock::matchers::any()).respond_with(away).mount(&server).await;
        let sophia = sophia();
        sophia.registry().register(rest("a", &server.uri()).auth("k")).unwrap();
        assert!(!call(sophia.registry(), "a", "x", json!({})).await.ok);
        assert!(target.received_requests().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_capability_picks_a_server_that_works() {
        let good = answers(200, r#"{"result": "ok"}"#).await;
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(rest("bad", &closed_port().await).capability("Analytics")).unwrap();
        registry.register(rest("good", &good.uri()).capability("analytics")).unwrap();
        for _ in 0..20 {
            let result = registry.call(ToolCall::any("x").capability("ANALYTICS")).await.unwrap();
            assert!(result.ok && result.server == "good");
        }
        assert_eq!(registry.select(&Select::new("analytics")).unwrap().server, "good");
        assert_eq!(registry.call(ToolCall::any("x").capability("nothing")).await.unwrap_err().code(), "NOT_FOUND");
    }

    #[tokio::test]
    async fn bad_calls_are_refused_before_anything_is_sent() {
        let server = answers(200, "{}").await;
        let sophia = sophia();
        let registry = sophia.registry();
        registry.register(rest("a", &server.uri())).unwrap();
        let big = json!({"text": "x".repeat(10 << 20)});
        let cases = [
            (ToolCall::new("a", ""), "tool"),
            (ToolCall::new("a", "x\0"), "tool"),
            (ToolCall::new("", "x"), "server"),
            (ToolCall::new("a", "x").capability(" "), "capability"),
            (ToolCall::new("a", "x").arguments(big), "arguments"),
            (ToolCall::new("a", "x").timeout(Duration::ZERO), "timeout"),
            (ToolCall::new("a", "x").scope(Scope::new().user("")), "scope.user"),
        ];
        for (call, field) in cases {
            let error = registry.call(call).await.unwrap_err();
            assert_eq!((error.code(), error.get("field")), ("INVALID_INPUT", Some(field)));
        }
        let error = registry.call(ToolCall::new("aa", "x")).await.unwrap_err();
        assert!(error.code() == "NOT_FOUND" && error.message().contains("did you mean `a`"), "{error}");
        assert!(server.received_requests().await.unwrap().is_empty());
    }
}

mod health {
    use super::*;

    #[tokio::test]
    async fn forty_eight_hung_servers_cost_one_deadline() {
        let (_listener, url) = hung().await;
        let sophia = sophia();
        let registry = sophia.registry();
        let well = answers(200, r#"{"status": "ok"}"#).await;
        for n in 0..48 {
            registry.register(rest(&format!("hung-{n}"), &url).health_path("/health")).unwrap();
        }
        registry.register(rest("well", &well.uri()).health_path("/health")).unwrap();
        let started = Instant::now();
        let statuses = registry.check_all(CheckAll::default().deadline(Duration::from_millis(500))).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
        assert_eq!(statuses.values().filter(|status| status.status == Status::Unhealthy).count(), 48);
        assert_eq!((statuses.len(), statuses["well"].status), (49, Status::Healthy));
        assert!(statuses["well"].latency_ms.is_some() && statuses["hung-0"].latency_ms.is_none());
        // Those that it was too late to ask are not called unhealthy.
        let few = CheckAll::default().concurrency(8).deadline(Duration::from_millis(200));
        let other = super::sophia();
        for n in 0..16 {
            other.registry().register(rest(&format!("hung-{n}"), &url).health_path("/health")).unwrap();
        }
        let statuses = other.registry().check_all(few).await.unwrap();
        assert_eq!(statuses.values().filter(|status| status.status == Status::Unknown).count(), 8);
    }

    #[tokio::test]
    async fn checks_tell_how_a_server_is_and_selection_listens() {
        let (up, down) = (answers(200, r#"{"status": "UP"}"#).await, answers(503, r#"{"status": "ok"}"#).await);
        let (_listener, port) = hung().await;
        let sophia = sophia();
        let registry = sophia.registry();
        let mut changes = registry.watch();
        registry.register(rest("up", &up.uri()).health_path("/health").capability("x")).unwrap();
        registry.register(rest("down", &down.uri()).health_path("/health").capability("x")).unwrap();
        registry.register(rest("port", &port)).unwrap();
        registry.register(rest("closed", &closed_port().await)).unwrap();
        registry.register(small("small")).unwrap();
        for (id, status) in [
            ("up", Status::Healthy),
            ("down", Status::Unhealthy),
            ("port", Status::Healthy),
            ("closed", Status::Unhealthy),
            ("small", Status::Healthy),
        ] {
            assert_eq!(registry.check(id).await.unwrap().status, status, "{id}");
        }
        for _ in 0..10 {
            assert_eq!(registry.select(&Select::new("x")).unwrap().server, "up");
        }
        let sick = operation(&sophia, "registry.discover", json!({"status": "unhealthy"})).await.unwrap();
        assert_eq!(sick.as_array().unwrap().len(), 2);
        let told: Vec<_> = changes.by_ref().take(10).collect().await;
        assert_eq!(told.iter().filter(|change| change.kind == ChangeKind::Status).count(), 5);
        assert_eq!(registry.check("nobody").await.unwrap_err().code(), "NOT_FOUND");
        sophia.shutdown().await.unwrap();
    }
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
