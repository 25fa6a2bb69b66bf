//! What every store of facts must do with entities, observations and relations.

use std::{future::Future, sync::Arc};

use crate::{
    Clock, ErrorKind, ManualClock, Scope, Timestamp,
    memory::{
        FactQuery, GraphStore, NewEntity, NewFact, Node, NodeChange, NodeSelection, Nodes, NodesAdded, Observations,
        Relation,
    },
};

/// Runs the suite of [`GraphStore`], as far as it is about entities with observations. `make` gives an empty store each time.
///
/// # Panics
/// Where the store does not do what it must.
pub async fn graph_store<S, F>(make: impl Fn(Arc<dyn Clock>) -> F)
where
    S: GraphStore,
    F: Future<Output = S>,
{
    let clock = Arc::new(ManualClock::default());
    let store = || make(clock.clone());
    entities_are_kept_in_order_and_once(&store().await, &clock).await;
    observations_are_added_and_removed(&store().await, &clock).await;
    relations_are_facts_and_end(&store().await, &clock).await;
    what_is_stated_again_is_not_lost(&store().await, &clock).await;
    walls_hold(&store().await, &clock).await;
}

fn ada() -> Scope {
    Scope::new().tenant("acme").user("ada")
}

fn node(name: &str, observations: &[&str]) -> Node {
    Node {
        name: name.to_owned(),
        entity_type: "thing".to_owned(),
        observations: observations.iter().map(|text| (*text).to_owned()).collect(),
    }
}

fn relation(from: &str, kind: &str, to: &str) -> Relation {
    Relation { from: from.to_owned(), to: to.to_owned(), relation_type: kind.to_owned() }
}

fn observed(entity: &str, contents: &[&str]) -> Observations {
    Observations { entity: entity.to_owned(), contents: contents.iter().map(|text| (*text).to_owned()).collect() }
}

async fn change(store: &impl GraphStore, clock: &ManualClock, change: NodeChange) -> NodesAdded {
    store.change_nodes(ada(), change, clock.now()).await.expect("change")
}

async fn all(store: &impl GraphStore, clock: &ManualClock) -> Nodes {
    store.nodes(ada(), NodeSelection::All, clock.now()).await.expect("nodes")
}

/// The clock stands still: nothing but the order of the calls tells the order.
async fn entities_are_kept_in_order_and_once(store: &impl GraphStore, clock: &ManualClock) {
    for name in ["zoe", "ada", "mia"] {
        change(store, clock, NodeChange::CreateEntities(vec![node(name, &["here"])])).await;
    }
    let again = vec![node("ada", &["other"]), node("bob", &[]), node("bob", &["twice"])];
    let added = change(store, clock, NodeChange::CreateEntities(again)).await;
    assert_eq!(
        added.entities,
        [node("bob", &[]), node("bob", &["twice"])],
        "a name that came twice in one call stays so"
    );
    let names: Vec<_> = all(store, clock).await.entities.into_iter().map(|node| node.name).collect();
    assert_eq!(names, ["zoe", "ada", "mia", "bob", "bob"]);
    let selection = NodeSelection::Matching("TWI".to_owned());
    let found = store.nodes(ada(), selection, clock.now()).await.expect("nodes");
    assert_eq!(found.entities, [node("bob", &["twice"])]);
    let named = NodeSelection::Named(vec!["bob".to_owned(), "nobody".to_owned()]);
    assert_eq!(store.nodes(ada(), named, clock.now()).await.expect("nodes").entities.len(), 2);
    change(store, clock, NodeChange::DeleteEntities(vec!["bob".to_owned(), "zoe".to_owned()])).await;
    let names: Vec<_> = all(store, clock).await.entities.into_iter().map(|node| node.name).collect();
    assert_eq!(names, ["ada", "mia"]);
    let own = NewEntity::new("ada").attribute("age", 36).scope(ada());
    store.upsert(own, clock.now()).await.expect("upsert");
    assert_eq!(
        all(store, clock).await.entities[0],
        node("ada", &["here"]),
        "other attributes leave observations alone"
    );
}

async fn observations_are_added_and_removed(store: &impl GraphStore, clock: &ManualClock) {
    change(store, clock, NodeChange::CreateEntities(vec![node("ada", &["a"])])).await;
    let add = vec![observed("ada", &["a", "b"]), observed("ada", &["b", "c"])];
    let added = change(store, clock, NodeChange::AddObservations(add)).await;
    assert_eq!(added.observations, [observed("ada", &["b"]), observed("ada", &["c"])]);
    let broken = NodeChange::AddObservations(vec![observed("ada", &["d"]), observed("nobody", &["d"])]);
    let error = store.change_nodes(ada(), broken, clock.now()).await.expect_err("no such entity");
    assert_eq!((error.kind(), error.message()), (ErrorKind::NotFound, "Entity with name nobody not found"));
    assert_eq!(all(store, clock).await.entities, [node("ada", &["a", "b", "c"])], "all of a change, or nothing");
    let remove = vec![observed("ada", &["b", "x"]), observed("nobody", &["a"])];
    change(store, clock, NodeChange::DeleteObservations(remove)).await;
    assert_eq!(all(store, clock).await.entities, [node("ada", &["a", "c"])]);
}

async fn relations_are_facts_and_end(store: &impl GraphStore, clock: &ManualClock) {
    let before = clock.now();
    let new = vec![relation("ada", "knows", "bob"), relation("bob", "knows", "ada"), relation("ada", "knows", "bob")];
    let added = change(store, clock, NodeChange::CreateRelations(new.clone())).await;
    assert_eq!(added.relations, new, "what came twice in one call stays so");
    assert_eq!(change(store, clock, NodeChange::CreateRelations(new[..1].to_vec())).await.relations, []);
    store.relate(NewFact::new("mia", "knows", "ada").scope(ada()), clock.now()).await.expect("relate");
    assert_eq!(all(store, clock).await.relations.len(), 4, "facts are relations");
    clock.advance(std::time::Duration::from_secs(1));
    change(store, clock, NodeChange::DeleteRelations(vec![new[0].clone()])).await;
    assert_eq!(all(store, clock).await.relations, [new[1].clone(), relation("mia", "knows", "ada")]);
    let known = FactQuery::new(ada()).subject("ada").known_at(before).as_of(before);
    assert_eq!(store.facts(known, clock.now()).await.expect("facts").len(), 2, "what was believed stays known");
    change(store, clock, NodeChange::DeleteEntities(vec!["ada".to_owned()])).await;
    assert_eq!(all(store, clock).await.relations, []);
}

async fn what_is_stated_again_is_not_lost(store: &impl GraphStore, clock: &ManualClock) {
    let year = |year: i16| format!("{year}-01-01T00:00:00Z").parse::<Timestamp>().expect("a time");
    let fact = |object: &str| NewFact::new("ada", "lives_in", object).scope(ada());
    let first = store.relate(fact("oslo"), clock.now()).await.expect("relate");
    let same = store.relate(fact("oslo"), clock.now()).await.expect("relate");
    assert_eq!(same, first, "nothing new was said");
    clock.advance(std::time::Duration::from_secs(1));
    let metadata = [("by".to_owned(), "bob".into())].into_iter().collect();
    let more = NewFact { source: Some("s".into()), metadata, ..fact("oslo") };
    let merged = store.relate(more, clock.now()).await.expect("relate");
    assert_eq!((merged.source.as_deref(), &merged.metadata["by"]), (Some("s"), &"bob".into()));
    assert_eq!(merged.valid_at, first.valid_at);
    let known = async |at: Timestamp| store.facts(FactQuery::new(ada()).as_of(at), clock.now()).await.expect("facts");
    assert_eq!(known(clock.now()).await, [merged]);
    let before = FactQuery::new(ada()).as_of(first.valid_at).known_at(first.created_at);
    assert_eq!(store.facts(before, clock.now()).await.expect("facts")[0].metadata.len(), 0, "what was believed stays");

    for (object, since) in [("a", 2023), ("a", 2020), ("b", 2021), ("c", 2022)] {
        let new = NewFact::new("bob", "works_at", object).scope(ada()).valid_at(year(since)).functional();
        store.relate(new, clock.now()).await.expect("relate");
    }
    for (at, object) in [(2020, "a"), (2021, "b"), (2022, "c"), (2023, "a"), (2024, "a")] {
        let objects: Vec<_> = known(year(at)).await.into_iter().map(|fact| fact.object).collect();
        assert_eq!(objects.iter().filter(|known| *known != "oslo").collect::<Vec<_>>(), [object], "as of {at}");
    }
}

async fn walls_hold(store: &impl GraphStore, clock: &ManualClock) {
    change(store, clock, NodeChange::CreateEntities(vec![node("ada", &["mine"])])).await;
    change(store, clock, NodeChange::CreateRelations(vec![relation("ada", "knows", "bob")])).await;
    for other in [Scope::new(), Scope::new().user("ada"), Scope::new().tenant("acme").user("bob")] {
        for selection in [NodeSelection::All, NodeSelection::Named(vec!["ada".to_owned()])] {
            let found = store.nodes(other.clone(), selection, clock.now()).await.expect("nodes");
            assert_eq!(found, Nodes::default(), "{other:?}");
        }
        let delete = NodeChange::DeleteEntities(vec!["ada".to_owned()]);
        store.change_nodes(other, delete, clock.now()).await.expect("change");
    }
    assert_eq!(all(store, clock).await.entities.len(), 1);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::memory::SqliteStore;

    #[tokio::test]
    async fn sqlite_in_a_file_passes() {
        let directory = tempfile::tempdir().expect("a directory");
        let next = AtomicUsize::new(0);
        graph_store(async |clock| {
            let own = directory.path().join(next.fetch_add(1, Ordering::Relaxed).to_string());
            SqliteStore::in_directory(own).clock(clock).build()
        })
        .await;
    }

    #[tokio::test]
    async fn sqlite_in_memory_passes() {
        graph_store(async |clock| SqliteStore::in_memory().clock(clock).build()).await;
    }
}
