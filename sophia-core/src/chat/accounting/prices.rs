//! What a token costs.

use std::{collections::BTreeMap, path::Path};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Config, Error, ErrorKind, Result,
    chat::{config::ChatConfig, response::Usage},
    wire,
};

/// Tokens that a price is for.
const PER_TOKENS: f64 = 1_000_000.0;

/// What one model costs, in US dollars per million tokens.
///
/// ```
/// use sophia_core::chat::Price;
///
/// let price: Price = serde_json::from_str(r#"{"prompt": 2.0, "completion": 8.0, "cached": 0.5}"#).unwrap();
/// assert_eq!((price.cached, price.reasoning), (Some(0.5), None));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Price {
    /// Tokens of the request.
    pub prompt: f64,
    /// Tokens of the answer.
    pub completion: f64,
    /// Tokens of the request that the provider had cached. Default as `prompt`.
    #[serde(default)]
    pub cached: Option<f64>,
    /// Tokens of the request that the provider put into its cache. Default as `prompt`.
    #[serde(default)]
    pub cache_write: Option<f64>,
    /// Tokens that the model thought. Default as `completion`.
    #[serde(default)]
    pub reasoning: Option<f64>,
}

impl Price {
    /// Returns what an answer cost, in US dollars; `None` where the provider did not count its tokens.
    pub(crate) fn of(&self, usage: &Usage) -> Option<f64> {
        let completion = usage.completion_tokens?;
        let reasoning = usage.reasoning_tokens.unwrap_or(0);
        let said = completion.saturating_sub(reasoning) as f64 * self.completion
            + reasoning as f64 * self.reasoning.unwrap_or(self.completion);
        Some(self.of_prompt(usage)? + said / PER_TOKENS)
    }

    /// Returns what a request alone cost, such as one for embeddings.
    pub(crate) fn of_prompt(&self, usage: &Usage) -> Option<f64> {
        let prompt = usage.prompt_tokens?;
        let (cached, written) = (usage.cached_tokens.unwrap_or(0), usage.cache_write_tokens.unwrap_or(0));
        let asked = prompt.saturating_sub(cached.saturating_add(written)) as f64 * self.prompt
            + cached as f64 * self.cached.unwrap_or(self.prompt)
            + written as f64 * self.cache_write.unwrap_or(self.prompt);
        Some(asked / PER_TOKENS)
    }

    fn validate(&self, path: &str) -> Result<()> {
        let kinds = [
            ("prompt", Some(self.prompt)),
            ("completion", Some(self.completion)),
            ("cached", self.cached),
            ("cache_write", self.cache_write),
            ("reasoning", self.reasoning),
        ];
        for (kind, price) in kinds {
            if price.is_some_and(|price| !price.is_finite() || price < 0.0) {
                let path = format!("{path}.{kind}");
                return Err(Error::invalid_config(&path, "must be dollars per million tokens, at least 0"));
            }
        }
        Ok(())
    }
}

/// The prices that are known, by model or `provider/model`.
#[derive(Debug, Default)]
pub(crate) struct Prices(BTreeMap<String, Price>);

impl Prices {
    /// Reads the configured file, and lays the configured prices over it.
    pub fn new(config: &ChatConfig) -> Result<Prices> {
        let mut known = match &config.prices_file {
            Some(path) => read(path)?,
            None => BTreeMap::new(),
        };
        for (model, price) in &config.prices {
            price.validate(&format!("chat.prices.{model}"))?;
            known.insert(model.clone(), *price);
        }
        Ok(Prices(known))
    }

    /// Returns the price of what `provider` calls `answered` where `asked` was asked for, if one is known.
    ///
    /// What answered is what is billed, and a price of one provider is meant for it alone: so these come first.
    pub fn find(&self, provider: &str, answered: &str, asked: &str) -> Option<&Price> {
        if self.0.is_empty() {
            return None;
        }
        [answered, asked]
            .into_iter()
            .find_map(|model| self.0.get(&format!("{provider}/{model}")))
            .or_else(|| [answered, asked].into_iter().find_map(|model| self.0.get(model)))
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Price>> {
    let trouble = |error: &Error| {
        let name = path.display();
        Error::invalid_config("chat.prices_file", format!("`{name}` cannot be used: {}", error.message()))
    };
    let layer = Config::file_layer(path).map_err(|error| trouble(&error))?;
    let prices: BTreeMap<String, Price> =
        wire::read(ErrorKind::InvalidConfig, "chat.prices_file", layer).map_err(|error| trouble(&error))?;
    for (model, price) in &prices {
        price.validate(model).map_err(|error| trouble(&error))?;
    }
    Ok(prices)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price =
        Price { prompt: 2.0, completion: 8.0, cached: Some(0.5), cache_write: Some(2.5), reasoning: Some(10.0) };

    fn usage(prompt: u64, completion: u64) -> Usage {
        Usage { prompt_tokens: Some(prompt), completion_tokens: Some(completion), ..Usage::default() }
    }

    #[test]
    fn every_kind_of_token_has_its_price() {
        assert_eq!(PRICE.of(&usage(1_000_000, 500_000)), Some(6.0));
        let mixed = Usage {
            cached_tokens: Some(500_000),
            cache_write_tokens: Some(250_000),
            reasoning_tokens: Some(250_000),
            ..usage(1_000_000, 500_000)
        };
        assert_eq!(PRICE.of(&mixed), Some(0.5 + 0.25 + 0.625 + 2.0 + 2.5));
        let plain = Price { prompt: 2.0, completion: 8.0, ..Price::default() };
        assert_eq!(plain.of(&mixed), Some(6.0), "a kind without a price of its own costs as the whole");
    }

    #[test]
    fn what_was_not_counted_has_no_cost() {
        assert_eq!(PRICE.of(&Usage::default()), None);
        assert_eq!(PRICE.of(&Usage { completion_tokens: None, ..usage(1, 1) }), None);
        assert_eq!(PRICE.of_prompt(&Usage { completion_tokens: None, ..usage(1_000_000, 1) }), Some(2.0));
    }

    #[test]
    fn a_price_of_one_provider_and_of_what_answered_comes_first() {
        let price = |prompt| Price { prompt, completion: 0.0, ..Price::default() };
        let named = |names: &[&str]| {
            let prices = names.iter().enumerate().map(|(index, name)| ((*name).to_owned(), price(index as f64)));
            Prices(prices.collect())
        };
        let find = |prices: &Prices| prices.find("p", "small-2026", "small").map(|price| price.prompt);
        assert_eq!(find(&named(&["small", "small-2026", "p/small", "p/small-2026"])), Some(3.0));
        assert_eq!(find(&named(&["small", "small-2026", "p/small"])), Some(2.0));
        assert_eq!(find(&named(&["small", "small-2026", "q/small"])), Some(1.0));
        assert_eq!(find(&named(&["small"])), Some(0.0));
        assert_eq!(find(&named(&["large"])), None);
    }

    #[test]
    fn prices_come_from_a_file_and_the_configuration_has_the_last_word() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prices.toml");
        std::fs::write(&path, "[small]\nprompt = 1.0\ncompletion = 2.0\n[large]\nprompt = 3\ncompletion = 4\n")
            .unwrap();
        let mut config = ChatConfig { prices_file: Some(path.clone()), ..ChatConfig::default() };
        config.prices.insert("small".into(), PRICE);
        let prices = Prices::new(&config).unwrap();
        assert_eq!(prices.find("p", "small", "small"), Some(&PRICE));
        assert_eq!(prices.find("p", "large", "large").unwrap().prompt, 3.0);

        std::fs::write(&path, "[small]\nprompt = -1.0\ncompletion = 2.0\n").unwrap();
        let error = Prices::new(&config).unwrap_err();
        assert!(
            error.message().starts_with("`chat.prices_file`") && error.message().contains("small.prompt"),
            "{error}"
        );
        config.prices.insert("x".into(), Price { cached: Some(f64::NAN), ..PRICE });
        config.prices_file = None;
        assert_eq!(Prices::new(&config).unwrap_err().get("field"), Some("chat.prices.x.cached"));
    }
}
