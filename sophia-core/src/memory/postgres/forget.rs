//! Forgetting a scope or a person.

use tokio_postgres::Row;

use super::{
    checkpoints,
    filter::Condition,
    link::{Link, Taken, column},
    listen::{self, Ears},
    write,
};
use crate::{
    Result, Scope,
    memory::{
        forget::{ForgetReceipt, ForgetRequest},
        kv::EMBEDDING_KEYS,
    },
};

/// Removes records, versions, vectors, facts, keys and checkpoints, in one transaction.
///
/// A scope with a session or an agent covers records only: all else belongs to the wall, or is removed by its tags.
pub(super) async fn forget(link: &Link, ears: &Ears, request: &ForgetRequest) -> Result<ForgetReceipt> {
    let taken = link.begin("memory.forget").await?;
    let scope = request.scope.clone().unwrap_or_default();
    let mut receipt = ForgetReceipt { tiers: vec!["l3"], ..ForgetReceipt::default() };
    for (wall, owner) in walls(&taken, request).await? {
        receipt.walls.push(owner);
        let condition = Condition::in_wall(wall, &scope);
        let (records, versions, vectors) = write::erase_within(&taken, &condition).await?;
        receipt.records += records;
        receipt.versions += versions;
        receipt.embeddings += vectors;
        // Vectors that are kept may be of what was forgotten.
        let vectors = "DELETE FROM kv WHERE wall = $1 AND starts_with(key, $2)";
        receipt.embeddings += taken.execute(vectors, &[&wall, &EMBEDDING_KEYS]).await?;
        if scope.session.is_some() || scope.agent.is_some() {
            continue;
        }
        receipt.cached += taken.execute("DELETE FROM kv WHERE wall = $1", &[&wall]).await?;
        receipt.facts += taken.execute("DELETE FROM facts WHERE wall = $1", &[&wall]).await?;
        receipt.checkpoints += checkpoints::forget(&taken, wall).await?;
        taken.execute("DELETE FROM entities WHERE wall = $1", &[&wall]).await?;
        taken.execute("DELETE FROM walls WHERE wall = $1", &[&wall]).await?;
        listen::tell_all(&taken, ears).await?;
    }
    taken.commit().await?;
    Ok(receipt)
}

/// Returns the pairs of tenant and user that hold something of this user.
pub(super) async fn scopes_of(taken: &Taken, user: &str) -> Result<Vec<Scope>> {
    let rows = taken.query("SELECT tenant, \"user\" FROM walls WHERE \"user\" = $1", &[&user]).await?;
    rows.iter().map(|row| owner(row, 0)).collect()
}

/// Returns the walls that are meant, and holds off those who would write into them.
async fn walls(taken: &Taken, request: &ForgetRequest) -> Result<Vec<(i64, Scope)>> {
    let columns = "SELECT wall, tenant, \"user\" FROM walls WHERE";
    let order = "ORDER BY wall FOR UPDATE";
    let rows = match (&request.scope, &request.subject) {
        (Some(scope), None) => taken.query(&format!("{columns} key = $1 {order}"), &[&scope.wall()]).await?,
        (Some(scope), Some(subject)) => {
            let sql = format!("{columns} tenant IS NOT DISTINCT FROM $1 AND \"user\" = $2 {order}");
            taken.query(&sql, &[&scope.tenant, subject]).await?
        }
        (None, Some(subject)) => taken.query(&format!("{columns} \"user\" = $1 {order}"), &[subject]).await?,
        (None, None) => Vec::new(),
    };
    rows.iter().map(|row| Ok((column(row, 0)?, owner(row, 1)?))).collect()
}

/// Reads whose a wall is: the tenant at a place of the row, and the user behind it.
fn owner(row: &Row, at: usize) -> Result<Scope> {
    Ok(Scope { tenant: column(row, at)?, user: column(row, at + 1)?, session: None, agent: None })
}
