//! Every route, in one table: what answers it, who may call it, and what the documentation says.

use axum::http::Method;
use futures::future::BoxFuture;

use super::{
    ai_memory, anthropic,
    call::Call,
    caller::Access,
    chat, exposed,
    guard::percent_decode,
    live::Feed,
    openai,
    reply::{Dialect, Failure},
    responses,
    surface::{self, Response},
};

type Outcome = Result<Response, Failure>;

/// What answers a route.
#[derive(Clone, Copy)]
pub(super) enum Action {
    /// The operation of this name, with query, body and path as arguments.
    Operation(&'static str),
    /// The operation that the path names.
    Named,
    /// A function.
    Custom(fn(Call) -> BoxFuture<'static, Outcome>),
    /// Messages over a WebSocket.
    Live(Feed),
}

/// One route.
pub(super) struct Route {
    pub method: Method,
    /// `{name}` is one part of the path, `{*name}` the rest of it.
    pub path: &'static str,
    pub summary: &'static str,
    pub access: Access,
    pub dialect: Dialect,
    pub action: Action,
}

/// What a path leads to.
pub(super) enum Match {
    Found(&'static Route, Vec<(&'static str, String)>),
    /// The path is there, with these methods only.
    OtherMethods(Vec<&'static Method>),
    Nothing,
}

const fn route(method: Method, path: &'static str, summary: &'static str, access: Access, action: Action) -> Route {
    Route { method, path, summary, access, dialect: Dialect::Sophia, action }
}

const fn openai(method: Method, path: &'static str, summary: &'static str, action: Action) -> Route {
    Route { method, path, summary, access: Access::Caller, dialect: Dialect::OpenAi, action }
}

const fn anthropic(method: Method, path: &'static str, summary: &'static str, action: Action) -> Route {
    Route { method, path, summary, access: Access::Caller, dialect: Dialect::Anthropic, action }
}

use Access::{Admin, Caller, Open};
use Action::{Custom, Live, Named, Operation};

/// Every route.
pub(super) static ROUTES: &[Route] = &[
    route(
        Method::GET,
        "/healthz",
        "Says that the process is alive.",
        Open,
        Custom(|call| Box::pin(surface::alive(call))),
    ),
    route(
        Method::GET,
        "/readyz",
        "Says whether it can serve; names what is down.",
        Open,
        Custom(|call| Box::pin(surface::ready(call))),
    ),
    route(
        Method::GET,
        "/metrics",
        "Gives the metrics, for Prometheus.",
        // What everyone asked, and what it cost.
        Admin,
        Custom(|call| Box::pin(surface::metrics(call))),
    ),
    route(
        Method::GET,
        "/openapi.json",
        "Gives this description.",
        Caller,
        Custom(|call| Box::pin(surface::openapi(call))),
    ),
    route(
        Method::GET,
        "/api/v1/unified-health",
        "Reports the health of everything.",
        Caller,
        Operation("health.unified"),
    ),
    route(
        Method::GET,
        "/ws/unified-health",
        "Pushes the health of everything: at once, on change, and every 30 s.",
        Caller,
        Live(Feed::UnifiedHealth),
    ),
    route(Method::GET, "/ws/system-alerts", "Pushes alerts as they come.", Caller, Live(Feed::SystemAlerts)),
    route(
        Method::GET,
        "/api/v1/ai-memory/health",
        "Reports the health of the memory.",
        Caller,
        Custom(|call| Box::pin(ai_memory::health(call))),
    ),
    route(
        Method::GET,
        "/api/v1/ai-memory/performance-trends",
        "Returns the last hour of the memory in steps of five minutes.",
        Caller,
        Custom(|call| Box::pin(ai_memory::trends(call))),
    ),
    route(Method::GET, "/api/v1/memory/records/{id}", "Returns one record.", Caller, Operation("memory.get")),
    route(Method::PATCH, "/api/v1/memory/records/{id}", "Changes one record.", Caller, Operation("memory.update")),
    route(Method::DELETE, "/api/v1/memory/records/{id}", "Deletes one record.", Caller, Operation("memory.delete")),
    route(Method::GET, "/api/v1/memory/search", "Finds records.", Caller, Operation("memory.search")),
    route(Method::GET, "/api/v1/memory/stats", "Counts what is there.", Admin, Operation("memory.stats")),
    route(Method::GET, "/api/v1/memory/health", "Reports the tiers of the memory.", Caller, Operation("memory.health")),
    route(
        Method::POST,
        "/api/v1/chat",
        "Answers a question; with `stream`, as server-sent events of its parts.",
        Caller,
        Custom(|call| Box::pin(chat::chat(call))),
    ),
    openai(
        Method::POST,
        "/v1/chat/completions",
        "Answers as OpenAI's chat completions do.",
        Custom(|call| Box::pin(openai::completions(call))),
    ),
    openai(
        Method::POST,
        "/v1/responses",
        "Answers as OpenAI's Responses do.",
        Custom(|call| Box::pin(responses::responses(call))),
    ),
    anthropic(
        Method::POST,
        "/v1/messages",
        "Answers as Anthropic's Messages do.",
        Custom(|call| Box::pin(anthropic::messages(call))),
    ),
    openai(
        Method::POST,
        "/v1/embeddings",
        "Turns texts into vectors, as OpenAI's embeddings do.",
        Custom(|call| Box::pin(openai::embeddings(call))),
    ),
    openai(Method::GET, "/v1/models", "Lists the models.", Custom(|call| Box::pin(openai::models(call)))),
    openai(Method::GET, "/v1/models/{*model}", "Returns one model.", Custom(|call| Box::pin(openai::model(call)))),
    route(
        Method::GET,
        "/api/v1/cache/stats",
        "Counts hits and misses of the chat cache.",
        Caller,
        Operation("chat.metrics"),
    ),
    route(Method::GET, "/api/v1/servers", "Lists the MCP servers.", Caller, Operation("registry.status")),
    route(
        Method::GET,
        "/api/v1/tools",
        "Lists the tools of the MCP servers.",
        Caller,
        Operation("registry.list_tools"),
    ),
    route(Method::POST, "/api/v1/tools/call", "Calls a tool.", Caller, Operation("registry.call")),
    route(Method::GET, "/api/v1/alerts", "Lists alerts.", Caller, Operation("health.alerts")),
    route(Method::POST, "/api/v1/alerts/{id}/ack", "Acknowledges an alert.", Admin, Operation("health.ack")),
    route(
        Method::GET,
        "/api/v1/actions",
        "Lists healing actions that wait for a person.",
        Admin,
        Operation("health.pending"),
    ),
    route(
        Method::POST,
        "/api/v1/actions/{id}/approve",
        "Approves a healing action.",
        Admin,
        Operation("health.approve"),
    ),
    route(Method::POST, "/api/v1/actions/{id}/reject", "Rejects a healing action.", Admin, Operation("health.reject")),
    route(Method::POST, "/api/v1/{capability}/{*operation}", "Runs an operation by its name.", Caller, Named),
];

impl Route {
    /// Returns whether what answers the route is part of this build.
    pub fn exists(&self) -> bool {
        match self.action {
            Action::Operation(name) => exposed::find(name).is_some(),
            Action::Named | Action::Custom(_) | Action::Live(_) => true,
        }
    }
}

/// Returns the routes that are answered.
pub(super) fn all() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter().filter(|route| route.exists())
}

/// Finds the route of a request. Answers to HEAD are those to GET.
pub(super) fn find(method: &Method, path: &str) -> Match {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let mut methods = Vec::new();
    for route in all() {
        let Some(parts) = capture(route.path, path) else { continue };
        // A name that is no operation is no path either, unless it is asked for as one.
        if route.method == *method {
            return Match::Found(route, parts);
        }
        let named = matches!(route.action, Action::Named);
        if !named || exposed::find(&operation_name(&parts)).is_some() {
            methods.push(&route.method);
        }
    }
    if methods.is_empty() { Match::Nothing } else { Match::OtherMethods(methods) }
}

/// Returns the route that a path which leads nowhere was most likely meant to be.
pub(super) fn nearest(path: &str) -> Option<String> {
    /// Below this, a suggestion is a guess.
    const MIN_SIMILARITY: f64 = 0.6;
    let named = exposed::all().map(|exposed| operation_path(exposed.operation.name));
    let fixed = all().filter(|route| !matches!(route.action, Action::Named)).map(|route| route.path.to_owned());
    fixed
        .chain(named)
        .map(|known| (strsim::normalized_damerau_levenshtein(path, &known), known))
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

/// Returns the path under which an operation is called.
pub(super) fn operation_path(name: &str) -> String {
    format!("/api/v1/{}", name.replace('.', "/"))
}

fn operation_name(parts: &[(&'static str, String)]) -> String {
    parts.iter().map(|(_, part)| part.replace('/', ".")).collect::<Vec<_>>().join(".")
}

fn capture(pattern: &'static str, path: &str) -> Option<Vec<(&'static str, String)>> {
    let decode = |text: &str| String::from_utf8(percent_decode(text)?).ok();
    let path = path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path);
    let mut parts = Vec::new();
    let mut rest = path.split('/');
    for expected in pattern.split('/') {
        let name = expected.strip_prefix('{').and_then(|name| name.strip_suffix('}'));
        match name {
            Some(name) if name.starts_with('*') => {
                let tail: Vec<_> = rest.collect();
                return (!tail.is_empty()).then_some(()).and_then(|()| {
                    parts.push((&name[1..], decode(&tail.join("/"))?));
                    Some(parts)
                });
            }
            Some(name) => parts.push((name, decode(rest.next()?).filter(|part| !part.is_empty())?)),
            None if rest.next() == Some(expected) => {}
            None => return None,
        }
    }
    rest.next().is_none().then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_path_are_decoded_one_by_one() {
        let parts = |pattern, path| capture(pattern, path);
        assert_eq!(parts("/a/{id}", "/a/x%2Fy"), Some(vec![("id", "x/y".into())]));
        assert_eq!(parts("/a/{id}", "/a/x/"), Some(vec![("id", "x".into())]));
        assert_eq!(parts("/a/{id}", "/a/"), None);
        assert_eq!(parts("/a/{id}", "/a/x/y"), None);
        assert_eq!(parts("/a/{id}", "/a/%zz"), None);
        assert_eq!(parts("/a/{id}", "/a/%ff"), None);
        assert_eq!(parts("/{c}/{*o}", "/memory/kv/get"), Some(vec![("c", "memory".into()), ("o", "kv/get".into())]));
        assert_eq!(parts("/{c}/{*o}", "/memory"), None);
    }

    #[test]
    fn a_misspelt_path_has_a_nearest_route() {
        assert_eq!(nearest("/healtz").as_deref(), Some("/healthz"));
        assert_eq!(nearest("/completely/different/thing/altogether"), None);
    }
}
