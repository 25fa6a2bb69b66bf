//! Which service calls which.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use schemars::JsonSchema;
use serde::Serialize;

/// How a dependency came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EdgeSource {
    /// Someone said so.
    Declared,
    /// The engine made the call itself.
    Observed,
}

/// Most dependencies that are kept.
const MAX_EDGES: usize = 20_000;

/// Which service calls which.
#[derive(Debug, Default)]
pub(super) struct Graph {
    callees: HashMap<String, BTreeMap<String, EdgeSource>>,
    edges: usize,
}

impl Graph {
    /// Adds a dependency; returns whether there was room for it.
    pub fn add(&mut self, service: &str, dependency: &str, source: EdgeSource) -> bool {
        if let Some(known) = self.callees.get_mut(service).and_then(|callees| callees.get_mut(dependency)) {
            *known = (*known).min(source);
            return true;
        }
        if self.edges >= MAX_EDGES {
            return false;
        }
        self.callees.entry(service.to_owned()).or_default().insert(dependency.to_owned(), source);
        self.edges += 1;
        true
    }

    /// Returns whether the dependency is known.
    pub fn contains(&self, service: &str, dependency: &str) -> bool {
        self.callees.get(service).is_some_and(|callees| callees.contains_key(dependency))
    }

    /// Forgets a dependency that someone declared.
    pub fn remove(&mut self, service: &str, dependency: &str) {
        let Some(callees) = self.callees.get_mut(service) else { return };
        if callees.get(dependency) == Some(&EdgeSource::Declared) {
            callees.remove(dependency);
            self.edges -= 1;
        }
    }

    /// Forgets what a service was said to call. What calls it stays: that is a fact about others.
    pub fn remove_service(&mut self, service: &str) {
        self.edges -= self.callees.remove(service).map_or(0, |callees| callees.len());
    }

    /// Returns how many dependencies there are.
    pub fn len(&self) -> usize {
        self.edges
    }

    /// Returns whether a service neither calls nor is called.
    pub fn is_alone(&self, service: &str) -> bool {
        let calls = self.callees.get(service).is_some_and(|callees| !callees.is_empty());
        !calls && !self.callees.values().any(|callees| callees.contains_key(service))
    }

    /// Returns what a service calls, sorted.
    pub fn callees(&self, service: &str) -> impl Iterator<Item = (&str, EdgeSource)> {
        self.callees.get(service).into_iter().flatten().map(|(callee, source)| (callee.as_str(), *source))
    }

    /// Returns all that `service` reaches over calls, itself first, nearest first.
    pub fn reachable(&self, service: &str) -> Vec<String> {
        let mut seen = HashSet::from([service]);
        let mut queue = VecDeque::from([service]);
        let mut reached = Vec::new();
        while let Some(next) = queue.pop_front() {
            reached.push(next.to_owned());
            for (callee, _) in self.callees(next) {
                if seen.insert(callee) {
                    queue.push_back(callee);
                }
            }
        }
        reached
    }

    /// Follows sick dependencies from a sick service to one whose own dependencies are well: the likely cause. In a circle, the
    /// first by name, so that all who are in it agree.
    pub fn deepest(&self, service: &str, is_sick: impl Fn(&str) -> bool) -> String {
        let mut seen = HashSet::from([service]);
        let mut queue = VecDeque::from([service]);
        let mut ends = Vec::new();
        while let Some(next) = queue.pop_front() {
            let mut is_end = true;
            for (callee, _) in self.callees(next).filter(|(callee, _)| is_sick(callee)) {
                is_end &= callee == next;
                if seen.insert(callee) {
                    queue.push_back(callee);
                }
            }
            if is_end {
                ends.push(next);
            }
        }
        let found = ends.into_iter().min().or_else(|| seen.into_iter().min());
        found.unwrap_or(service).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for (service, dependency) in edges {
            graph.add(service, dependency, EdgeSource::Declared);
        }
        graph
    }

    #[test]
    fn the_cause_is_the_sick_one_whose_dependencies_are_well() {
        let graph = graph(&[("web", "chat"), ("chat", "redis"), ("chat", "provider")]);
        assert_eq!(graph.deepest("web", |service| service != "provider"), "redis");
        assert_eq!(graph.deepest("web", |service| service == "web" || service == "redis"), "web");
    }

    #[test]
    fn a_circle_has_one_cause_for_all_in_it() {
        let graph = graph(&[("a", "b"), ("b", "c"), ("c", "a"), ("d", "b")]);
        let causes: HashSet<_> = ["a", "b", "c", "d"].map(|service| graph.deepest(service, |_| true)).into();
        assert_eq!(causes.len(), 1);
    }

    #[test]
    fn reachable_lists_each_once() {
        assert_eq!(graph(&[("a", "b"), ("a", "c"), ("b", "c"), ("c", "a")]).reachable("a"), ["a", "b", "c"]);
    }
}
