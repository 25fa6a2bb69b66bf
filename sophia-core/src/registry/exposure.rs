//! Which values of a configuration are secrets that stand in the open.

use super::{server::Server, variables};

/// Parts of a name that say that its value is a secret.
const SECRET_NAMES: [&str; 12] = [
    "token",
    "secret",
    "password",
    "passwd",
    "api_key",
    "apikey",
    "api-key",
    "authorization",
    "credential",
    "private_key",
    "access_key",
    "pat",
];
/// How well-known credentials begin.
const SECRET_PREFIXES: [&str; 14] = [
    "sk-",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "AKIA",
    "AIza",
    "eyJ",
    "hf_",
    "npm_",
    "pypi-",
];
/// Shortest value with a well-known beginning that is taken for a credential, in characters.
const MIN_SECRET: usize = 12;

/// A secret that stands in the open: where, and the variable that should hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exposed {
    pub place: String,
    pub variable: String,
}

/// Returns whether a value, under its name, is a secret that is written out.
pub(crate) fn is_secret(name: &str, value: &str) -> bool {
    if value.trim().is_empty() || variables::is_reference(value) {
        return false;
    }
    let name = name.to_lowercase();
    let parts: Vec<_> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let by_name = SECRET_NAMES.iter().any(|word| match *word {
        "pat" => parts.contains(&"pat"),
        word => name.contains(word),
    });
    // A limit of tokens is not a token.
    (by_name && value.trim().parse::<f64>().is_err()) || is_credential(value)
}

/// Returns whether a value looks like a credential, whatever it is called.
pub(crate) fn is_credential(value: &str) -> bool {
    let value = value.trim();
    let value = value.strip_prefix("Bearer ").unwrap_or(value);
    let known = value.len() >= MIN_SECRET && SECRET_PREFIXES.iter().any(|prefix| value.starts_with(prefix));
    known || password_in_url(value)
}

fn password_in_url(value: &str) -> bool {
    let Some((_, rest)) = value.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let password = authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':')).map(|(_, password)| password);
    password.is_some_and(|password| !password.is_empty() && !variables::is_reference(password))
}

/// Returns the name and value of an argument such as `--token=x`.
pub(crate) fn argument(arg: &str) -> Option<(&str, &str)> {
    arg.strip_prefix('-').and_then(|arg| arg.split_once('='))
}

/// Returns the names of query parameters that hold a secret.
pub(crate) fn in_query(url: &str) -> Vec<String> {
    let Some((_, query)) = url.split_once('?') else { return Vec::new() };
    let query = query.split('#').next().unwrap_or(query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let secret = |name: &str, value: &str| {
        is_secret(name, value) || (name.eq_ignore_ascii_case("key") && !variables::is_reference(value))
    };
    pairs.filter(|(name, value)| !value.is_empty() && secret(name, value)).map(|(name, _)| name.to_owned()).collect()
}

/// Returns the variable that should hold a secret of a server.
pub(crate) fn variable(server: &str, name: &str) -> String {
    let plain =
        |text: &str| text.trim_start_matches('-').to_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let (server, name) = (plain(server), plain(name));
    if name.starts_with(&format!("{server}_")) { name } else { format!("{server}_{name}") }
}

/// Finds every secret of a server that is written out.
pub(crate) fn find(server: &Server) -> Vec<Exposed> {
    let mut found = Vec::new();
    let mut add = |place: String, variable: String| found.push(Exposed { place, variable });
    for (name, value) in &server.env {
        if is_secret(name, value.expose()) {
            add(format!("env.{name}"), name.clone());
        }
    }
    for (name, value) in &server.headers {
        if is_secret(name, value.expose()) {
            add(format!("headers.{name}"), variable(&server.id, name));
        }
    }
    if server.auth.as_ref().is_some_and(|token| is_secret("token", token.expose())) {
        add("auth".to_owned(), variable(&server.id, "token"));
    }
    if let Some(url) = &server.url {
        for name in in_query(url) {
            add(format!("url?{name}"), variable(&server.id, &name));
        }
        if password_in_url(url) {
            add("url".to_owned(), variable(&server.id, "url"));
        }
    }
    for (at, arg) in server.args.iter().enumerate() {
        if secret_argument(&server.args, at) {
            let name =
                argument(arg).map(|(name, _)| name).or(at.checked_sub(1).map(|before| server.args[before].as_str()));
            add(format!("args[{at}]"), variable(&server.id, name.filter(|name| name.len() < 40).unwrap_or("secret")));
        }
    }
    found
}

/// Returns whether one of the arguments is, or ends with, a secret.
pub(crate) fn secret_argument(args: &[String], at: usize) -> bool {
    let arg = &args[at];
    match argument(arg) {
        Some((name, value)) => is_secret(name, value),
        None => {
            let named = at
                .checked_sub(1)
                .map(|before| args[before].as_str())
                .filter(|before| before.starts_with('-') && !before.contains('='));
            is_credential(arg) || named.is_some_and(|name| !arg.starts_with('-') && is_secret(name, arg))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_from_settings() {
        for (name, value) in [
            ("GITHUB_TOKEN", "abc"),
            ("Authorization", "Bearer abc"),
            ("DB", "postgres://u:pw@h/db"),
            ("X", "ghp_0123456789abcdef"),
            ("OPENAI_API_KEY", "x"),
            ("GH_PAT", "abc"),
        ] {
            assert!(is_secret(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("GITHUB_TOKEN", "${GITHUB_TOKEN}"),
            ("Authorization", "Bearer ${TOKEN}"),
            ("MAX_TOKENS", "4096"),
            ("LOG_LEVEL", "debug"),
            ("DATA_PATH", "/var/data"),
            ("X", ""),
            ("URL", "postgres://u@h/db"),
        ] {
            assert!(!is_secret(name, value), "{name}={value}");
        }
    }

    #[test]
    fn every_place_is_looked_at() {
        let server = Server::new("git-hub")
            .command("x", ["--api-key=abc", "--token", "abc", "--verbose", "sk-0123456789abcdef"])
            .env("A_SECRET", "x")
            .auth("x");
        let places: Vec<_> = find(&server).into_iter().map(|exposed| exposed.place).collect();
        assert_eq!(places, ["env.A_SECRET", "auth", "args[0]", "args[2]", "args[4]"]);
        let url = Server::new("acme").url("https://x.example/mcp?api_key=abc&page=2");
        assert_eq!(find(&url), [Exposed { place: "url?api_key".into(), variable: "ACME_API_KEY".into() }]);
    }
}
