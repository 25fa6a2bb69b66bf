//! Servers that speak plain HTTP rather than MCP.

use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde_json::{Map, Value, json};

use super::{
    Answer, Blame, Clients, Failure, Outcome,
    http::{cause, excerpt, kind_of},
};
use crate::{
    Error, ErrorKind, Result,
    http_client::AddressPolicy,
    registry::{
        server::{RestRoute, Server},
        tools::Tool,
        variables,
    },
    resilience::Deadline,
};

/// Route under which a REST server lists its tools.
const LIST_ROUTE: &str = "tools/list";

/// Calls a tool.
pub(crate) async fn call(
    clients: &Clients,
    server: &Server,
    tool: &str,
    arguments: &Map<String, Value>,
    deadline: Deadline,
) -> Outcome<Answer> {
    const CALL: &str = "registry.call";
    let route = server.rest.get(tool).or_else(|| server.rest.get("*")).ok_or_else(|| {
        let message = format!("`{}` has no route for the tool `{tool}`", server.id);
        Failure { error: Error::new(ErrorKind::NotFound, CALL, message), blame: Blame::Arguments, sent: false }
    })?;
    let (method, path) = parts(route, "POST").map_err(Failure::call)?;
    // Both spellings of these climb, in every form.
    if path.contains("{tool}") && [".", ".."].contains(&tool) {
        return Err(Failure::call(Error::invalid(
            CALL,
            "tool",
            "must not be `.` or `..`: it is a part of a path here",
        )));
    }
    let url = address(clients, CALL, server, &path.replace("{tool}", &segment(tool))).map_err(Failure::call)?;
    let client = clients.http.get(CALL, &url).map_err(Failure::call)?;
    let request = match method {
        Method::GET | Method::DELETE => client.request(method, with_query(url, arguments)),
        _ if path.contains("{tool}") || server.rest.contains_key(tool) => client.request(method, url).json(arguments),
        _ => client.request(method, url).json(&json!({"name": tool, "arguments": arguments})),
    };
    let request = authorized(CALL, server, request).map_err(Failure::call)?;
    let (status, is_text, body) = send(clients, CALL, server, request, deadline).await?;
    if !status.is_success() {
        return Err(refused(CALL, server, status, &body));
    }
    read(server, &body, is_text)
}

/// Lists tools where the server says that it does, or those that have a route of their own.
pub(crate) async fn list_tools(clients: &Clients, server: &Server, deadline: Deadline) -> Outcome<Vec<Tool>> {
    const LIST: &str = "registry.list_tools";
    let Some(route) = server.rest.get(LIST_ROUTE) else {
        let named: Vec<_> = server.rest.keys().filter(|tool| *tool != "*").collect();
        if named.is_empty() {
            let message =
                format!("`{}` does not say where it lists its tools: give `rest` a route \"{LIST_ROUTE}\"", server.id);
            return Err(Failure::call(Error::new(ErrorKind::Unsupported, LIST, message)));
        }
        return Ok(named.into_iter().map(|tool| Tool::new(&server.id, tool)).collect());
    };
    let (method, path) = parts(route, "GET").map_err(Failure::call)?;
    let url = address(clients, LIST, server, &path).map_err(Failure::call)?;
    let client = clients.http.get(LIST, &url).map_err(Failure::call)?;
    let request = authorized(LIST, server, client.request(method, url)).map_err(Failure::call)?;
    let (status, _, body) = send(clients, LIST, server, request, deadline).await?;
    if !status.is_success() {
        return Err(refused(LIST, server, status, &body));
    }
    let malformed = || {
        let message = format!(
            "`{}` did not answer with a list of tools: {}",
            server.id,
            excerpt(&String::from_utf8_lossy(&body))
        );
        Failure::server(Error::new(ErrorKind::Unavailable, LIST, message), true)
    };
    let answer: Value = serde_json::from_slice(&body).map_err(|_| malformed())?;
    let list = answer.get("tools").unwrap_or(&answer).as_array().ok_or_else(malformed)?;
    list.iter().map(|tool| Tool::read(&server.id, tool).ok_or_else(malformed)).collect()
}

/// Gets a path of a server, as a health check does; returns the status and the body.
pub(crate) async fn get(
    clients: &Clients,
    operation: &'static str,
    server: &Server,
    path: &str,
    deadline: Deadline,
) -> Outcome<(StatusCode, Vec<u8>)> {
    let url = match path.contains("://") {
        true => checked(clients.http.addresses(), operation, path),
        false => origin(clients, operation, server).and_then(|origin| join(operation, &origin, path)),
    };
    let url = url.map_err(Failure::call)?;
    let client = clients.http.get(operation, &url).map_err(Failure::call)?;
    // What it knows the server by is for the server alone.
    let is_own = origin(clients, operation, server).is_ok_and(|own| own.origin() == url.origin());
    let request = client.get(url);
    let request = if is_own { authorized(operation, server, request).map_err(Failure::call)? } else { request };
    let (status, _, body) = send(clients, operation, server, request, deadline).await?;
    Ok((status, body))
}

/// Returns the address of a server with its variables replaced, if it may be reached.
pub(crate) fn base(clients: &Clients, operation: &'static str, server: &Server) -> Result<Url> {
    let url = server.url.as_deref().unwrap_or_default();
    checked(clients.http.addresses(), operation, &variables::from_environment(operation, "url", url)?)
}

/// Reads the address of a server, if it may be reached as far as can be told before a name is resolved.
pub(crate) fn checked(addresses: AddressPolicy, operation: &'static str, url: &str) -> Result<Url> {
    addresses.url(url).map_err(|wrong| Error::invalid(operation, "url", wrong))
}

fn origin(clients: &Clients, operation: &'static str, server: &Server) -> Result<Url> {
    let mut url = base(clients, operation, server)?;
    url.set_path("");
    url.set_query(None);
    Ok(url)
}

/// Puts a path below the path of the server.
fn address(clients: &Clients, operation: &'static str, server: &Server, path: &str) -> Result<Url> {
    join(operation, &base(clients, operation, server)?, path)
}

fn join(operation: &'static str, base: &Url, path: &str) -> Result<Url> {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let mut url = base.clone();
    url.set_path(&format!("{}/{}", base.path().trim_end_matches('/'), path.trim_start_matches('/')));
    if query.is_some() {
        url.set_query(query);
    }
    // A path cannot lead to another host, but it must not climb out of the server's either.
    let root = base.path().trim_end_matches('/');
    if !url.path().strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Err(Error::invalid(operation, "rest", "leads out of the server's path"));
    }
    Ok(url)
}

/// Writes a tool's name as one segment of a path.
fn segment(tool: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(tool.len());
    for byte in tool.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' | b'.' => out.push(byte as char),
            // Writing to a String cannot fail; the signature is the trait's.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

fn with_query(mut url: Url, arguments: &Map<String, Value>) -> Url {
    if !arguments.is_empty() {
        let mut query = url.query_pairs_mut();
        for (name, value) in arguments {
            match value {
                Value::String(text) => query.append_pair(name, text),
                other => query.append_pair(name, &other.to_string()),
            };
        }
    }
    url
}

fn parts(route: &RestRoute, method: &str) -> Result<(Method, String)> {
    let (method, path) = match route {
        RestRoute::Route { method: own, path } => (own.as_deref().unwrap_or(method), path.as_str()),
        RestRoute::Path(path) => match path.split_once(' ') {
            Some((own, path)) => (own, path.trim_start()),
            None => (method, path.as_str()),
        },
    };
    let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).map_err(|_| {
        Error::invalid("registry.call", "rest", format!("names the method `{method}`, which HTTP does not have"))
    })?;
    Ok((method, path.to_owned()))
}

fn authorized(operation: &'static str, server: &Server, mut request: RequestBuilder) -> Result<RequestBuilder> {
    for (name, value) in &server.headers {
        request = request.header(name, variables::from_environment(operation, "headers", value.expose())?);
    }
    if let Some(token) = &server.auth {
        request = request.bearer_auth(variables::from_environment(operation, "auth", token.expose())?);
    }
    Ok(request)
}

async fn send(
    clients: &Clients,
    operation: &'static str,
    server: &Server,
    request: RequestBuilder,
    deadline: Deadline,
) -> Outcome<(StatusCode, bool, Vec<u8>)> {
    let exchange = async {
        let mut response = request.send().await.map_err(|error| unreachable_server(operation, server, &error))?;
        let is_text = response
            .headers()
            .get(reqwest::header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("text/"));
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| unreachable_server(operation, server, &error))? {
            if body.len() + chunk.len() > clients.config.max_answer_bytes {
                let message =
                    format!("`{}` answered with more than {} bytes", server.id, clients.config.max_answer_bytes);
                return Err(Failure::server(Error::new(ErrorKind::Unavailable, operation, message), true));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((response.status(), is_text, body))
    };
    match tokio::time::timeout_at(deadline.instant(), exchange).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::server(deadline.passed(operation).with("server", &server.id), true)),
    }
}

fn unreachable_server(operation: &'static str, server: &Server, error: &reqwest::Error) -> Failure {
    if error.is_builder() {
        let message = format!("the request to `{}` cannot be made: {}", server.id, cause(error));
        return Failure::call(Error::new(ErrorKind::InvalidInput, operation, message));
    }
    let (what, sent) = if error.is_connect() { ("cannot be reached", false) } else { ("broke off", true) };
    let message = format!("`{}` {what}: {}", server.id, cause(error));
    Failure::server(Error::new(ErrorKind::Unavailable, operation, message), sent)
}

fn refused(operation: &'static str, server: &Server, status: StatusCode, body: &[u8]) -> Failure {
    let kind = kind_of(status);
    let text = excerpt(&String::from_utf8_lossy(body));
    let message =
        format!("`{}` answered {}{}{text}", server.id, status.as_u16(), if text.is_empty() { "" } else { ": " });
    let error = Error::new(kind, operation, message).with("status", status.as_u16());
    let blame = match kind {
        ErrorKind::Unavailable | ErrorKind::Timeout => Blame::Server,
        ErrorKind::Unauthorized | ErrorKind::RateLimited | ErrorKind::Unsupported => Blame::Call,
        _ if status.is_redirection() => Blame::Server,
        _ => Blame::Arguments,
    };
    // These two say that nothing was done.
    Failure { error, blame, sent: !matches!(status.as_u16(), 429 | 503) }
}

/// Reads an answer: JSON, or text where it says that it is text.
fn read(server: &Server, body: &[u8], is_text: bool) -> Outcome<Answer> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Answer { content: Vec::new(), data: None, is_error: false });
    }
    let data: Value = match serde_json::from_slice(body) {
        Ok(data) => data,
        Err(_) if is_text => Value::String(String::from_utf8_lossy(body).into_owned()),
        Err(error) => {
            let text = excerpt(&String::from_utf8_lossy(body));
            let message = format!("`{}` answered what is not JSON: {text}", server.id);
            return Err(Failure::server(
                Error::new(ErrorKind::Unavailable, "registry.call", message).with_source(error),
                true,
            ));
        }
    };
    let says = |field: &str, value: bool| data.get(field).and_then(Value::as_bool) == Some(value);
    let failed = says("isError", true) || says("success", false) || says("ok", false);
    let only_error = data.get("error").is_some_and(|error| !error.is_null() && *error != Value::Bool(false))
        && data.get("result").is_none_or(Value::is_null)
        && !says("success", true);
    // A server that answers as MCP would, over plain HTTP.
    let blocks =
        data.get("content").and_then(Value::as_array).filter(|blocks| blocks.iter().all(|b| b.get("type").is_some()));
    let content = match blocks {
        Some(blocks) => blocks.clone(),
        None => vec![json!({"type": "text", "text": text_of(&data)})],
    };
    Ok(Answer { content, data: Some(data), is_error: failed || only_error })
}

/// Returns what a person would call the answer: the text in it, or the JSON itself.
fn text_of(data: &Value) -> String {
    let inner = ["result", "text", "output", "message", "error"].iter().find_map(|field| data.get(*field));
    match inner.filter(|inner| !inner.is_null()).unwrap_or(data) {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_one_segment_of_the_path() {
        assert_eq!(segment("top_deals"), "top_deals");
        assert_eq!(segment("../admin?x=1#é"), "..%2Fadmin%3Fx%3D1%23%C3%A9");
    }

    #[test]
    fn a_path_stays_below_the_server() {
        let base = Url::parse("http://h:1/api/").unwrap();
        assert_eq!(join("test", &base, "/tools?x=1").unwrap().as_str(), "http://h:1/api/tools?x=1");
        assert_eq!(join("test", &base, "//evil/x").unwrap().host_str(), Some("h"));
        for path in ["/../../etc", "/../api-admin/x"] {
            assert!(join("test", &base, path).is_err(), "{path}");
        }
    }

    #[test]
    fn answers_are_read_in_the_forms_that_servers_have() {
        let server = Server::new("a");
        let cases = [
            (r#"{"result": "from rest"}"#, "from rest", false),
            (r#"{"result": {"n": 1}}"#, r#"{"n":1}"#, false),
            (r#"{"success": false, "error": "no deals"}"#, "no deals", true),
            (r#"{"error": "boom"}"#, "boom", true),
            (r#"{"result": 1, "error": null}"#, "1", false),
            (r#"{"content": [{"type": "text", "text": "x"}], "isError": true}"#, "x", true),
            ("[1, 2]", "[1,2]", false),
        ];
        for (body, text, is_error) in cases {
            let answer = read(&server, body.as_bytes(), false).unwrap();
            assert_eq!((answer.content[0]["text"].as_str(), answer.is_error), (Some(text), is_error), "{body}");
        }
        assert_eq!(read(&server, b"<html>", false).unwrap_err().blame, Blame::Server);
        assert_eq!(read(&server, b"plain", true).unwrap().content[0]["text"], "plain");
    }

    #[test]
    fn statuses_are_blamed_on_whom_they_belong() {
        let server = Server::new("a");
        for (status, code, blame) in [
            (503, "UNAVAILABLE", Blame::Server),
            (500, "UNAVAILABLE", Blame::Server),
            (401, "UNAUTHORIZED", Blame::Call),
            (429, "RATE_LIMITED", Blame::Call),
            (404, "NOT_FOUND", Blame::Arguments),
            (422, "INVALID_INPUT", Blame::Arguments),
        ] {
            let failure = refused("test", &server, StatusCode::from_u16(status).unwrap(), b"x");
            assert_eq!((failure.error.code(), failure.blame), (code, blame), "{status}");
        }
    }
}
