//! Whose data it is: the isolation boundary that memory, cache, tools and limits all use.

use std::fmt;

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::{Error, Result};

/// Longest accepted part of a scope, in bytes: an identifier, not a document.
const MAX_PART_BYTES: usize = 512;

/// Whose data it is. Tenant and user are walls; session and agent narrow.
///
/// - `tenant` and `user` must match exactly, and an unset one matches only unset: nothing falls back to a wider scope.
/// - `session` and `agent` narrow a read when they are set on it, and are kept with what is written.
///
/// ```
/// use sophia_core::Scope;
///
/// let ada = Scope::new().tenant("acme").user("ada");
/// assert!(ada.covers(&ada.clone().session("s1")));
/// assert!(!ada.covers(&Scope::new().tenant("acme")));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, remote = "Self")]
#[non_exhaustive]
pub struct Scope {
    /// The organisation. A wall.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The person. A wall.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The conversation. Narrows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The agent that acts. Narrows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

impl Scope {
    /// Creates the scope in which nothing is set: what belongs to nobody in particular.
    pub fn new() -> Scope {
        Scope::default()
    }

    /// Sets the tenant.
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Scope {
        self.tenant = Some(tenant.into());
        self
    }

    /// Sets the user.
    #[must_use]
    pub fn user(mut self, user: impl Into<String>) -> Scope {
        self.user = Some(user.into());
        self
    }

    /// Sets the session.
    #[must_use]
    pub fn session(mut self, session: impl Into<String>) -> Scope {
        self.session = Some(session.into());
        self
    }

    /// Sets the agent.
    #[must_use]
    pub fn agent(mut self, agent: impl Into<String>) -> Scope {
        self.agent = Some(agent.into());
        self
    }

    /// Returns whether a read in this scope may see what was written in `other`.
    pub fn covers(&self, other: &Scope) -> bool {
        let narrows = |mine: &Option<String>, theirs: &Option<String>| mine.is_none() || mine == theirs;
        self.tenant == other.tenant
            && self.user == other.user
            && narrows(&self.session, &other.session)
            && narrows(&self.agent, &other.agent)
    }

    /// Refuses parts that are empty, too long, or hold control characters.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`](crate::ErrorKind::InvalidInput), naming the part.
    pub fn validate(&self, operation: &'static str) -> Result<()> {
        let parts = [
            ("scope.tenant", &self.tenant),
            ("scope.user", &self.user),
            ("scope.session", &self.session),
            ("scope.agent", &self.agent),
        ];
        for (field, part) in parts {
            let Some(part) = part else { continue };
            if part.is_empty() {
                return Err(Error::invalid(operation, field, "is empty: leave it out, or name it"));
            }
            if part.len() > MAX_PART_BYTES {
                return Err(Error::invalid(operation, field, format!("is longer than {MAX_PART_BYTES} bytes")));
            }
            if part.chars().any(char::is_control) {
                return Err(Error::invalid(operation, field, "holds a control character"));
            }
        }
        Ok(())
    }

    /// Returns an encoding of tenant and user that no other pair shares: the wall, as a key.
    ///
    /// Each part is written with its length, so that no choice of names can imitate another pair.
    pub fn wall(&self) -> String {
        encode([&self.tenant, &self.user])
    }

    /// Returns an encoding of all four parts that no other scope shares.
    pub fn key(&self) -> String {
        encode([&self.tenant, &self.user, &self.session, &self.agent])
    }
}

impl From<&Scope> for Scope {
    fn from(scope: &Scope) -> Scope {
        scope.clone()
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Scope::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Scope {
    /// Reads its parts by name only: a list of them, which serde takes for a struct too, would make a wall of whatever comes
    /// first.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scope, D::Error> {
        struct ByName;

        impl<'de> Visitor<'de> for ByName {
            type Value = Scope;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a scope: an object of tenant, user, session and agent")
            }

            fn visit_map<A: MapAccess<'de>>(self, parts: A) -> Result<Scope, A::Error> {
                Scope::deserialize(MapAccessDeserializer::new(parts))
            }
        }

        deserializer.deserialize_map(ByName)
    }
}

fn encode<const N: usize>(parts: [&Option<String>; N]) -> String {
    parts
        .map(|part| match part {
            Some(part) => format!("{}:{part}", part.len()),
            None => "-".to_owned(),
        })
        .join("|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn its_parts_are_read_by_name() {
        let read = serde_json::from_str::<Scope>;
        assert_eq!(read(r#"{"user": "ada"}"#).unwrap(), Scope::new().user("ada"));
        assert!(read(r#"["acme", "ada"]"#).unwrap_err().to_string().contains("a scope"));
        assert!(read(r#"{"who": "ada"}"#).unwrap_err().to_string().contains("unknown field `who`"));
    }

    #[test]
    fn an_unset_wall_matches_only_unset() {
        let nobody = Scope::new();
        let ada = Scope::new().user("ada");
        assert!(!nobody.covers(&ada) && !ada.covers(&nobody) && nobody.covers(&nobody));
    }

    #[test]
    fn session_and_agent_narrow_only_when_set() {
        let ada = Scope::new().user("ada");
        let talk = ada.clone().session("s1");
        assert!(ada.covers(&talk) && !talk.covers(&ada) && !talk.covers(&ada.clone().session("s2")));
    }

    #[test]
    fn parts_that_cannot_be_names_are_refused() {
        for bad in [Scope::new().user(""), Scope::new().tenant("a\0b"), Scope::new().session("x".repeat(513))] {
            assert_eq!(bad.validate("test").unwrap_err().code(), "INVALID_INPUT");
        }
    }

    proptest! {
        #[test]
        fn keys_are_equal_only_for_equal_scopes(a in scopes(), b in scopes()) {
            prop_assert_eq!(a.key() == b.key(), a == b);
            prop_assert_eq!(a.wall() == b.wall(), a.tenant == b.tenant && a.user == b.user);
        }
    }

    fn scopes() -> impl Strategy<Value = Scope> {
        let part = || proptest::option::of("[a:|1-]{1,3}");
        (part(), part(), part(), part()).prop_map(|(tenant, user, session, agent)| Scope {
            tenant,
            user,
            session,
            agent,
        })
    }
}
