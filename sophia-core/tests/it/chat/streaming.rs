//! Streams: live, shared and replayed.

use super::*;

#[tokio::test]
async fn a_stream_comes_in_parts_and_is_replayed_in_the_same_parts() {
    let (mock, chat) = start().await;
    mock.script([Fault::Reasoning]);
    let live = drain(&chat, ask("tell me")).await.unwrap();
    let kept = drain(&chat, ask("tell me")).await.unwrap();
    assert_eq!((text(&live).as_str(), live.len()), ("You asked: tell me", 9));
    let parts = |chunks: &[ChatChunk]| -> Vec<_> {
        chunks.iter().map(|chunk| (chunk.delta.clone(), chunk.reasoning.clone(), chunk.tool_calls.clone())).collect()
    };
    assert_eq!(parts(&live), parts(&kept));
    let status = |chunk: &ChatChunk| chunk.cache.as_ref().map(|cache| cache.status);
    assert_eq!((status(&live[0]), status(&live[8])), (Some(CacheStatus::Miss), Some(CacheStatus::Miss)));
    assert_eq!(
        (status(&kept[0]), status(&kept[4]), status(&kept[8])),
        (Some(CacheStatus::Hit), None, Some(CacheStatus::Hit))
    );
    assert_eq!((live[8].finish_reason.as_deref(), live[8].usage.unwrap().prompt_tokens), (Some("stop"), Some(10)));
    assert_eq!(mock.bodies()[0]["stream_options"], json!({"include_usage": true}));
    assert_eq!(mock.calls(), 1);
}

#[tokio::test]
async fn one_entry_serves_streams_and_whole_answers() {
    let (mock, chat) = start().await;
    drain(&chat, ask("a")).await.unwrap();
    let whole = chat.complete(ask("a")).await.unwrap();
    assert_eq!((whole.cache.status, whole.text.as_str()), (CacheStatus::Hit, "You asked: a"));
    assert_eq!(whole.message["content"], "You asked: a");
    chat.complete(ask("b")).await.unwrap();
    let streamed = drain(&chat, ask("b")).await.unwrap();
    assert_eq!((text(&streamed).as_str(), mock.calls()), ("You asked: b", 2));
}

#[tokio::test]
async fn fifty_streams_are_one_call_and_a_late_one_gets_what_it_missed() {
    let (mock, chat) = start().await;
    mock.script([Fault::HoldHalf]);
    let mut first = chat.stream(ask("one two three four")).unwrap();
    let begun = first.next().await.unwrap().unwrap();
    assert_eq!(begun.delta, "You ");
    let others: Vec<_> = (0..49)
        .map(|_| {
            let chat = chat.clone();
            tokio::spawn(async move { drain(&chat, ask("one two three four")).await })
        })
        .collect();
    let whole = spawn(&chat, ask("one two three four"));
    tokio::task::yield_now().await;
    // The first one leaves; nobody notices.
    drop(first);
    mock.release();
    for other in others {
        let chunks = other.await.unwrap().unwrap();
        assert_eq!((text(&chunks).as_str(), chunks.len()), ("You asked: one two three four", 7));
        assert_eq!(chunks[0].cache.as_ref().unwrap().status, CacheStatus::Coalesced);
    }
    assert_eq!(whole.await.unwrap().unwrap().cache.status, CacheStatus::Coalesced);
    assert_eq!((mock.calls(), mock.closed()), (1, 0));
}

#[tokio::test]
async fn a_stream_that_joins_a_whole_answer_gets_it_in_one_go() {
    let (mock, chat) = start().await;
    mock.script([Fault::Hold]);
    let whole = spawn(&chat, ask("a b"));
    until(|| mock.calls() == 1).await;
    let mut stream = chat.stream(ask("a b")).unwrap();
    mock.release();
    let batch = stream.next_batch().await.unwrap().unwrap();
    assert_eq!((text(&batch).as_str(), batch.len()), ("You asked: a b", 2));
    assert!(stream.next_batch().await.is_none());
    whole.await.unwrap().unwrap();
    assert_eq!(mock.calls(), 1);
}

#[tokio::test]
async fn a_stream_that_was_cut_off_fails_and_is_not_kept() {
    let (mock, chat) = start().await;
    mock.script([Fault::Cut, Fault::NoDone]);
    let mut stream = chat.stream(ask("a b c d e f")).unwrap();
    let mut given = String::new();
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(chunk) => given += &chunk.delta,
            Err(error) => break error,
        }
    };
    assert!(given.starts_with("You asked:") && !given.ends_with('f'), "{given}");
    assert_eq!((error.code(), error.operation()), ("UNAVAILABLE", "chat.stream"));
    // Ended well, but without the protocol's last event: given, not kept.
    let chunks = drain(&chat, ask("a b c d e f")).await.unwrap();
    assert_eq!(chunks.last().unwrap().cache.as_ref().unwrap().ttl_s, None);
    assert_eq!(chat.complete(ask("a b c d e f")).await.unwrap().cache.status, CacheStatus::Miss);
}

#[tokio::test]
async fn a_streamed_tool_call_arrives_whole() {
    let (mock, chat) = start().await;
    mock.script([Fault::ToolCall, Fault::ToolCall]);
    let chunks = drain(&chat, ask("x")).await.unwrap();
    let answer = chunks.last().unwrap().answer.clone().unwrap();
    let whole = chat.complete(ask("x")).await.unwrap();
    assert_eq!(
        (answer.tool_calls.clone(), answer.finish_reason.as_deref()),
        (whole.tool_calls.clone(), Some("tool_calls"))
    );
    assert_eq!(whole.tool_calls[0]["function"]["arguments"], "{\"x\":1}");
}

#[tokio::test]
async fn a_stream_that_nobody_reads_ends_at_its_deadline() {
    let (mock, chat) = start().await;
    mock.script([Fault::HoldHalf]);
    let mut stream = chat.stream(ask("one two three four").timeout(Duration::from_millis(200))).unwrap();
    stream.next().await.unwrap().unwrap();
    until(|| mock.closed() == 1 && chat.metrics().in_flight == 0).await;
    let rest: Vec<_> = stream.collect().await;
    assert_eq!(rest.last().unwrap().as_ref().unwrap_err().code(), "TIMEOUT");
}

#[tokio::test]
async fn a_shutdown_ends_every_call() {
    let mock = MockProvider::start().await.unwrap();
    let sophia = Sophia::new(config(&[&mock])).unwrap();
    let chat = sophia.chat().clone();
    mock.script([Fault::Hang, Fault::Hang, Fault::HoldHalf]);
    let calls = [spawn(&chat, ask("shared")), spawn(&chat, ask("alone").cache(CacheMode::Bypass))];
    until(|| mock.calls() == 2).await;
    let mut stream = chat.stream(ask("one two three four").cache(CacheMode::Bypass)).unwrap();
    stream.next().await.unwrap().unwrap();
    let run = tokio::spawn({
        let chat = chat.clone();
        async move { chat.run("slow", &ada(), std::future::pending::<Result<String>>).await }
    });
    tokio::task::yield_now().await;
    sophia.shutdown().await.unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().code(), "CANCELLED");
    }
    assert_eq!(run.await.unwrap().unwrap_err().code(), "CANCELLED");
    assert_eq!(stream.collect::<Vec<_>>().await.pop().unwrap().unwrap_err().code(), "CANCELLED");
    until(|| mock.closed() == 3).await;
}

#[tokio::test]
async fn the_last_part_holds_the_message_that_is_sent_back_to_go_on() {
    let (_mock, chat) = start().await;
    let chunks = drain(&chat, ask("a")).await.unwrap();
    let (last, before) = chunks.split_last().unwrap();
    assert_eq!(last.message.as_ref().unwrap()["content"], "You asked: a");
    assert!(before.iter().all(|chunk| chunk.message.is_none()));
}
