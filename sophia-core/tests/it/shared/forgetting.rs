//! What was forgotten is in Redis no more: values, answers, what lists them; also when it was away, or a process died.

use std::process::{Command, Stdio};

use sophia_core::{
    chat::{ChatRequest, ProviderConfig, RunOptions, Share},
    testing::MockProvider,
};

use super::*;

/// What all that is kept of the person holds.
const MARK: &str = "zqxwvj";
const URL: &str = "SOPHIA_TEST_FORGETTING_URL";
const FOLDER: &str = "SOPHIA_TEST_FORGETTING_FOLDER";

/// Everything in Redis, whatever its type, as one text.
fn dump(server: &RedisServer) -> String {
    let script = "local all = '' for _, key in ipairs(redis.call('KEYS', '*')) do \
         local kind = redis.call('TYPE', key).ok all = all .. key .. ' ' \
         if kind == 'string' then all = all .. redis.call('GET', key) \
         elseif kind == 'list' then all = all .. table.concat(redis.call('LRANGE', key, 0, -1), ' ') \
         elseif kind == 'hash' then all = all .. table.concat(redis.call('HGETALL', key), ' ') \
         elseif kind == 'set' then all = all .. table.concat(redis.call('SMEMBERS', key), ' ') \
         elseif kind == 'zset' then all = all .. table.concat(redis.call('ZRANGE', key, 0, -1), ' ') \
         else all = all .. redis.call('DUMP', key) end all = all .. '|' end return all";
    let mut connection = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    connection.write_all(format!("EVAL \"{script}\" 0\r\n").as_bytes()).unwrap();
    connection.shutdown(std::net::Shutdown::Write).unwrap();
    let mut said = Vec::new();
    connection.read_to_end(&mut said).unwrap();
    assert!(said.starts_with(b"$"), "{}", String::from_utf8_lossy(&said));
    String::from_utf8_lossy(&said).into_owned()
}

/// What of it holds the mark.
fn marked(server: &RedisServer) -> Vec<String> {
    dump(server).split('|').filter(|entry| entry.contains(MARK)).map(str::to_owned).collect()
}

async fn chatting(url: String, directory: &Path, mock: &MockProvider) -> Sophia {
    let mut config = config(RedisConfig::url(url), Some(directory));
    config.chat.providers.push(ProviderConfig::openai("mock", mock.base_url()).models(["small"]));
    // A busy machine is not an outage.
    config.chat.cache.l2.timeout = Duration::from_millis(500);
    let sophia = Sophia::new(config).unwrap();
    sophia.start().await.unwrap();
    sophia.memory().kv().get("warm-up", &Scope::new()).await.unwrap();
    until("the shared tier is heard", async || l2(&sophia).await == TierStatus::Healthy).await;
    sophia
}

async fn keep(sophia: &Sophia, scope: &Scope, mark: &str) {
    for key in ["a", "b"] {
        let options = KvOptions::new().scope(scope).tags([format!("{mark}-tag-{key}")]);
        sophia.memory().kv().set(&format!("{mark}-{key}"), json!(mark), options).await.unwrap();
        sophia.memory().kv().get(&format!("{mark}-{key}"), scope).await.unwrap();
    }
    for number in 0..3 {
        let request =
            ChatRequest::new("small").user(format!("{mark} {number}")).scope(scope).tag(format!("{mark}-tag"));
        sophia.chat().complete(request.context(format!("{mark}-context"))).await.unwrap();
        let produce = move || async move { Ok(json!(format!("{MARK} {number}"))) };
        let options = RunOptions::new(format!("{mark} run {number}")).scope(scope);
        if mark == MARK {
            sophia.chat().run_with(options, produce).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_holds_nothing_of_who_was_forgotten_and_all_of_the_others() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let directory = tempfile::tempdir().unwrap();
    let one = chatting(server.url(), directory.path(), &mock).await;
    let two = chatting(server.url(), directory.path(), &mock).await;
    let bob = Scope::new().tenant("acme").user("bob");
    keep(&one, &bob, "stays").await;
    // Who only ever chatted is not known to the data file.
    let chatter = Scope::new().tenant("globex").user("ada");
    for request in [ForgetRequest::scope(ada()), ForgetRequest::subject("ada")] {
        keep(&one, &ada(), MARK).await;
        let only = ChatRequest::new("small").user(format!("{MARK} of globex, {request:?}")).scope(&chatter);
        one.chat().complete(only.clone()).await.unwrap();
        assert_eq!(two.chat().complete(only.clone()).await.unwrap().cache.tier, Some("l2"));
        let wide = ChatRequest::new("small")
            .user(format!("what all may have {}", request.subject.is_some()))
            .scope(ada())
            .share(Share::Tenant);
        one.chat().complete(wide.clone()).await.unwrap();
        assert!(!marked(&server).is_empty());
        let all = request.subject.is_some();
        let receipt = one.memory().forget(request).await.unwrap();
        assert!(receipt.tiers.contains(&"l2") && receipt.answers >= 3, "{receipt:?}");
        let left = marked(&server);
        // A scope is one tenant's; a person is whoever has the name.
        assert!(left.iter().all(|entry| !all && entry.contains("globex")), "{left:#?}");
        for sophia in [&one, &two] {
            until("the near copies are dropped", async || near(sophia, &format!("{MARK}-a")).flatten().is_none()).await;
            let asked = ChatRequest::new("small").user(format!("{MARK} 0")).scope(ada());
            until("answers are dropped", async || sophia.chat().hit(&asked).is_none()).await;
        }
        if all {
            until("answers are dropped", async || two.chat().hit(&only).is_none()).await;
        }
        let bobs = ChatRequest::new("small").user("stays 0").scope(&bob).tag("stays-tag").context("stays-context");
        assert_eq!(two.chat().complete(bobs).await.unwrap().cache.status, sophia_core::chat::CacheStatus::Hit);
        assert_eq!(two.memory().kv().get("stays-a", &bob).await.unwrap().unwrap().value(), &json!("stays"));
        assert_eq!(two.chat().complete(wide).await.unwrap().cache.status, sophia_core::chat::CacheStatus::Hit);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forgotten_while_redis_is_away_is_pending_and_gone_when_it_is_back() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    let directory = tempfile::tempdir().unwrap();
    let one = chatting(server.url(), directory.path(), &mock).await;
    keep(&one, &ada(), MARK).await;
    assert!(!marked(&server).is_empty());
    server.hang();
    let receipt = one.memory().forget(ForgetRequest::subject("ada")).await.unwrap();
    assert!(!receipt.tiers.contains(&"l2") && receipt.pending == ["l2"], "{receipt:?}");
    assert_eq!(read(&one, &format!("{MARK}-a")).await, None);
    server.go_on();
    until("it is gone from there", async || marked(&server).is_empty()).await;
    let receipt = one.memory().forget(ForgetRequest::subject("ada")).await.unwrap();
    assert!(receipt.tiers.contains(&"l2") && receipt.pending.is_empty(), "{receipt:?}");
}

/// The part of a child that forgets, and is killed while it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by the test below"]
async fn part_that_forgets() {
    let (Some(url), Some(folder)) = (std::env::var_os(URL), std::env::var_os(FOLDER)) else { return };
    let mock = MockProvider::start().await.unwrap();
    let sophia = chatting(url.into_string().unwrap(), Path::new(&folder), &mock).await;
    std::fs::write(Path::new(&folder).join("now"), "").unwrap();
    sophia.memory().forget(ForgetRequest::subject("ada")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgetting_that_was_killed_completes_in_redis_when_it_is_asked_again() {
    let (server, mock) = (RedisServer::start(), MockProvider::start().await.unwrap());
    for round in 0..6_u32 {
        let directory = tempfile::tempdir().unwrap();
        let one = chatting(server.url(), directory.path(), &mock).await;
        keep(&one, &ada(), MARK).await;
        one.shutdown().await.unwrap();
        drop(one);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "shared::forgetting::part_that_forgets", "--ignored", "--nocapture"])
            .env(URL, server.url())
            .env(FOLDER, directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        until("it begins", async || directory.path().join("now").exists()).await;
        // A moment that nobody chose: sooner and later in the work.
        let moment = Instant::now() + Duration::from_micros(u64::from(round * round) * 1_500);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let one = chatting(server.url(), directory.path(), &mock).await;
        one.memory().forget(ForgetRequest::subject("ada")).await.unwrap();
        assert_eq!(marked(&server), Vec::<String>::new(), "round {round}");
        one.shutdown().await.unwrap();
    }
}
