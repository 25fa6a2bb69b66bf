//! Which values of a configuration are secrets that stand in the open.

use super::{server::Server, variables};

/// Parts of a name that say that its value is a secret.
const SECRET_NAMES: [&str; 14] = [
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
    "connection_string",
    "connection-string",
    "connectionstring",
];
/// Words of a name that say so where they stand by themselves, as in `X-Auth` and `OPENAI_KEY`.
const SECRET_WORDS: [&str; 14] = [
    "pat",
    "key",
    "auth",
    "pass",
    "pwd",
    "passphrase",
    "cookie",
    "session",
    "sig",
    "signature",
    "jwt",
    "bearer",
    "dsn",
    "otp",
];
/// Last words of names that tell where a secret is, or of which kind, and not the secret.
const OPEN_ENDS: [&str; 13] =
    ["file", "path", "dir", "name", "id", "type", "mode", "method", "provider", "url", "host", "header", "algorithm"];
/// First words of options that take no value.
const OPEN_STARTS: [&str; 6] = ["no", "without", "disable", "enable", "skip", "use"];
/// Words of a name that say that a number is a number.
const COUNTS: [&str; 17] = [
    "max", "min", "limit", "num", "number", "count", "size", "length", "tokens", "budget", "timeout", "ttl",
    "interval", "retries", "seconds", "ms", "port",
];
/// Values that are settings, whatever they are called.
const OPEN_VALUES: [&str; 8] = ["true", "false", "on", "off", "yes", "no", "none", "null"];
/// Headers that say nothing about who asks. Any other may be a credential: servers call theirs what they like.
const OPEN_HEADERS: [&str; 9] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "content-type",
    "user-agent",
    "origin",
    "mcp-protocol-version",
];
/// Options whose value is a header.
const HEADER_OPTIONS: [&str; 4] = ["--header", "--headers", "-H", "--http-header"];
/// Parameters of a query that are secrets there only.
const SECRET_PARAMETERS: [&str; 2] = ["code", "sas"];
/// How well-known credentials begin.
const SECRET_PREFIXES: [&str; 25] = [
    "sk-",
    "sk_live_",
    "sk_test_",
    "rk_live_",
    "whsec_",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xapp-",
    "AKIA",
    "AIza",
    "ya29.",
    "eyJ",
    "hf_",
    "gsk_",
    "npm_",
    "pypi-",
    "SG.",
    "lin_api_",
    "ntn_",
    "shpat_",
];
/// Shortest value with a well-known beginning that is taken for a credential, in characters.
const MIN_SECRET: usize = 12;

/// A secret that stands in the open: where, and the variable that should hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exposed {
    pub place: String,
    pub variable: String,
}

/// A secret within a text: from where on, and what it is called there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub start: usize,
    pub name: String,
}

/// Returns whether a value, under its name, is a secret that is written out.
pub(crate) fn is_secret(name: &str, value: &str) -> bool {
    if is_open(value) {
        return false;
    }
    if let Some((variable, default)) = variables::default(value) {
        return is_secret(name, default) || is_secret(variable, default);
    }
    let words = words(name);
    // A limit of tokens is not a token.
    let is_count = value.trim().parse::<f64>().is_ok() && words.iter().any(|word| COUNTS.contains(&word.as_str()));
    (says_secret(name, &words) && !is_count) || is_credential(value)
}

/// Returns whether a header may be a secret that is written out.
pub(crate) fn is_secret_header(name: &str, value: &str) -> bool {
    let is_open_name = OPEN_HEADERS.iter().any(|open| name.trim().eq_ignore_ascii_case(open));
    !is_open(value) && (!is_open_name || is_credential(value))
}

fn is_open(value: &str) -> bool {
    let text = value.trim();
    text.is_empty() || variables::is_reference(text) || OPEN_VALUES.iter().any(|open| text.eq_ignore_ascii_case(open))
}

fn says_secret(name: &str, words: &[String]) -> bool {
    let name = name.to_lowercase();
    let has = |list: &[&str], word: Option<&String>| word.is_some_and(|word| list.contains(&word.as_str()));
    SECRET_NAMES.iter().any(|part| name.contains(part))
        || (!has(&OPEN_ENDS, words.last())
            && !has(&OPEN_STARTS, words.first())
            && words.iter().any(|word| SECRET_WORDS.contains(&word.as_str())))
}

/// Splits a name into its words, in small letters: `X-Auth`, `DB_PASS`, `openaiKey`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for c in name.chars() {
        if !c.is_ascii_alphanumeric() || (was_small && c.is_ascii_uppercase()) {
            words.push(String::new());
        }
        was_small = c.is_ascii_lowercase();
        if let Some(word) = words.last_mut().filter(|_| c.is_ascii_alphanumeric()) {
            word.push(c.to_ascii_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Returns whether a value looks like a credential, whatever it is called.
pub(crate) fn is_credential(value: &str) -> bool {
    let value = value.trim();
    let value = value.strip_prefix("Bearer ").unwrap_or(value);
    let known = value.len() >= MIN_SECRET && SECRET_PREFIXES.iter().any(|prefix| value.starts_with(prefix));
    known || has_credentials(value) || is_connection_string(value)
}

/// A URL that says who asks: with a password, or, for HTTP, with anything before the host.
fn has_credentials(value: &str) -> bool {
    let Some((scheme, _)) = value.split_once("://") else { return false };
    let Some(range) = user_info(value) else { return false };
    match value[range].split_once(':') {
        Some((_, password)) => !password.is_empty() && !variables::is_reference(password),
        None => scheme.starts_with("http"),
    }
}

/// `Server=x;Password=y`
fn is_connection_string(value: &str) -> bool {
    value.contains(';')
        && value.split(';').filter_map(|part| part.split_once('=')).any(|(name, value)| {
            let words = words(name);
            !is_open(value) && words.len() <= 3 && says_secret(name, &words)
        })
}

/// Returns where in a URL its user and password are, if they are written out.
pub(crate) fn user_info(url: &str) -> Option<std::ops::Range<usize>> {
    let start = url.find("://")? + 3;
    let authority = url[start..].split(['/', '?', '#']).next()?;
    let length = authority.rfind('@')?;
    let user = &authority[..length];
    (!user.is_empty() && !variables::is_reference(user)).then_some(start..start + length)
}

/// Returns where in the path of a URL something looks like a credential.
pub(crate) fn in_path(url: &str) -> Option<std::ops::Range<usize>> {
    let host = url.find("://")? + 3;
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let mut start = host + url.get(host..end)?.find('/')? + 1;
    for part in url[start..end].split('/') {
        if is_credential(part) {
            return Some(start..start + part.len());
        }
        start += part.len() + 1;
    }
    None
}

/// Returns the name and value of an argument such as `--token=x`, or of a pair such as `TOKEN=x`.
fn pair(arg: &str) -> Option<(&str, &str)> {
    let (name, value) = arg.split_once('=')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (!name.is_empty() && name.chars().all(is_name)).then_some((name, value))
}

/// Returns the names of query parameters that hold a secret.
pub(crate) fn in_query(url: &str) -> Vec<String> {
    let Some((_, query)) = url.split_once('?') else { return Vec::new() };
    let query = query.split('#').next().unwrap_or(query);
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let secret = |name: &str, value: &str| {
        let is_parameter = SECRET_PARAMETERS.iter().any(|parameter| name.eq_ignore_ascii_case(parameter));
        is_secret(name, value) || (is_parameter && !is_open(value))
    };
    pairs.filter(|(name, value)| secret(name, value)).map(|(name, _)| name.to_owned()).collect()
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
        if in_path(url).is_some() {
            add("url/".to_owned(), variable(&server.id, "path"));
        }
        if has_credentials(url) {
            add("url".to_owned(), variable(&server.id, "userinfo"));
        }
    }
    for at in 0..server.args.len() {
        if let Some(secret) = in_argument(&server.args, at) {
            add(format!("args[{at}]"), variable(&server.id, &secret.name));
        }
    }
    found
}

/// Finds the secret that one of the arguments is, or ends with.
pub(crate) fn in_argument(args: &[String], at: usize) -> Option<Found> {
    let arg = args[at].as_str();
    let option = at.checked_sub(1).map(|before| args[before].as_str());
    let option = option.filter(|before| before.starts_with('-') && !before.contains('='));
    let found = |start: usize, name: &str| Some(Found { start, name: name.to_owned() });
    let named = option.filter(|name| name.len() < 40).unwrap_or("secret");
    if !arg.starts_with('-') && option.is_some_and(|name| is_secret(name, arg)) {
        return found(0, named);
    }
    let mut start = 0;
    let mut is_header = option.is_some_and(takes_header);
    // An option may hold a pair of its own: `--env=TOKEN=x`, `--header=X-Auth: x`.
    while let Some((name, value)) = pair(&arg[start..]).filter(|_| !is_header) {
        let value_at = arg.len() - value.len();
        if is_secret(name, value) {
            return found(value_at, name);
        }
        is_header = takes_header(name);
        start = value_at;
    }
    let rest = &arg[start..];
    if is_header && let Some((name, value)) = rest.split_once(':') {
        let value = value.trim_start();
        return is_secret_header(name, value).then(|| found(arg.len() - value.len(), name)).flatten();
    }
    if is_credential(rest) || !in_query(rest).is_empty() { found(start, named) } else { None }
}

/// Returns the command of a server with its arguments, and `***` in the place of secrets.
pub(crate) fn command(server: &Server) -> Option<String> {
    let args = (0..server.args.len()).map(|at| match in_argument(&server.args, at) {
        Some(secret) => format!("{}***", &server.args[at][..secret.start]),
        None => server.args[at].clone(),
    });
    Some(std::iter::once(server.command.clone()?).chain(args).collect::<Vec<_>>().join(" "))
}

fn takes_header(option: &str) -> bool {
    HEADER_OPTIONS.contains(&option)
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
            ("PASSWORD", "12345678"),
            ("API_TOKEN", "90219021"),
            ("OPENAI_KEY", "abc"),
            ("openaiKey", "abc"),
            ("DB_PASS", "abc"),
            ("ANTHROPIC_AUTH", "abc"),
            ("Cookie", "session=abc"),
            ("Ocp-Apim-Subscription-Key", "abc"),
            ("STRIPE", "sk_live_0123456789"),
            ("DB", "Server=x;Password=abc"),
            ("API_KEY", "${API_KEY:-abc}"),
            ("X", "${API_KEY:-abc}"),
            ("HOOK", "https://abc@x.example/hook"),
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
            ("KEY_FILE", "/run/key"),
            ("AUTH_METHOD", "oauth"),
            ("AUTH", "none"),
            ("KEYBOARD", "de"),
            ("SESSION_TIMEOUT", "60"),
            ("MODE", "${MODE:-fast}"),
            ("LIST", "a=1;b=2"),
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
        let url = Server::new("acme").url("https://abc@x.example/mcp?sig=abc&code=abc&key=${KEY}");
        let places: Vec<_> = find(&url).into_iter().map(|exposed| exposed.place).collect();
        assert_eq!(places, ["url?sig", "url?code", "url"]);
        let url = "https://x.example/v1/sk-0123456789abcdef/mcp?page=/sk-0123456789abcdef";
        assert_eq!(&url[in_path(url).unwrap()], "sk-0123456789abcdef");
        let places: Vec<_> = find(&Server::new("acme").url(url)).into_iter().map(|exposed| exposed.place).collect();
        assert_eq!(places, ["url/"]);
        assert_eq!(in_path("https://sk-0123456789abcdef.example/sk-short/${KEY}"), None);
    }

    #[test]
    fn a_secret_in_an_argument_is_found_where_it_begins() {
        type Case = (&'static [&'static str], Option<(&'static str, &'static str)>);
        let cases: [Case; 18] = [
            (&["--token=abc"], Some(("--token=", "--token"))),
            (&["--api-key", "abc"], Some(("", "--api-key"))),
            (&["--pin-key", "1234"], Some(("", "--pin-key"))),
            (&["-e", "GITHUB_TOKEN=abc"], Some(("GITHUB_TOKEN=", "GITHUB_TOKEN"))),
            (&["--env=GITHUB_TOKEN=abc"], Some(("--env=GITHUB_TOKEN=", "GITHUB_TOKEN"))),
            (&["--header", "Authorization: Bearer abc"], Some(("Authorization: ", "Authorization"))),
            (&["--header", "X-Team:abc"], Some(("X-Team:", "X-Team"))),
            (&["--header=X-Team: abc"], Some(("--header=X-Team: ", "X-Team"))),
            (&["--db", "postgres://u:abc@h/d"], Some(("", "--db"))),
            (&["https://x.example/mcp?api_key=abc"], Some(("", "secret"))),
            (&["--connection-string=Server=x;Password=abc"], Some(("--connection-string=", "--connection-string"))),
            (&["--header", "Accept: text/plain"], None),
            (&["--header", "Authorization: Bearer ${TOKEN}"], None),
            (&["-e", "GITHUB_TOKEN"], None),
            (&["--key-file", "/k"], None),
            (&["--max-tokens", "4096"], None),
            (&["--no-auth", "x"], None),
            (&["-h", "db:5432"], None),
        ];
        for (args, expected) in cases {
            let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
            let at = args.len() - 1;
            let found = in_argument(&args, at);
            let shown = found.as_ref().map(|found| (&args[at][..found.start], found.name.as_str()));
            assert_eq!(shown, expected, "{args:?}");
        }
    }
}
