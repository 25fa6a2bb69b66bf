//! [`Script`]: Lua that runs inside Redis as one step.

use redis::{Cmd, cmd};

/// Lua that runs inside Redis as one step. Sent by its hash, and whole where the server does not have it.
#[derive(Debug)]
pub(crate) struct Script {
    code: &'static str,
    hash: String,
}

/// What a script is called with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Call {
    keys: Vec<Vec<u8>>,
    arguments: Vec<Vec<u8>>,
}

impl Script {
    pub fn new(code: &'static str) -> Script {
        Script { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }

    /// Puts a script together; it lives as long as the program.
    pub fn of(parts: &[&str]) -> Script {
        Script::new(Box::leak(parts.concat().into_boxed_str()))
    }

    pub fn call(&self) -> Call {
        Call::default()
    }

    pub(super) fn by_hash(&self, call: &Call) -> Cmd {
        call.write(cmd("EVALSHA"), &self.hash)
    }

    pub(super) fn whole(&self, call: &Call) -> Cmd {
        call.write(cmd("EVAL"), self.code)
    }
}

impl Call {
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Call {
        self.keys.push(key.into());
        self
    }

    #[must_use]
    pub fn keys<K: Into<Vec<u8>>>(mut self, keys: impl IntoIterator<Item = K>) -> Call {
        self.keys.extend(keys.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn arg(mut self, argument: impl Into<Vec<u8>>) -> Call {
        self.arguments.push(argument.into());
        self
    }

    #[must_use]
    pub fn int(self, argument: impl Into<i64>) -> Call {
        self.arg(argument.into().to_string())
    }

    fn write(&self, mut command: Cmd, script: &str) -> Cmd {
        command.arg(script).arg(self.keys.len());
        for part in self.keys.iter().chain(&self.arguments) {
            command.arg(part.as_slice());
        }
        command
    }
}
