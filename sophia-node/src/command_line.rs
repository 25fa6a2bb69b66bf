//! The command line, for `npx sophia-ai`.

use std::process::ExitCode;

use napi_derive::napi;

use crate::runtime::runtime;

/// Runs the command line on this thread and returns its exit code.
#[napi]
pub fn command_line(arguments: Vec<String>) -> napi::Result<u8> {
    let runtime = runtime().map_err(|error| napi::Error::from_reason(error.to_string()))?;
    let code = runtime.block_on(sophia_core::cli::run(arguments.into_iter().map(Into::into)));
    Ok(u8::from(code != ExitCode::SUCCESS))
}
