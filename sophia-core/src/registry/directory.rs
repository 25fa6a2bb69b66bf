//! The list itself: servers by id, and what every source claims about them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use reqwest::Url;

use super::{
    exposure,
    import::load,
    live::Live,
    server::{Server, key},
    variables,
};
use crate::{Error, ErrorKind, Result, wire};

/// A server and what goes on with it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub server: Arc<Server>,
    pub live: Arc<Live>,
}

/// What one source says about a server.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claim {
    /// The server's id, without case, `-` and `_`.
    pub key: String,
    /// The id as it was written.
    pub spelled: String,
    pub source: String,
    pub place: Option<Place>,
    /// The command with its arguments, without their secrets.
    pub command: Option<String>,
    /// Hashes of the values of its environment, to find sources that disagree.
    pub env: BTreeMap<String, [u8; 32]>,
    /// All that it says, for when another source takes back what it said. Nothing where code has replaced it since.
    pub server: Option<Arc<Server>>,
}

/// An endpoint in a form that can be compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub host: String,
    pub port: u16,
    /// Nothing where only the port is known.
    pub path: Option<String>,
}

impl Claim {
    pub(crate) fn new(server: &Server, source: &str, bare_port: bool) -> Claim {
        let env = server
            .env
            .iter()
            .map(|(name, value)| (name.clone(), *blake3::hash(value.expose().as_bytes()).as_bytes()))
            .collect();
        Claim {
            key: key(&server.id),
            spelled: server.id.clone(),
            source: source.to_owned(),
            place: place(server, bare_port),
            command: exposure::command(server),
            env,
            server: Some(Arc::new(server.clone())),
        }
    }
}

/// Returns where a URL leads, with every name of this machine as one.
fn place(server: &Server, bare_port: bool) -> Option<Place> {
    let url = variables::from_environment("registry.load", "url", server.url.as_deref()?).ok()?;
    let url = Url::parse(&url).ok()?;
    let host = match url.host_str()? {
        "localhost" | "127.0.0.1" | "0.0.0.0" | "[::1]" | "[::]" => "localhost",
        host => host,
    };
    let path = (!bare_port).then(|| url.path().trim_end_matches('/').to_owned());
    Some(Place { host: host.to_lowercase(), port: url.port_or_known_default()?, path })
}

/// Servers by id. A plain value: whoever owns it locks it.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    entries: BTreeMap<String, Entry>,
    /// Other spellings and short names, to the key of the server.
    aliases: BTreeMap<String, String>,
    claims: Vec<Claim>,
    loads: u64,
}

impl Directory {
    /// Finds a server by its id or an alias, in any spelling.
    pub(crate) fn find(&self, id: &str) -> Option<&Entry> {
        let key = key(id);
        self.entries.get(&key).or_else(|| self.entries.get(self.aliases.get(&key)?))
    }

    /// Finds a server.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], with the nearest id.
    pub(crate) fn get(&self, operation: &'static str, id: &str) -> Result<Entry> {
        self.find(id).cloned().ok_or_else(|| {
            let ids: Vec<_> = self.entries.values().map(|entry| entry.server.id.as_str()).collect();
            let hint = match wire::nearest(id, &ids) {
                Some(near) => format!("; did you mean `{near}`?"),
                None if ids.is_empty() => "; the registry is empty".to_owned(),
                None => String::new(),
            };
            let shown: String = id.chars().filter(|c| !c.is_control()).take(80).collect();
            Error::new(ErrorKind::NotFound, operation, format!("no server is called `{shown}`{hint}"))
        })
    }

    /// Returns every entry, by id.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Puts an entry in its place; returns what stood there.
    pub(crate) fn put(&mut self, entry: Entry) -> Option<Entry> {
        let own = key(&entry.server.id);
        // An alias that it had, and has no more, is free for others.
        self.aliases.retain(|_, target| *target != own);
        let short = Some(entry.server.short_id().to_owned()).filter(|short| *short != entry.server.id);
        for alias in entry.server.aliases.iter().chain(&short).map(|alias| key(alias)) {
            if alias != own {
                self.aliases.entry(alias).or_insert_with(|| own.clone());
            }
        }
        self.entries.insert(own, entry)
    }

    /// Takes an entry out, with its aliases and claims.
    pub(crate) fn remove(&mut self, id: &str) -> Option<Entry> {
        let own = key(&self.find(id)?.server.id);
        let mut claims = std::mem::take(&mut self.claims);
        claims.retain(|claim| self.owner(&claim.key) != own);
        self.claims = claims;
        self.take(id)
    }

    /// Returns a name for a source that has none.
    pub(crate) fn unnamed_source(&mut self) -> String {
        self.loads += 1;
        format!("inline-{}", self.loads)
    }

    /// Replaces what a source claims, but for entries in `failed`, which it names and gets wrong; returns the keys of servers
    /// that it no longer names.
    pub(crate) fn claim(&mut self, source: &str, claims: Vec<Claim>, failed: &BTreeSet<String>) -> Vec<String> {
        let is_replaced = |claim: &Claim| claim.source == source && !failed.contains(&claim.key);
        let mut gone: BTreeSet<_> =
            self.claims.iter().filter(|claim| is_replaced(claim)).map(|claim| claim.key.clone()).collect();
        self.claims.retain(|claim| !is_replaced(claim));
        for claim in claims {
            gone.remove(&claim.key);
            let same = |old: &Claim| {
                old.spelled == claim.spelled
                    && old.place == claim.place
                    && old.command == claim.command
                    && old.env == claim.env
            };
            // A mapping that is loaded again and again, each time without a name, stays one claim.
            let is_inline = |claim: &Claim| claim.source.starts_with("inline-");
            match self.claims.iter().position(|old| is_inline(&claim) && is_inline(old) && same(old)) {
                Some(at) => {
                    let Claim { source, server, .. } = self.claims.remove(at);
                    let server = match (server, &claim.server) {
                        (Some(old), Some(new)) => Some(Arc::new(load::merge(&old, (**new).clone()))),
                        (_, new) => new.clone(),
                    };
                    self.claims.push(Claim { source, server, ..claim });
                }
                None => self.claims.push(claim),
            }
        }
        gone.into_iter().collect()
    }

    /// Replaces what code claims of one server; what others said of it holds no more.
    pub(crate) fn claim_one(&mut self, claim: Claim) {
        let mut claims = std::mem::take(&mut self.claims);
        claims.retain(|old| !(old.source == claim.source && old.key == claim.key));
        for old in claims.iter_mut().filter(|old| old.key == claim.key || self.owner(&old.key) == claim.key) {
            old.server = None;
        }
        claims.push(claim);
        self.claims = claims;
    }

    /// Returns the servers whose ids only `source` has said, and says no more, each with what the others say of it and call it, if
    /// they do. Its entries in `failed` are still said.
    pub(crate) fn nameless_without(
        &self,
        source: &str,
        failed: &BTreeSet<String>,
        names: &BTreeSet<&str>,
    ) -> Vec<(Arc<Server>, Option<Server>)> {
        let is_left = |claim: &Claim| claim.source != source || failed.contains(&claim.key);
        let mut left: BTreeMap<String, Vec<&Claim>> = BTreeMap::new();
        for claim in self.claims.iter().filter(|claim| is_left(claim)) {
            left.entry(self.owner(&claim.key)).or_default().push(claim);
        }
        let named = self.claims.iter().filter(|claim| !is_left(claim) && !names.contains(claim.spelled.as_str()));
        let servers =
            named.filter_map(|claim| Some(&self.find(&claim.spelled)?.server).filter(|s| s.id == claim.spelled));
        let without_name = servers.filter_map(|server| {
            let left = left.get(&key(&server.id)).map(Vec::as_slice).unwrap_or_default();
            let is_named = left.iter().any(|claim| claim.spelled == server.id || claim.server.is_none());
            let said = left.iter().filter_map(|claim| claim.server.as_deref().cloned());
            (!is_named).then(|| (server.clone(), said.reduce(|known, more| load::merge(&known, more))))
        });
        without_name.collect()
    }

    /// Takes an entry out, and leaves its claims.
    pub(crate) fn take(&mut self, id: &str) -> Option<Entry> {
        let own = key(&self.find(id)?.server.id);
        self.aliases.retain(|_, target| *target != own);
        self.entries.remove(&own)
    }

    /// Returns what the sources say of the servers that `source` names, now by `names` or before, by their keys. What `source`
    /// itself said before is left out, but for its entries in `failed`.
    pub(crate) fn said_without<'a>(
        &'a self,
        source: &str,
        failed: &BTreeSet<String>,
        names: impl Iterator<Item = &'a str>,
    ) -> BTreeMap<String, Server> {
        let before = self.claims.iter().filter(|claim| claim.source == source).map(|claim| claim.key.as_str());
        let wanted: BTreeSet<String> = names.chain(before).map(|name| self.owner(name)).collect();
        let mut said: BTreeMap<String, Server> = BTreeMap::new();
        for claim in self.claims.iter().filter(|claim| claim.source != source || failed.contains(&claim.key)) {
            let own = self.owner(&claim.key);
            let (true, Some(server)) = (wanted.contains(&own), &claim.server) else { continue };
            let server = (**server).clone();
            let server = match (said.get(&own), self.entries.get(&own)) {
                (Some(known), _) => load::merge(known, server),
                (None, Some(entry)) => server.known_as(&entry.server),
                (None, None) => continue,
            };
            said.insert(own, Server { transport: server.transport(), ..server });
        }
        said
    }

    /// Returns whether any source names a server.
    pub(crate) fn is_claimed(&self, server: &Server) -> bool {
        let own = key(&server.id);
        self.claims.iter().any(|claim| self.owner(&claim.key) == own)
    }

    /// Returns the key of the server that has a name, or would have it.
    pub(crate) fn owner(&self, name: &str) -> String {
        key(self.find(name).map_or(name, |entry| entry.server.id.as_str()))
    }

    pub(crate) fn claims(&self) -> &[Claim] {
        &self.claims
    }
}
