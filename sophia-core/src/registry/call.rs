//! Calls: whom they go to, in which order, and who is told how it went.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    directory::Entry,
    handle::Registry,
    select::Select,
    server::key,
    tool_call::{CALL, CallAttempt, Fallback, TOOL_ERROR, ToolCall, ToolError, ToolResult},
    tools,
    upstream::{self, Answer, Blame, Clients, Failure, Outcome},
};
use crate::{
    Error, ErrorKind, Result, Signal,
    resilience::{BreakerState, Deadline},
    telemetry::{McpLabels, ServerLabels},
};

/// Most servers that are asked for one call.
const MAX_SERVERS: usize = 8;

impl Registry {
    /// Calls a tool, and asks other servers if the first one fails.
    ///
    /// A server that fails, and a tool that does, are an answer with `ok: false`; each try is in `attempts`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a server that is not registered, with the nearest id; [`ErrorKind::InvalidInput`] for what
    /// cannot be a call; [`ErrorKind::Cancelled`] where a shutdown ends it.
    ///
    /// # Cancel safety
    /// A dropped call tells the server that it is cancelled, and counts neither for nor against it.
    pub async fn call(&self, call: ToolCall) -> Result<ToolResult> {
        let clients = self.clients();
        clients.while_open(CALL, self.call_with(&clients, call)).await
    }

    async fn call_with(&self, clients: &Arc<Clients>, call: ToolCall) -> Result<ToolResult> {
        call.validate(self.config().max_arguments_bytes)?;
        let (plan, tool) = self.plan(&call)?;
        let started = self.clock().monotonic();
        let since = || (self.clock().monotonic().saturating_sub(started)).as_secs_f64() * 1_000.0;
        let deadline = Deadline::after(call.timeout.unwrap_or_else(|| self.time_for(&plan)));
        let mut attempts = Vec::new();
        let mut plan = plan;
        let (mut first, mut retried) = (true, false);
        while let Some(entry) = plan.pop_front() {
            let mut is_last = plan.is_empty() || deadline.remaining().is_zero();
            let (outcome, latency_ms) = self.attempt(clients, &entry, &tool, &call, deadline, is_last).await;
            let server = entry.server.id.clone();
            match outcome {
                Ok(answer) => {
                    let error = answer.is_error.then(|| tool_error(&answer));
                    attempts.push(CallAttempt {
                        server: server.clone(),
                        ok: error.is_none(),
                        latency_ms,
                        error: error.clone(),
                    });
                    return Ok(result(answer, server, since(), attempts, !first, error));
                }
                Err(failure) => {
                    let error = ToolError::from(&failure.error);
                    attempts.push(CallAttempt {
                        server: server.clone(),
                        ok: false,
                        latency_ms,
                        error: Some(error.clone()),
                    });
                    let broke_off = failure.blame == Blame::Server && failure.error.kind() != ErrorKind::Timeout;
                    if call.idempotent == Some(true) && broke_off && failure.sent && !retried {
                        retried = true;
                        plan.push_front(entry);
                        continue;
                    }
                    is_last |= plan.is_empty() || failure.blame == Blame::Arguments;
                    is_last |= call.idempotent == Some(false) && failure.sent;
                    if is_last {
                        let none = Answer { content: Vec::new(), data: None, is_error: true };
                        return Ok(result(none, server, since(), attempts, false, Some(error)));
                    }
                    first = false;
                }
            }
        }
        // The plan holds one server at least, and the last one returns.
        Err(Error::new(ErrorKind::Internal, CALL, "there was no server to ask"))
    }

    /// Returns the time for a call that does not say: what the server may take, and as much as usual for its fallbacks.
    fn time_for(&self, plan: &VecDeque<Entry>) -> Duration {
        let usual = self.config().timeout;
        match plan.front().and_then(|entry| entry.server.timeout) {
            Some(own) if plan.len() > 1 => own.saturating_add(usual),
            Some(own) => own,
            None => usual,
        }
    }

    /// Asks one server once.
    async fn attempt(
        &self,
        clients: &Arc<Clients>,
        entry: &Entry,
        tool: &str,
        call: &ToolCall,
        deadline: Deadline,
        is_last: bool,
    ) -> (Outcome<Answer>, f64) {
        let live = &entry.live;
        let permission = match live.breaker.acquire(CALL) {
            Ok(permission) => permission,
            Err(open) => return (Err(Failure::call(open)), 0.0),
        };
        let started = self.clock().monotonic();
        // A server that hangs must leave time for the next one.
        let share = if is_last { deadline.remaining() } else { deadline.remaining() / 2 };
        let own = Deadline::after(entry.server.timeout.map_or(share, |timeout| timeout.min(share)));
        let _permit = match &live.limiter {
            None => None,
            Some(limiter) => match limiter.acquire(CALL, own).await {
                Ok(permit) => Some(permit),
                Err(error) => return (Err(Failure::call(error.with("server", &entry.server.id))), self.since(started)),
            },
        };
        let _counted = live.enter();
        let outcome = upstream::call(clients, entry, tool, &call.arguments, call.scope.as_ref(), own).await;
        let latency_ms = self.since(started);
        match &outcome {
            Err(failure) if failure.blame == Blame::Server => permission.failure(),
            // It was not asked, so nothing is known.
            Err(failure) if !failure.sent => drop(permission),
            _ => permission.success(),
        }
        self.report(entry, &outcome, latency_ms);
        (outcome, latency_ms)
    }

    /// Tells the balancer, the metrics and health how a call went.
    fn report(&self, entry: &Entry, outcome: &Outcome<Answer>, latency_ms: f64) {
        let (server, live) = (&entry.server, &entry.live);
        let failed = matches!(outcome, Err(failure) if failure.blame == Blame::Server);
        let was_asked = match outcome {
            Ok(_) => true,
            Err(failure) => failure.sent || failed || failure.error.kind() == ErrorKind::RateLimited,
        };
        if !was_asked {
            return;
        }
        live.record(self.clock().monotonic(), latency_ms, failed);
        let context = self.context();
        let service = format!("registry.{}", server.id);
        context.signals.signal(Signal::latency_ms(service.clone(), latency_ms));
        context.signals.signal(Signal::outcome(service, failed));
        let status = if matches!(outcome, Ok(answer) if !answer.is_error) { "ok" } else { "error" };
        let labels = McpLabels { server: server.id.clone(), status: status.to_owned() };
        context.telemetry.mcp_requests.get_or_create(&labels).inc();
        let is_open = live.breaker.snapshot().state == BreakerState::Open;
        if is_open || !failed {
            let labels = ServerLabels { server: server.id.clone() };
            context.telemetry.mcp_server_status.get_or_create(&labels).set(i64::from(!is_open));
        }
    }

    /// Returns whom to ask, in order, and the tool's name there.
    fn plan(&self, call: &ToolCall) -> Result<(VecDeque<Entry>, String)> {
        let (first, tool, mut more) = match (&call.server, &call.capability) {
            (Some(id), _) => (self.entry(CALL, id)?, call.tool.clone(), Vec::new()),
            (None, Some(capability)) => {
                let decision = self.select(&Select::new(capability))?;
                (self.entry(CALL, &decision.server)?, call.tool.clone(), decision.fallbacks)
            }
            (None, None) => {
                let (entry, tool) = self.owner(&call.tool)?;
                (entry, tool, Vec::new())
            }
        };
        let mut plan = VecDeque::from([first]);
        match &call.fallback {
            Fallback::Configured(false) => return Ok((plan, tool)),
            Fallback::Servers(ids) => {
                for id in ids {
                    push(&mut plan, self.entry(CALL, id)?);
                }
                return Ok((plan, tool));
            }
            Fallback::Configured(true) => {}
        }
        let mut at = 0;
        while at < plan.len() {
            // A fallback that is not registered is for lint to say; the call goes on without it.
            let next: Vec<_> = plan[at].server.fallback.iter().filter_map(|id| self.entry(CALL, id).ok()).collect();
            next.into_iter().for_each(|entry| push(&mut plan, entry));
            at += 1;
        }
        if let (Some(capability), Some(id)) = (&call.capability, &call.server) {
            more = self
                .select(&Select::new(capability).avoid(id))
                .map(|found| [vec![found.server], found.fallbacks].concat())
                .unwrap_or_default();
        }
        more.iter().filter_map(|id| self.entry(CALL, id).ok()).for_each(|entry| push(&mut plan, entry));
        Ok((plan, tool))
    }

    /// Finds whose tool it is, by its qualified name or because only one server is known to have it.
    fn owner(&self, name: &str) -> Result<(Entry, String)> {
        let entries = self.entries();
        let may_be_distinct = tools::may_be_distinct(name);
        let (mut qualified, mut distinct, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        for entry in &entries {
            for tool in entry.live.tools().iter().flat_map(|tools| tools.iter()) {
                if tool.qualified_name() == name {
                    qualified.push((entry, tool.name.clone()));
                } else if may_be_distinct && tool.distinct_name() == name {
                    distinct.push((entry, tool.name.clone()));
                }
                if tool.name == name {
                    owners.push(entry);
                }
            }
        }
        match (qualified.as_slice(), distinct.as_slice()) {
            ([(entry, tool)], []) | (_, [(entry, tool)]) => return Ok(((*entry).clone(), tool.clone())),
            ([], _) => {}
            (several, _) => return Err(ambiguous(name, several.iter().map(|(entry, _)| *entry))),
        }
        let split = tools::splits(name).find_map(|(server, tool)| {
            let same = key(server);
            let named: Vec<_> = entries.iter().filter(|entry| key(entry.server.short_id()) == same).collect();
            // Whose tools are known is out of the question where it has none of that name.
            let may_have =
                |entry: &&&Entry| entry.live.tools().is_none_or(|tools| tools.iter().any(|own| own.name == *tool));
            let able: Vec<_> = named.iter().filter(may_have).copied().collect();
            match (named.len(), able.as_slice()) {
                (2.., [entry]) => Some(Ok(((*entry).clone(), tool))),
                (2.., [_, _, ..]) => Some(Err(ambiguous(name, able.iter().copied()))),
                _ => Some(Ok((self.entry(CALL, server).ok()?, tool))),
            }
        });
        let split = split.transpose()?;
        // Whoever is named counts before another whose tool is called as if it were theirs.
        if let Some((entry, tool)) = &split
            && entry.live.tools().is_none_or(|tools| tools.iter().any(|own| own.name == *tool))
        {
            return Ok((entry.clone(), (*tool).to_owned()));
        }
        if let [owner] = owners.as_slice() {
            return Ok(((*owner).clone(), name.to_owned()));
        }
        if let Some((entry, tool)) = split {
            return Ok((entry, tool.to_owned()));
        }
        if !owners.is_empty() {
            return Err(ambiguous(name, owners.iter().copied()));
        }
        let message =
            format!("no server is known to have the tool `{name}`: give `server`, `capability`, or a qualified name");
        Err(Error::new(ErrorKind::NotFound, CALL, message))
    }

    fn since(&self, started: Duration) -> f64 {
        self.clock().monotonic().saturating_sub(started).as_secs_f64() * 1_000.0
    }
}

fn ambiguous<'a>(name: &str, owners: impl Iterator<Item = &'a Entry>) -> Error {
    let names: Vec<_> = owners.map(|entry| entry.server.id.as_str()).collect();
    let message = format!("is needed: the tool `{name}` is offered by {}", names.join(", "));
    Error::invalid(CALL, "server", message)
}

fn push(plan: &mut VecDeque<Entry>, entry: Entry) {
    if plan.len() < MAX_SERVERS && plan.iter().all(|known| known.server.id != entry.server.id) {
        plan.push_back(entry);
    }
}

fn result(
    answer: Answer,
    server: String,
    latency_ms: f64,
    attempts: Vec<CallAttempt>,
    fallback_used: bool,
    error: Option<ToolError>,
) -> ToolResult {
    let text = text_of(&answer.content);
    let data = answer.data.or_else(|| {
        let value: Value = serde_json::from_str(&text).ok()?;
        (value.is_object() || value.is_array()).then_some(value)
    });
    ToolResult {
        ok: error.is_none(),
        text,
        data,
        content: answer.content,
        server,
        latency_ms,
        attempts,
        fallback_used,
        error,
    }
}

fn tool_error(answer: &Answer) -> ToolError {
    let text = text_of(&answer.content);
    let message = if text.is_empty() { "the tool failed without saying why".to_owned() } else { text };
    ToolError { code: TOOL_ERROR.to_owned(), message, retryable: false, retry_after: None }
}

fn text_of(content: &[Value]) -> String {
    let text = |block: &Value| {
        let inner = block.get("text").or_else(|| block.get("resource")?.get("text"))?;
        inner.as_str().map(str::to_owned)
    };
    content.iter().filter_map(text).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers::path};

    use super::*;
    use crate::{
        SignalSink,
        context::Context,
        registry::{RegistryConfig, Server, Tool},
    };

    #[derive(Debug, Default)]
    struct Heard(Mutex<Vec<String>>);

    impl SignalSink for Heard {
        fn signal(&self, signal: Signal) {
            let value = if signal.metric == "latency_ms" { String::new() } else { format!(" {}", signal.value) };
            self.0.lock().push(format!("{} {}{value}", signal.service, signal.metric));
        }

        fn depends(&self, service: &str, dependency: &str) {
            self.0.lock().push(format!("{service} -> {dependency}"));
        }
    }

    #[tokio::test]
    async fn a_qualified_name_is_of_the_server_that_it_names() {
        let registry = Registry::new(&RegistryConfig::default(), &Context::default(), Vec::new()).unwrap();
        let tool = |server: &str, name: &str| Tool {
            name: name.to_owned(),
            server: server.to_owned(),
            title: None,
            description: None,
            input_schema: Value::Null,
            output_schema: None,
            annotations: None,
        };
        for id in ["github", "evil"] {
            registry.register(Server::new(id).url("http://127.0.0.1:1").rest("*", "/{tool}")).unwrap();
        }
        let lists = |id: &str, names: &[&str]| {
            let tools = names.iter().map(|name| tool(id, name)).collect();
            registry.entry(CALL, id).unwrap().live.set_tools(Arc::new(tools));
        };
        let owner = |name: &str| registry.owner(name).map(|(entry, tool)| (entry.server.id.clone(), tool)).unwrap();
        // Nobody knows yet what `github` has.
        lists("evil", &["github__create_issue", "own"]);
        assert_eq!(owner("github__create_issue"), ("github".to_owned(), "create_issue".to_owned()));
        assert_eq!(owner("own"), ("evil".to_owned(), "own".to_owned()));
        lists("github", &["create_issue"]);
        assert_eq!(owner("github__create_issue"), ("github".to_owned(), "create_issue".to_owned()));
    }

    #[tokio::test]
    async fn a_name_that_several_tools_would_have_is_nobodys_and_the_distinct_ones_are_found() {
        let registry = Registry::new(&RegistryConfig::default(), &Context::default(), Vec::new()).unwrap();
        let servers = ["io.acme/weather", "io.evil/weather", "a", "a__b"];
        for id in servers {
            registry.register(Server::new(id).url("http://127.0.0.1:1").rest("*", "/{tool}")).unwrap();
        }
        let owner = |name: &str| registry.owner(name).map(|(entry, tool)| (entry.server.id.clone(), tool));
        // As long as nobody knows which of them has the tool.
        assert_eq!(owner("weather__now").unwrap_err().get("field"), Some("server"));
        let tools = servers.iter().zip(["now", "now", "b__c", "c"]).map(|(id, tool)| Tool::new(id, tool));
        let tools: Vec<_> = tools.collect();
        for tool in &tools {
            registry.entry(CALL, &tool.server).unwrap().live.set_tools(Arc::new(vec![tool.clone()]));
        }
        for (tool, name) in tools.iter().zip(tools::unique_names(&tools)) {
            assert_eq!(owner(&name).unwrap(), (tool.server.clone(), tool.name.clone()), "{name}");
            let error = owner(&tool.qualified_name()).unwrap_err();
            assert!(error.get("field") == Some("server") && error.message().contains(&tool.server), "{error}");
        }
        registry.deregister("io.evil/weather");
        assert_eq!(owner("weather__now").unwrap().0, "io.acme/weather");
        assert_eq!(owner(&tools[0].distinct_name()).unwrap().0, "io.acme/weather");
    }

    #[tokio::test]
    async fn health_hears_of_every_call_and_only_failures_of_the_server_count() {
        let upstream = MockServer::start().await;
        let says =
            |status: u16, body: &str| ResponseTemplate::new(status).set_body_raw(body.to_owned(), "application/json");
        Mock::given(path("/good")).respond_with(says(200, "{}")).mount(&upstream).await;
        Mock::given(path("/fails")).respond_with(says(200, r#"{"success": false}"#)).mount(&upstream).await;
        Mock::given(path("/down")).respond_with(says(503, "")).mount(&upstream).await;
        let heard = Arc::new(Heard::default());
        let context = Context { signals: heard.clone(), ..Context::default() };
        let registry = Registry::new(&RegistryConfig::default(), &context, Vec::new()).unwrap();
        registry.register(Server::new("a").url(upstream.uri()).rest("*", "/{tool}")).unwrap();
        for tool in ["good", "fails", "down"] {
            registry.call(ToolCall::new("a", tool)).await.unwrap();
        }
        let call = |failed: u8| ["registry.a latency_ms".to_owned(), format!("registry.a error_ratio {failed}")];
        let expected =
            [vec!["registry -> registry.a".to_owned()], call(0).into(), call(0).into(), call(1).into()].concat();
        assert_eq!(*heard.0.lock(), expected);
        let text = context.telemetry.prometheus();
        assert!(text.contains(r#"sophia_mcp_requests_total{server="a",status="error"} 2"#), "{text}");
    }
}
