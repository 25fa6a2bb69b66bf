//! Thousands of faults, departures and stampedes: everything that was taken comes back.

use super::*;

/// Calls at once.
const WIDTH: usize = 40;

/// What goes wrong, by the names that the mock understands in a question.
const FAULTS: [&str; 19] = [
    "fail:302",
    "fail:400",
    "fail:401",
    "fail:404",
    "fail:422",
    "fail:429",
    "fail:500",
    "fail:503",
    "fault:limit",
    "fault:cut",
    "fault:close",
    "fault:garbage",
    "fault:bad_utf8",
    "fault:error_inside",
    "fault:no_done",
    "fault:length",
    "fault:filter",
    "fault:tool_call",
    "fault:empty",
];

fn unbroken(mock: &MockProvider) -> Config {
    let mut config = config(&[mock]);
    config.chat.retry.retries = 0;
    config.chat.breaker.consecutive_failures = u32::MAX;
    config.chat.breaker.failure_ratio = 1.0;
    config
}

/// What a process holds: memory in bytes, and tasks.
#[derive(Debug)]
struct Held {
    bytes: usize,
    tasks: usize,
}

fn held() -> Held {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    const PAGE_BYTES: usize = 4096;
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    Held { bytes: resident * PAGE_BYTES, tasks }
}

/// Lets some callers at once work through so many calls.
async fn storm<W>(calls: std::ops::Range<usize>, call: impl Fn(usize) -> W + Clone + Send + Sync + 'static)
where
    W: Future<Output = ()> + Send + 'static,
{
    let next = Arc::new(AtomicUsize::new(calls.start));
    let caller = || {
        let (next, call) = (next.clone(), call.clone());
        tokio::spawn(async move {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= calls.end {
                    break;
                }
                call(index).await;
            }
        })
    };
    for caller in join_all((0..WIDTH).map(|_| caller())).await {
        caller.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_faults_leave_nothing_behind() {
    let mock = Arc::new(MockProvider::start().await.unwrap());
    let chat = chat(unbroken(&mock));
    let kept = Arc::new(AtomicUsize::new(0));
    let call = {
        let (chat, kept) = (chat.clone(), kept.clone());
        move |index: usize| {
            let (chat, kept) = (chat.clone(), kept.clone());
            async move {
                let mut request = ask(&format!("{} {index}", FAULTS[index % FAULTS.len()]));
                if index.is_multiple_of(100) {
                    request = ask(&format!("fault:hang {index}")).timeout(Duration::from_millis(5));
                }
                let ttl_s = if index.is_multiple_of(2) {
                    chat.complete(request).await.ok().and_then(|answer| answer.cache.ttl_s)
                } else {
                    let chunks = drain(&chat, request).await;
                    chunks.ok().and_then(|chunks| chunks.last()?.cache.as_ref()?.ttl_s)
                };
                kept.fetch_add(usize::from(ttl_s.is_some()), Ordering::Relaxed);
            }
        }
    };
    let settled = || async {
        until(|| chat.metrics().in_flight == 0 && chat.metrics().queue_depth == 0).await;
        // What is left is a pool of connections, each a task of the mock and one or two of the client. A connection that
        // was begun for a call that found another one free is pooled as well.
        until(|| mock.open() <= 4 * WIDTH && held().tasks <= 12 * WIDTH).await;
        held()
    };
    storm(0..2000, call.clone()).await;
    let before = settled().await;
    storm(2000..10_000, call).await;
    let after = settled().await;
    // `fault:no_done` asked as a whole is well; nothing else is.
    assert_eq!(
        kept.load(Ordering::Relaxed),
        (0..10_000).filter(|i| i % 19 == 14 && i % 2 == 0 && i % 100 != 0).count()
    );
    // Less than half a kilobyte for each fault would be noise of the allocator.
    assert!(after.bytes < before.bytes + (4 << 20), "{before:?} {after:?}");
    assert_eq!(chat.metrics().total_requests, 10_000);
    chat.complete(ask("and well again")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_departures_at_random_moments_give_everything_back() {
    let mock = Arc::new(MockProvider::start().await.unwrap());
    mock.delay(Duration::from_micros(200));
    let mut config = unbroken(&mock);
    config.chat.max_concurrent = 10;
    let chat = chat(config);
    let before = held().tasks;
    let call = {
        let chat = chat.clone();
        move |index: usize| {
            let chat = chat.clone();
            async move {
                // Every third one shares its question with its neighbours.
                let question =
                    if index.is_multiple_of(3) { format!("shared {}", index / 30) } else { format!("{index}") };
                let work = tokio::spawn(async move {
                    if index.is_multiple_of(2) {
                        let _ = chat.complete(ask(&question)).await;
                    } else {
                        let _ = drain(&chat, ask(&question)).await;
                    }
                });
                // Multiplicative hashing (Knuth): moments that look random, and are the same in every run.
                let moment = index.wrapping_mul(2_654_435_761) >> 7;
                match moment % 4 {
                    0 => {}
                    1 => tokio::task::yield_now().await,
                    _ => tokio::time::sleep(Duration::from_micros((moment % 3000) as u64)).await,
                }
                work.abort();
                let _ = work.await;
            }
        }
    };
    storm(0..10_000, call).await;
    until(|| chat.metrics().in_flight == 0 && chat.metrics().queue_depth == 0).await;
    until(|| mock.open() <= WIDTH && held().tasks <= before + 3 * WIDTH).await;
    assert!(mock.closed() > 0, "some left in the middle of a call");
    let calls = (0..50).map(|index| spawn(&chat, ask(&format!("afterwards {index}"))));
    for answer in join_all(calls).await {
        answer.unwrap().unwrap();
    }
    assert_eq!(chat.metrics().in_flight, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stampede_is_one_call_also_streamed_and_without_its_leader() {
    let (mock, chat) = start().await;
    for count in [50, 200] {
        for streamed in [false, true] {
            for without_leader in [false, true] {
                let question = format!("{count} {streamed} {without_leader}");
                let calls = mock.calls();
                mock.script([Fault::HoldHalf]);
                let one = || {
                    let (chat, request) = (chat.clone(), ask(&question));
                    tokio::spawn(async move {
                        match streamed {
                            true => drain(&chat, request).await.map(|chunks| text(&chunks)),
                            false => chat.complete(request).await.map(|answer| answer.text.clone()),
                        }
                    })
                };
                let leader = one();
                until(|| mock.calls() == calls + 1).await;
                let followers: Vec<_> = (1..count).map(|_| one()).collect();
                if without_leader {
                    // Somebody else has to be there before it goes.
                    let mut follower = Box::pin(chat.complete(ask(&question)));
                    assert!(futures::poll!(&mut follower).is_pending());
                    leader.abort();
                    assert!(leader.await.unwrap_err().is_cancelled());
                    mock.release();
                    assert_eq!(follower.await.unwrap().text, format!("You asked: {question}"));
                } else {
                    mock.release();
                    assert_eq!(leader.await.unwrap().unwrap(), format!("You asked: {question}"));
                }
                for follower in join_all(followers).await {
                    assert_eq!(follower.unwrap().unwrap(), format!("You asked: {question}"));
                }
                assert_eq!(mock.calls(), calls + 1, "{question}");
            }
        }
    }
    assert_eq!((mock.closed(), chat.metrics().error_rate), (0, Some(0.0)));
}

#[tokio::test]
async fn a_slow_first_byte_is_a_timeout_of_the_provider_and_the_next_one_is_asked() {
    let (slow, well) = (MockProvider::start().await.unwrap(), MockProvider::start().await.unwrap());
    let mut config = config(&[&slow, &well]);
    config.chat.providers[0].timeout = Duration::from_millis(50);
    let both = chat(config.clone());
    slow.script([Fault::Hang, Fault::Hang]);
    let answer = both.complete(ask("a")).await.unwrap();
    assert_eq!((answer.attempts[0].outcome, answer.provider.as_str()), ("TIMEOUT", "mock1"));
    assert_eq!(text(&drain(&both, ask("b")).await.unwrap()), "You asked: b");
    config.chat.providers.truncate(1);
    config.chat.retry.retries = 0;
    slow.script([Fault::Hang]);
    let error = chat(config).complete(ask("c")).await.unwrap_err();
    assert_eq!((error.code(), error.message()), ("TIMEOUT", "provider `mock0` was silent for 0.050 s"));
    until(|| slow.closed() == 3).await;
}

#[tokio::test]
async fn a_server_without_tls_behind_an_https_address_is_unavailable() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = unbroken(&mock);
    config.chat.providers[0].base_url = Some(mock.base_url().replace("http://", "https://"));
    let error = chat(config).complete(ask("x")).await.unwrap_err();
    assert_eq!((error.code(), mock.calls()), ("UNAVAILABLE", 0));
    assert!(!format!("{error:?}").contains("sk-secret"));
}

#[tokio::test]
async fn a_large_answer_is_given_up_to_the_bound_and_kept_up_to_its_share() {
    let mock = MockProvider::start().await.unwrap();
    let mut config = unbroken(&mock);
    let large = |bytes: usize| {
        let message = json!({"role": "assistant", "content": "x".repeat(bytes)});
        Fault::Body(json!({"choices": [{"message": message, "finish_reason": "stop"}]}))
    };
    mock.script([large(10_000_000), large(10_000_000)]);
    let answer = chat(config.clone()).complete(ask("x")).await.unwrap();
    assert_eq!((answer.text.len(), answer.cache.ttl_s), (10_000_000, None), "an eighth of the cache at most");
    config.chat.max_response_bytes = 9_000_000;
    let error = chat(config).complete(ask("x")).await.unwrap_err();
    assert_eq!(error.code(), "UNAVAILABLE");
    assert!(error.message().contains("more than 9000000 bytes"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_unavailable() {
    use rustls::pki_types::PrivateKeyDer;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let server = Arc::new(server.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    std::thread::spawn({
        let asked = asked.clone();
        move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut session = rustls::ServerConnection::new(server.clone()).unwrap();
                // The other side breaks the handshake off.
                while session.is_handshaking() && session.complete_io(&mut stream).is_ok() {}
                asked.fetch_add(usize::from(!session.is_handshaking()), Ordering::Relaxed);
            }
        }
    });
    let mock = MockProvider::start().await.unwrap();
    let mut config = config(&[&mock, &mock]);
    config.chat.providers[0].base_url = Some(format!("https://localhost:{port}/v1"));
    config.chat.retry.retries = 0;
    // The next one answers.
    let answer = chat(config.clone()).complete(ask("a")).await.unwrap();
    assert_eq!((answer.attempts[0].outcome, answer.provider.as_str()), ("UNAVAILABLE", "mock1"));
    config.chat.providers.truncate(1);
    let error = chat(config).complete(ask("b")).await.unwrap_err();
    assert_eq!((error.code(), asked.load(Ordering::Relaxed)), ("UNAVAILABLE", 0), "nothing was sent");
    assert!(!format!("{error:?}").contains("sk-secret"), "{error:?}");
}
