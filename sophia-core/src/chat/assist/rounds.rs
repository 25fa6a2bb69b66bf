//! A question with memory and tools: asked, the tools called that the model asks for, asked again, until it answers.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, future::BoxFuture, stream};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{
    recall::{Recalled, UseMemory},
    tools::{self, ToolBox, ToolStep},
};
use crate::{
    Error, ErrorKind, Result, Scope,
    chat::{
        config::ToolsConfig,
        keeper,
        request::{ChatRequest, Message},
        response::{Answer, Usage},
        traced,
    },
    memory::Memory,
    otlp::Otel,
    registry::Registry,
    resilience::Deadline,
};

/// The part of the time that is left for which memory is waited for: a fourth. The rest is the model's.
const RECALL_SHARE: u32 = 4;

/// What helps a chat beyond its providers.
#[derive(Debug, Clone)]
pub(crate) struct Assistants {
    pub memory: Memory,
    pub registry: Registry,
}

/// What memory and tools gave to an answer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[non_exhaustive]
pub struct Assistance {
    /// What memory gave; null where it was not asked.
    pub recalled: Option<Recalled>,
    /// Every call of a tool, in order.
    pub steps: Vec<ToolStep>,
    /// How often the model was asked.
    pub rounds: usize,
}

/// The rounds of one question.
#[derive(Debug)]
pub(in crate::chat) struct Rounds {
    /// The next request, without what only this crate understands.
    request: ChatRequest,
    /// Who has a tool of this name.
    boxes: HashMap<String, Arc<dyn ToolBox>>,
    memory: Option<(Memory, UseMemory)>,
    /// How much was forgotten when the question came: an exchange is not kept for whom it is forgotten since then.
    forgotten: u64,
    /// What the user asks; `None` where the last message is not of the user.
    question: Option<String>,
    deadline: Deadline,
    limits: ToolsConfig,
    assistance: Assistance,
    usage: Usage,
    cost_usd: Option<f64>,
}

impl Rounds {
    /// Recalls, and lists the tools. A memory that fails or is slow is stepped over and told; a tool box that fails is an error, since
    /// the model would be asked something else than the caller wanted.
    pub async fn begin(
        assistants: &Assistants,
        limits: &ToolsConfig,
        mut request: ChatRequest,
        own: Option<Arc<dyn ToolBox>>,
        deadline: Deadline,
    ) -> Result<Rounds> {
        const OPERATION: &str = "chat.complete";
        if let Some(prompt) = request.prompt.take() {
            request.messages = vec![Message::user(prompt)];
        }
        let asks = request.messages.last().filter(|message| message.role() == "user");
        let question = asks.map(|message| message.text().into_owned());
        let wanted = request.memory.take();
        let forgotten = assistants.memory.forgotten().so_far();
        let recalled = match &wanted {
            Some(wanted) => {
                let patience = Deadline::after(deadline.remaining() / RECALL_SHARE);
                Some(Recalled::add(&assistants.memory, wanted, &mut request, patience).await)
            }
            None => None,
        };
        let mut chosen: Vec<Arc<dyn ToolBox>> = own.into_iter().collect();
        let given = request.tools.take().unwrap_or_default();
        if tools::names_of_boxes(&given).next().is_some() {
            chosen.push(Arc::new(assistants.registry.clone()));
        }
        let mut listed: Vec<Value> = given.into_iter().filter(|tool| !tool.is_string()).collect();
        let mut boxes = HashMap::new();
        for tool_box in chosen {
            for tool in deadline.run(OPERATION, tool_box.list()).await? {
                let name = tools::function_name(&tool).to_owned();
                if boxes.contains_key(&name) || listed.iter().any(|tool| tools::function_name(tool) == name) {
                    return Err(Error::invalid(OPERATION, "tools", format!("hold two tools of the name `{name}`")));
                }
                boxes.insert(name, tool_box.clone());
                listed.push(tool);
            }
        }
        request.tools = (!listed.is_empty()).then_some(listed);
        Ok(Rounds {
            memory: wanted.map(|wanted| (assistants.memory.clone(), wanted)),
            forgotten,
            request,
            boxes,
            question,
            deadline,
            limits: limits.clone(),
            assistance: Assistance { recalled, ..Assistance::default() },
            usage: Usage::default(),
            cost_usd: Some(0.0),
        })
    }

    /// Returns what to ask next, while there is time. In the last round the model must answer without tools.
    pub fn next(&mut self) -> Result<ChatRequest> {
        let remaining = self.deadline.remaining();
        if remaining.is_zero() {
            return Err(self.deadline.passed("chat.complete"));
        }
        self.assistance.rounds += 1;
        if self.assistance.rounds > 1 {
            // A caller who wants a tool to be called wants it once, not for ever.
            self.request.provider_fields.shift_remove("tool_choice");
        }
        let mut request = self.request.clone();
        if self.is_last() && !self.boxes.is_empty() {
            request.provider_fields.insert("tool_choice".to_owned(), Value::from("none"));
        }
        request.timeout = Some(remaining);
        Ok(request)
    }

    /// Returns whether the model wants no tool of the caller's own, so that its answer is not the caller's yet.
    pub fn goes_on(&self, answer: &Answer) -> bool {
        let is_callers = |name: &str| {
            let mut listed = self.request.tools.iter().flatten();
            !self.boxes.contains_key(name) && listed.any(|tool| tools::function_name(tool) == name)
        };
        self.has_tools()
            && !answer.tool_calls.is_empty()
            && !self.is_last()
            && !answer.tool_calls.iter().any(|call| is_callers(tools::function_name(call)))
    }

    /// Makes a timeout one of the question, and not of its last round.
    pub fn told(&self, error: Error) -> Error {
        match error.kind() == ErrorKind::Timeout && self.deadline.remaining().is_zero() {
            true => self.deadline.passed("chat.complete"),
            false => error,
        }
    }

    /// Returns whether any tool is called here.
    pub fn has_tools(&self) -> bool {
        !self.boxes.is_empty()
    }

    /// Takes the answer of a round, calls the tools that it wants, and adds what they say to the next request. Where the limit
    /// of the cost is reached none is called, and the model is told so.
    pub async fn follow(&mut self, answer: &Answer, otel: Option<&Otel>) {
        self.count(answer);
        self.request.messages.push(Message::of(answer.message.clone()));
        let scope = self.scope();
        let round = self.assistance.rounds;
        let mut calls: Vec<BoxFuture<'_, ToolStep>> = Vec::with_capacity(answer.tool_calls.len());
        for (number, call) in answer.tool_calls.iter().enumerate() {
            let tool_box = match self.boxes.get(tools::function_name(call)) {
                _ if self.is_spent() => Err(tools::spent()),
                _ if number >= tools::MAX_CALLS => Err(tools::too_many()),
                Some(tool_box) => Ok(tool_box.as_ref()),
                None => Err(tools::unknown(call)),
            };
            calls.push(Box::pin(tools::step(tool_box, round, call, &scope, self.deadline)));
        }
        let steps: Vec<_> = stream::iter(calls).buffered(self.limits.parallel).collect().await;
        for (call, step) in answer.tool_calls.iter().zip(&steps) {
            let message = Message::new("tool", step.result.as_str()).with("tool_call_id", call["id"].clone());
            self.request.messages.push(message);
        }
        if let Some(otel) = otel {
            traced::tool_steps(otel, self.request.traceparent.as_deref(), &steps);
        }
        self.assistance.steps.extend(steps);
    }

    /// Keeps the exchange where that was asked and the answer is whole. Returns the answer with the tokens and the cost of all
    /// rounds.
    pub async fn finish(mut self, answer: Arc<Answer>) -> (Arc<Answer>, Assistance) {
        if let Some((memory, wanted)) = &self.memory
            && wanted.store
            && keeper::is_whole(&answer, false)
            && let (Some(question), Some(recalled)) = (&self.question, &mut self.assistance.recalled)
        {
            let scope = self.request.scope.clone().unwrap_or_default();
            let keep = recalled.keep(memory, &scope, question, &answer.text);
            // Who was forgotten meanwhile did not ask.
            let _ = memory.forgotten().unless_since(self.forgotten, &scope, keep).await;
        }
        if self.assistance.rounds == 1 {
            return (answer, self.assistance);
        }
        self.count(&answer);
        let whole = Answer { usage: self.usage, cost_usd: self.cost_usd, ..Answer::clone(&answer) };
        (Arc::new(whole), self.assistance)
    }

    /// Returns whether the model must answer without tools now.
    fn is_last(&self) -> bool {
        self.assistance.rounds > self.limits.max_rounds || self.is_spent()
    }

    fn is_spent(&self) -> bool {
        self.cost_usd.zip(self.limits.max_cost_usd).is_some_and(|(cost, max)| cost > max)
    }

    fn scope(&self) -> Scope {
        self.request.scope.clone().unwrap_or_default()
    }

    /// Adds the tokens and the cost of a round. What one round does not know, the sum does not know either.
    fn count(&mut self, answer: &Answer) {
        let is_first = self.assistance.rounds == 1;
        let add = |sum: Option<u64>, more: Option<u64>| if is_first { more } else { Some(sum? + more?) };
        let (sum, more) = (self.usage, answer.usage);
        self.usage = Usage {
            prompt_tokens: add(sum.prompt_tokens, more.prompt_tokens),
            completion_tokens: add(sum.completion_tokens, more.completion_tokens),
            cached_tokens: add(sum.cached_tokens, more.cached_tokens),
            cache_write_tokens: add(sum.cache_write_tokens, more.cache_write_tokens),
            reasoning_tokens: add(sum.reasoning_tokens, more.reasoning_tokens),
        };
        self.cost_usd = self.cost_usd.zip(answer.cost_usd).map(|(sum, more)| sum + more);
    }
}
