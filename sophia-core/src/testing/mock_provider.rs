//! A server of models with faults: real HTTP/1.1 on loopback. It speaks OpenAI's chat completions and Responses, Anthropic's
//! Messages, streams of all three, embeddings and models.
//!
//! The answer to a chat is `You asked: ` and the last message, a word at a time where it is streamed. A fault is scripted
//! with [`MockProvider::script`], or asked for in the message itself, for programs in other languages: `fail:503`, `hang`,
//! and the other names in [`Fault::in_text`].

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

mod wire;

use wire::{Reply, Wire};

/// Bodies that are remembered: a test that asks for more wants to know how much is held.
const MAX_BODIES: usize = 1000;

/// What goes wrong with one answer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing.
    None,
    /// It begins after this time.
    Delay(Duration),
    /// It begins when [`MockProvider::release`] is called.
    Hold,
    /// Half of it is given, and the rest when [`MockProvider::release`] is called.
    HoldHalf,
    /// Half of it is given, and it breaks off when [`MockProvider::release`] is called.
    HoldCut,
    /// It never begins.
    Hang,
    /// This status, with this `Retry-After`.
    Status(u16, Option<&'static str>),
    /// This status, with this body.
    Failure(u16, Value),
    /// It breaks off half-way.
    Cut,
    /// The connection is closed without an answer.
    Close,
    /// It is not JSON.
    Garbage,
    /// It is not UTF-8.
    BadUtf8,
    /// It never ends.
    Endless,
    /// It is an error with status 200.
    ErrorInside,
    /// It ends without the protocol's last event.
    NoDone,
    /// It ends for this reason.
    Finish(&'static str),
    /// It calls a tool.
    ToolCall,
    /// It thinks before it answers.
    Reasoning,
    /// It is empty.
    Empty,
    /// It is this body.
    Body(Value),
    /// It is a stream of this text, byte for byte.
    Events(String),
}

impl Fault {
    /// Returns the fault that a message asks for: `fail:<status>`, `fault:<name>`.
    pub fn in_text(text: &str) -> Fault {
        if let Some(status) = text.split("fail:").nth(1).and_then(|rest| rest.get(..3)?.parse().ok()) {
            return Fault::Status(status, None);
        }
        let name: String = text
            .split("fault:")
            .nth(1)
            .unwrap_or_default()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        match name.as_str() {
            "slow" => Fault::Delay(Duration::from_secs(2)),
            "hang" => Fault::Hang,
            "limit" => Fault::Status(429, Some("1")),
            "overloaded" => Fault::Status(529, None),
            "cut" => Fault::Cut,
            "close" => Fault::Close,
            "garbage" => Fault::Garbage,
            "bad_utf8" => Fault::BadUtf8,
            "endless" => Fault::Endless,
            "error_inside" => Fault::ErrorInside,
            "no_done" => Fault::NoDone,
            "length" => Fault::Finish("length"),
            "filter" => Fault::Finish("content_filter"),
            "tool_call" => Fault::ToolCall,
            "reasoning" => Fault::Reasoning,
            "empty" => Fault::Empty,
            _ => Fault::None,
        }
    }
}

/// A server of models with faults. It stops when it is dropped.
#[derive(Debug)]
pub struct MockProvider {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    script: Mutex<VecDeque<Fault>>,
    bodies: Mutex<VecDeque<Value>>,
    headers: Mutex<Vec<(String, String)>>,
    delay: Mutex<Duration>,
    calls: AtomicUsize,
    now: AtomicUsize,
    peak: AtomicUsize,
    closed: AtomicUsize,
    connections: AtomicUsize,
    open: AtomicUsize,
    /// How often what is held was released.
    released: watch::Sender<usize>,
}

impl MockProvider {
    /// Starts a server on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// What binding the port says.
    pub async fn start() -> std::io::Result<MockProvider> {
        MockProvider::bind("127.0.0.1:0").await
    }

    /// Starts a server on this address.
    ///
    /// # Errors
    /// What binding the port says.
    pub async fn bind(address: &str) -> std::io::Result<MockProvider> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script: Mutex::default(),
            bodies: Mutex::default(),
            headers: Mutex::default(),
            delay: Mutex::default(),
            calls: AtomicUsize::new(0),
            now: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            released: watch::Sender::new(0),
        });
        let task = tokio::spawn({
            let shared = shared.clone();
            async move {
                // Dropped with the task, so that no connection outlives the server.
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    while connections.try_join_next().is_some() {}
                    connections.spawn(serve(stream, shared.clone()));
                }
            }
        });
        Ok(MockProvider { address, shared, task })
    }

    /// Returns the address that a client is given, which ends in `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Sets what goes wrong with the next answers, one for each.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.script.lock().extend(faults);
    }

    /// Sets how long every chat takes.
    pub fn delay(&self, delay: Duration) {
        *self.shared.delay.lock() = delay;
    }

    /// Lets go what is held.
    pub fn release(&self) {
        self.shared.released.send_modify(|times| *times += 1);
    }

    /// Returns how many chats were asked for.
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// Returns the most chats that were under way at once.
    pub fn peak(&self) -> usize {
        self.shared.peak.load(Ordering::SeqCst)
    }

    /// Returns how many chats were left by the client before they were answered.
    pub fn closed(&self) -> usize {
        self.shared.closed.load(Ordering::SeqCst)
    }

    /// Returns how many connections were made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Returns how many connections are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Returns the bodies of the chats that were asked for, of the last thousand.
    pub fn bodies(&self) -> Vec<Value> {
        self.shared.bodies.lock().iter().cloned().collect()
    }

    /// Returns the last `Authorization` header.
    pub fn authorization(&self) -> Option<String> {
        self.header("authorization")
    }

    /// Returns a header of the last request; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<String> {
        let headers = self.shared.headers.lock();
        headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone())
    }
}

impl Drop for MockProvider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts one chat that is under way.
struct UnderWay<'a>(&'a Shared);

impl<'a> UnderWay<'a> {
    fn new(shared: &'a Shared) -> Self {
        let now = shared.now.fetch_add(1, Ordering::SeqCst) + 1;
        shared.peak.fetch_max(now, Ordering::SeqCst);
        UnderWay(shared)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Counts one connection that is open.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Open {
        shared.open.fetch_add(1, Ordering::SeqCst);
        Open(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The end of a connection, wanted or not.
struct End;

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> End {
        End
    }
}

struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    shared: Arc<Shared>,
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let _open = Open::new(shared.clone());
    let mut connection = Connection { reader: BufReader::new(reader), writer, shared };
    while connection.exchange().await.is_ok() {}
}

impl Connection {
    async fn exchange(&mut self) -> Result<(), End> {
        let (mut line, mut length) = (String::new(), 0);
        if self.reader.read_line(&mut line).await? == 0 {
            return Err(End);
        }
        let path = line.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        loop {
            line.clear();
            self.reader.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            let name = name.to_ascii_lowercase();
            if name == "content-length" {
                length = value.trim().parse().map_err(|_| End)?;
            }
            headers.push((name, value.trim().to_owned()));
        }
        *self.shared.headers.lock() = headers;
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).await?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        match path.rsplit('/').next() {
            Some("completions") => self.chat(body, Wire::Chat).await,
            Some("messages") => self.chat(body, Wire::Messages).await,
            Some("responses") => self.chat(body, Wire::Responses).await,
            Some("embeddings") => self.embeddings(&body).await,
            Some("models") => {
                let small = json!({"id": "small", "owned_by": "mock", "created": 1_700_000_000});
                let large = json!({"id": "large", "created_at": "2025-02-19T00:00:00Z"});
                let models = json!({"object": "list", "data": [small, large]});
                self.json(200, &models, None).await
            }
            Some("stats") => {
                let shared = &self.shared;
                let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
                let stats = json!({"calls": count(&shared.calls), "peak": count(&shared.peak), "closed": count(&shared.closed)});
                self.json(200, &stats, None).await
            }
            _ => self.json(404, &json!({"error": {"message": "no such path"}}), None).await,
        }
    }

    async fn chat(&mut self, body: Value, wire: Wire) -> Result<(), End> {
        let shared = self.shared.clone();
        // Before it is counted: who sees the count may release it at once.
        let before = *shared.released.borrow();
        shared.calls.fetch_add(1, Ordering::SeqCst);
        let _under_way = UnderWay::new(&shared);
        let asked = wire.asked(&body);
        let streamed = body["stream"] == true;
        let fault = match shared.script.lock().pop_front() {
            Some(fault) => fault,
            None => Fault::in_text(&asked),
        };
        let reply = Reply::new(&asked, &body, &fault);
        {
            let mut bodies = shared.bodies.lock();
            if bodies.len() == MAX_BODIES {
                bodies.pop_front();
            }
            bodies.push_back(body);
        }
        let delay = *shared.delay.lock();
        self.wait(tokio::time::sleep(delay)).await?;
        match &fault {
            Fault::Delay(delay) => self.wait(tokio::time::sleep(*delay)).await?,
            Fault::Hold => self.held(before).await?,
            Fault::Hang => self.wait(std::future::pending()).await?,
            Fault::Status(status, retry_after) => {
                return self.json(*status, &wire.error(*status), *retry_after).await;
            }
            Fault::Failure(status, body) => return self.json(*status, body, None).await,
            Fault::Close => return Err(End),
            _ => {}
        }
        if streamed {
            self.stream(wire, reply, fault, before).await
        } else {
            self.whole(wire, reply, fault, before).await
        }
    }

    async fn whole(&mut self, wire: Wire, reply: Reply, fault: Fault, before: usize) -> Result<(), End> {
        match fault {
            Fault::Garbage => return self.send(200, "application/json", b"<html>not JSON</html>", None).await,
            Fault::BadUtf8 => return self.send(200, "application/json", b"{\"choices\": [\"\xff\"]}", None).await,
            Fault::ErrorInside => return self.json(200, &wire.error(500), None).await,
            Fault::Body(body) => return self.json(200, &body, None).await,
            Fault::Cut => {
                self.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"cho")
                    .await?;
                return Err(End);
            }
            Fault::Endless => {
                self.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
                    .await?;
                loop {
                    self.part(&[b' '; 4096]).await?;
                }
            }
            Fault::HoldHalf => self.held(before).await?,
            Fault::HoldCut => {
                self.held(before).await?;
                return Err(End);
            }
            _ => {}
        }
        self.json(200, &wire.whole(&reply), None).await
    }

    async fn stream(&mut self, wire: Wire, reply: Reply, fault: Fault, before: usize) -> Result<(), End> {
        self.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        let events = match &fault {
            Fault::Events(text) => return self.raw(text).await,
            _ => wire.events(&reply),
        };
        for (index, event) in events.iter().enumerate() {
            if index == events.len() / 2 {
                match fault {
                    Fault::Cut => return Err(End),
                    Fault::HoldHalf => self.held(before).await?,
                    Fault::HoldCut => {
                        self.held(before).await?;
                        return Err(End);
                    }
                    Fault::Garbage => self.part(b"data: {not json}\n\n").await?,
                    Fault::BadUtf8 => self.part(b"data: {\"choices\": [\"\xff\"]}\n\n").await?,
                    Fault::ErrorInside => self.part(wire.frame(&wire.error(500)).as_bytes()).await?,
                    Fault::Endless => {
                        let piece = events.iter().find(|event| wire.is_piece(event)).unwrap_or(event);
                        loop {
                            self.part(wire.frame(piece).as_bytes()).await?;
                        }
                    }
                    _ => {}
                }
            }
            if index + 1 < events.len() || fault != Fault::NoDone || wire == Wire::Chat {
                self.part(wire.frame(event).as_bytes()).await?;
            }
        }
        if wire == Wire::Chat && fault != Fault::NoDone {
            self.part(b"data: [DONE]\n\n").await?;
        }
        self.write(b"0\r\n\r\n").await
    }

    async fn raw(&mut self, text: &str) -> Result<(), End> {
        self.part(text.as_bytes()).await?;
        self.write(b"0\r\n\r\n").await
    }

    async fn embeddings(&mut self, body: &Value) -> Result<(), End> {
        let texts = body["input"].as_array().cloned().unwrap_or_else(|| vec![body["input"].clone()]);
        let vector = |(index, text): (usize, &Value)| {
            let length = text.as_str().unwrap_or_default().len();
            json!({"object": "embedding", "index": index, "embedding": [length as f64, 1.0]})
        };
        // Backwards, since the protocol orders by index.
        let data: Vec<_> = texts.iter().enumerate().map(vector).rev().collect();
        let usage = json!({"prompt_tokens": texts.len(), "total_tokens": texts.len()});
        self.json(200, &json!({"object": "list", "data": data, "model": body["model"], "usage": usage}), None).await
    }

    /// Waits, unless the client leaves first.
    async fn wait(&mut self, until: impl Future<Output = ()>) -> Result<(), End> {
        tokio::select! {
            () = until => Ok(()),
            _ = self.reader.fill_buf() => {
                self.shared.closed.fetch_add(1, Ordering::SeqCst);
                Err(End)
            }
        }
    }

    async fn held(&mut self, before: usize) -> Result<(), End> {
        let mut released = self.shared.released.subscribe();
        self.wait(async move {
            let _ = released.wait_for(|times| *times > before).await;
        })
        .await
    }

    async fn json(&mut self, status: u16, body: &Value, retry_after: Option<&str>) -> Result<(), End> {
        self.send(status, "application/json", body.to_string().as_bytes(), retry_after).await
    }

    async fn send(&mut self, status: u16, kind: &str, body: &[u8], retry_after: Option<&str>) -> Result<(), End> {
        let retry_after = retry_after.map(|value| format!("retry-after: {value}\r\n")).unwrap_or_default();
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n{retry_after}\r\n");
        self.write(&[head.as_bytes(), body].concat()).await
    }

    async fn part(&mut self, data: &[u8]) -> Result<(), End> {
        self.write(&[format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()).await
    }

    async fn write(&mut self, data: &[u8]) -> Result<(), End> {
        if self.writer.write_all(data).await.is_err() {
            self.shared.closed.fetch_add(1, Ordering::SeqCst);
            return Err(End);
        }
        Ok(())
    }
}
