//! Servers that are child processes.

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
    registry.register(small_with(&["--linger"])).unwrap();
    let pid = call(registry, "small", "pid", json!({})).await.text;
    let grandchild = call(registry, "small", "child", json!({})).await.text;
    assert!(exists(&pid) && exists(&grandchild));
    sophia.shutdown().await.unwrap();
    assert!(!exists(&pid));
    // Its parent is gone, so the system's first process reaps it.
    until(async || !exists(&grandchild)).await;
}

/// The small server, and how often it was started.
fn counted(id: &str, folder: &tempfile::TempDir) -> (Server, impl Fn() -> usize + use<>) {
    let file = folder.path().join(id);
    let server = small(id).env("STARTS", file.to_str().unwrap());
    (server, move || std::fs::read_to_string(&file).unwrap_or_default().lines().count())
}

#[tokio::test]
async fn a_call_under_way_ends_with_a_shutdown_and_starts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (server, starts) = counted("small", &folder);
    let (other, other_starts) = counted("other", &folder);
    let sophia = sophia();
    let registry = sophia.registry();
    registry.register(server.fallback("other")).unwrap();
    registry.register(other).unwrap();
    let pid = call(registry, "small", "pid", json!({})).await.text;
    let sleep = ToolCall::new("small", "sleep").arguments(json!({"seconds": 60})).idempotent(true);
    let under_way = async {
        let error = registry.call(sleep).await.unwrap_err();
        assert!(error.code() == "CANCELLED" && error.message().contains("shutdown"), "{error}");
    };
    let closing = async {
        until(async || registry.status()["small"].in_flight == 1).await;
        sophia.shutdown().await.unwrap();
        assert!(!exists(&pid));
    };
    tokio::join!(under_way, closing);
    assert_eq!((starts(), other_starts(), registry.status()["small"].errors), (1, 0, 0));
}

#[tokio::test]
async fn a_deregistered_server_ends_with_the_calls_on_it_and_is_not_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let (server, starts) = counted("small", &folder);
    let sophia = sophia();
    let registry = sophia.registry();
    registry.register(server).unwrap();
    let pid = call(registry, "small", "pid", json!({})).await.text;
    let sleep = ToolCall::new("small", "sleep").arguments(json!({"seconds": 60})).idempotent(true);
    let under_way = async {
        let result = registry.call(sleep).await.unwrap();
        assert!(!result.ok && result.attempts[0].error.as_ref().unwrap().code == "UNAVAILABLE", "{result:?}");
    };
    let taking_out = async {
        until(async || registry.status()["small"].in_flight == 1).await;
        assert!(registry.deregister("small"));
        until(async || !exists(&pid)).await;
    };
    let started = Instant::now();
    tokio::join!(under_way, taking_out);
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(starts(), 1);
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
    let slow = ToolCall::new("small", "sleep").arguments(json!({"seconds": 60})).timeout(Duration::from_millis(200));
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
    assert!(tokio::time::timeout(Duration::from_millis(1), call(registry, "small", "pid", json!({}))).await.is_err());
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
        registry.register(small_with(&[flag])).unwrap();
        let result = call(registry, "small", "echo", json!({"message": "hi"})).await;
        assert!(result.ok && result.text == "hi", "{flag}: {result:?}");
        assert_eq!(registry.tools(Some("small")).await.unwrap()[0].name, "echo");
        let status = registry.check("small").await.unwrap();
        assert!(status.status == Status::Healthy && status.detail.unwrap().contains(version), "{flag}");
        sophia.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_ignores_what_it_does_not_know_is_found_out_once() {
    let sophia = sophia();
    let registry = sophia.registry();
    registry.register(small_with(&["--mute"])).unwrap();
    let started = Instant::now();
    assert!(call(registry, "small", "echo", json!({"message": "hi"})).await.ok);
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert!(!call(registry, "small", "exit", json!({})).await.ok);
    let again = Instant::now();
    assert!(call(registry, "small", "echo", json!({"message": "hi"})).await.ok);
    assert!(again.elapsed() < Duration::from_millis(1_400), "{:?}", again.elapsed());
    sophia.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_slow_to_start_is_not_taken_for_an_old_one() {
    let sophia = sophia();
    let registry = sophia.registry();
    registry.register(small_with(&["--modern", "--slow"])).unwrap();
    let result = call(registry, "small", "echo", json!({"message": "hi"})).await;
    assert!(result.ok && result.text == "hi", "{result:?}");
    assert!(registry.check("small").await.unwrap().detail.unwrap().contains("MCP 2026-07-28"));
    sophia.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_an_error_at_once_and_the_session_goes_on() {
    let sophia = sophia_with(json!({"max_answer_bytes": 100_000}));
    let registry = sophia.registry();
    registry.register(small("small")).unwrap();
    let pid = call(registry, "small", "pid", json!({})).await.text;
    let started = Instant::now();
    let (fits, too_large) = tokio::join!(
        call(registry, "small", "big", json!({"size": 90_000})),
        call(registry, "small", "big", json!({"size": 5_000_000})),
    );
    assert!(fits.ok && fits.text.len() == 90_000);
    let error = too_large.error.unwrap();
    assert!(error.code == "UNAVAILABLE" && error.message.contains("100000 bytes"), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(call(registry, "small", "pid", json!({})).await.text, pid);
    assert_eq!(registry.status()["small"].errors, 0);
    sophia.shutdown().await.unwrap();
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
        join_all((0..10).map(|n| call(registry, "everything", "echo", json!({"message": format!("hello {n}")})))).await;
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
