//! Rows beside the main ones, all hits and no churn: keys of every kind, keys that take the longest way, several cores.

use std::sync::Barrier;
use std::time::Duration;

use anyhow::Result;
use listener::types::ListenerId;

use super::{Row, judge};
use crate::compare::{self, Plan, Series};
use crate::load::{CHUNK, Chunk, Key, Load};
use crate::peers::{self, Hearken, Mixed, Peer, RteTable};

/// A contestant by another name.
struct Named<'t> {
    name: String,
    peer: Box<dyn Peer + 't>,
}

impl Peer for Named<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn lookup(&self, chunk: &Chunk, found: &mut [Option<ListenerId>]) {
        self.peer.lookup(chunk, found);
    }

    fn open(&self, key: Key, id: ListenerId) {
        self.peer.open(key, id);
    }

    fn close(&self, key: Key, id: ListenerId) {
        self.peer.close(key, id);
    }
}

fn named<'t>(name: impl Into<String>, peer: Box<dyn Peer + 't>) -> Box<dyn Peer + 't> {
    Box::new(Named { name: name.into(), peer })
}

/// All of them for the listeners of `load`.
///
/// # Errors
/// Contestants that disagree.
pub(super) fn rows(load: &Load, hearken: &Hearken, rte: &RteTable, plan: Plan) -> Result<Vec<Row>> {
    let load = &load.only((0..load.len()).collect());
    let mut rows = mixed(load, rte, plan)?;
    rows.extend(longest(load, hearken, rte, plan)?);
    rows.extend(on_cores(load, hearken, rte, plan));
    Ok(rows)
}

/// Keys with devices and groups among them. `rte_hash` looks the same keys up, each with one value.
fn mixed(load: &Load, rte: &RteTable, plan: Plan) -> Result<Vec<Row>> {
    let (load, mixed) = (load.varied(), Mixed::new(load));
    let mut peers = mixed.peers();
    compare::agree_among(&load, &peers, (1 << 18) / CHUNK)?;
    peers.push(peers::bulk(rte));
    let series = compare::measure(&load, &peers, &[0], plan);
    let (mut rows, _) = judge(&load, 100, &peers, &series, Some(peers.len() - 1));
    rows.pop();
    Ok(rows)
}

/// Only keys that stand in their second bucket, if there are any: no key, whoever chose it, takes longer.
fn longest(load: &Load, hearken: &Hearken, rte: &RteTable, plan: Plan) -> Result<Vec<Row>> {
    let displaced = load.listeners().filter(|(key, _)| hearken.0.is_displaced(key.hash_key()));
    let displaced: Vec<u32> = displaced.map(|(_, id)| id.0).collect();
    if displaced.is_empty() {
        return Ok(Vec::new());
    }
    let load = load.only(displaced);
    let peers = [named("hearken, displaced keys only", peers::burst(hearken)), peers::bulk(rte)];
    compare::agree(&load, &peers, (1 << 18) / CHUNK)?;
    let series = compare::measure(&load, &peers, &[0], plan);
    let (mut rows, _) = judge(&load, 100, &peers, &series, Some(1));
    rows.pop();
    Ok(rows)
}

/// All cores at once, on one table; the speed is that of all together.
fn on_cores(load: &Load, hearken: &Hearken, rte: &RteTable, plan: Plan) -> Vec<Row> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if cores.len() < 2 {
        return Vec::new();
    }
    let on = |who: &str| format!("{who} on {} cores", cores.len());
    let peers = [named(on("hearken"), peers::burst(hearken)), named(on(peers::BASELINE), peers::bulk(rte))];
    let empty = |peer| Series { peer, churn: 0, ns: Vec::new(), churned: 0, churn_time: Duration::ZERO };
    let mut series = [0, 1].map(empty);
    for round in 0..plan.rounds {
        for series in &mut series {
            let peer = peers[series.peer].as_ref();
            let start = Barrier::new(cores.len());
            let speed: f64 = std::thread::scope(|scope| {
                let turn = |(at, &core)| {
                    let (start, place) = (&start, round * cores.len() + at);
                    scope.spawn(move || {
                        core_affinity::set_for_current(core);
                        start.wait();
                        compare::turn(load, peer, plan, place)
                    })
                };
                let threads: Vec<_> = cores.iter().enumerate().map(turn).collect();
                // One that panicked has said so, and is no speed.
                threads.into_iter().map(|thread| thread.join().map_or(0.0, |ns| 1.0 / ns)).sum()
            });
            series.ns.push(1.0 / speed);
        }
    }
    judge(load, 100, &peers, &series, Some(1)).0
}
