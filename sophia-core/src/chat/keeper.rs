//! Response admission: what comes back from below is kept, if it is whole and may be.

use async_trait::async_trait;
use futures::StreamExt;

use super::{
    cache::{AnswerCache, Payload},
    explain::Trace,
    flight::Form,
    provider::{
        ChatProvider, Completion, EmbedCall, Embeddings, Keeping, Model, ProviderCall, ProviderEvent, ProviderStream,
    },
    response::{Answer, Found},
};
use crate::{Error, Result};

/// Reasons for which a whole answer ends. Any other, such as a length or a filter, is not kept.
const WHOLE: [&str; 4] = ["stop", "end_turn", "stop_sequence", "eos"];
/// Reasons for which an answer ends in calls of tools.
const TOOLS: [&str; 3] = ["tool_calls", "tool_use", "function_call"];

/// Keeps whole answers of the provider below.
#[derive(Debug)]
pub(crate) struct Keeper<P> {
    inner: P,
    keep: Keep,
}

#[derive(Debug, Clone)]
struct Keep {
    cache: AnswerCache,
    tool_calls: bool,
}

impl<P: ChatProvider> Keeper<P> {
    pub fn new(inner: P, cache: AnswerCache, tool_calls: bool) -> Keeper<P> {
        Keeper { inner, keep: Keep { cache, tool_calls } }
    }

    pub fn inner(&self) -> &P {
        &self.inner
    }
}

impl Keep {
    /// Returns what was kept since the caller looked.
    fn kept(&self, keeping: Option<&Keeping>) -> Option<Completion> {
        let entry = self.cache.get(&keeping.filter(|keeping| keeping.look)?.key)?;
        let Payload::Answer(answer) = &entry.payload else { return None };
        Some(Completion {
            answer: answer.clone(),
            attempts: Vec::new(),
            ttl_s: Some(entry.ttl_s()),
            found: Found::default(),
            semantic: None,
        })
    }

    /// Returns why the same was refused a moment ago, if it was.
    fn refused(&self, call: &ProviderCall, form: Form) -> Option<Error> {
        self.cache.refusal(&call.keeping.as_ref().filter(|keeping| keeping.look)?.key, || call.words(form))
    }

    /// Keeps a refusal that will not pass by itself, for a moment.
    fn refuse<T>(&self, call: &ProviderCall, form: Form, outcome: Result<T>) -> Result<T> {
        if let (Some(keeping), Err(error)) = (&call.keeping, &outcome) {
            self.cache.put_refusal(keeping, || call.words(form), error);
        }
        outcome
    }

    fn keep_noted(&self, keeping: Option<&Keeping>, completion: Completion, trace: &Trace) -> Completion {
        let start = trace.start();
        let kept = self.keep(keeping, completion);
        trace.note("keep", if kept.ttl_s.is_some() { "kept" } else { "not_kept" }, start);
        kept
    }

    fn keep(&self, keeping: Option<&Keeping>, mut completion: Completion) -> Completion {
        if completion.semantic.is_some() {
            return completion;
        }
        if let Some(keeping) = keeping.filter(|_| is_whole(&completion.answer, self.tool_calls)) {
            let payload = Payload::Answer(completion.answer.clone());
            completion.ttl_s = self.cache.put(keeping, payload, &completion.answer.text);
        }
        completion
    }
}

/// Returns whether a reason says that an answer has come to its end, in words or in calls of tools.
pub(crate) fn is_end(reason: &str) -> bool {
    WHOLE.contains(&reason) || TOOLS.contains(&reason)
}

/// Returns whether an answer may be given to someone else later.
pub(crate) fn is_whole(answer: &Answer, tool_calls: bool) -> bool {
    let reason = answer.finish_reason.as_deref().unwrap_or_default();
    let calls_tools =
        !answer.tool_calls.is_empty() || TOOLS.contains(&reason) || answer.message.contains_key("function_call");
    let refusal = answer.message.get("refusal").is_some_and(|refusal| !refusal.is_null() && refusal != "");
    if !answer.terminated || answer.envelope.choices() != 1 || refusal {
        return false;
    }
    match calls_tools {
        true => tool_calls && is_end(reason),
        // An empty answer says nothing; the next try may.
        false => WHOLE.contains(&reason) && !answer.text.trim().is_empty(),
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<P: ChatProvider> ChatProvider for Keeper<P> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn complete(&self, call: &ProviderCall) -> Result<Completion> {
        if let Some(kept) = self.keep.kept(call.keeping.as_ref()) {
            return Ok(kept);
        }
        if let Some(refused) = self.keep.refused(call, Form::Whole) {
            return Err(refused);
        }
        let completion = self.keep.refuse(call, Form::Whole, self.inner.complete(call).await)?;
        Ok(self.keep.keep_noted(call.keeping.as_ref(), completion, &call.trace))
    }

    async fn stream(&self, call: &ProviderCall) -> Result<ProviderStream> {
        if let Some(kept) = self.keep.kept(call.keeping.as_ref()) {
            return Ok(futures::stream::iter([Ok(ProviderEvent::Done(kept))]).boxed());
        }
        if let Some(refused) = self.keep.refused(call, Form::Parts) {
            return Err(refused);
        }
        let stream = self.keep.refuse(call, Form::Parts, self.inner.stream(call).await)?;
        let (keep, keeping, trace) = (self.keep.clone(), call.keeping.clone(), call.trace.clone());
        let kept = stream.map(move |event| match event {
            Ok(ProviderEvent::Done(completion)) => {
                Ok(ProviderEvent::Done(keep.keep_noted(keeping.as_ref(), completion, &trace)))
            }
            event => event,
        });
        Ok(kept.boxed())
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
    use serde_json::{Value, json};

    use super::*;
    use crate::chat::dialect::openai;

    fn answer(message: Value, reason: &str) -> Answer {
        let body = json!({"choices": [{"message": message, "finish_reason": reason}]});
        openai::answer(body.as_object().unwrap().clone(), "p", "m").unwrap()
    }

    #[test]
    fn only_whole_answers_are_kept() {
        let text = || json!({"role": "assistant", "content": "Hi"});
        assert!(is_whole(&answer(text(), "stop"), false));
        for reason in ["length", "content_filter", "refusal", "max_tokens", "error", "", "something_new"] {
            assert!(!is_whole(&answer(text(), reason), true), "{reason}");
        }
        assert!(!is_whole(&answer(json!({"content": ""}), "stop"), true));
        assert!(!is_whole(&answer(json!({"content": "No", "refusal": "I will not"}), "stop"), true));
        assert!(!is_whole(&Answer { terminated: false, ..answer(text(), "stop") }, true));
    }

    #[test]
    fn answers_that_call_tools_are_kept_only_if_asked_for() {
        let calls = || json!({"content": null, "tool_calls": [{"id": "1"}]});
        for reason in ["tool_calls", "stop"] {
            assert!(!is_whole(&answer(calls(), reason), false), "{reason}");
            assert!(is_whole(&answer(calls(), reason), true), "{reason}");
        }
        assert!(!is_whole(&answer(calls(), "length"), true));
        assert!(!is_whole(&answer(json!({"content": "x", "function_call": {}}), "stop"), false));
    }
}
