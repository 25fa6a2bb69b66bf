//! What OpenTelemetry is told: by a receiver of our own that reads the protocol's bytes.

use sophia_core::chat::{CallbackTools, Price};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::*;

/// A message of protocol buffers, field by field.
#[derive(Debug, Clone)]
struct Message(Vec<(u64, Field)>);

#[derive(Debug, Clone)]
enum Field {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Message {
    fn read(mut bytes: &[u8]) -> Message {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let (first, rest) = bytes.split_first().expect("a whole number");
                *bytes = rest;
                value |= u64::from(first & 0x7f) << shift;
                if first & 0x80 == 0 {
                    return value;
                }
                shift += 7;
            }
        }
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let field = match key & 7 {
                0 => Field::Number(varint(&mut bytes)),
                1 => {
                    let (value, rest) = bytes.split_at(8);
                    bytes = rest;
                    Field::Number(u64::from_le_bytes(value.try_into().unwrap()))
                }
                2 => {
                    let length = varint(&mut bytes) as usize;
                    let (value, rest) = bytes.split_at(length);
                    bytes = rest;
                    Field::Bytes(value.to_vec())
                }
                form => panic!("no such form: {form}"),
            };
            fields.push((key >> 3, field));
        }
        Message(fields)
    }

    fn all(&self, number: u64) -> Vec<Message> {
        self.bytes(number).map(Message::read).collect()
    }

    fn bytes(&self, number: u64) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter_map(move |(own, field)| match field {
            Field::Bytes(bytes) if *own == number => Some(bytes.as_slice()),
            _ => None,
        })
    }

    fn text(&self, number: u64) -> String {
        self.bytes(number).next().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).unwrap_or_default()
    }

    fn number(&self, number: u64) -> Option<u64> {
        self.0.iter().find_map(|(own, field)| match field {
            Field::Number(value) if *own == number => Some(*value),
            _ => None,
        })
    }

    /// Returns attributes as JSON, by their names.
    fn attributes(&self, number: u64) -> Value {
        fn any(value: &Message) -> Value {
            match value.0.first() {
                Some((1, Field::Bytes(text))) => String::from_utf8(text.clone()).unwrap().into(),
                Some((2, Field::Number(flag))) => json!(*flag == 1),
                Some((3, Field::Number(number))) => json!(number.cast_signed()),
                Some((4, Field::Number(bits))) => json!(f64::from_bits(*bits)),
                Some((5, Field::Bytes(list))) => Message::read(list).all(1).iter().map(any).collect(),
                other => panic!("{other:?}"),
            }
        }
        let pairs = self.all(number);
        pairs.iter().map(|pair| (pair.text(1), any(&pair.all(2)[0]))).collect::<serde_json::Map<_, _>>().into()
    }
}

/// A span as it was received.
#[derive(Debug, Clone)]
struct Span {
    name: String,
    id: Vec<u8>,
    trace: Vec<u8>,
    parent: Option<Vec<u8>>,
    is_call: bool,
    took_ns: u64,
    about: Value,
    is_error: bool,
}

/// Requests: path, head and body.
type Received = Arc<parking_lot::Mutex<Vec<(String, String, Vec<u8>)>>>;

/// A collector on loopback.
struct Collector {
    address: std::net::SocketAddr,
    requests: Received,
    /// Statuses of the next answers; 200 after them.
    script: Arc<parking_lot::Mutex<Vec<u16>>>,
}

impl Collector {
    async fn start() -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, script) = (Arc::default(), Arc::default());
        let collector = Collector { address, requests: Arc::clone(&requests), script: Arc::clone(&script) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Collector::serve(stream, requests.clone(), script.clone()));
            }
        });
        collector
    }

    async fn serve(stream: TcpStream, requests: Received, script: Arc<parking_lot::Mutex<Vec<u16>>>) {
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let head = head.to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body).await.unwrap();
            let status = script.lock().pop().unwrap_or(200);
            if status == 200 {
                let path = head.split(' ').nth(1).unwrap().to_owned();
                requests.lock().push((path, head, body));
            }
            let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    fn of(&self, path: &str) -> Vec<Message> {
        let requests = self.requests.lock();
        requests.iter().filter(|(own, ..)| own == path).map(|(.., body)| Message::read(body)).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let resources = self.of("/v1/traces").into_iter().flat_map(|request| request.all(1));
        let scopes = resources.flat_map(|resource| resource.all(2));
        let spans = scopes.flat_map(|scope| scope.all(2));
        let read = |span: Message| Span {
            name: span.text(5),
            id: span.bytes(2).next().unwrap().to_vec(),
            trace: span.bytes(1).next().unwrap().to_vec(),
            parent: span.bytes(4).next().map(<[u8]>::to_vec),
            is_call: span.number(6) == Some(3),
            took_ns: span.number(8).unwrap() - span.number(7).unwrap(),
            about: span.attributes(9),
            is_error: span.all(15).first().is_some_and(|status| status.number(3) == Some(2)),
        };
        spans.map(read).collect()
    }

    fn named(&self, name: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    /// Returns the points of a metric: attributes, count or none, and sum.
    fn points(&self, name: &str) -> Vec<(Value, Option<u64>, f64)> {
        let last = self.of("/v1/metrics").pop().unwrap();
        let metrics = last.all(1)[0].all(2)[0].all(2);
        let metric = metrics.into_iter().find(|metric| metric.text(1) == name).unwrap_or_else(|| panic!("{name}"));
        let float = |bits: Option<u64>| f64::from_bits(bits.unwrap());
        match metric.all(9).pop() {
            Some(histogram) => histogram
                .all(1)
                .iter()
                .map(|point| (point.attributes(9), point.number(4), float(point.number(5))))
                .collect(),
            None => {
                let sum = metric.all(7).pop().unwrap();
                assert_eq!((sum.number(2), sum.number(3)), (Some(2), Some(1)), "cumulative, and it only grows");
                sum.all(1).iter().map(|point| (point.attributes(7), None, float(point.number(4)))).collect()
            }
        }
    }
}

async fn told(mock: &MockProvider, change: impl FnOnce(&mut Config)) -> (Collector, Sophia) {
    let collector = Collector::start().await;
    let mut config = config(&[mock]);
    config.telemetry.otlp.endpoint = Some(format!("http://{}", collector.address));
    config.telemetry.otlp.headers = std::collections::BTreeMap::from([("x-key".into(), sophia_core::Secret::new("k"))]);
    config.telemetry.otlp.service_name = Some("shop".into());
    let price: Price = serde_json::from_value(json!({"prompt": 2.0, "completion": 2.0})).unwrap();
    config.chat.prices.insert("small".into(), price);
    config.chat.retry.retries = 0;
    change(&mut config);
    (collector, Sophia::new(config).unwrap())
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn a_call_is_a_span_in_the_trace_of_its_caller_and_a_hit_is_one_without_a_call() {
    let mock = MockProvider::start().await.unwrap();
    let (collector, sophia) = told(&mock, |_| {}).await;
    let chat = sophia.chat();
    chat.complete(ask("secret words").traceparent(PARENT).temperature(0.5)).await.unwrap();
    chat.complete(ask("secret words").temperature(0.5)).await.unwrap();
    drain(chat, ask("more words")).await.unwrap();
    chat.complete(ask("fail:503")).await.unwrap_err();
    chat.run("x", &ada(), || async { Ok(1) }).await.unwrap();
    chat.embed(EmbedCall::new(["x"])).await.unwrap();
    sophia.shutdown().await.unwrap();

    let asked = collector.named("chat.complete");
    assert_eq!(asked.len(), 3);
    let call = collector.named("chat small").into_iter().find(|call| call.trace == asked[0].trace).unwrap();
    assert_eq!(
        asked[0].trace,
        [0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c]
    );
    assert_eq!(asked[0].parent.as_deref(), Some(&[0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31][..]));
    assert_eq!((call.parent.as_ref(), call.is_call, asked[0].is_call), (Some(&asked[0].id), true, false));
    assert!(asked[0].took_ns >= call.took_ns && call.took_ns > 0);
    let expected = json!({
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "small",
        "server.address": "127.0.0.1", "server.port": call.about["server.port"], "sophia.provider": "mock0",
        "gen_ai.request.temperature": 0.5, "gen_ai.response.model": "small", "gen_ai.response.id": call.about["gen_ai.response.id"],
        "gen_ai.response.finish_reasons": ["stop"], "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 4,
    });
    assert_eq!(call.about, expected);
    assert_eq!(asked[0].about["sophia.cache.status"], "miss");
    assert!(asked[0].about["sophia.cost_usd"].as_f64().unwrap() > 0.0);
    let hit = asked.iter().find(|span| span.about["sophia.cache.status"] == "hit").unwrap();
    assert_eq!((&hit.about["sophia.cache.tier"], hit.parent.as_ref()), (&json!("l1"), None));
    assert!(collector.spans().iter().all(|span| span.parent.as_ref() != Some(&hit.id)));

    let streamed = collector.named("chat small").into_iter().find(|call| call.about["gen_ai.request.stream"] == true);
    assert_eq!(streamed.unwrap().parent.unwrap(), collector.named("chat.stream")[0].id);
    let failed: Vec<_> = collector.spans().into_iter().filter(|span| span.is_error).collect();
    assert_eq!(failed.len(), 2, "the question and its call");
    assert!(failed.iter().all(|span| span.about["error.type"] == "UNAVAILABLE"));
    assert_eq!(collector.named("chat.run")[0].about["sophia.cache.status"], "miss");
    assert_eq!(collector.named("embeddings small")[0].about["gen_ai.operation.name"], "embeddings");
    let holds = |text: &str| {
        let requests = collector.requests.lock();
        requests.iter().any(|(.., body)| body.windows(text.len()).any(|part| part == text.as_bytes()))
    };
    assert!(holds("gen_ai.usage.input_tokens") && !holds("words"), "what is said is nobody's business");

    let (_, head, first) = collector.requests.lock()[0].clone();
    let first = Message::read(&first);
    assert!(head.contains("x-key: k") && head.contains("content-type: application/x-protobuf"), "{head}");
    assert_eq!(first.all(1)[0].all(1)[0].attributes(1)["service.name"], "shop");
}

#[tokio::test]
async fn calls_are_measured_as_the_conventions_say() {
    let mock = MockProvider::start().await.unwrap();
    let (collector, sophia) = told(&mock, |_| {}).await;
    for question in ["a", "a", "b"] {
        sophia.chat().complete(ask(question)).await.unwrap();
    }
    drain(sophia.chat(), ask("c")).await.unwrap();
    sophia.chat().complete(ask("fail:503")).await.unwrap_err();
    sophia.shutdown().await.unwrap();
    let well = |points: Vec<(Value, Option<u64>, f64)>| -> Vec<_> {
        points.into_iter().filter(|(about, ..)| about.get("error.type").is_none()).collect()
    };
    let durations = collector.points("gen_ai.client.operation.duration");
    let failed = durations.iter().find(|(about, ..)| about["error.type"] == "UNAVAILABLE").unwrap();
    assert_eq!(failed.1, Some(1));
    let [(about, count, seconds)] = well(durations).try_into().unwrap();
    assert_eq!(
        (count, &about["gen_ai.operation.name"], &about["gen_ai.response.model"]),
        (Some(3), &json!("chat"), &json!("small"))
    );
    assert!(seconds > 0.0 && seconds < 30.0);
    let mut tokens = collector.points("gen_ai.client.token.usage");
    tokens.sort_by_key(|(about, ..)| about["gen_ai.token.type"].to_string());
    let tokens: Vec<_> =
        tokens.iter().map(|(about, count, sum)| (about["gen_ai.token.type"].clone(), *count, *sum)).collect();
    assert_eq!(tokens, [(json!("input"), Some(3), 30.0), (json!("output"), Some(3), 15.0)]);
    assert_eq!(collector.points("gen_ai.client.operation.time_to_first_chunk")[0].1, Some(1));
    let requests = collector.points("sophia.chat.requests");
    let count = |status: &str| {
        let of = requests.iter().filter(|(about, ..)| about["sophia.cache.status"] == status);
        of.map(|(.., sum)| *sum).sum::<f64>()
    };
    assert_eq!((count("miss"), count("hit")), (3.0, 1.0));
    let [(_, _, cost)] = collector.points("sophia.chat.cost").try_into().unwrap();
    assert!((cost - 3.0 * 30e-6).abs() < 1e-12, "{cost}");
}

#[tokio::test]
async fn what_is_said_is_told_only_where_that_is_asked_for() {
    let mock = MockProvider::start().await.unwrap();
    let (collector, sophia) = told(&mock, |config| config.telemetry.otlp.content = true).await;
    sophia.chat().complete(ask("Hello")).await.unwrap();
    sophia.shutdown().await.unwrap();
    let about = &collector.named("chat small")[0].about;
    let said = |name: &str| serde_json::from_str::<Value>(about[name].as_str().unwrap()).unwrap();
    assert_eq!(
        said("gen_ai.input.messages"),
        json!([{"role": "user", "parts": [{"type": "text", "content": "Hello"}]}])
    );
    assert_eq!(said("gen_ai.output.messages")[0]["parts"], json!([{"type": "text", "content": "You asked: Hello"}]));
}

#[tokio::test]
async fn rounds_and_tools_stand_in_one_span() {
    let mock = MockProvider::start().await.unwrap();
    let (collector, sophia) = told(&mock, |_| {}).await;
    mock.script([Fault::ToolCall]);
    let tools = vec![json!({"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}})];
    let tools = CallbackTools::new(tools, |_| async { Ok(json!("found")) }.boxed());
    sophia.chat().complete_with(ask("x").traceparent(PARENT), Arc::new(tools)).await.unwrap();
    sophia.shutdown().await.unwrap();
    let [whole] = collector.named("chat.assisted").try_into().unwrap();
    assert_eq!(whole.parent.as_deref(), Some(&[0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31][..]));
    let rounds = collector.named("chat.complete");
    assert_eq!(rounds.len(), 2);
    let [tool] = collector.named("execute_tool look_up").try_into().unwrap();
    assert!(rounds.iter().chain([&tool]).all(|span| span.parent.as_ref() == Some(&whole.id)));
    assert_eq!(tool.about["gen_ai.tool.name"], "look_up");
}

#[tokio::test]
async fn a_trace_that_is_not_sampled_is_not_told_and_a_call_that_is_left_is() {
    let mock = MockProvider::start().await.unwrap();
    let (collector, sophia) = told(&mock, |_| {}).await;
    sophia.chat().complete(ask("a").traceparent(PARENT.replace("-01", "-00"))).await.unwrap();
    mock.script([Fault::Hang]);
    let left = spawn(sophia.chat(), ask("b"));
    until(|| mock.calls() == 2).await;
    left.abort();
    assert!(left.await.unwrap_err().is_cancelled());
    until(|| mock.closed() == 1).await;
    sophia.shutdown().await.unwrap();
    let spans = collector.spans();
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert!(spans.iter().all(|span| span.is_error && span.about["error.type"] == "CANCELLED"));
}

#[tokio::test]
async fn what_a_collector_refuses_for_a_moment_is_sent_again() {
    let mock = MockProvider::start().await.unwrap();
    let (collector, sophia) = told(&mock, |_| {}).await;
    collector.script.lock().push(503);
    for index in 0..600 {
        sophia.chat().run(&index.to_string(), &ada(), || async { Ok(1) }).await.unwrap();
    }
    // A whole batch does not wait for its time.
    until(|| collector.spans().len() >= 512).await;
    sophia.shutdown().await.unwrap();
    let mut ids: Vec<_> = collector.spans().into_iter().map(|span| span.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((collector.spans().len(), ids.len()), (600, 600), "all of them, each once");
}

#[tokio::test]
async fn a_collector_that_is_away_or_hangs_costs_its_callers_nothing() {
    let mock = MockProvider::start().await.unwrap();
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    for address in [hung.local_addr().unwrap(), gone] {
        let (_, sophia) = told(&mock, |config| {
            config.telemetry.otlp.endpoint = Some(format!("http://{address}"));
            config.telemetry.otlp.timeout = Some(Duration::from_millis(50));
        })
        .await;
        for index in 0..5_000 {
            let value = sophia.chat().run(&index.to_string(), &ada(), || async { Ok(1) }).await.unwrap();
            assert!(value.latency_ms < 1_000.0);
        }
        let start = Instant::now();
        sophia.shutdown().await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(8));
    }
}
