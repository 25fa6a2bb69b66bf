//! Writes the registry in the forms that editors read. Secrets are never written: a variable stands in their place.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    exposure,
    server::{Server, Transport},
    variables,
};

/// A form that editors read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub enum Dialect {
    /// `mcpServers`, for Claude, Cursor and Windsurf.
    #[default]
    #[serde(rename = "mcpServers", alias = "mcp_servers", alias = "claude", alias = "cursor", alias = "windsurf")]
    McpServers,
    /// `servers` and `inputs`, for VS Code.
    #[serde(rename = "vscode", alias = "vs_code")]
    VsCode,
}

/// Writes the servers that an editor can use; REST servers and built-in ones are not among them, and are named in `left_out`.
pub(crate) fn export<'a>(dialect: Dialect, servers: impl Iterator<Item = &'a Server>) -> Exported {
    let (mut entries, mut inputs, mut left_out) = (Map::new(), Inputs { dialect, asked: Map::new() }, Vec::new());
    for server in servers {
        match entry(server, &mut inputs) {
            Some(entry) => {
                entries.insert(server.id.clone(), entry);
            }
            None => left_out.push(server.id.clone()),
        }
    }
    let config = match dialect {
        Dialect::McpServers => json!({"mcpServers": entries}),
        Dialect::VsCode => {
            let inputs: Vec<_> = inputs.asked.into_iter().map(|(_, input)| input).collect();
            json!({"servers": entries, "inputs": inputs})
        }
    };
    Exported { config, left_out }
}

/// A configuration, and what it could not hold.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Exported {
    /// The document.
    pub config: Value,
    /// Ids of servers that the form has no words for.
    pub left_out: Vec<String>,
}

/// The variables that stand for secrets, in the words of the form.
struct Inputs {
    dialect: Dialect,
    asked: Map<String, Value>,
}

impl Inputs {
    fn placeholder(&mut self, variable: &str) -> String {
        match self.dialect {
            Dialect::McpServers => format!("${{{variable}}}"),
            Dialect::VsCode => {
                let id = variable.to_lowercase().replace('_', "-");
                let input = json!({"type": "promptString", "id": id, "description": variable, "password": true});
                self.asked.insert(id.clone(), input);
                format!("${{input:{id}}}")
            }
        }
    }

    /// Writes a value, or what stands for it.
    fn value(&mut self, name: &str, variable: &str, value: &str) -> String {
        if !exposure::is_secret(name, value) {
            return value.to_owned();
        }
        self.masked(variable, value)
    }

    /// Writes what stands for a value.
    fn masked(&mut self, variable: &str, value: &str) -> String {
        let (scheme, _) = variables::scheme(value);
        format!("{scheme}{}", self.placeholder(variable))
    }
}

fn entry(server: &Server, inputs: &mut Inputs) -> Option<Value> {
    let mut entry = Map::new();
    let transport = server.transport()?;
    if matches!(inputs.dialect, Dialect::VsCode) || transport == Transport::Sse {
        entry.insert("type".into(), serde_json::to_value(transport).ok()?);
    }
    match transport {
        Transport::Rest | Transport::Builtin => return None,
        Transport::Stdio => {
            entry.insert("command".into(), server.command.as_deref()?.into());
            let args = (0..server.args.len()).map(|at| arg(server, at, inputs)).collect::<Vec<_>>();
            entry.insert("args".into(), args.into());
            if let Some(cwd) = &server.cwd {
                entry.insert("cwd".into(), cwd.as_str().into());
            }
            let env =
                server.env.iter().map(|(name, value)| (name.clone(), inputs.value(name, name, value.expose()).into()));
            let env: Map<_, _> = env.collect();
            if !env.is_empty() {
                entry.insert("env".into(), env.into());
            }
        }
        Transport::Http | Transport::Sse => {
            entry.insert("url".into(), url(server, inputs).into());
            let mut headers = Map::new();
            for (name, value) in &server.headers {
                let variable = exposure::variable(&server.id, name);
                let value = match value.expose() {
                    value if exposure::is_secret_header(name, value) => inputs.masked(&variable, value),
                    value => value.to_owned(),
                };
                headers.insert(name.clone(), value.into());
            }
            if let Some(token) = &server.auth {
                let variable = exposure::variable(&server.id, "token");
                headers.insert(
                    "Authorization".into(),
                    format!("Bearer {}", inputs.value("token", &variable, token.expose())).into(),
                );
            }
            if !headers.is_empty() {
                entry.insert("headers".into(), headers.into());
            }
        }
    }
    Some(entry.into())
}

fn arg(server: &Server, at: usize, inputs: &mut Inputs) -> String {
    let arg = &server.args[at];
    let Some(secret) = exposure::in_argument(&server.args, at) else { return arg.clone() };
    let (open, value) = arg.split_at(secret.start);
    format!("{open}{}", inputs.masked(&exposure::variable(&server.id, &secret.name), value))
}

fn url(server: &Server, inputs: &mut Inputs) -> String {
    let mut url = server.url.clone().unwrap_or_default();
    if let Some(range) = exposure::user_info(&url).filter(|_| exposure::is_credential(&url)) {
        url.replace_range(range, &inputs.placeholder(&exposure::variable(&server.id, "userinfo")));
    }
    while let Some(range) = exposure::in_path(&url) {
        url.replace_range(range, &inputs.placeholder(&exposure::variable(&server.id, "path")));
    }
    let secret = exposure::in_query(&url);
    let Some((base, query)) = url.split_once('?').filter(|_| !secret.is_empty()) else { return url };
    let pairs = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if secret.iter().any(|secret| secret == name) => {
            format!("{name}={}", inputs.placeholder(&exposure::variable(&server.id, name)))
        }
        _ => pair.to_owned(),
    });
    format!("{base}?{}", pairs.collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::import::load;

    fn servers() -> Vec<Server> {
        vec![
            Server::new("github")
                .command("npx", ["-y", "@acme/github", "--token=ghp_s3cret_s3cret", "--key-file", "/k"])
                .env("GITHUB_TOKEN", "s3cret")
                .env("LOG_LEVEL", "debug")
                .env("OTHER_TOKEN", "${OTHER_TOKEN}"),
            Server::new("remote").url("https://x.example/mcp?api_key=s3cret&page=2").auth("s3cret"),
            Server::new("hook").url("https://x.example/sk-s3cret-s3cret/mcp"),
            Server::new("rest").url("http://127.0.0.1:1").rest("*", "/{tool}"),
        ]
    }

    #[test]
    fn secrets_are_never_written() {
        for dialect in [Dialect::McpServers, Dialect::VsCode] {
            let exported = export(dialect, servers().iter());
            let text = exported.config.to_string();
            assert!(!text.contains("s3cret") && text.contains("debug"), "{text}");
            assert_eq!(exported.left_out, ["rest"]);
        }
    }

    #[test]
    fn whatever_may_be_a_secret_is_not_written_and_what_stands_for_it_loads_again() {
        let mut remote = Server::new("remote").url("https://s3cret@x.example/mcp?sig=s3cret&code=s3cret&page=2");
        let headers = [
            ("X-Auth", "s3cret"),
            ("Cookie", "a=s3cret"),
            ("X-Team", "s3cret"),
            ("Authorization", "Basic s3cret"),
            ("Accept", "text/plain"),
        ];
        remote.headers = headers.map(|(name, value)| (name.to_owned(), crate::Secret::new(value))).into();
        let local = Server::new("local")
            .command(
                "docker",
                [
                    "-e",
                    "API_TOKEN=s3cret",
                    "--header",
                    "Authorization: Bearer s3cret",
                    "--api-key",
                    "s3cret",
                    "-v",
                    "https://x.example/?key=s3cret",
                ],
            )
            .env("PASSWORD", "1234567")
            .env("MAX_TOKENS", "4096")
            .env("API_KEY", "${API_KEY:-s3cret}");
        let servers = [remote, local];
        for (dialect, field) in [(Dialect::McpServers, "mcpServers"), (Dialect::VsCode, "servers")] {
            let config = export(dialect, servers.iter()).config;
            let text = config.to_string();
            assert!(!text.contains("s3cret") && !text.contains("1234567"), "{text}");
            assert!(text.contains("4096") && text.contains("text/plain") && text.contains("page=2"), "{text}");
            let parsed = load::parse(config.clone(), None).unwrap();
            assert!(parsed.errors.is_empty() && parsed.entries.len() == 2, "{:?}", parsed.errors);
            let read: Vec<_> = parsed.entries.into_iter().map(|entry| entry.server.checked("test").unwrap()).collect();
            assert_eq!(export(dialect, read.iter()).config[field], config[field]);
        }
        let config = export(Dialect::McpServers, servers.iter()).config;
        let args = &config["mcpServers"]["local"]["args"];
        assert_eq!(args[1], "API_TOKEN=${LOCAL_API_TOKEN}");
        assert_eq!(args[3], "Authorization: Bearer ${LOCAL_AUTHORIZATION}");
        let url = &config["mcpServers"]["remote"]["url"];
        assert_eq!(url, "https://${REMOTE_USERINFO}@x.example/mcp?sig=${REMOTE_SIG}&code=${REMOTE_CODE}&page=2");
        assert_eq!(config["mcpServers"]["remote"]["headers"]["Authorization"], "Basic ${REMOTE_AUTHORIZATION}");
    }

    #[test]
    fn variables_stand_in_their_place() {
        let config = export(Dialect::McpServers, servers().iter()).config;
        let github = &config["mcpServers"]["github"];
        assert_eq!(
            github["env"],
            json!({"GITHUB_TOKEN": "${GITHUB_TOKEN}", "LOG_LEVEL": "debug", "OTHER_TOKEN": "${OTHER_TOKEN}"})
        );
        assert_eq!(github["args"], json!(["-y", "@acme/github", "--token=${GITHUB_TOKEN}", "--key-file", "/k"]));
        let remote = &config["mcpServers"]["remote"];
        assert_eq!(remote["url"], "https://x.example/mcp?api_key=${REMOTE_API_KEY}&page=2");
        assert_eq!(remote["headers"]["Authorization"], "Bearer ${REMOTE_TOKEN}");
    }

    #[test]
    fn vs_code_asks_for_them() {
        let config = export(Dialect::VsCode, servers().iter()).config;
        assert_eq!(config["servers"]["github"]["type"], "stdio");
        assert_eq!(config["servers"]["github"]["env"]["GITHUB_TOKEN"], "${input:github-token}");
        let ids: Vec<_> =
            config["inputs"].as_array().unwrap().iter().map(|input| input["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["github-token", "remote-api-key", "remote-token", "hook-path"]);
    }
}
