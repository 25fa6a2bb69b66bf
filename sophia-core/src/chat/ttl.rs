//! How long an answer is kept, and what a question is about.

use super::config::{ContextTtl, TtlConfig};

/// The context of a request that names none.
pub(crate) const DEFAULT_CONTEXT: &str = "default";

/// Words by which an answer says that it is about the present.
const VOLATILE: [&str; 4] = ["current", "today", "now", "live"];

const fn rule(ttl: u64, volatile: Option<u64>) -> ContextTtl {
    ContextTtl { ttl, volatile }
}

/// What an existing AI backend expects.
const RULES: [(&str, ContextTtl); 3] = [
    ("infrastructure", rule(60, None)),
    ("ceo_deep_research", rule(900, None)),
    ("business_intelligence", rule(600, Some(120))),
];

/// Words that speak for a context. The one with the most wins; the first of equals.
const TOPICS: [(&str, &[&str]); 3] = [
    (
        "infrastructure",
        &[
            "cluster",
            "container",
            "containers",
            "cpu",
            "deploy",
            "deployment",
            "deployments",
            "disk",
            "docker",
            "gpu",
            "gpus",
            "infrastructure",
            "kubernetes",
            "latency",
            "outage",
            "pod",
            "pods",
            "server",
            "servers",
            "uptime",
        ],
    ),
    (
        "ceo_deep_research",
        &[
            "acquisition",
            "competitive",
            "competitor",
            "competitors",
            "landscape",
            "research",
            "strategic",
            "strategy",
            "swot",
        ],
    ),
    (
        "business_intelligence",
        &[
            "arr",
            "churn",
            "customer",
            "customers",
            "deal",
            "deals",
            "forecast",
            "kpi",
            "kpis",
            "margin",
            "mrr",
            "pipeline",
            "profit",
            "quarter",
            "quarterly",
            "revenue",
            "sales",
        ],
    ),
];

/// What became of an answer when it was asked for anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is the same, to the byte.
    Same,
    /// It is another one.
    Different,
}

impl TtlConfig {
    /// Returns how long an answer that says `text` is kept in `context`, in seconds.
    pub(crate) fn for_answer(&self, context: &str, text: &str) -> u64 {
        let builtin = || RULES.iter().find(|(name, _)| *name == context).map(|(_, rule)| *rule);
        let ttl = match self.contexts.get(context).copied().or_else(builtin) {
            Some(ContextTtl { volatile: Some(ttl), .. }) if is_about_the_present(text) => ttl,
            Some(rule) => rule.ttl,
            None => self.default,
        };
        ttl.clamp(self.min, self.max)
    }

    /// Returns how long an answer is kept that was asked for anew, in seconds: `last` is how long it was kept before.
    pub(crate) fn adapted(&self, last: u64, change: Change) -> u64 {
        let ttl = match change {
            Change::Same => last.saturating_mul(2),
            Change::Different => last / 2,
        };
        ttl.clamp(self.min, self.max)
    }

    /// Returns `ttl` varied by the configured share; `random` is 0..1. The result stays within the bounds.
    pub(crate) fn jittered(&self, ttl: u64, random: f64) -> u64 {
        let varied = ttl as f64 * (1.0 + self.jitter * (2.0 * random - 1.0));
        (varied.round() as u64).clamp(self.min, self.max)
    }
}

/// Returns the context that the words of `message` speak for, or `"default"`.
pub(crate) fn classify(message: &str) -> &'static str {
    let mut best = (DEFAULT_CONTEXT, 0);
    let words: Vec<String> = words(message).map(str::to_lowercase).collect();
    for (context, topic) in TOPICS {
        let count = words.iter().filter(|word| topic.contains(&word.as_str())).count();
        if count > best.1 {
            best = (context, count);
        }
    }
    best.0
}

fn is_about_the_present(text: &str) -> bool {
    words(text).any(|word| VOLATILE.iter().any(|volatile| word.eq_ignore_ascii_case(volatile)))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ttl(context: &str, text: &str) -> u64 {
        TtlConfig::default().for_answer(context, text)
    }

    #[test]
    fn the_rules_of_the_existing_backend_hold() {
        assert_eq!(ttl("infrastructure", "now"), 60);
        assert_eq!(ttl("ceo_deep_research", "today"), 900);
        assert_eq!(ttl("business_intelligence", "as of today"), 120);
        assert_eq!((ttl("default", ""), ttl("anything", "now")), (300, 300));
    }

    #[test]
    fn know_is_not_now_and_alive_is_not_live() {
        for text in ["I know the known", "alive, lively", "currently", "nowhere", "to-day", "", "nów", "now_playing"] {
            assert_eq!(ttl("business_intelligence", text), 600, "{text}");
        }
        for text in ["NOW.", "(live)", "Current: 5", "today's figure", "x\nnow", "it is now", "live-stream", "“Today”"]
        {
            assert_eq!(ttl("business_intelligence", text), 120, "{text}");
        }
    }

    #[test]
    fn a_configured_rule_replaces_the_built_in_one() {
        let mut config = TtlConfig::default();
        config.contexts.insert("infrastructure".into(), rule(90, Some(70)));
        assert_eq!(config.for_answer("infrastructure", "x"), 90);
        assert_eq!(config.for_answer("infrastructure", "live"), 70);
    }

    #[test]
    fn a_question_is_classified_by_whole_words() {
        assert_eq!(classify("Is the GPU cluster up?"), "infrastructure");
        assert_eq!(classify("How many deals closed this quarter?"), "business_intelligence");
        assert_eq!(classify("Deep research on the competitive landscape"), "ceo_deep_research");
        assert_eq!(classify("Hello! What a deserved dealership."), "default");
    }

    #[test]
    fn what_stays_the_same_is_kept_longer_and_what_changes_shorter() {
        let config = TtlConfig::default();
        let adapt = |changes: &[Change]| changes.iter().fold(300, |ttl, change| config.adapted(ttl, *change));
        assert_eq!(adapt(&[Change::Same]), 600);
        assert_eq!(adapt(&[Change::Same; 5]), 900);
        assert_eq!(adapt(&[Change::Different]), 150);
        assert_eq!(adapt(&[Change::Different; 5]), 60);
    }

    proptest! {
        #[test]
        fn jitter_never_leaves_the_bounds(ttl in 60u64..=900, random in 0.0f64..=1.0) {
            let config = TtlConfig::default();
            let varied = config.jittered(ttl, random);
            prop_assert!((60..=900).contains(&varied));
            prop_assert!((varied as f64 - ttl as f64).abs() <= ttl as f64 * 0.1 + 0.5);
        }
    }
}
