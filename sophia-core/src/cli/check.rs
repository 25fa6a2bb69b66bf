//! `sophia check`: what is wrong with the configuration, the environment and the connections, and how to fix it.

use std::{path::Path, process::ExitCode, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    output::{Output, cell, table},
    run::call,
};
use crate::{
    Config, Error, ErrorKind, Result, Sophia,
    chat::{Model, ProviderConfig},
    memory::embed::ModelClass,
};

/// Longest wait for one connection.
const DEADLINE: Duration = Duration::from_secs(5);

/// Shortest key that cannot be guessed, in characters: 16 hexadecimal digits are 64 bits.
const SHORTEST_KEY: usize = 16;

/// What was found at one place.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    status: Status,
    detail: String,
    fix: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    /// It works, but may not be what was meant.
    Note,
    Problem,
}

/// Checks everything; the exit code is 1 where there is a problem.
pub(super) async fn run(output: Output, config: Result<Config>) -> Result<ExitCode> {
    let findings = match config.and_then(Sophia::new) {
        Ok(sophia) => {
            let findings = check(&sophia).await;
            // What could not be opened cannot be closed; it stands among the findings.
            let _ = sophia.shutdown().await;
            findings
        }
        Err(error) => vec![Finding {
            what: "configuration".to_owned(),
            status: Status::Problem,
            detail: error.message().to_owned(),
            fix: Some(fix_configuration(&error)),
        }],
    };
    let problems = findings.iter().filter(|finding| finding.status == Status::Problem).count();
    let value = json!({"ok": problems == 0, "findings": findings});
    output.show(&value, |_| {
        let rows: Vec<_> = findings.iter().map(row).collect();
        let fixes: String = findings.iter().filter_map(fix).collect();
        let sum = if problems == 0 { "all is well".to_owned() } else { format!("{problems} to fix") };
        format!("{}\n\n{sum}\n{fixes}", table(["what", "status", "detail"], &rows))
    })?;
    Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says what to do about a configuration that cannot be read, or not be used.
fn fix_configuration(error: &Error) -> String {
    let Some(field) = error.get("field").filter(|field| *field != "config") else {
        return "see `sophia check --help` for where the configuration is read from".to_owned();
    };
    let is_unknown = error.message().contains("is not a known field");
    let verb = match error.message() {
        _ if is_unknown => "rename or remove",
        message if message.ends_with("is required") => "set",
        _ => "correct",
    };
    match error.get("variable") {
        Some(variable) => format!("{verb} the variable {variable}"),
        // What is in a list has no variable of its own.
        None if is_unknown || field.contains('[') => format!("{verb} `{field}` in the file"),
        None => format!("{verb} `{field}` in the file, or {} in the environment", Config::variable(field)),
    }
}

fn row(finding: &Finding) -> [String; 3] {
    let status = match finding.status {
        Status::Ok => "ok",
        Status::Note => "note",
        Status::Problem => "PROBLEM",
    };
    [finding.what.clone(), status.to_owned(), finding.detail.clone()]
}

/// Says how to fix what can be fixed, a line each.
fn fix(finding: &Finding) -> Option<String> {
    let sign = if finding.status == Status::Problem { "!" } else { "-" };
    finding.fix.as_ref().map(|fix| format!("{sign} {}: {fix}\n", finding.what))
}

async fn check(sophia: &Sophia) -> Vec<Finding> {
    let config = sophia.config();
    let mut findings = vec![ok("configuration", "every field is known and in range")];
    findings.push(server(config));
    // Where the data is in Postgres, the tier says whether it can be kept.
    if !config.postgres.is_set() {
        findings.push(data_dir(config.data_dir.as_deref()));
    }
    match tokio::time::timeout(DEADLINE, sophia.start()).await {
        Ok(Ok(())) => findings.push(ok("engine", "starts")),
        Ok(Err(error)) => findings.push(problem("engine", error.message(), fix_start(config, &error))),
        Err(_) => findings.push(problem("engine", "does not start within 5 s", "look which dependency is slow")),
    }
    findings.extend(tiers(sophia).await);
    findings.extend(check_embedder(sophia).await);
    findings.extend(check_collector(sophia).await);
    for provider in &config.chat.providers {
        findings.push(check_provider(provider).await);
    }
    findings.extend(servers(sophia).await);
    findings
}

fn server(config: &Config) -> Finding {
    match config.server.check_bind() {
        Ok(()) => {
            let address = format!("{}:{}", config.server.host, config.server.port);
            let keys = &config.server.keys;
            let short = keys.iter().position(|key| key.key.expose().len() < SHORTEST_KEY);
            match (keys.len(), short) {
                (0, _) => ok("server", format!("{address}, for this machine only")),
                (keys, None) => ok("server", format!("{address}, {keys} keys")),
                (keys, Some(index)) => Finding {
                    status: Status::Note,
                    fix: Some("take random characters, such as those of `openssl rand -hex 32`".to_owned()),
                    ..ok("server", format!("{address}, {keys} keys; `server.keys[{index}].key` can be guessed"))
                },
            }
        }
        Err(error) => problem("server", error.message(), "add `[[server.keys]]`, or listen on 127.0.0.1"),
    }
}

fn data_dir(data_dir: Option<&Path>) -> Finding {
    let what = "data directory";
    let Some(path) = data_dir else {
        return Finding {
            status: Status::Note,
            fix: Some("set `data_dir`, or give --data-dir".to_owned()),
            ..ok(what, "none: everything is gone at the end of the process")
        };
    };
    let shown = path.display();
    let probe = path.join(format!(".check-{}", std::process::id()));
    let tried = std::fs::create_dir_all(path)
        .and_then(|()| std::fs::write(&probe, b""))
        .and_then(|()| std::fs::remove_file(&probe));
    match tried {
        Ok(()) => ok(what, format!("{shown} can be written")),
        Err(error) => problem(what, format!("{shown}: {error}"), "make it writable for this user, or name another one"),
    }
}

async fn tiers(sophia: &Sophia) -> Vec<Finding> {
    let Some(health) = ask(sophia, "memory.health", json!({})).await else { return Vec::new() };
    let health = match health {
        Ok(health) => health,
        Err(message) => return vec![problem("memory", message, "see the detail")],
    };
    let tiers = health["tiers"].as_object().into_iter().flatten();
    tiers
        .filter(|(_, tier)| !tier.is_null())
        .map(|(name, tier)| {
            let fix = match name.as_str() {
                "l2" => "check that it runs and that `redis.url` is right",
                "l3" if sophia.config().postgres.is_set() => "check that it runs and that `postgres.url` is right",
                _ => "see the detail",
            };
            judge(format!("memory.{name}"), tier, fix)
        })
        .collect()
}

/// Lets the embedder embed, unless it is the bundled one.
async fn check_embedder(sophia: &Sophia) -> Option<Finding> {
    let embedder = sophia.memory().embedder().filter(|embedder| embedder.class() != ModelClass::Static)?;
    let what = format!("embedder {}", embedder.model());
    const FIX: &str = "correct `memory.embedder`, and check that its server runs and has the model";
    Some(match tokio::time::timeout(DEADLINE, embedder.embed(&["sophia check"])).await {
        Ok(Ok(_)) => ok(&what, "answers"),
        Ok(Err(error)) => problem(&what, error.message(), FIX),
        Err(_) => problem(&what, format!("no answer within {} s", DEADLINE.as_secs()), FIX),
    })
}

async fn check_collector(sophia: &Sophia) -> Option<Finding> {
    let (otel, what) = (sophia.otel()?, "collector of OpenTelemetry");
    const FIX: &str = "check that it runs, and `telemetry.otlp`, or OTEL_EXPORTER_OTLP_ENDPOINT in the environment";
    Some(match tokio::time::timeout(DEADLINE, otel.check()).await {
        Ok(Ok(())) => ok(what, "answers"),
        Ok(Err(detail)) => problem(what, detail, FIX),
        Err(_) => problem(what, format!("no answer within {} s", DEADLINE.as_secs()), FIX),
    })
}

/// Says how an engine can be made to start.
fn fix_start(config: &Config, error: &Error) -> &'static str {
    if !config.postgres.is_set() {
        return "see the detail";
    }
    match (error.kind(), error.get("field")) {
        (ErrorKind::InvalidConfig, Some("postgres.schema")) => "set `postgres.schema` to a name that nobody else uses",
        (ErrorKind::InvalidConfig, _) => "correct `postgres.url`",
        (ErrorKind::Unsupported, _) => "install the newer version here, too, or set another `postgres.schema`",
        (ErrorKind::Unauthorized, _) => "correct user and password in `postgres.url`, or give the user its rights",
        _ => "check that Postgres runs and that `postgres.url` is right",
    }
}

/// Asks a provider for its models, with an engine that knows no other.
async fn check_provider(provider: &ProviderConfig) -> Finding {
    let what = format!("provider {}", provider.name);
    let mut alone = provider.clone();
    // Models that are listed would be answered from the list.
    alone.models.clear();
    let mut config = Config::default();
    config.chat.providers = vec![alone];
    let sophia = match Sophia::new(config) {
        Ok(sophia) => sophia,
        Err(error) => return problem(&what, error.message(), "correct the provider in `chat.providers`"),
    };
    match tokio::time::timeout(DEADLINE, sophia.chat().models()).await {
        Ok(Ok(offered)) => missing_models(&what, provider, &offered),
        Ok(Err(error)) if error.kind() == ErrorKind::Unauthorized => {
            problem(&what, error.message(), "correct its `api_key`, and the environment variable that it names")
        }
        // Not every server that speaks the protocol lists its models.
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => {
            ok(&what, "answers, and lists no models")
        }
        Ok(Err(error)) => problem(&what, error.message(), "check its `base_url`, and that it runs"),
        Err(_) => problem(&what, format!("no answer within {} s", DEADLINE.as_secs()), "check its `base_url`"),
    }
}

fn missing_models(what: &str, provider: &ProviderConfig, offered: &[Model]) -> Finding {
    let missing: Vec<_> =
        provider.models.iter().filter(|name| !offered.iter().any(|model| model.id == **name)).cloned().collect();
    if missing.is_empty() {
        return ok(what, format!("answers with {} models", offered.len()));
    }
    Finding {
        status: Status::Note,
        fix: Some("correct `models`, unless the provider offers more than it lists".to_owned()),
        ..ok(what, format!("answers, and does not list {}", missing.join(", ")))
    }
}

async fn servers(sophia: &Sophia) -> Vec<Finding> {
    let arguments = json!({"deadline": DEADLINE.as_secs_f64()});
    let Some(statuses) = ask(sophia, "registry.check_all", arguments).await else { return Vec::new() };
    match statuses {
        Ok(Value::Object(statuses)) => statuses
            .iter()
            .map(|(id, status)| {
                judge(format!("mcp server {id}"), status, "start it, or correct its address (`sophia mcp lint` helps)")
            })
            .collect(),
        Ok(_) => Vec::new(),
        Err(message) => vec![problem("mcp servers", message, "see the detail")],
    }
}

/// Runs an operation within the deadline; none where this build does not have it.
async fn ask(sophia: &Sophia, name: &str, arguments: Value) -> Option<Result<Value, String>> {
    crate::operations::find(name).ok()?;
    // The operation has a deadline of its own; this one is for those that do not keep it.
    let answer = tokio::time::timeout(DEADLINE * 2, call(sophia, name, arguments)).await;
    Some(match answer {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.message().to_owned()),
        Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs() * 2)),
    })
}

/// Reads a `{status, latency_ms, detail}`.
fn judge(what: String, health: &Value, fix: &str) -> Finding {
    let status = health["status"].as_str().unwrap_or("unknown");
    let detail = match (&health["detail"], &health["latency_ms"]) {
        (Value::Null, Value::Null) => status.to_owned(),
        (Value::Null, latency) => format!("{status}, {} ms", cell(latency)),
        (detail, _) => format!("{status}: {}", cell(detail)),
    };
    match status {
        "healthy" | "ok" | "up" => ok(&what, detail),
        "disabled" | "unknown" | "not_configured" => Finding { status: Status::Note, ..ok(&what, detail) },
        _ => problem(&what, detail, fix),
    }
}

fn ok(what: &str, detail: impl Into<String>) -> Finding {
    Finding { what: what.to_owned(), status: Status::Ok, detail: detail.into(), fix: None }
}

fn problem(what: &str, detail: impl Into<String>, fix: &str) -> Finding {
    Finding { status: Status::Problem, fix: Some(fix.to_owned()), ..ok(what, detail) }
}
