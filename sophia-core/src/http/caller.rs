//! Who calls, and in which scope.

use axum::http::HeaderMap;
use serde_json::Value;

use crate::{Error, ErrorKind, Result, Scope};

/// Headers that name a scope where the body does not.
const SCOPE_HEADERS: [(&str, &str); 4] = [
    ("tenant", "x-sophia-tenant"),
    ("user", "x-sophia-user"),
    ("session", "x-sophia-session"),
    ("agent", "x-sophia-agent"),
];

/// What a route demands of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anybody at all.
    Open,
    /// A key, or a caller on this machine where no keys are set.
    Caller,
    /// A key with `admin`, or a caller on this machine where no keys are set.
    Admin,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Caller {
    /// Name for logs and records.
    pub name: String,
    /// What the credential fixes: a request may set what is unset here, and change nothing.
    pub scope: Scope,
    pub admin: bool,
}

impl Caller {
    /// A caller on this machine, where no keys are set: may name any scope.
    pub fn local() -> Caller {
        Caller { name: "local".to_owned(), scope: Scope::new(), admin: true }
    }

    /// Whoever asks for what is open to anybody.
    pub fn nobody() -> Caller {
        Caller { name: "nobody".to_owned(), scope: Scope::new(), admin: false }
    }

    /// Returns the scope that the caller acts in when it asks for `asked`.
    pub fn narrow(&self, operation: &'static str, asked: &Scope) -> Result<Scope> {
        asked.validate(operation)?;
        let part = |name: &str, fixed: &Option<String>, asked: &Option<String>| match (fixed, asked) {
            (Some(fixed), Some(asked)) if fixed != asked => {
                let message = format!("`scope.{name}` is not the one that this key is for: leave it out");
                Err(Error::new(ErrorKind::Unauthorized, operation, message).with("field", format!("scope.{name}")))
            }
            (Some(fixed), _) => Ok(Some(fixed.clone())),
            (None, asked) => Ok(asked.clone()),
        };
        Ok(Scope {
            tenant: part("tenant", &self.scope.tenant, &asked.tenant)?,
            user: part("user", &self.scope.user, &asked.user)?,
            session: part("session", &self.scope.session, &asked.session)?,
            agent: part("agent", &self.scope.agent, &asked.agent)?,
        })
    }
}

/// Reads the scope that the headers ask for.
pub(super) fn scope_of_headers(headers: &HeaderMap) -> Result<Scope> {
    let mut asked = serde_json::Map::new();
    for (part, header) in SCOPE_HEADERS {
        if let Some(value) = headers.get(header) {
            // Header values are bytes; names beyond ASCII come as UTF-8.
            let text =
                std::str::from_utf8(value.as_bytes()).map_err(|_| Error::invalid("http", header, "is not UTF-8"))?;
            asked.insert(part.to_owned(), Value::from(text));
        }
    }
    crate::wire::read(ErrorKind::InvalidInput, "http", Value::Object(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sets_what_the_key_leaves_unset_and_changes_nothing() {
        let acme = Caller { scope: Scope::new().tenant("acme"), admin: false, ..Caller::local() };
        let narrow = |asked: Scope| acme.narrow("test", &asked);
        assert_eq!(narrow(Scope::new()).unwrap(), Scope::new().tenant("acme"));
        assert_eq!(narrow(Scope::new().user("ada")).unwrap(), Scope::new().tenant("acme").user("ada"));
        assert_eq!(narrow(Scope::new().tenant("acme")).unwrap(), Scope::new().tenant("acme"));
        let widened = narrow(Scope::new().tenant("globex").user("ada")).unwrap_err();
        assert_eq!((widened.code(), widened.get("field")), ("UNAUTHORIZED", Some("scope.tenant")));
        assert_eq!(narrow(Scope::new().tenant("")).unwrap_err().code(), "INVALID_INPUT");
    }
}
