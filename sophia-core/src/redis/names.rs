//! How a key is named: `{prefix}:{area}:v1:{tenant}:{{wall}}:{hash}`, the same from every language and version.
//!
//! Braces stand around the hash of the wall (tenant and user): so Cluster keeps what belongs to one wall in one slot, and
//! one command can change a value together with its index. Names of keys are hashed, so that a listing tells nothing.

use std::fmt::Write;

use crate::Scope;

/// Digits of the hash of a wall: enough to spread walls over 16,384 slots; the hash of a key is what tells keys apart.
const WALL_DIGITS: usize = 16;
/// Longest tenant that stands in a name as it is, in bytes.
const MAX_TENANT_BYTES: usize = 64;

/// What a key belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Area {
    /// `{prefix}:{area}:v1:`
    start: Box<str>,
}

/// What the keys of one wall begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wall(String);

impl Area {
    pub fn new(prefix: &str, area: &str) -> Area {
        Area { start: format!("{prefix}:{area}:v1:").into() }
    }

    /// Returns what every key of the area begins with.
    pub fn start(&self) -> &str {
        &self.start
    }

    /// Returns a key of the whole area.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.start)
    }

    /// Returns a key of a tenant that stands alone: in a Cluster, such keys are spread over all slots, and those with one hash
    /// in different areas are in one.
    pub fn single(&self, tenant: Option<&str>, hash: &str) -> String {
        let mut name = String::with_capacity(self.start.len() + 96);
        name.push_str(&self.start);
        push_tenant(&mut name, tenant);
        name.push_str(":{");
        name.push_str(hash);
        name.push('}');
        name
    }

    pub fn wall(&self, tenant: Option<&str>, user: Option<&str>) -> Wall {
        let mut name = String::with_capacity(self.start.len() + 48);
        name.push_str(&self.start);
        push_tenant(&mut name, tenant);
        name.push_str(":{");
        let wall = Scope { tenant: tenant.map(str::to_owned), user: user.map(str::to_owned), ..Scope::default() };
        name.push_str(&blake3::hash(wall.wall().as_bytes()).to_hex()[..WALL_DIGITS]);
        name.push_str("}:");
        Wall(name)
    }
}

impl Wall {
    /// Returns the key with this name.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }
}

/// Writes a tenant so that it can be read in a listing, and cannot be taken for another part.
fn push_tenant(name: &mut String, tenant: Option<&str>) {
    match tenant {
        None => name.push('-'),
        Some(tenant) => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
            if tenant.len() <= MAX_TENANT_BYTES && tenant.bytes().all(plain) {
                name.push_str(tenant);
            } else {
                let _ = write!(name, "~{}", &blake3::hash(tenant.as_bytes()).to_hex()[..WALL_DIGITS]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_documented_form_and_never_meet() {
        let area = Area::new("sophia", "kv");
        let ada = area.wall(Some("acme"), Some("ada")).key("h");
        assert!(ada.starts_with("sophia:kv:v1:acme:{") && ada.ends_with("}:h"), "{ada}");
        let names = [
            area.wall(None, None),
            area.wall(Some("-"), None),
            area.wall(None, Some("-")),
            area.wall(Some("acme"), None),
            area.wall(Some("ac}me:{"), None),
            area.wall(Some("~"), None),
        ];
        for (place, name) in names.iter().enumerate() {
            assert_eq!(name.0.matches('{').count(), 1, "{name:?}");
            assert!(names[..place].iter().all(|other| other != name), "{name:?}");
        }
    }
}
