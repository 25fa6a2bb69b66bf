//! What the command line takes.

use std::path::PathBuf;

#[cfg(feature = "mcp")]
use clap::ValueEnum;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::Scope;

/// Memory, cached chat, an MCP registry and health in one engine.
#[derive(Debug, Parser)]
#[command(name = "sophia", version, about, arg_required_else_help = true, propagate_version = true)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub(super) struct Global {
    /// Configuration, .toml or .json [default: the file that SOPHIA_CONFIG names, or ./sophia.toml where it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of durable state; overrides the configuration
    #[arg(long, global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Write JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve HTTP until interrupted
    Serve {
        /// Address to listen on [default: 127.0.0.1]; any other than loopback needs keys
        #[arg(long)]
        host: Option<String>,
        /// Port to listen on; 0 takes a free one [default: 8000]
        #[arg(long)]
        port: Option<u16>,
    },
    /// Check configuration, environment, data directory and connections, and say how to fix what is wrong
    Check,
    /// Look at MCP servers and call their tools
    #[command(subcommand)]
    Mcp(Mcp),
    /// Look into the memory
    #[command(subcommand)]
    Memory(Memory),
    /// Measure how well memory finds: replay conversations with questions and print the recall of their evidence
    Eval {
        /// Conversations in the format of LoCoMo or LongMemEval, JSON
        file: PathBuf,
    },
    /// Write completions for a shell
    Completions {
        /// Shell to complete in
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Mcp {
    /// Say what several configuration files disagree about, and what of them cannot be read; exit code 1 if there is any
    Lint {
        /// Configurations of MCP servers, in any known form, beside those of the engine's configuration
        files: Vec<PathBuf>,
    },
    /// List servers, or their tools
    List {
        /// Configurations of MCP servers, in any known form, beside those of the engine's configuration
        files: Vec<PathBuf>,
        /// List the tools, which asks every server
        #[arg(long)]
        tools: bool,
    },
    /// Call a tool
    Call {
        /// Server, as `mcp list` names it
        server: String,
        /// Tool, as `mcp list --tools` names it
        tool: String,
        /// Arguments, as a JSON object
        #[arg(default_value = "{}")]
        arguments: String,
        /// A configuration of MCP servers, in any known form; may be repeated
        #[arg(long = "file", value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Be an MCP server on the standard streams, for what this machine remembers; for the configuration of a client
    #[cfg(feature = "mcp")]
    Serve {
        /// Which tools
        tools: ServedTools,
        /// Whose memory; arguments of a tool may name a session or an agent in it, and nobody else
        #[command(flatten)]
        scope: ScopeArguments,
    },
}

/// Tools that can be served.
#[cfg(feature = "mcp")]
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ServedTools {
    /// Records: store, search, get, update, delete, count
    Memory,
    /// The knowledge graph, as the reference server `server-memory` offers it
    Graph,
}

#[derive(Debug, Subcommand)]
pub(super) enum Memory {
    /// Find records
    Search {
        /// What to look for
        query: String,
        /// Most records
        #[arg(long, default_value_t = 10)]
        limit: usize,
        #[command(flatten)]
        scope: ScopeArguments,
    },
    /// Count what is there
    Stats,
    /// Write what is remembered to a new file, as lines of JSON
    Export {
        /// File to write, which must not be there; `-` writes to the standard output
        file: PathBuf,
        /// Without any of these: everything of everyone
        #[command(flatten)]
        scope: ScopeArguments,
    },
    /// Take over a file of Sophia, mem0, server-memory, LangGraph or Chroma; again, it changes nothing
    Import {
        /// File to read
        file: PathBuf,
        /// Who wrote it: sophia, mem0, server_memory, langgraph or chroma [default: it is told from the file]
        #[arg(long)]
        format: Option<String>,
        /// Whose it becomes
        #[command(flatten)]
        scope: ScopeArguments,
    },
    /// Remove every trace of a scope or a person, and write a receipt
    Forget {
        /// Person, in every tenant, or in --tenant
        #[arg(long)]
        subject: Option<String>,
        #[command(flatten)]
        scope: ScopeArguments,
        /// Do it without asking
        #[arg(long)]
        yes: bool,
    },
    /// Write a copy of all data to a new file, while others write
    Backup {
        /// File to write; it must not be there
        file: PathBuf,
    },
    /// Look whether the data is whole; exit code 1 if it is not
    Check {
        /// Make anew what is derived from the data and damaged
        #[arg(long)]
        repair: bool,
    },
}

/// Whose data it is.
#[derive(Debug, Args)]
pub(super) struct ScopeArguments {
    /// Organisation
    #[arg(long)]
    tenant: Option<String>,
    /// Person
    #[arg(long)]
    user: Option<String>,
    /// Conversation
    #[arg(long)]
    session: Option<String>,
    /// Agent
    #[arg(long)]
    agent: Option<String>,
}

impl ScopeArguments {
    /// Returns the scope, if any part of it is given.
    pub(super) fn given(self) -> Option<Scope> {
        Some(Scope::from(self)).filter(|scope| *scope != Scope::default())
    }
}

impl From<ScopeArguments> for Scope {
    fn from(arguments: ScopeArguments) -> Scope {
        Scope { tenant: arguments.tenant, user: arguments.user, session: arguments.session, agent: arguments.agent }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
