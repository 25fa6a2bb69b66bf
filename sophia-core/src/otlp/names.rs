//! Names of attributes and metrics: the semantic conventions of OpenTelemetry for generative AI, and our own under `sophia.`.
//!
//! <https://github.com/open-telemetry/semantic-conventions-genai>

/// What is asked for: `chat`, `embeddings` or `execute_tool`.
pub const OPERATION_NAME: &str = "gen_ai.operation.name";
/// Who makes the protocol: `openai` or `anthropic`.
pub const PROVIDER_NAME: &str = "gen_ai.provider.name";
pub const REQUEST_MODEL: &str = "gen_ai.request.model";
pub const REQUEST_TEMPERATURE: &str = "gen_ai.request.temperature";
pub const REQUEST_TOP_P: &str = "gen_ai.request.top_p";
pub const REQUEST_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
pub const REQUEST_SEED: &str = "gen_ai.request.seed";
pub const REQUEST_STREAM: &str = "gen_ai.request.stream";
pub const RESPONSE_ID: &str = "gen_ai.response.id";
pub const RESPONSE_MODEL: &str = "gen_ai.response.model";
pub const RESPONSE_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
pub const USAGE_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
pub const USAGE_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
pub const USAGE_CACHED_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";
pub const USAGE_CACHE_WRITE_TOKENS: &str = "gen_ai.usage.cache_creation.input_tokens";
pub const USAGE_REASONING_TOKENS: &str = "gen_ai.usage.reasoning.output_tokens";
pub const TOKEN_TYPE: &str = "gen_ai.token.type";
pub const TOOL_NAME: &str = "gen_ai.tool.name";
/// What is said, only where `telemetry.otlp.content` asks for it.
pub const INPUT_MESSAGES: &str = "gen_ai.input.messages";
pub const OUTPUT_MESSAGES: &str = "gen_ai.output.messages";
pub const SERVER_ADDRESS: &str = "server.address";
pub const SERVER_PORT: &str = "server.port";
pub const ERROR_TYPE: &str = "error.type";

/// What was called: `chat.complete`, `chat.stream` or `chat.run`.
pub const SOPHIA_OPERATION: &str = "sophia.operation";
/// Configured name of the provider.
pub const SOPHIA_PROVIDER: &str = "sophia.provider";
/// How the answer relates to the cache: `hit`, `stale`, `semantic_hit`, `coalesced`, `miss` or `bypass`.
pub const CACHE_STATUS: &str = "sophia.cache.status";
/// Where it was found: `l1`, `l2` or `semantic`.
pub const CACHE_TIER: &str = "sophia.cache.tier";
/// How long ago it was kept, in seconds.
pub const CACHE_AGE: &str = "sophia.cache.age_s";
/// How alike the questions are.
pub const CACHE_SIMILARITY: &str = "sophia.cache.similarity";
/// How often a provider was asked for it.
pub const ATTEMPTS: &str = "sophia.attempts";
/// What it cost, in US dollars.
pub const COST_USD: &str = "sophia.cost_usd";

/// A metric.
#[derive(Debug)]
pub struct Metric {
    pub name: &'static str,
    pub unit: &'static str,
    pub description: &'static str,
    /// Upper bounds of the buckets of a histogram; none for a sum.
    pub bounds: &'static [f64],
}

pub const DURATION_S: Metric = Metric {
    name: "gen_ai.client.operation.duration",
    unit: "s",
    description: "Duration of a call to a provider",
    bounds: SECONDS,
};
pub const TIME_TO_FIRST_CHUNK_S: Metric = Metric {
    name: "gen_ai.client.operation.time_to_first_chunk",
    unit: "s",
    description: "Time until the first part of a streamed answer",
    bounds: SECONDS,
};
pub const TOKEN_USAGE: Metric = Metric {
    name: "gen_ai.client.token.usage",
    unit: "{token}",
    description: "Tokens as the provider counted them",
    bounds: TOKENS,
};
pub const REQUESTS: Metric =
    Metric { name: "sophia.chat.requests", unit: "{request}", description: "Questions, by the cache", bounds: &[] };
pub const COST: Metric =
    Metric { name: "sophia.chat.cost", unit: "{USD}", description: "Cost of answers, where it is known", bounds: &[] };

/// As the conventions ask.
const SECONDS: &[f64] = &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// As the conventions ask: powers of four.
const TOKENS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
