//! A slow call is asked a second time, rarely; the first answer counts, and the attempts tell it.

use super::*;

/// Answers after which the pace of a model is known.
const KNOWN_AFTER: usize = 40;

async fn hedged(mocks: usize, budget: f64) -> (Vec<MockProvider>, Sophia) {
    hedged_with(mocks, budget, |_| {}).await
}

async fn hedged_with(mocks: usize, budget: f64, change: impl FnOnce(&mut Config)) -> (Vec<MockProvider>, Sophia) {
    let mut providers = Vec::new();
    for _ in 0..mocks {
        providers.push(MockProvider::start().await.unwrap());
    }
    let mut config = config(&providers.iter().collect::<Vec<_>>());
    config.chat.hedge.enabled = true;
    config.chat.hedge.budget = budget;
    config.chat.retry.retries = 0;
    change(&mut config);
    let sophia = Sophia::new(config).unwrap();
    let chat = sophia.chat();
    for index in 0..KNOWN_AFTER {
        chat.complete(ask(&format!("warm {index}"))).await.unwrap();
        drain(chat, ask(&format!("warm stream {index}"))).await.unwrap();
    }
    (providers, sophia)
}

fn told(attempts: &[sophia_core::chat::Attempt]) -> Vec<(&str, &str, bool)> {
    attempts.iter().map(|attempt| (attempt.provider.as_str(), attempt.outcome, attempt.hedge)).collect()
}

#[tokio::test]
async fn a_slow_call_is_asked_at_the_next_provider_and_the_loser_is_closed() {
    let (mocks, sophia) = hedged(2, 1.0).await;
    let chat = sophia.chat();
    let before = mocks[1].calls();
    mocks[0].script([Fault::Hang]);
    let answer = chat.complete(ask("slow")).await.unwrap();
    assert_eq!(told(&answer.attempts), [("mock0", "CANCELLED", false), ("mock1", "ok", true)]);
    assert_eq!((answer.text.as_str(), answer.provider.as_str()), ("You asked: slow", "mock1"));
    mocks[0].script([Fault::Hang]);
    assert_eq!(text(&drain(chat, ask("slow stream")).await.unwrap()), "You asked: slow stream");
    assert_eq!(mocks[1].calls(), before + 2);
    until(|| mocks[0].closed() >= 2).await;
}

#[tokio::test]
async fn the_only_provider_is_asked_twice_and_the_first_to_answer_counts() {
    let (mocks, sophia) = hedged(1, 1.0).await;
    let chat = sophia.chat();
    let calls = async || chat.costs(&Default::default()).await.unwrap().total.calls;
    // One of the warm-up may have been hedged as well.
    let before = calls().await;
    mocks[0].script([Fault::Hang, Fault::None]);
    let answer = chat.complete(ask("slow")).await.unwrap();
    assert_eq!(told(&answer.attempts), [("mock0", "CANCELLED", false), ("mock0", "ok", true)]);
    // The second one fails; the first one is still waited for.
    mocks[0].script([Fault::Hold, Fault::Status(503, None)]);
    let patient = spawn(chat, ask("slower"));
    until(|| sophia.telemetry().prometheus().contains("UNAVAILABLE")).await;
    mocks[0].release();
    let answer = patient.await.unwrap().unwrap();
    assert_eq!(told(&answer.attempts), [("mock0", "ok", false), ("mock0", "UNAVAILABLE", true)]);
    assert_eq!(calls().await, before + 3, "an answer counts once, and so does the call that was left for it");
}

#[tokio::test]
async fn the_budget_bounds_how_often() {
    let (mocks, sophia) = hedged(2, 0.05).await;
    mocks[0].script(vec![Fault::Hang; 6]);
    for index in 0..6 {
        // Longer than any answer of a busy machine takes: the hedge has to begin before it.
        let request = ask(&format!("slow {index}")).timeout(Duration::from_secs(1));
        if let Err(error) = sophia.chat().complete(request).await {
            assert_eq!(error.code(), "TIMEOUT");
        }
    }
    // Eighty-six calls paid for four hedges.
    let hedges = mocks[0].calls() + mocks[1].calls() - (2 * KNOWN_AFTER + 6);
    assert!((1..=4).contains(&hedges), "{hedges}");
}

#[tokio::test]
async fn an_error_tells_what_was_tried() {
    let (first, second) = (MockProvider::start().await.unwrap(), MockProvider::start().await.unwrap());
    let chat = chat(config(&[&first, &second]));
    let error = chat.complete(ask("fail:503")).await.unwrap_err();
    assert_eq!(error.get("attempts"), Some("4"));
    let tried: Vec<_> = error.get("tried").unwrap().split(", ").map(|one| one.split(" in ").next().unwrap()).collect();
    assert_eq!(tried, ["mock0 UNAVAILABLE", "mock1 UNAVAILABLE", "mock0 UNAVAILABLE", "mock1 UNAVAILABLE"]);
}

#[tokio::test]
async fn a_second_call_takes_a_permit_or_is_not_made() {
    let (mocks, sophia) = hedged_with(2, 1.0, |config| config.chat.max_concurrent = 1).await;
    let chat = sophia.chat();
    let before = mocks[1].calls();
    mocks[0].script([Fault::Hold]);
    let slow = spawn(chat, ask("slow"));
    until(|| chat.metrics().in_flight == 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    mocks[0].release();
    assert_eq!(told(&slow.await.unwrap().unwrap().attempts), [("mock0", "ok", false)]);
    assert_eq!((mocks[1].calls(), chat.metrics().peak_in_flight), (before, 1));
}
