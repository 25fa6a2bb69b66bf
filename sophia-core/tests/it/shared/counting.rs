//! Limits and costs that several processes count together, and that outlive them.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use sophia_core::{
    chat::{Chat, ChatRequest, CostQuery, LimitConfig, Price, ProviderConfig, Share},
    testing::MockProvider,
};

use super::*;

const URL: &str = "SOPHIA_TEST_CHILD_URL";
const FOLDER: &str = "SOPHIA_TEST_CHILD_FOLDER";
const MOCK: &str = "SOPHIA_TEST_CHILD_MOCK";
/// Calls a minute of the test with four processes, of which each asks for as many.
const RATE: u64 = 30;
/// An answer of the mock, 10 tokens asked and 5 said, at two dollars a million.
const COST: f64 = 30e-6;

fn counting(redis: RedisConfig, data_dir: Option<&Path>, mock: Option<String>, limit: LimitConfig) -> Sophia {
    let mut config = config(redis, data_dir);
    config.chat.limits.push(limit);
    if let Some(url) = mock {
        config.chat.providers.push(ProviderConfig::openai("mock", url).models(["small"]));
        let price: Price = serde_json::from_value(json!({"prompt": 2.0, "completion": 2.0})).unwrap();
        config.chat.prices.insert("small".into(), price);
    }
    Sophia::new(config).unwrap()
}

fn child(part: &str, variables: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("shared::counting::{part}"), "--ignored", "--nocapture"])
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn ask(text: &str) -> ChatRequest {
    ChatRequest::new("small").user(text).scope(ada())
}

/// The part of a child: asks as often as it may when the file `go` is there, and writes down how often that was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the tests below"]
async fn a_process_that_asks() {
    let Some(folder) = variable(FOLDER).map(std::path::PathBuf::from) else { return };
    let redis = variable(URL).map(RedisConfig::url).unwrap_or_default();
    let limit = LimitConfig::per(Share::User).requests_per_minute(RATE);
    let sophia = counting(redis, Some(&folder.join("data")), None, limit);
    sophia.start().await.unwrap();
    let mine = std::process::id();
    fs::write(folder.join(format!("ready-{mine}")), "").unwrap();
    until("the word is given", async || folder.join("go").exists()).await;
    let mut let_through = 0;
    for index in 0..RATE {
        let answer = sophia.chat().run(&format!("{mine}-{index}"), &ada(), || async { Ok(1) }).await;
        let_through += u64::from(answer.is_ok());
    }
    fs::write(folder.join(format!("counted-{mine}")), let_through.to_string()).unwrap();
}

fn files(folder: &Path, start: &str) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start)).collect()
}

async fn four_processes_ask(url: Option<String>) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut variables = vec![(FOLDER, folder.to_str().unwrap())];
    variables.extend(url.as_deref().map(|url| (URL, url)));
    let children: Vec<_> = (0..4).map(|_| child("a_process_that_asks", &variables)).collect();
    until("all are ready", async || files(folder, "ready-").len() == 4).await;
    let start = Instant::now();
    fs::write(folder.join("go"), "").unwrap();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let counted = files(folder, "counted-");
    let sum: u64 = counted.iter().map(|file| fs::read_to_string(file).unwrap().parse::<u64>().unwrap()).sum();
    // What a minute fills again, it filled again meanwhile.
    let most = RATE + (start.elapsed().as_secs_f64() * RATE as f64 / 60.0).ceil() as u64;
    assert!(counted.len() == 4 && (RATE..=most).contains(&sum), "{sum} of at most {most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_on_one_data_dir_keep_one_rate() {
    four_processes_ask(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_on_one_redis_keep_one_rate() {
    let server = RedisServer::start();
    four_processes_ask(Some(server.url())).await;
}

fn spending(redis: RedisConfig, data_dir: Option<&Path>, mock: &MockProvider) -> Sophia {
    counting(redis, data_dir, Some(mock.base_url()), LimitConfig::per(Share::User).daily_usd(1.5 * COST))
}

async fn calls(chat: &Chat) -> u64 {
    chat.costs(&CostQuery::default()).await.unwrap().total.calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn costs_and_budgets_outlive_the_process_and_concern_the_others() {
    let mock = MockProvider::start().await.unwrap();
    let server = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    for (redis, data_dir) in [(None, Some(folder.path())), (Some(server.url()), None)] {
        let engine = || spending(redis.clone().map(RedisConfig::url).unwrap_or_default(), data_dir, &mock);
        let (one, two) = (engine(), engine());
        one.chat().complete(ask("a")).await.unwrap();
        one.chat().complete(ask("a")).await.unwrap();
        until("the other knows of it", async || calls(two.chat()).await == 1).await;
        two.chat().complete(ask("b")).await.unwrap();
        until("the first knows of it", async || calls(one.chat()).await == 2).await;
        for engine in [&one, &two] {
            assert_eq!(engine.chat().complete(ask("c")).await.unwrap_err().get("limit"), Some("daily_usd"));
        }
        one.shutdown().await.unwrap();
        two.shutdown().await.unwrap();

        let later = engine();
        let costs = later.chat().costs(&CostQuery::default()).await.unwrap();
        assert_eq!((costs.total.calls, costs.total.saved_calls, costs.total.prompt_tokens), (2, 1, 20));
        assert!((costs.total.cost_usd.unwrap() - 2.0 * COST).abs() < 1e-12, "{costs:?}");
        assert_eq!((costs.rows.len(), costs.rows[0].model.as_deref()), (1, Some("small")));
        assert!(costs.counted_since < sophia_core::Timestamp::now());
        assert_eq!(calls(later.chat()).await, 2, "asking for it counts nothing");
        let budget = later.chat().budget(&ada()).await.unwrap().remove(0);
        assert!((budget.used - 2.0 * COST).abs() < 1e-12 && budget.remaining == 0.0, "{budget:?}");
        assert_eq!(later.chat().complete(ask("c")).await.unwrap_err().get("limit"), Some("daily_usd"));
        later.chat().complete(ask("c").scope(Scope::new().user("bob"))).await.unwrap();
        later.shutdown().await.unwrap();
    }
}

/// The part of a child: asks once, and then waits to be killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the test below"]
async fn a_process_that_asks_once() {
    let (Some(folder), Some(mock)) = (variable(FOLDER), variable(MOCK)) else { return };
    let limit = LimitConfig::per(Share::User).daily_usd(1.0);
    let sophia = counting(RedisConfig::default(), Some(Path::new(&folder)), Some(mock), limit);
    sophia.chat().complete(ask("a")).await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_shared_before_a_process_was_killed_stays_counted() {
    let mock = MockProvider::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (data, url) = (folder.path().to_str().unwrap(), mock.base_url());
    let sophia = spending(RedisConfig::default(), Some(folder.path()), &mock);
    let mut child = child("a_process_that_asks_once", &[(FOLDER, data), (MOCK, &url)]);
    until("it is counted", async || calls(sophia.chat()).await == 1).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(calls(spending(RedisConfig::default(), Some(folder.path()), &mock).chat()).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_a_process_goes_on_from_what_it_saw_last_and_adds_it_later() {
    let mut server = RedisServer::start();
    let engine = || {
        let limit = LimitConfig::per(Share::User).requests_per_minute(2);
        counting(RedisConfig::url(server.url()), None, None, limit)
    };
    let (one, two) = (engine(), engine());
    let ask = async |sophia: &Sophia, text: &str| sophia.chat().run(text, &ada(), || async { Ok(1) }).await;
    ask(&two, "a").await.unwrap();
    ask(&one, "b").await.unwrap();
    server.kill();
    assert_eq!(ask(&one, "c").await.unwrap_err().get("limit"), Some("requests_per_minute"), "it knows of both");
    ask(&two, "d").await.unwrap();
    assert!(ask(&two, "e").await.is_err(), "it knows of its own two");
    server.restart();
    until("what was counted meanwhile is there", async || {
        let _ = ask(&two, "f").await;
        one.chat().budget(&ada()).await.unwrap()[0].used > 0.5
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_did_and_said_too_late_counts_once() {
    const ROUNDS: u64 = 3;
    let mock = MockProvider::start().await.unwrap();
    let server = RedisServer::start();
    let engine = || {
        let limit = LimitConfig::per(Share::User).requests_per_minute(1_000_000).daily_usd(1.0);
        counting(RedisConfig::url(server.url()), None, Some(mock.base_url()), limit)
    };
    let sophia = engine();
    for round in 0..ROUNDS {
        until("Redis is well", async || sophia.chat().costs(&CostQuery::default()).await.is_ok()).await;
        server.hang();
        sophia.chat().complete(ask(&round.to_string())).await.unwrap();
        // Shares what was counted, in vain.
        sophia.chat().costs(&CostQuery::default()).await.unwrap_err();
        server.go_on();
    }
    until("all is counted", async || calls(sophia.chat()).await == ROUNDS).await;
    sophia.shutdown().await.unwrap();
    let later = engine();
    let total = later.chat().costs(&CostQuery::default()).await.unwrap().total;
    assert_eq!((total.calls, total.prompt_tokens), (ROUNDS, 10 * ROUNDS));
    let spent = later.chat().budget(&ada()).await.unwrap()[1].used;
    assert!((spent - ROUNDS as f64 * COST).abs() < 1e-12, "{spent}");
}
