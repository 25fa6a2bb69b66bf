//! Loading, linting and exporting configurations.

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
async fn a_name_that_its_source_takes_back_names_no_other_server() {
    let url = |name: &str, host: &str| json!({name: {"url": format!("http://{host}.example/mcp")}}).to_string();
    let listed = |registry: &Registry| {
        let places = registry.list().into_iter().map(|server| (server.id, server.url.unwrap()));
        places.collect::<Vec<_>>()
    };
    let is = |name: &str, host: &str| vec![(name.to_owned(), format!("http://{host}.example/mcp"))];
    let sophia = sophia();
    let registry = sophia.registry();
    // What only another source calls so is not called by a name of this one.
    registry.load_json(&url("com.acme/x", "acme"), "a").await.unwrap();
    registry.load_json(&url("x", "other"), "b").await.unwrap();
    assert_eq!(listed(registry), is("com.acme/x", "acme"));
    let report = registry.load_json("{\"mcpServers\": {}}", "a").await.unwrap();
    assert_eq!((report.removed, report.loaded), (vec!["com.acme/x".to_owned()], vec!["x".to_owned()]));
    assert_eq!(listed(registry), is("x", "other"));
    registry.get("com.acme/x").unwrap_err();
    // A source that calls its server otherwise is heard.
    registry.load_json(&url("com.other/x", "moved"), "b").await.unwrap();
    assert_eq!(listed(registry), is("com.other/x", "moved"));
    registry.load_json(&url("com.Other/x", "again"), "b").await.unwrap();
    assert_eq!(listed(registry), is("com.Other/x", "again"));
}

#[tokio::test]
async fn a_spelling_that_its_source_takes_back_is_no_alias() {
    let sophia = sophia();
    let registry = sophia.registry();
    let aliases = || registry.get("gh").unwrap().aliases;
    registry.load_json(r#"{"gh": 1}"#, "a").await.unwrap();
    registry.load_json(r#"{"g-h": 1}"#, "b").await.unwrap();
    assert_eq!(aliases(), ["g-h"]);
    // The others' spellings hold on.
    registry.load_json(r#"{"gh": 2}"#, "a").await.unwrap();
    assert_eq!(aliases(), ["g-h"]);
    let report = registry.load_json("{\"mcpServers\": {}}", "b").await.unwrap();
    assert_eq!((aliases(), report.updated), (vec![], vec!["gh".to_owned()]));
    registry.load_json(r#"{"gh": 2, "G_H": 2}"#, "a").await.unwrap();
    assert_eq!(aliases(), ["G_H"]);
    registry.load_json(r#"{"gh": 2}"#, "a").await.unwrap();
    assert!(aliases().is_empty());
    // What code gave is not taken back by a source.
    let mut server = Server::new("gh").url("http://127.0.0.1:1");
    server.aliases = vec!["hub".to_owned()];
    registry.register(server).unwrap();
    registry.load_json(r#"{"g-h": 3}"#, "b").await.unwrap();
    assert_eq!(aliases(), ["hub", "g-h"]);
    registry.load_json("{\"mcpServers\": {}}", "b").await.unwrap();
    assert_eq!(aliases(), ["hub"]);
}

#[tokio::test]
async fn an_alias_that_is_taken_back_is_free_for_others() {
    let sophia = sophia();
    let registry = sophia.registry();
    let mut server = Server::new("a").url("http://127.0.0.1:1");
    server.aliases = vec!["b".to_owned()];
    registry.register(server.clone()).unwrap();
    assert_eq!(registry.get("b").unwrap().id, "a");
    server.aliases.clear();
    registry.register(server).unwrap();
    registry.load_json(r#"{"b": 2}"#, "x.json").await.unwrap();
    assert_eq!((registry.get("b").unwrap().id, registry.list().len()), ("b".to_owned(), 2));
}

#[tokio::test]
async fn a_source_that_is_loaded_again_replaces_what_it_claimed() {
    let sophia = sophia();
    let registry = sophia.registry();
    registry.load_json(r#"{"a": 1, "b": 1}"#, "x.json").await.unwrap();
    assert_eq!(registry.lint()[0].kind, ConflictKind::PortCollision);
    let report = registry.load_json(r#"{"a": 1}"#, "x.json").await.unwrap();
    assert!(registry.lint().is_empty() && report.removed == ["b"], "{report:?}");
    for _ in 0..3 {
        registry.load(Load::value(json!({"c": 2}))).await.unwrap();
    }
    assert!(registry.lint().is_empty());
    registry.load(Load::value(json!({"c": 3}))).await.unwrap();
    assert_eq!(registry.lint()[0].kind, ConflictKind::PortMismatch);
}

#[tokio::test]
async fn a_source_that_is_loaded_again_takes_out_what_it_alone_has_named() {
    let sophia = sophia();
    let registry = sophia.registry();
    registry.register(small("mine")).unwrap();
    let command = |server: Server| json!({"command": server.command, "args": server.args});
    let all = json!({"mcpServers": {
        "running": command(small("x")), "shared": {"url": "http://127.0.0.1:1"}, "mine": command(small("x")),
        "wrong": {"url": "http://127.0.0.1:2"}, "off": {"url": "http://127.0.0.1:3"}, "kept": {"url": "http://127.0.0.1:4"},
    }});
    registry.load(Load::value(all).source("a")).await.unwrap();
    registry.load(Load::value(json!({"shared": 1})).source("b")).await.unwrap();
    let pid = call(registry, "running", "pid", json!({})).await.text;
    let mut changes = registry.watch();
    let fewer = json!({"mcpServers": {
        "wrong": {"url": 5}, "off": {"url": "http://127.0.0.1:3", "disabled": true}, "kept": {"url": "http://127.0.0.1:4"},
    }});
    let report = registry.load(Load::value(fewer.clone()).source("a")).await.unwrap();
    assert_eq!(report.removed, ["off", "running"]);
    let ids: Vec<_> = registry.list().into_iter().map(|server| server.id).collect();
    assert_eq!(ids, ["kept", "mine", "shared", "wrong"]);
    let change = changes.next().await.unwrap();
    assert_eq!((change.kind, change.server.as_deref()), (ChangeKind::Deregistered, Some("off")));
    until(async || !exists(&pid)).await;
    // What was only wrong meanwhile is gone when it is no longer named.
    let report = registry.load(Load::value(json!({"mcpServers": {}})).source("a")).await.unwrap();
    assert_eq!(report.removed, ["kept", "wrong"]);
    sophia.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_source_that_is_loaded_again_takes_back_what_it_alone_has_said() {
    let sophia = sophia();
    let registry = sophia.registry();
    let load = async |source: &str, server: Value| {
        let config = json!({"mcpServers": {"x": server}});
        registry.load(Load::value(config).source(source)).await.unwrap()
    };
    let headers = || -> Vec<String> {
        let headers = registry.get("x").unwrap().headers;
        headers.iter().map(|(name, value)| format!("{name}: {}", value.expose())).collect()
    };
    let url = "http://127.0.0.1:1";
    let much = json!({"url": url, "headers": {"Authorization": "Bearer OLD"}, "capabilities": ["c"], "timeout": 3});
    load("a", much.clone()).await;
    let report = load("a", json!({"url": url})).await;
    assert_eq!((report.updated, report.removed), (vec!["x".to_owned()], vec![]));
    let x = registry.get("x").unwrap();
    assert!(headers().is_empty() && x.capabilities.is_empty() && x.timeout.is_none(), "{x:?}");

    // What another source says stays, before and after.
    load("b", json!({"url": url, "headers": {"X-Team": "b"}, "capabilities": ["d"]})).await;
    load("a", much.clone()).await;
    assert_eq!(headers(), ["Authorization: Bearer OLD", "X-Team: b"]);
    load("a", json!({"url": url})).await;
    assert_eq!(
        (headers(), registry.get("x").unwrap().capabilities),
        (vec!["X-Team: b".to_owned()], vec!["d".to_owned()])
    );

    // Where another source still names a server that this one no longer does.
    load("a", much.clone()).await;
    let report = registry.load(Load::value(json!({"mcpServers": {}})).source("a")).await.unwrap();
    assert_eq!((report.updated, report.removed), (vec!["x".to_owned()], vec![]));
    assert_eq!(headers(), ["X-Team: b"]);

    // An entry that is wrong takes nothing back.
    load("a", much.clone()).await;
    assert_eq!(load("a", json!({"url": 5})).await.errors.len(), 1);
    assert_eq!(headers(), ["Authorization: Bearer OLD", "X-Team: b"]);

    // What was set by hand stays, and takes the place of all that was said before.
    let mut mine = Server::new("x").url(url);
    mine.headers.insert("X-Mine".to_owned(), sophia_core::Secret::new("1"));
    registry.register(mine).unwrap();
    load("a", json!({"url": url})).await;
    assert_eq!(headers(), ["X-Mine: 1"]);
    load("a", much).await;
    assert_eq!(headers(), ["Authorization: Bearer OLD", "X-Mine: 1"]);
    load("a", json!({"url": url})).await;
    assert_eq!(headers(), ["X-Mine: 1"]);
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
            Server::new("a").command("no-such-program-of-mine", [""; 0]).env("A_TOKEN", "s3cret").fallback("nobody"),
        )
        .unwrap();
    let conflicts = registry.lint();
    let kinds: Vec<_> = conflicts.iter().map(|conflict| conflict.kind).collect();
    assert_eq!(kinds, [ConflictKind::UnknownCommand, ConflictKind::UnknownFallback, ConflictKind::SecretInTheOpen]);
    assert!(!serde_json::to_string(&conflicts).unwrap().contains("s3cret"));
    assert!(conflicts[2].fix.contains("${A_TOKEN}"), "{}", conflicts[2].fix);
}

#[tokio::test]
async fn one_name_with_several_hosts_or_commands_is_a_conflict() {
    let sophia = sophia();
    let registry = sophia.registry();
    let load = async |source: &str, servers: Value| {
        let report = registry.load(Load::value(json!({"mcpServers": servers})).source(source)).await.unwrap();
        assert!(report.errors.is_empty(), "{report:?}");
    };
    let acme = json!({"command": "sh", "args": ["acme", "--token", "s3cret"]});
    load("a", json!({"api": {"url": "https://a.example/mcp"}, "run": acme, "both": acme, "same": acme, "here": {"url": "http://localhost:1/x"}})).await;
    load(
        "b",
        json!({
            "api": {"url": "https://b.example/mcp"}, "run": {"command": "sh", "args": ["evil"]},
            "both": {"url": "https://a.example/both"}, "same": acme, "here": {"url": "http://127.0.0.1:1/x"},
        }),
    )
    .await;
    let conflicts = registry.lint();
    let mismatches: Vec<_> = conflicts.iter().filter(|one| one.kind == ConflictKind::EndpointMismatch).collect();
    let names: Vec<_> = mismatches.iter().map(|conflict| conflict.servers[0].as_str()).collect();
    assert_eq!(names, ["api", "both", "run"]);
    assert!(mismatches[0].message.contains("a.example in a; b.example in b"), "{}", mismatches[0].message);
    assert!(mismatches[1].message.contains("a.example in b; `sh acme --token ***` in a"), "{}", mismatches[1].message);
    assert!(mismatches[2].fix.contains("now in use is `sh evil`"), "{}", mismatches[2].fix);
    assert!(!serde_json::to_string(&conflicts).unwrap().contains("s3cret"));
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
