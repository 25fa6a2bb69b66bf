//! An upstream without latency: OpenAI's chat completions over HTTP/1.1 on loopback, one fixed answer, whole or as 20
//! tokens. It looks at nothing but the length of a request and whether it asks for a stream, so that what is measured is the
//! client.
//!
//! `cargo run --release -p sophia-benches --bin upstream` prints its address and serves until its standard input is closed.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops where it cannot run")]

use std::{io::Read, sync::Arc};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Tokens of a streamed answer.
const TOKENS: usize = 20;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}/v1", listener.local_addr()?);
    tokio::spawn(serve(listener));
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener) {
    let (whole, stream) = (Arc::new(whole()), Arc::new(stream()));
    while let Ok((connection, _)) = listener.accept().await {
        let (whole, stream) = (whole.clone(), stream.clone());
        tokio::spawn(async move { answer(connection, &whole, &stream).await });
    }
}

async fn answer(mut connection: TcpStream, whole: &[u8], stream: &[u8]) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(64 * 1024);
    loop {
        let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
            if connection.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let length: usize = String::from_utf8_lossy(&buffer[..head])
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok())
            .unwrap_or(0);
        while buffer.len() < head + 4 + length {
            if connection.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let body: Vec<u8> = buffer[head + 4..head + 4 + length].iter().copied().filter(|byte| *byte != b' ').collect();
        let is_stream = body.windows(13).any(|part| part == b"\"stream\":true");
        buffer.drain(..head + 4 + length);
        connection.write_all(if is_stream { stream } else { whole }).await?;
    }
}

fn whole() -> Vec<u8> {
    let body = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000, "model": "bench",
        "choices": [{
            "index": 0, "finish_reason": "stop",
            "message": {"role": "assistant", "content": "The answer to your question is forty-two. ".repeat(4)},
        }],
        "usage": {"prompt_tokens": 20, "completion_tokens": TOKENS, "total_tokens": 20 + TOKENS},
    })
    .to_string();
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

fn stream() -> Vec<u8> {
    let chunk = |delta: serde_json::Value, finish: Option<&str>| {
        let body = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "bench",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        });
        format!("data: {body}\n\n")
    };
    let events = (0..TOKENS)
        .map(|index| chunk(json!({"role": "assistant", "content": format!("token{index} ")}), None))
        .chain([chunk(json!({}), Some("stop")), "data: [DONE]\n\n".to_owned()]);
    let mut text =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    for event in events {
        text += &format!("{:x}\r\n{event}\r\n", event.len());
    }
    (text + "0\r\n\r\n").into_bytes()
}
