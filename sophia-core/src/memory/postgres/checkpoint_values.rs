//! The values of checkpoints: each kept once in its thread, compressed, lists as runs of items. Written and read in batches.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::link::{Taken, column};
use crate::{
    Result,
    memory::checkpoint::{
        Encoded,
        packed::{self, List, Packer, Unpacker},
        pieces,
    },
};

/// Keeps values of a thread, whose row is held; returns their numbers.
pub(super) async fn keep(taken: &Taken, thread: i64, tenant: Option<&str>, values: &[&Encoded]) -> Result<Vec<i64>> {
    let cuts: Vec<_> = values.iter().map(|value| pieces::cut(&value.encoding, &value.data)).collect();
    let mut parts: Vec<&[u8]> = Vec::new();
    for (value, cut) in values.iter().zip(&cuts) {
        match cut {
            Some(cut) => parts.extend(&cut.runs),
            None => parts.push(&value.data),
        }
    }
    let mut packer = Packer::new()?;
    let parts: Vec<_> = parts.into_iter().map(|part| (packed::hash_of_bytes(part), part)).collect();
    let hashes: Vec<_> = parts.iter().map(|(hash, _)| *hash).collect();
    let numbers = keep_all(taken, thread, tenant, parts, |part| packer.pack(part)).await?;
    let mut parts = numbers.into_iter().zip(hashes);
    // A list is written when the numbers of its runs are known.
    let mut kept: Vec<Option<i64>> = Vec::with_capacity(values.len());
    let mut lists = Vec::new();
    for cut in cuts {
        match cut {
            None => kept.push(parts.next().map(|(number, _)| number)),
            Some(cut) => {
                let (runs, hashes): (_, Vec<_>) = parts.by_ref().take(cut.runs.len()).unzip();
                let hash = packed::hash_of_list(cut.format, cut.count, hashes.into_iter());
                lists.push((hash, List { format: cut.format, count: cut.count, runs }.write()));
                kept.push(None);
            }
        }
    }
    let lists = lists.iter().map(|(hash, list)| (*hash, list.as_slice())).collect();
    let mut lists = keep_all(taken, thread, tenant, lists, |list| Ok(list.to_vec())).await?.into_iter();
    Ok(kept.into_iter().filter_map(|number| number.or_else(|| lists.next())).collect())
}

/// Keeps what is not there yet of some parts; returns the number of each.
async fn keep_all(
    taken: &Taken,
    thread: i64,
    tenant: Option<&str>,
    parts: Vec<(blake3::Hash, &[u8])>,
    mut pack: impl FnMut(&[u8]) -> Result<Vec<u8>>,
) -> Result<Vec<i64>> {
    if parts.is_empty() {
        return Ok(Vec::new());
    }
    let hashes: Vec<&[u8]> = parts.iter().map(|(hash, _)| &hash.as_bytes()[..]).collect();
    let sql = "SELECT hash, value FROM checkpoint_values WHERE thread = $1 AND hash = ANY($2)";
    let mut known: HashMap<Vec<u8>, i64> = HashMap::new();
    for row in &taken.query(sql, &[&thread, &hashes]).await? {
        known.insert(column(row, 0)?, column(row, 1)?);
    }
    let sql = "SELECT coalesce(max(value), 0) FROM checkpoint_values WHERE thread = $1";
    let mut last: i64 = taken.query_value(sql, &[&thread]).await?;
    let (mut new_numbers, mut new_hashes, mut new_data) = (Vec::new(), Vec::new(), Vec::new());
    for (hash, part) in &parts {
        if !known.contains_key(&hash.as_bytes()[..]) {
            last += 1;
            known.insert(hash.as_bytes().to_vec(), last);
            new_numbers.push(last);
            new_hashes.push(&hash.as_bytes()[..]);
            new_data.push(pack(part)?);
        }
    }
    if !new_numbers.is_empty() {
        let sql = "INSERT INTO checkpoint_values (thread, tenant, value, hash, data) \
                   SELECT $1, $2, new.* FROM unnest($3::bigint[], $4::bytea[], $5::bytea[]) AS new";
        taken.execute(sql, &[&thread, &tenant, &new_numbers, &new_hashes, &new_data]).await?;
    }
    Ok(parts.iter().filter_map(|(hash, _)| known.get(&hash.as_bytes()[..]).copied()).collect())
}

/// Reads values of threads, named by thread and number.
pub(super) async fn read(taken: &Taken, wanted: &BTreeSet<(i64, i64)>) -> Result<HashMap<(i64, i64), Vec<u8>>> {
    let mut packed = fetch(taken, wanted).await?;
    let mut runs = BTreeSet::new();
    for ((thread, _), data) in &packed {
        runs.extend(List::read(data).into_iter().flat_map(|list| list.runs).map(|run| (*thread, run)));
    }
    runs.retain(|run| !packed.contains_key(run));
    packed.extend(fetch(taken, &runs).await?);
    let mut unpacker = Unpacker::new()?;
    let mut plain: HashMap<(i64, i64), Vec<u8>> = HashMap::new();
    for (key, data) in packed.iter().filter(|(_, data)| List::read(data).is_none()) {
        plain.insert(*key, unpacker.unpack(data)?);
    }
    let mut values = HashMap::with_capacity(wanted.len());
    for (thread, value) in wanted {
        let Some(data) = packed.get(&(*thread, *value)) else { continue };
        let bytes = match List::read(data) {
            Some(list) => {
                let runs = list.runs.iter().filter_map(|run| plain.get(&(*thread, *run)));
                list.format.join(list.count, runs.map(Vec::as_slice))
            }
            None => plain.get(&(*thread, *value)).cloned().unwrap_or_default(),
        };
        values.insert((*thread, *value), bytes);
    }
    Ok(values)
}

async fn fetch(taken: &Taken, wanted: &BTreeSet<(i64, i64)>) -> Result<HashMap<(i64, i64), Vec<u8>>> {
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let (threads, values): (Vec<i64>, Vec<i64>) = wanted.iter().copied().unzip();
    let sql = "SELECT v.thread, v.value, v.data FROM unnest($1::bigint[], $2::bigint[]) AS wanted (thread, value) \
               JOIN checkpoint_values AS v USING (thread, value)";
    let rows = taken.query(sql, &[&threads, &values]).await?;
    rows.iter().map(|row| Ok(((column(row, 0)?, column(row, 1)?), column(row, 2)?))).collect()
}

/// Removes the values of a thread that neither `roots` nor their lists name.
pub(super) async fn sweep(taken: &Taken, thread: i64, roots: HashSet<i64>) -> Result<()> {
    let sql = "SELECT value, CASE get_byte(data, 0) WHEN 2 THEN data END FROM checkpoint_values WHERE thread = $1";
    let mut live = roots.clone();
    let mut all = Vec::new();
    for row in &taken.query(sql, &[&thread]).await? {
        let value: i64 = column(row, 0)?;
        all.push(value);
        if roots.contains(&value)
            && let Some(data) = column::<Option<&[u8]>>(row, 1)?
            && let Some(list) = List::read(data)
        {
            live.extend(list.runs);
        }
    }
    all.retain(|value| !live.contains(value));
    taken
        .execute("DELETE FROM checkpoint_values WHERE thread = $1 AND value = ANY($2)", &[&thread, &all])
        .await
        .map(drop)
}
