//! The standard streams as asynchronous ones. Each has a thread of its own, which the runtime does not wait for at its end: one
//! that waits for input would hold it up.

use std::{
    io::{self, Read, Write},
    thread,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    runtime::Handle,
    sync::oneshot,
};

use crate::{Error, ErrorKind, Result};

/// Bytes that are read ahead of what is taken, and written behind what is given.
const BUFFER_BYTES: usize = 64 * 1024;

/// Returns the input, the output, and what tells that all of the output is written once it was dropped.
pub(super) fn standard_streams(operation: &'static str) -> Result<(DuplexStream, DuplexStream, oneshot::Receiver<()>)> {
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        thread::Builder::new().name(name.to_owned()).spawn(work).map(drop).map_err(|error| {
            Error::new(ErrorKind::Internal, operation, "the system refused a thread").with_source(error)
        })
    };
    let (mut feed, input) = tokio::io::duplex(BUFFER_BYTES);
    let runtime = Handle::current();
    spawn(
        "sophia-stdin",
        Box::new(move || {
            let mut buffer = vec![0; BUFFER_BYTES];
            // The end of the input, or of those who read it, ends the thread.
            while let Ok(count @ 1..) = io::stdin().lock().read(&mut buffer) {
                if runtime.block_on(feed.write_all(&buffer[..count])).is_err() {
                    break;
                }
            }
        }),
    )?;
    let (output, mut drain) = tokio::io::duplex(BUFFER_BYTES);
    let (done, written) = oneshot::channel();
    let runtime = Handle::current();
    spawn(
        "sophia-stdout",
        Box::new(move || {
            let mut buffer = vec![0; BUFFER_BYTES];
            while let Ok(count @ 1..) = runtime.block_on(drain.read(&mut buffer)) {
                let mut stdout = io::stdout().lock();
                if stdout.write_all(&buffer[..count]).and_then(|()| stdout.flush()).is_err() {
                    break;
                }
            }
            // Nobody may wait for it any more.
            let _ = done.send(());
        }),
    )?;
    Ok((input, output, written))
}
