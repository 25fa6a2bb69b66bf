//! A call on its way through limits and ledger.

use std::sync::Arc;

use super::{
    ledger::{Account, CostQuery, Costs, Ledger},
    limits::{LimitStatus, Limits},
    prices::Prices,
};
use crate::{
    Result, Scope,
    chat::{
        config::ChatConfig,
        provider::{Embeddings, ProviderCall},
        response::Answer,
    },
    context::Context,
    telemetry::{AiLabels, Telemetry},
};

/// Lets calls through that keep their limits, and writes down what they used. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    prices: Arc<Prices>,
    limits: Limits,
    ledger: Ledger,
    telemetry: Telemetry,
}

impl Accounts {
    pub fn new(config: &ChatConfig, context: &Context) -> Result<Accounts> {
        Ok(Accounts {
            prices: Arc::new(Prices::new(config)?),
            limits: Limits::new(config, context.clock.clone())?,
            ledger: Ledger::new(context.clock.clone()),
            telemetry: context.telemetry.clone(),
        })
    }

    /// Counts one call of `scope`, if it keeps every limit.
    ///
    /// # Errors
    /// RateLimited, naming the limit, with `retry_after`.
    pub fn admit(&self, operation: &'static str, scope: &Scope) -> Result<()> {
        self.limits.admit(operation, scope)
    }

    /// Writes down what an answer used, and tells it its cost. A cost that the provider told counts.
    pub fn settle(&self, call: &ProviderCall, answer: &mut Arc<Answer>) {
        let price = self.prices.find(&answer.provider, &answer.model, &call.model);
        let cost = answer.cost_usd.or_else(|| price?.of(&answer.usage));
        if cost != answer.cost_usd {
            Arc::make_mut(answer).cost_usd = cost;
        }
        if let Some(cost) = cost {
            let labels = AiLabels {
                model: self.telemetry.model(&call.model),
                provider: answer.provider.clone(),
                task_type: self.telemetry.context(&call.context),
            };
            self.telemetry.ai_cost_dollars.get_or_create(&labels).inc_by(cost);
        }
        self.ledger.account(&answer.provider, &answer.model, &call.scope).used(&answer.usage, cost);
        self.limits.used(&call.scope, answer.usage.total_tokens(), cost);
    }

    /// Writes down what vectors used.
    pub fn settle_vectors(&self, asked: &str, vectors: &Embeddings, scope: &Scope) {
        let price = self.prices.find(&vectors.provider, &vectors.model, asked);
        let cost = price.and_then(|price| price.of_prompt(&vectors.usage));
        self.ledger.account(&vectors.provider, &vectors.model, scope).used(&vectors.usage, cost);
        self.limits.used(scope, vectors.usage.total_tokens(), cost);
    }

    /// Returns the account of those who are given this answer under `scope`.
    pub fn account(&self, answer: &Answer, scope: &Scope) -> Arc<Account> {
        self.ledger.account(&answer.provider, &answer.model, scope)
    }

    pub fn costs(&self, query: &CostQuery) -> Result<Costs> {
        self.ledger.costs(query)
    }

    pub fn budget(&self, scope: &Scope) -> Result<Vec<LimitStatus>> {
        self.limits.status(scope)
    }
}
