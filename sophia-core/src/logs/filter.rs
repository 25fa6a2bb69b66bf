//! Which events are made at all.

use std::env;

use arc_swap::ArcSwap;
use tracing::Metadata;
use tracing_subscriber::filter::Targets;

use super::entry::as_written;
use crate::{Error, Result};

/// Asks for events, as `RUST_LOG` does for other programs: `debug`, or `warn,sophia.memory=debug`.
const VARIABLE: &str = "SOPHIA_LOG";

/// Returns what the variable `SOPHIA_LOG` asks for, if it is set, with the targets that events have.
#[must_use]
pub fn asked() -> Option<String> {
    env::var(VARIABLE).ok().map(|directives| as_written(&directives))
}

/// Which events of the engine are made. Others are not even formatted.
///
/// Without locks: a thread that is not in a forked process could have held them.
#[derive(Debug, Default)]
pub struct Filter(ArcSwap<Targets>);

impl Filter {
    /// Takes what `directives` name from now on, such as `warn,sophia.memory=debug`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidConfig`] where they cannot be read; what was taken before still is.
    pub fn set(&self, directives: &str) -> Result<()> {
        let targets: Targets = as_written(directives)
            .parse()
            .map_err(|error| Error::invalid_config(VARIABLE, format!("cannot be read: {error}")))?;
        self.0.store(targets.into());
        Ok(())
    }

    /// Takes what `SOPHIA_LOG` asks for, or else `default`.
    pub fn set_as_asked(&self, default: &str) {
        let refused = asked().and_then(|asked| self.set(&asked).err());
        if refused.is_some() || asked().is_none() {
            // Given by a host: it can be read.
            let _ = self.set(default);
        }
        if let Some(error) = refused {
            tracing::warn!(%error, "all is logged as if nothing were asked for");
        }
    }

    pub(super) fn takes(&self, metadata: &Metadata<'_>) -> bool {
        self.0.load().would_enable(metadata.target(), metadata.level())
    }
}
