//! Reads the arguments, builds the engine, runs the command.

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::{CommandFactory, Parser};
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::{
    arguments::{Arguments, Command, Global},
    check, eval, mcp, memory,
    output::{Output, note},
    serve,
};
use crate::{Config, Error, Result, Sophia, logs, operations};

/// Configuration that is used where none is named.
const DEFAULT_CONFIG: &str = "sophia.toml";

/// Runs the command line and returns its exit code: 0 for success, 1 for a failure, 2 for wrong usage.
///
/// `arguments` starts with the name of the program. Needs a Tokio runtime with I/O and time.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version go to stdout, wrong usage to stderr; nothing to do if neither can be written.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    log_to_stderr(matches!(arguments.command, Command::Serve { .. }));
    match dispatch(arguments).await {
        Ok(code) => code,
        Err(error) => {
            note(&format!("error: {error}"));
            for cause in error.causes() {
                note(&format!("  caused by: {cause}"));
            }
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(Arguments { global, command }: Arguments) -> Result<ExitCode> {
    let output = Output { json: global.json };
    match command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "sophia", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Check => check::run(output, config(&global)).await,
        Command::Serve { host, port } => {
            let mut config = config(&global)?;
            config.server.host = host.unwrap_or(config.server.host);
            config.server.port = port.unwrap_or(config.server.port);
            serve::run(output, config).await
        }
        Command::Mcp(command) => {
            let sophia = Sophia::new(config(&global)?)?;
            let code = mcp::run(output, &sophia, command).await;
            sophia.shutdown().await?;
            code
        }
        Command::Eval { file } => eval::run(output, config(&global)?, &file).await,
        Command::Memory(command) => {
            let config = config(&global)?;
            memory::check(&config, &command)?;
            let sophia = Sophia::new(config)?;
            let code = memory::run(output, &sophia, command).await;
            sophia.shutdown().await?;
            code
        }
    }
}

/// Reads the configuration: the file, the environment over it, and what the command line says over both.
fn config(global: &Global) -> Result<Config> {
    let named = |(name, _): &(String, String)| name == "SOPHIA_CONFIG";
    let mut variables: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let file = match &global.config {
        Some(file) => {
            variables.retain(|variable| !named(variable));
            Some(file.as_path())
        }
        None => Some(Path::new(DEFAULT_CONFIG)).filter(|file| !variables.iter().any(named) && file.is_file()),
    };
    if let Some(file) = file {
        let file = file.to_str().ok_or_else(|| Error::invalid_config("config", "has a path that is not UTF-8"))?;
        variables.push(("SOPHIA_CONFIG".to_owned(), file.to_owned()));
    }
    let mut config = Config::from_variables(variables)?;
    if let Some(data_dir) = &global.data_dir {
        config.data_dir = Some(data_dir.clone());
    }
    Ok(config)
}

/// Runs an operation by its name.
pub(super) async fn call(sophia: &Sophia, name: &str, arguments: Value) -> Result<Value> {
    let reply = operations::call(sophia, name, arguments)?.await?;
    serde_json::to_value(&reply)
        .map_err(|error| Error::new(crate::ErrorKind::Internal, "cli", format!("`{name}` gave no JSON: {error}")))
}

fn log_to_stderr(serves: bool) {
    let default = if serves { "info" } else { "error" };
    let asked = logs::asked().or_else(|| std::env::var(EnvFilter::DEFAULT_ENV).ok());
    let filter = asked.and_then(|asked| asked.parse().ok()).unwrap_or_else(|| EnvFilter::new(default));
    // Where the host of this process has set up its own log, that one stays.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
