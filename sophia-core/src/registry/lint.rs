//! What the sources disagree about, and how to mend it.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    directory::{Claim, Directory, Place},
    exposure,
    server::Transport,
    variables,
};

/// Longest command that is shown, in bytes. Those that differ only behind it are told apart all the same.
const MAX_COMMAND_BYTES: usize = 120;

/// What kind of disagreement it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConflictKind {
    /// One server, several ports.
    PortMismatch,
    /// One server, several hosts or commands.
    EndpointMismatch,
    /// One port, several servers.
    PortCollision,
    /// One server, several spellings.
    Alias,
    /// One server, several values of one variable of its environment.
    EnvMismatch,
    /// A command that is not on `PATH`.
    UnknownCommand,
    /// One tool name, several servers; found once their tools were listed.
    DuplicateTool,
    /// A fallback that is not registered.
    UnknownFallback,
    /// A secret that is written out.
    SecretInTheOpen,
}

/// Something that should be mended.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Conflict {
    /// What kind it is.
    pub kind: ConflictKind,
    /// Names of the servers, as they are spelled.
    pub servers: Vec<String>,
    /// What is wrong, for people. Never a secret.
    pub message: String,
    /// Sources that say so.
    pub sources: Vec<String>,
    /// What to do.
    pub fix: String,
}

/// Finds every conflict, sorted by kind and server.
pub(crate) fn lint(directory: &Directory) -> Vec<Conflict> {
    let mut conflicts = ports(directory);
    conflicts.extend(endpoints(directory));
    conflicts.extend(collisions(directory.claims()));
    conflicts.extend(spellings(directory));
    conflicts.extend(environments(directory));
    conflicts.extend(tools(directory));
    for entry in directory.entries() {
        conflicts.extend(of_one(directory, entry));
    }
    conflicts.sort_by(|a, b| a.kind.cmp(&b.kind).then_with(|| a.servers.cmp(&b.servers)));
    conflicts
}

/// Claims by server, in the order of their keys.
fn by_server(directory: &Directory) -> BTreeMap<&str, Vec<&Claim>> {
    let mut servers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for claim in directory.claims() {
        servers.entry(claim.key.as_str()).or_default().push(claim);
    }
    servers
}

fn ports(directory: &Directory) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for claims in by_server(directory).values() {
        let mut ports: BTreeMap<u16, Vec<&Claim>> = BTreeMap::new();
        for claim in claims {
            if let Some(place) = &claim.place {
                ports.entry(place.port).or_default().push(claim);
            }
        }
        if ports.len() < 2 {
            continue;
        }
        let shown: Vec<_> = ports.iter().map(|(port, claims)| format!("{port} in {}", list(sources(claims)))).collect();
        let name = claims[0].spelled.clone();
        let used = directory.find(&name).and_then(|entry| entry.server.url.clone()).unwrap_or_default();
        conflicts.push(Conflict {
            kind: ConflictKind::PortMismatch,
            message: format!("`{name}` has several ports: {}", shown.join("; ")),
            servers: spelled(claims),
            sources: sources(claims),
            fix: format!("find out which port it listens on and correct the others; now in use is {used}"),
        });
    }
    conflicts
}

/// Where a server is.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Host(String),
    Command(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Host(host) => f.write_str(host),
            End::Command(command) => {
                let end = command.floor_char_boundary(MAX_COMMAND_BYTES);
                let more = if end < command.len() { "…" } else { "" };
                write!(f, "`{}{more}`", &command[..end])
            }
        }
    }
}

fn endpoints(directory: &Directory) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for claims in by_server(directory).values() {
        let mut ends: BTreeMap<End, Vec<&Claim>> = BTreeMap::new();
        for claim in claims {
            let end = claim.command.clone().map(End::Command);
            if let Some(end) = end.or(claim.place.as_ref().map(|place| End::Host(place.host.clone()))) {
                ends.entry(end).or_default().push(claim);
            }
        }
        if ends.len() < 2 {
            continue;
        }
        let shown: Vec<_> = ends.iter().map(|(end, claims)| format!("{end} in {}", list(sources(claims)))).collect();
        let name = claims[0].spelled.clone();
        let used = directory.find(&name).and_then(|entry| {
            let claim = Claim::new(&entry.server, "", false);
            claim.command.map(End::Command).or(claim.place.map(|place| End::Host(place.host)))
        });
        conflicts.push(Conflict {
            kind: ConflictKind::EndpointMismatch,
            message: format!("`{name}` is at several places: {}", shown.join("; ")),
            servers: spelled(claims),
            sources: sources(claims),
            fix: format!(
                "keep the one that is meant, or give each its own name; now in use is {}",
                used.map(|end| end.to_string()).unwrap_or_default()
            ),
        });
    }
    conflicts
}

fn collisions(claims: &[Claim]) -> Vec<Conflict> {
    let mut ports: BTreeMap<(&str, u16), Vec<(&Claim, &Place)>> = BTreeMap::new();
    for claim in claims {
        if let Some(place) = &claim.place {
            ports.entry((&place.host, place.port)).or_default().push((claim, place));
        }
    }
    let mut conflicts = Vec::new();
    for ((host, port), claims) in ports {
        // Different paths of one host and port are one gateway; a claim without a path means the whole port.
        let meets = |a: &(&Claim, &Place), b: &(&Claim, &Place)| {
            a.0.spelled != b.0.spelled && (a.1.path.is_none() || b.1.path.is_none() || a.1.path == b.1.path)
        };
        let colliding: Vec<_> =
            claims.iter().filter(|a| claims.iter().any(|b| meets(a, b))).map(|(claim, _)| *claim).collect();
        if colliding.is_empty() {
            continue;
        }
        let servers = spelled(&colliding);
        let keys: BTreeSet<_> = colliding.iter().map(|claim| &claim.key).collect();
        let fix = match keys.len() {
            1 => format!("these look like one server under several spellings: keep `{}`", servers[0]),
            _ => "give each its own port, or remove the ones that are gone".to_owned(),
        };
        conflicts.push(Conflict {
            kind: ConflictKind::PortCollision,
            message: format!("port {port} of {host} is claimed by {}", quoted(&servers)),
            sources: sources(&colliding),
            servers,
            fix,
        });
    }
    conflicts
}

fn spellings(directory: &Directory) -> Vec<Conflict> {
    let several = by_server(directory).into_values().filter_map(|claims| {
        let servers = spelled(&claims);
        (servers.len() > 1).then(|| Conflict {
            kind: ConflictKind::Alias,
            message: format!("one server is spelled {}", quoted(&servers)),
            fix: format!("write `{}` everywhere", servers[0]),
            sources: sources(&claims),
            servers,
        })
    });
    several.collect()
}

fn environments(directory: &Directory) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for claims in by_server(directory).values() {
        let mut values: BTreeMap<&String, BTreeSet<&[u8; 32]>> = BTreeMap::new();
        for (name, value) in claims.iter().flat_map(|claim| &claim.env) {
            values.entry(name).or_default().insert(value);
        }
        let differing: Vec<_> =
            values.iter().filter(|(_, values)| values.len() > 1).map(|(name, _)| name.as_str()).collect();
        if !differing.is_empty() {
            conflicts.push(Conflict {
                kind: ConflictKind::EnvMismatch,
                servers: spelled(claims),
                message: format!("`{}` is given several values of {}", claims[0].spelled, quoted(&differing)),
                sources: sources(claims),
                fix: "keep one value, in one source".to_owned(),
            });
        }
    }
    conflicts
}

fn tools(directory: &Directory) -> Vec<Conflict> {
    let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for entry in directory.entries() {
        for tool in entry.live.tools().iter().flat_map(|tools| tools.iter()) {
            owners.entry(tool.name.clone()).or_default().insert(tool.server.clone());
        }
    }
    let several = owners.into_iter().filter(|(_, owners)| owners.len() > 1);
    several
        .map(|(tool, owners)| {
            let servers: Vec<_> = owners.into_iter().collect();
            Conflict {
                kind: ConflictKind::DuplicateTool,
                message: format!("the tool `{tool}` is offered by {}", quoted(&servers)),
                fix: format!("call it by its qualified name, such as `{}__{tool}`", servers[0]),
                sources: Vec::new(),
                servers,
            }
        })
        .collect()
}

fn of_one(directory: &Directory, entry: &super::directory::Entry) -> Vec<Conflict> {
    let server = &entry.server;
    let own: Vec<_> = directory
        .claims()
        .iter()
        .filter(|claim| directory.find(&claim.spelled).is_some_and(|e| e.server.id == server.id))
        .collect();
    let conflict =
        |kind, message, fix| Conflict { kind, servers: vec![server.id.clone()], message, sources: sources(&own), fix };
    let mut conflicts = Vec::new();
    if server.transport() == Some(Transport::Stdio)
        && let Some(command) = server
            .command
            .as_deref()
            .and_then(|text| variables::from_environment("registry.lint", "command", text).ok())
        && !is_program(&command)
    {
        let message = format!("`{}` is started by `{command}`, which is not a program on PATH", server.id);
        conflicts.push(conflict(
            ConflictKind::UnknownCommand,
            message,
            format!("install `{command}`, or give its whole path"),
        ));
    }
    for id in server.fallback.iter().filter(|id| directory.find(id).is_none()) {
        let message = format!("`{}` falls back to `{id}`, which is not registered", server.id);
        conflicts.push(conflict(
            ConflictKind::UnknownFallback,
            message,
            format!("register `{id}`, or take it out of `fallback`"),
        ));
    }
    for exposed in exposure::find(server) {
        let message = format!("`{}` has a secret written out in `{}`", server.id, exposed.place);
        let fix = format!("put it into the environment and write `${{{}}}`; then replace the secret", exposed.variable);
        conflicts.push(conflict(ConflictKind::SecretInTheOpen, message, fix));
    }
    conflicts
}

/// Returns whether a command can be found, as starting it would.
fn is_program(command: &str) -> bool {
    if command.contains(std::path::MAIN_SEPARATOR) {
        return std::path::Path::new(command).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let suffixes: &[&str] = if cfg!(windows) { &["", ".exe", ".cmd", ".bat"] } else { &[""] };
    std::env::split_paths(&path)
        .any(|folder| suffixes.iter().any(|suffix| folder.join(format!("{command}{suffix}")).is_file()))
}

fn spelled(claims: &[&Claim]) -> Vec<String> {
    unique(claims.iter().map(|claim| claim.spelled.clone()))
}

fn sources(claims: &[&Claim]) -> Vec<String> {
    unique(claims.iter().map(|claim| claim.source.clone()))
}

/// Keeps the first of each, in order.
fn unique(items: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept = Vec::new();
    for item in items {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

fn list(items: Vec<String>) -> String {
    items.join(" and ")
}

fn quoted(items: &[impl AsRef<str>]) -> String {
    let items: Vec<_> = items.iter().map(|item| format!("`{}`", item.as_ref())).collect();
    items.join(" and ")
}
