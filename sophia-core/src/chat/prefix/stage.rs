//! The prefix optimiser among the stages: around each provider, whose protocol says which marks there are.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::{
    config::{PrefixConfig, PromptCacheKey},
    diagnosis::Last,
    marks,
    seen::Seen,
};
use crate::{
    Clock, Result,
    chat::{
        provider::{ChatProvider, Completion, EmbedCall, Embeddings, Model, ProviderCall, ProviderStream},
        response::value_weight,
    },
};

/// Marks that a protocol has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// None: the server finds beginnings by itself.
    Unmarked,
    /// `prompt_cache_key`, as OpenAI takes it.
    Named,
    /// `cache_control`, as Anthropic takes it.
    Marked,
}

impl Form {
    /// Returns the marks of a server that speaks one of OpenAI's protocols at `host`.
    pub fn of_openai(config: &PrefixConfig, host: &str) -> Form {
        let is_own = host == "api.openai.com" || host.ends_with(".openai.azure.com");
        match config.prompt_cache_key {
            PromptCacheKey::Always => Form::Named,
            PromptCacheKey::Auto if is_own => Form::Named,
            _ => Form::Unmarked,
        }
    }
}

/// Sends requests to a provider so that it finds their beginnings in its own cache.
#[derive(Debug)]
pub(crate) struct Prefixed {
    inner: Arc<dyn ChatProvider>,
    form: Form,
    is_enabled: bool,
    clock: Arc<dyn Clock>,
    seen: Seen,
    last: Last,
}

impl Prefixed {
    pub fn new(inner: Arc<dyn ChatProvider>, form: Form, config: &PrefixConfig, clock: Arc<dyn Clock>) -> Prefixed {
        Prefixed { inner, form, is_enabled: config.enabled, clock, seen: Seen::default(), last: Last::default() }
    }

    /// Returns the call with marks. `None` where there is nothing to mark.
    fn prepared(&self, call: &ProviderCall) -> Option<ProviderCall> {
        let start = call.trace.start();
        let read = call.body.get("tools").into_iter().chain(call.body.get("messages"));
        // What no provider caches is neither marked nor compared: it costs nothing here.
        if !self.is_enabled || read.map(value_weight).sum::<usize>() < marks::min_bytes(&call.model) {
            call.trace.note("prefix", if self.is_enabled { "too_short" } else { "off" }, start);
            return None;
        }
        let now = self.clock.monotonic();
        let difference = self.last.compare(self.of(call), &call.body, now);
        let outcome = match difference {
            Some(_) => "broken",
            None => "whole",
        };
        let mut marked = None;
        let (mut marks, mut name) = (Vec::new(), None);
        match self.form {
            Form::Unmarked => {}
            Form::Named => {
                let own = marked.insert(call.clone());
                name = marks::name_beginning(&mut own.body, &call.model, &call.scope);
            }
            Form::Marked => {
                let own = marked.insert(call.clone());
                marks = marks::mark(&mut own.body, &call.model, &call.scope, &self.seen, now);
            }
        }
        call.trace.note_with("prefix", outcome, start, || {
            Some(json!({"broken_at": difference, "cache_control": marks, "prompt_cache_key": name}))
        });
        marked
    }

    /// Returns the identity of a scope and model.
    fn of(&self, call: &ProviderCall) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for part in
            [Some(&call.model), call.scope.tenant.as_ref(), call.scope.user.as_ref(), call.scope.session.as_ref()]
        {
            let length = part.map_or(0, |part| part.len() as u64 + 1);
            hasher.update(&length.to_le_bytes()).update(part.map_or(&[], |part| part.as_bytes()));
        }
        *hasher.finalize().as_bytes()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ChatProvider for Prefixed {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn complete(&self, call: &ProviderCall) -> Result<Completion> {
        self.inner.complete(self.prepared(call).as_ref().unwrap_or(call)).await
    }

    async fn stream(&self, call: &ProviderCall) -> Result<ProviderStream> {
        self.inner.stream(self.prepared(call).as_ref().unwrap_or(call)).await
    }

    async fn models(&self) -> Result<Vec<Model>> {
        self.inner.models().await
    }

    async fn embed(&self, call: &EmbedCall) -> Result<Embeddings> {
        self.inner.embed(call).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;
    use serde_json::{Map, Value};

    use super::*;
    use crate::{
        ManualClock, Scope,
        chat::{
            dialect::{Dialect, openai},
            explain::Trace,
            provider::SharedDeadline,
        },
        resilience::Deadline,
    };

    /// Keeps what it is sent.
    #[derive(Debug, Default)]
    struct Recorder(Mutex<Vec<Map<String, Value>>>);

    #[async_trait]
    impl ChatProvider for Recorder {
        fn name(&self) -> &str {
            "recorder"
        }

        async fn complete(&self, call: &ProviderCall) -> Result<Completion> {
            self.0.lock().push(call.body.clone());
            let body = json!({"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]});
            Ok(Completion::new(openai::answer(body.as_object().unwrap().clone(), "p", "m").unwrap()))
        }

        async fn stream(&self, _: &ProviderCall) -> Result<ProviderStream> {
            unreachable!("nothing is streamed here")
        }
    }

    fn call(turns: &[&str]) -> ProviderCall {
        let mut messages = vec![json!({"role": "system", "content": "rules ".repeat(1000)})];
        for (index, text) in turns.iter().enumerate() {
            messages.push(json!({"role": if index % 2 == 0 { "user" } else { "assistant" }, "content": text}));
        }
        ProviderCall {
            operation: "test",
            model: "m".into(),
            body: json!({"model": "m", "messages": messages}).as_object().unwrap().clone(),
            deadline: SharedDeadline::new(Deadline::after(Duration::from_secs(1))),
            keeping: None,
            context: "default".into(),
            dialect: Dialect::default(),
            scope: Scope::new().user("ada"),
            trace: Trace::default(),
            asked_of: Default::default(),
            pass: Default::default(),
            parent: None,
        }
    }

    async fn sent(form: Form, calls: &[ProviderCall]) -> Vec<Map<String, Value>> {
        let recorder = Arc::new(Recorder::default());
        let clock = Arc::new(ManualClock::default());
        let prefixed = Prefixed::new(recorder.clone(), form, &PrefixConfig::default(), clock);
        for call in calls {
            prefixed.complete(call).await.unwrap();
        }
        recorder.0.lock().clone()
    }

    fn marked(body: &Map<String, Value>) -> Vec<usize> {
        let messages = body["messages"].as_array().unwrap().iter().enumerate();
        messages.filter(|(_, message)| message.get("cache_control").is_some()).map(|(index, _)| index).collect()
    }

    #[tokio::test]
    async fn a_conversation_that_grows_is_marked_where_it_was_read_and_where_it_ends() {
        let calls = [call(&["a"]), call(&["a", "b", "c"]), call(&["a", "b", "c", "d", "e"])];
        let sent = sent(Form::Marked, &calls).await;
        assert_eq!(sent.iter().map(marked).collect::<Vec<_>>(), [vec![], vec![0, 1, 3], vec![0, 3, 5]]);
        for (call, mut body) in calls.iter().zip(sent) {
            for message in body["messages"].as_array_mut().unwrap() {
                message.as_object_mut().unwrap().remove("cache_control");
            }
            assert_eq!(body, call.body, "nothing but marks was added");
        }
    }

    #[tokio::test]
    async fn a_protocol_without_marks_gets_what_was_asked() {
        let calls = [call(&["a"]), call(&["a"]), call(&["a"])];
        assert!(sent(Form::Unmarked, &calls).await.iter().zip(&calls).all(|(body, call)| *body == call.body));
    }

    #[test]
    fn only_servers_of_openai_get_the_name_unless_it_is_asked_for() {
        let form = |setting, host: &str| {
            Form::of_openai(&PrefixConfig { prompt_cache_key: setting, ..PrefixConfig::default() }, host)
        };
        assert_eq!(form(PromptCacheKey::Auto, "api.openai.com"), Form::Named);
        assert_eq!(form(PromptCacheKey::Auto, "acme.openai.azure.com"), Form::Named);
        for other in ["localhost", "api.openai.com.evil.example", ""] {
            assert_eq!(form(PromptCacheKey::Auto, other), Form::Unmarked);
        }
        assert_eq!(form(PromptCacheKey::Always, "localhost"), Form::Named);
        assert_eq!(form(PromptCacheKey::Never, "api.openai.com"), Form::Unmarked);
    }
}
