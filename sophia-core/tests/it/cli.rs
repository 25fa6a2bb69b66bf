//! The command line, as a process of its own.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

fn sophia(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sophia"));
    command.current_dir(dir).env_remove("RUST_LOG");
    // Those of this machine, and of the tests themselves, are no configuration.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SOPHIA_")) {
        command.env_remove(name);
    }
    command
}

fn run(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = sophia(dir).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

#[test]
fn a_configuration_that_works_is_well() {
    let dir = tempfile::tempdir().unwrap();
    let (code, text, _) = run(dir.path(), &["check", "--data-dir", "data"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("all is well") && text.contains("memory.l3"), "{text}");
}

#[test]
fn what_is_wrong_is_named_with_its_fix() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "sophia.toml", "[chat]\nmax_concurent = 3");
    let (code, text, _) = run(dir.path(), &["check", "--json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &report["ok"]), (1, &json!(false)));
    let finding = &report["findings"][0];
    assert!(finding["detail"].as_str().unwrap().contains("did you mean `max_concurrent`"), "{finding}");
    assert_eq!(finding["fix"], "rename or remove `chat.max_concurent` in the file");
    for (variable, value, fix) in [
        ("SOPHIA_CHAT__MAX_CONCURENT", "3", "rename or remove the variable SOPHIA_CHAT__MAX_CONCURENT"),
        ("SOPHIA_CHAT__MAX_CONCURRENT", "many", "correct the variable SOPHIA_CHAT__MAX_CONCURRENT"),
        (
            "SOPHIA_CHAT__MAX_CONCURRENT",
            "0",
            "correct `chat.max_concurrent` in the file, or SOPHIA_CHAT__MAX_CONCURRENT in the environment",
        ),
    ] {
        let config = dir.path().join("empty.toml");
        std::fs::write(&config, "").unwrap();
        let mut check = sophia(dir.path());
        check.args(["check", "--json", "--config", "empty.toml"]).env(variable, value);
        let report: Value = serde_json::from_slice(&check.output().unwrap().stdout).unwrap();
        assert_eq!(report["findings"][0]["fix"], fix, "{report}");
    }

    let text = "[server]\nhost = '0.0.0.0'\n[[chat.providers]]\nname = 'gone'\nbase_url = 'http://127.0.0.1:9/v1'\napi_key = 'k'";
    write(dir.path(), "other.toml", text);
    let (code, text, _) = run(dir.path(), &["check", "--json", "--config", "other.toml"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    let problems = report["findings"].as_array().unwrap().iter().filter(|finding| finding["status"] == "problem");
    let problems: Vec<_> = problems.map(|finding| finding["what"].as_str().unwrap()).collect();
    assert_eq!((code, problems), (1, vec!["server", "provider gone"]), "{report:#}");

    write(dir.path(), "short.toml", "[[server.keys]]\nkey = 'abc'");
    let (code, text, _) = run(dir.path(), &["check", "--config", "short.toml"]);
    assert!(code == 0 && text.contains("`server.keys[0].key` can be guessed") && !text.contains("abc"), "{text}");
}

#[test]
fn what_is_away_is_no_working_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[memory.embedder]\nkind = 'http'\nbase_url = 'http://127.0.0.1:9/v1'\nmodel = 'bge-m3'\n\
                [telemetry.otlp]\nendpoint = 'http://127.0.0.1:9'";
    write(dir.path(), "sophia.toml", text);
    let (code, text, _) = run(dir.path(), &["check", "--json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    let problems = report["findings"].as_array().unwrap().iter().filter(|finding| finding["status"] == "problem");
    let problems: Vec<_> = problems.map(|finding| finding["what"].as_str().unwrap()).collect();
    assert_eq!((code, problems), (1, vec!["embedder bge-m3", "collector of OpenTelemetry"]), "{report:#}");
}

#[test]
fn conflicts_between_files_are_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.json", r#"{"servers": [{"name": "github", "port": 9007}]}"#);
    write(dir.path(), "b.json", r#"{"active_servers": {"github": 9016}}"#);
    let (code, text, errors) = run(dir.path(), &["mcp", "lint", "a.json", "b.json"]);
    assert!(code == 1 && text.contains("port_mismatch") && text.contains("github"), "{text} {errors}");
    let (code, text, _) = run(dir.path(), &["mcp", "lint", "a.json"]);
    assert_eq!((code, text.trim()), (0, "no conflicts"));
    let (code, text, _) = run(dir.path(), &["mcp", "list", "a.json", "--json"]);
    let servers: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &servers[0]["id"]), (0, &json!("github")), "{text}");
    let (code, _, errors) = run(dir.path(), &["mcp", "call", "nobody", "x"]);
    assert!(code == 1 && errors.contains("nobody"), "{errors}");
}

#[test]
fn what_cannot_be_read_is_a_finding_and_keeps_nothing_else_out() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(80);
    write(dir.path(), "odd.json", r#"{"a": {"b": {"c": true}}}"#);
    write(dir.path(), "bad.json", &json!({"mcpServers": {long.as_str(): {"command": 7}}}).to_string());
    write(dir.path(), "a.json", r#"{"servers": [{"name": "github", "port": 9007}]}"#);
    write(dir.path(), "b.json", r#"{"active_servers": {"github": 9016}}"#);
    let (code, text, errors) = run(dir.path(), &["mcp", "lint", "bad.json"]);
    assert!(
        code == 1 && text.contains(&long) && text.contains("bad.json"),
        "nothing is cut in a pipe: {text} {errors}"
    );
    let (code, text, _) = run(dir.path(), &["mcp", "lint", "odd.json", "bad.json", "a.json", "b.json", "--json"]);
    let findings: Value = serde_json::from_str(&text).unwrap();
    let found =
        |index: usize| (findings[index]["kind"].as_str().unwrap(), findings[index]["sources"][0].as_str().unwrap());
    assert_eq!((code, found(0), found(1)), (1, ("unreadable", "odd.json"), ("unreadable", "bad.json")));
    assert_eq!((findings[1]["servers"][0].as_str(), found(2).0), (Some(long.as_str()), "port_mismatch"), "{text}");
    let (code, text, errors) = run(dir.path(), &["mcp", "list", "odd.json", "a.json"]);
    assert!(code == 1 && text.contains("github") && errors.contains("odd.json"), "{text} {errors}");
}

#[test]
fn a_server_that_cannot_start_is_named_beside_the_tools_of_the_others() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.json", r#"{"mcpServers": {"dead": {"command": "no-such-program"}}}"#);
    let (code, text, errors) = run(dir.path(), &["mcp", "list", "a.json", "--tools"]);
    assert!(code == 1 && text.trim() == "no tools" && errors.starts_with("dead: "), "{text} {errors}");
}

#[test]
fn the_memory_is_searched_in_one_scope() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let (code, text, errors) = run(dir.path(), &["memory", "stats", "--data-dir", "data", "--json"]);
    assert_eq!(code, 0, "{errors}");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["records"], 0);
    let search = ["memory", "search", "report", "--data-dir", "data", "--tenant", "acme", "--user", "ada"];
    let (code, text, _) = run(dir.path(), &search);
    assert!(code == 0 && text.contains("nothing found in this scope"), "{text}");
}

#[test]
fn the_memory_is_exported_imported_backed_up_checked_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "memory.jsonl",
        r#"{"type": "entity", "name": "Ada", "entityType": "person", "observations": ["likes tea"]}"#,
    );
    let memory = |rest: &[&str]| {
        let (code, text, errors) = run(dir.path(), &[&["memory"], rest, &["--data-dir", "data", "--json"]].concat());
        (code, serde_json::from_str::<Value>(&text).unwrap_or_default(), errors)
    };
    let (code, receipt, errors) = memory(&["import", "memory.jsonl", "--user", "ada"]);
    assert_eq!((code, &receipt["format"], &receipt["added"]), (0, &json!("server_memory"), &json!(1)), "{errors}");
    assert_eq!(errors, "", "no progress where nobody looks");
    let (code, receipt, errors) = memory(&["export", "all.jsonl"]);
    assert_eq!((code, &receipt["entities"]), (0, &json!(1)), "{errors}");
    assert_eq!(memory(&["export", "all.jsonl"]).0, 1);
    let (code, receipt, errors) = memory(&["import", "all.jsonl", "--format", "sophia"]);
    assert_eq!((code, &receipt["unchanged"]), (0, &json!(1)), "{errors}");
    let (code, _, errors) = memory(&["import", "all.jsonl", "--format", "mem1"]);
    assert!(code == 1 && errors.contains("mem0"), "{errors}");
    assert_eq!(memory(&["backup", "backup.db"]).0, 0);
    let (code, report, _) = memory(&["check"]);
    assert_eq!((code, &report["ok"], &report["problems"]), (0, &json!(true), &json!([])));
    let (code, _, errors) = memory(&["forget", "--subject", "ada"]);
    assert!(code == 1 && errors.contains("--yes"), "{errors}");
    let (code, receipt, errors) = memory(&["forget", "--subject", "ada", "--yes"]);
    assert_eq!((code, &receipt["tiers"]), (0, &json!(["l1", "l3"])), "{errors}");
    let (_, receipt, _) = memory(&["export", "after.jsonl"]);
    assert_eq!(receipt["entities"], 0);
    let (code, text, errors) = run(dir.path(), &["memory", "export", "-", "--data-dir", "data"]);
    assert_eq!((code, text), (0, std::fs::read_to_string(dir.path().join("after.jsonl")).unwrap()), "{errors}");
}

#[test]
fn the_memory_must_be_one_that_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let line = r#"{"type": "entity", "name": "Ada", "entityType": "person", "observations": []}"#;
    write(dir.path(), "memory.jsonl", line);
    let commands: [&[&str]; 7] = [
        &["search", "tea"],
        &["stats"],
        &["export", "all.jsonl"],
        &["import", "memory.jsonl"],
        &["forget", "--user", "ada", "--yes"],
        &["backup", "backup.db"],
        &["check"],
    ];
    for command in commands {
        let command = [&["memory"], command].concat();
        let (code, text, errors) = run(dir.path(), &command);
        assert!(code == 1 && errors.contains("--data-dir") && text.is_empty(), "{command:?}: {text} {errors}");
        let (code, text, errors) = run(dir.path(), &[&command[..], &["--data-dir", "dtaa"]].concat());
        if command[1] == "import" {
            assert_eq!(code, 0, "{errors}");
            std::fs::remove_dir_all(dir.path().join("dtaa")).unwrap();
        } else {
            assert!(code == 1 && errors.contains("`dtaa`") && text.is_empty(), "{command:?}: {text} {errors}");
            assert!(!dir.path().join("dtaa").exists(), "{command:?}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_result_that_cannot_be_written_is_a_failure_and_a_reader_that_has_gone_is_none() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    for arguments in [&["memory", "stats"][..], &["memory", "export", "-"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let arguments = [arguments, &["--data-dir", "data"]].concat();
        let Output { status, stderr, .. } = sophia(dir.path()).args(&arguments).stdout(full).output().unwrap();
        let errors = String::from_utf8(stderr).unwrap();
        assert!(status.code() == Some(1) && errors.contains("cannot be written"), "{arguments:?}: {errors}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let Output { status, stderr, .. } = sophia(dir.path()).args(&arguments).stdout(writer).output().unwrap();
        assert_eq!(status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    }
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(run(dir.path(), &["serv"]).0, 2);
    let (code, text, _) = run(dir.path(), &["completions", "bash"]);
    assert!(code == 0 && text.contains("_sophia()"), "{text}");
    let (code, _, errors) = run(dir.path(), &["serve", "--host", "0.0.0.0", "--port", "0"]);
    assert!(code == 1 && errors.contains("server.keys"), "{errors}");
}

#[cfg(unix)]
#[test]
fn serve_answers_until_it_is_terminated() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = sophia(dir.path());
    let serve = ["serve", "--port", "0", "--data-dir", "data", "--json"];
    let mut child = server.args(serve).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut text = String::new();
    let url = loop {
        text += &lines.next().unwrap().unwrap();
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            break value["url"].as_str().unwrap().to_owned();
        }
    };
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn recall_is_measured_by_category() {
    let dir = tempfile::tempdir().unwrap();
    let turn = |id: &str, text: &str| json!({"speaker": "Ada", "dia_id": id, "text": text});
    let asked = |text: &str, evidence: &str, category: i64| json!({"question": text, "answer": "", "evidence": [evidence], "category": category});
    let sample = json!([{
        "sample_id": "one",
        "conversation": {
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [turn("D1:1", "I moved to Lisbon."), turn("D1:2", "My dog is called Rex.")]
        },
        "qa": [asked("What is the dog called?", "D1:2", 4), asked("Where does Ada live?", "D9:9", 2)]
    }]);
    // As some editors write it.
    write(dir.path(), "talk.json", &format!("\u{feff}{sample}"));
    let (code, text, errors) = run(dir.path(), &["eval", "talk.json"]);
    assert_eq!(code, 0, "{errors}");
    let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[0], ["category", "questions", "R@5", "R@10", "R@25", "R@50"]);
    assert_eq!(lines[1], ["single-hop", "1", "100.0", "100.0", "100.0", "100.0"]);
    assert_eq!(lines[2], ["temporal", "1", "0.0", "0.0", "0.0", "0.0"]);
    let (_, text, _) = run(dir.path(), &["eval", "talk.json", "--json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["all"]["questions"], &report["all"]["recall"][0]), (&json!(2), &json!(0.5)));
    write(dir.path(), "other.json", "[{}]");
    let (code, _, errors) = run(dir.path(), &["eval", "other.json"]);
    assert!(code == 1 && errors.contains("file[0]"), "{errors}");
}
