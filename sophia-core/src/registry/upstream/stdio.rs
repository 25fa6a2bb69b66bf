//! The child process of a stdio server: started without a shell, in a process group of its own, and never left behind.

use std::{collections::VecDeque, process::Stdio, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use super::{
    Clients,
    http::{cause, excerpt},
};
use crate::{
    Error, ErrorKind, Result,
    registry::{server::Server, variables},
};

/// Variables that every child gets; everything else must be named by its `env`.
const INHERITED: &[&str] =
    if cfg!(windows) { &["PATH", "HOME", "USERPROFILE", "SYSTEMROOT", "APPDATA", "TEMP"] } else { &["PATH", "HOME"] };
/// Lines of standard error that are kept, and how long each may be.
const STDERR_LINES: usize = 40;
const STDERR_LINE_BYTES: usize = 1_000;
/// Lines of standard error that are put into an error.
const SHOWN_LINES: usize = 5;
/// How long the last words of a process that has ended may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A running child. Dropping it asks it to leave, and kills it if it does not.
#[derive(Debug)]
pub(crate) struct Process {
    command: String,
    stop: CancellationToken,
    /// How it ended, once it has.
    ended: watch::Receiver<Option<String>>,
    stderr: Arc<Mutex<VecDeque<String>>>,
}

impl Process {
    /// Starts the server's command; returns it with its streams.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`], naming the command; [`ErrorKind::InvalidConfig`] where a variable is not set.
    pub(crate) fn start(
        operation: &'static str,
        server: &Server,
        clients: &Clients,
    ) -> Result<(Process, ChildStdout, ChildStdin)> {
        let expand = |field: &str, text: &str| variables::from_environment(operation, field, text);
        let program = expand("command", server.command.as_deref().unwrap_or_default())?;
        let mut command = Command::new(&program);
        for arg in &server.args {
            command.arg(expand("args", arg)?);
        }
        command.env_clear();
        for name in INHERITED {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        for (name, value) in &server.env {
            command.env(name, expand("env", value.expose())?);
        }
        if let Some(cwd) = &server.cwd {
            command.current_dir(expand("cwd", cwd)?);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(|error| {
            let why = match error.kind() {
                std::io::ErrorKind::NotFound => "there is no such program, or no such working directory".to_owned(),
                _ => error.to_string(),
            };
            Error::new(ErrorKind::Unavailable, operation, format!("`{program}` cannot be started: {why}"))
                .with("server", &server.id)
                .with("command", &program)
                .with_source(error)
        })?;
        let streams = (child.stdout.take(), child.stdin.take(), child.stderr.take());
        let (Some(stdout), Some(stdin), Some(stderr)) = streams else {
            return Err(Error::new(ErrorKind::Internal, operation, format!("`{program}` has no streams")));
        };
        let (tell, ended) = watch::channel(None);
        let process = Process { command: program, stop: clients.life.child_token(), ended, stderr: Arc::default() };
        let group = Group::of(&child);
        let reader = tokio::spawn(keep_last_lines(stderr, process.stderr.clone()));
        let (stop, grace) = (process.stop.clone(), clients.config.stop_timeout);
        clients.children.spawn(async move {
            let end = watch_over(child, group, stop, grace).await;
            // What the process said last is already in the pipe; a grandchild that left the group may hold it open.
            let abort = reader.abort_handle();
            if tokio::time::timeout(LAST_WORDS, reader).await.is_err() {
                abort.abort();
            }
            tell.send_replace(Some(end));
        });
        Ok((process, stdout, stdin))
    }

    /// Asks it to leave. Its input must be closed before, or it will have to be killed.
    pub(crate) fn ask_to_leave(&self) {
        self.stop.cancel();
    }

    /// Waits until it and what it has started are gone.
    pub(crate) async fn gone(&self) {
        // An error means that the runtime drops the supervisor, which kills the group.
        let _ = self.ended.clone().wait_for(Option::is_some).await;
    }

    /// Says how it ended, if it has or is about to, and what it wrote to standard error last.
    pub(crate) async fn last_words(&self) -> String {
        let mut ended = self.ended.clone();
        // Reading its output ends a moment before its exit is known.
        let _ = tokio::time::timeout(LAST_WORDS * 2, ended.wait_for(Option::is_some)).await;
        let mut words = match &*self.ended.borrow() {
            Some(end) => format!("`{}` {end}", self.command),
            None => format!("`{}` is running", self.command),
        };
        let stderr = self.stderr.lock();
        let shown: Vec<_> = stderr.iter().skip(stderr.len().saturating_sub(SHOWN_LINES)).map(String::as_str).collect();
        if !shown.is_empty() {
            words += "; it wrote: ";
            words += &excerpt(&shown.join(" | "));
        }
        words
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits for the child to end, or ends it: its input is closed, then it is told, then it is killed.
async fn watch_over(mut child: Child, group: Group, stop: CancellationToken, grace: Duration) -> String {
    let status = tokio::select! {
        status = child.wait() => status,
        () = stop.cancelled() => match tokio::time::timeout(grace, child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                group.terminate();
                match tokio::time::timeout(grace, child.wait()).await {
                    Ok(status) => status,
                    Err(_) => {
                        group.kill();
                        child.wait().await
                    }
                }
            }
        },
    };
    // What it started and left behind. The group's number cannot be in use by others yet: it was the child's own.
    drop(group);
    match status {
        Ok(status) => format!("ended with {status}"),
        Err(error) => format!("ended: {}", cause(&error)),
    }
}

/// The process group of a child; killed when dropped, whoever drops it.
#[derive(Debug)]
struct Group {
    #[cfg(unix)]
    leader: Option<rustix::process::Pid>,
}

impl Group {
    #[cfg(unix)]
    fn of(child: &Child) -> Group {
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        Group { leader }
    }

    /// Elsewhere, dropping the child kills it alone.
    #[cfg(not(unix))]
    fn of(_: &Child) -> Group {
        Group {}
    }

    #[cfg(unix)]
    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(leader) = self.leader {
            // It may be gone already, which is what is wanted.
            let _ = rustix::process::kill_process_group(leader, signal);
        }
    }

    fn terminate(&self) {
        #[cfg(unix)]
        self.signal(rustix::process::Signal::TERM);
    }

    fn kill(&self) {
        #[cfg(unix)]
        self.signal(rustix::process::Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Keeps the last lines of a stream, each cut to a bound.
async fn keep_last_lines(stream: impl AsyncRead + Unpin, lines: Arc<Mutex<VecDeque<String>>>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while let Ok(bytes) = stream.fill_buf().await {
        if bytes.is_empty() {
            break;
        }
        let newline = bytes.iter().position(|byte| *byte == b'\n');
        let taken = newline.unwrap_or(bytes.len());
        let room = STDERR_LINE_BYTES.saturating_sub(line.len()).min(taken);
        line.extend_from_slice(&bytes[..room]);
        stream.consume(taken + usize::from(newline.is_some()));
        if newline.is_some() {
            push(&lines, &mut line);
        }
    }
    push(&lines, &mut line);
}

fn push(lines: &Mutex<VecDeque<String>>, line: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(line).trim().to_owned();
    line.clear();
    if text.is_empty() {
        return;
    }
    let mut lines = lines.lock();
    if lines.len() == STDERR_LINES {
        lines.pop_front();
    }
    lines.push_back(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RegistryConfig;

    #[tokio::test]
    async fn standard_error_is_a_bounded_ring() {
        let text: String = (0..100).map(|n| format!("line {n} {}\n", "x".repeat(3_000))).collect();
        let lines = Arc::default();
        keep_last_lines(text.as_bytes(), Arc::clone(&lines)).await;
        let lines = lines.lock();
        assert_eq!(lines.len(), STDERR_LINES);
        assert!(lines[0].starts_with("line 60") && lines.iter().all(|line| line.len() <= STDERR_LINE_BYTES));
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_is_named() {
        let server = Server::new("a").command("no-such-program-of-mine", [""; 0]);
        let error = Process::start("registry.call", &server, &Clients::new(RegistryConfig::default(), Vec::new()))
            .err()
            .unwrap();
        assert_eq!((error.code(), error.get("command")), ("UNAVAILABLE", Some("no-such-program-of-mine")));
    }

    #[tokio::test]
    async fn a_variable_that_is_not_set_is_named() {
        let server = Server::new("a").command("true", [""; 0]).env("TOKEN", "${NO_SUCH_VARIABLE_HERE}");
        let error = Process::start("registry.call", &server, &Clients::new(RegistryConfig::default(), Vec::new()))
            .err()
            .unwrap();
        assert!(error.code() == "INVALID_CONFIG" && error.message().contains("NO_SUCH_VARIABLE_HERE"), "{error}");
    }
}
