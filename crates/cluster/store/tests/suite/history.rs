//! Concurrent histories, checked for linearizability.
//!
//! Every answer carries the store's revision, which names the place in the one order of all writes at which it was made.
//! So the order need not be searched for: replaying the writes in the order of their revisions must explain every answer,
//! and no call may be answered from before what was acknowledged when it began.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use store::{Op, OpReply, RangeRequest, Span, Store, Test, Txn, WatchRequest};

type Pairs = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    Put {
        key: String,
        value: String,
    },
    /// Put if the key's revision is this one (0: if there is no key).
    Swap {
        key: String,
        expected: u64,
        value: String,
        succeeded: bool,
        seen: Option<(String, u64)>,
    },
    Delete {
        key: String,
        removed: bool,
    },
    Read {
        found: Pairs,
    },
}

/// Keys with value and revision.
type State = BTreeMap<String, (String, u64)>;

/// One call with the instants between which it happened, and the revision it was answered with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) revision: u64,
    pub(crate) call: Call,
}

/// What a watch saw: key, value (none: deleted), revision.
pub(crate) type Seen = Vec<(String, Option<String>, u64)>;

fn writes(call: &Call) -> bool {
    match call {
        Call::Put { .. } => true,
        Call::Swap { succeeded, .. } => *succeeded,
        Call::Delete { removed, .. } => *removed,
        Call::Read { .. } => false,
    }
}

/// Says what is wrong with a history, and with what a watch over all of it saw.
pub(crate) fn check(history: &[Entry], seen: &Seen) -> Result<(), String> {
    let mut order: Vec<&Entry> = history.iter().filter(|entry| writes(&entry.call)).collect();
    order.sort_by_key(|entry| entry.revision);
    if let Some(pair) = order.windows(2).find(|pair| pair[0].revision == pair[1].revision) {
        return Err(format!("two writes at one revision: {pair:?}"));
    }
    // What had been acknowledged when a call began must be behind it.
    let mut by_end: Vec<&Entry> = history.iter().collect();
    by_end.sort_by_key(|entry| entry.ended);
    let mut by_begin: Vec<&Entry> = history.iter().collect();
    by_begin.sort_by_key(|entry| entry.begun);
    let (mut at, mut newest) = (0, 0);
    for entry in by_begin {
        while at < by_end.len() && by_end[at].ended < entry.begun {
            newest = newest.max(by_end[at].revision);
            at += 1;
        }
        if entry.revision < newest || (writes(&entry.call) && entry.revision == newest) {
            return Err(format!("answered from before revision {newest}, which was known: {entry:?}"));
        }
    }
    // The state after each write.
    let mut states: Vec<(u64, State)> = vec![(0, BTreeMap::new())];
    let mut expected: Seen = Vec::new();
    for entry in &order {
        let mut state = states.last().expect("the first").1.clone();
        let (key, value) = match &entry.call {
            Call::Put { key, value } | Call::Swap { key, value, .. } => (key, Some(value.clone())),
            Call::Delete { key, .. } => (key, None),
            Call::Read { .. } => unreachable!("reads do not write"),
        };
        match &value {
            Some(value) => drop(state.insert(key.clone(), (value.clone(), entry.revision))),
            None => drop(state.remove(key)),
        }
        expected.push((key.clone(), value, entry.revision));
        states.push((entry.revision, state));
    }
    for entry in history {
        let limit = if writes(&entry.call) { entry.revision - 1 } else { entry.revision };
        let place = states.partition_point(|(revision, _)| *revision <= limit) - 1;
        let state = &states[place].1;
        let fine = match &entry.call {
            Call::Put { .. } => true,
            Call::Swap { key, expected, succeeded, seen, .. } => {
                let current = state.get(key);
                let holds = current.map_or(0, |(_, revision)| *revision) == *expected;
                holds == *succeeded && (*succeeded || current == seen.as_ref())
            }
            Call::Delete { key, removed } => state.contains_key(key) == *removed,
            Call::Read { found } => {
                found.len() == state.len()
                    && found.iter().all(|(key, value)| state.get(key).is_some_and(|(v, _)| v == value))
            }
        };
        if !fine {
            return Err(format!("not explained by the writes before it: {entry:?} at {state:?}"));
        }
    }
    match *seen == expected {
        true => Ok(()),
        false => {
            let at = seen.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(seen.len().min(expected.len()));
            Err(format!("the watch differs at event {at}: saw {:?}, written was {:?}", seen.get(at), expected.get(at)))
        }
    }
}

/// Lets clients at a store all at once; answers what they did and what a watch saw of it.
pub(crate) async fn record(store: Arc<dyn Store>, clients: u64, calls: u64) -> (Vec<Entry>, Seen) {
    let clock = Arc::new(AtomicU64::new(1));
    let mut watch = store.watch(WatchRequest { span: Span::prefix("/h/"), start: 0 }).await.unwrap();
    let mut tasks = Vec::new();
    for client in 0..clients {
        let (store, clock) = (store.clone(), clock.clone());
        tasks.push(tokio::spawn(async move {
            let mut entries = Vec::new();
            let mut random = client.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            for n in 0..calls {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let key = format!("/h/{}", random % 4);
                let value = format!("{client}-{n}");
                let begun = clock.fetch_add(1, Ordering::SeqCst);
                let (call, revision) = one(&*store, (random >> 32) % 6, key, value, &entries).await;
                entries.push(Entry { begun, ended: clock.fetch_add(1, Ordering::SeqCst), revision, call });
            }
            entries
        }));
    }
    let mut history = Vec::new();
    for task in tasks {
        history.extend(task.await.unwrap());
    }
    let last = history.iter().filter(|entry| writes(&entry.call)).map(|entry| entry.revision).max().unwrap_or(0);
    let mut seen = Vec::new();
    loop {
        let batch = tokio::time::timeout(std::time::Duration::from_secs(30), watch.next()).await.unwrap().unwrap();
        seen.extend(batch.events.into_iter().map(|event| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let value = (event.change == store::Change::Put).then(|| text(&event.kv.value));
            (text(&event.kv.key), value, event.revision)
        }));
        if batch.through >= last {
            return (history, seen);
        }
    }
}

async fn one(store: &dyn Store, what: u64, key: String, value: String, before: &[Entry]) -> (Call, u64) {
    match what {
        0 | 1 => {
            let reply = store.txn(Txn::new().then(Op::put(key.clone(), value.clone()))).await.unwrap();
            (Call::Put { key, value }, reply.revision)
        }
        2 | 3 => {
            // The newest that this client knows of the key: sometimes it still holds.
            let known = before.iter().rev().find_map(|entry| match &entry.call {
                Call::Put { key: other, .. } if *other == key => Some(entry.revision),
                Call::Swap { key: other, succeeded: true, .. } if *other == key => Some(entry.revision),
                _ => None,
            });
            let expected = known.unwrap_or(0);
            let txn = Txn::new()
                .when(key.clone(), Test::ModRevision(expected))
                .then(Op::put(key.clone(), value.clone()))
                .otherwise(Op::get(key.clone()));
            let reply = store.txn(txn).await.unwrap();
            let seen = match &reply.replies[0] {
                OpReply::Get { kvs } => {
                    kvs.first().map(|kv| (String::from_utf8(kv.value.to_vec()).unwrap(), kv.mod_revision))
                }
                _ => None,
            };
            (Call::Swap { key, expected, value, succeeded: reply.succeeded, seen }, reply.revision)
        }
        4 => {
            let reply = store.txn(Txn::new().then(Op::delete(key.clone()))).await.unwrap();
            let OpReply::Delete { prev } = &reply.replies[0] else { panic!("{reply:?}") };
            (Call::Delete { key, removed: !prev.is_empty() }, reply.revision)
        }
        _ => {
            let reply = store.range(RangeRequest::newest(Span::prefix("/h/"))).await.unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let found = reply.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect();
            (Call::Read { found }, reply.revision)
        }
    }
}

/// Faults that stores have had (etcd's issues about consistency among them), each put into a good history: the checker has
/// to find every one.
pub(crate) fn faults_are_found(history: &[Entry], seen: &Seen) {
    type Fault = fn(&mut Vec<Entry>, &mut Seen) -> bool;
    let faults: [(&str, Fault); 11] = [
        ("an acknowledged write is lost", |history, _| {
            let Some(read) = history.iter_mut().find_map(|entry| match &mut entry.call {
                Call::Read { found } if !found.is_empty() => Some(found),
                _ => None,
            }) else {
                return false;
            };
            read.pop_first().is_some()
        }),
        ("a read shows a value that was never written", |history, _| {
            history.iter_mut().any(|entry| match &mut entry.call {
                Call::Read { found } if !found.is_empty() => {
                    *found.values_mut().next().expect("one") = "never".into();
                    true
                }
                _ => false,
            })
        }),
        ("a read is stale", |history, _| {
            let old = history.iter().filter(|entry| writes(&entry.call)).map(|entry| entry.revision).min().unwrap_or(0);
            let newest =
                history.iter_mut().filter(|entry| matches!(entry.call, Call::Read { .. })).max_by_key(|e| e.begun);
            newest.is_some_and(|entry| {
                let late = entry.revision > old;
                entry.revision = old;
                late
            })
        }),
        ("the revision goes back", |history, _| {
            let last = history.iter_mut().filter(|entry| writes(&entry.call)).max_by_key(|entry| entry.ended);
            last.is_some_and(|entry| {
                entry.revision = 1;
                true
            })
        }),
        ("a revision is given twice", |history, _| {
            let first = history.iter().find(|entry| writes(&entry.call)).map(|entry| entry.revision);
            let last = history.iter_mut().rfind(|entry| writes(&entry.call));
            last.zip(first).is_some_and(|(entry, first)| {
                entry.revision = first;
                true
            })
        }),
        ("a compare-and-swap succeeds that should not", |history, _| {
            history.iter_mut().any(|entry| match &mut entry.call {
                Call::Swap { succeeded: true, expected, .. } => {
                    *expected += 100_000;
                    true
                }
                _ => false,
            })
        }),
        ("a compare-and-swap fails that should not", |history, _| {
            history.iter_mut().any(|entry| match &mut entry.call {
                Call::Swap { succeeded: false, expected, seen: Some((_, revision)), .. } => {
                    *expected = *revision;
                    true
                }
                _ => false,
            })
        }),
        ("a delete finds what is not there", |history, _| {
            history.iter_mut().any(|entry| match &mut entry.call {
                Call::Delete { removed, .. } if !*removed => {
                    *removed = true;
                    true
                }
                _ => false,
            })
        }),
        ("a watch misses an event", |_, seen| {
            let middle = seen.len() / 2;
            seen.len() > 2 && seen.remove(middle).2 > 0
        }),
        ("a watch tells an event twice", |_, seen| seen.get(1).cloned().map(|event| seen.insert(2, event)).is_some()),
        ("a watch tells events in another order", |_, seen| {
            seen.len() > 3 && {
                seen.swap(1, 2);
                true
            }
        }),
    ];
    for (name, fault) in faults {
        let (mut history, mut seen) = (history.to_vec(), seen.clone());
        assert!(fault(&mut history, &mut seen), "{name}: the history has no place for it");
        assert!(check(&history, &seen).is_err(), "{name}: not found");
    }
}

/// The whole of it, for one store.
pub(crate) async fn is_linearizable(store: Arc<dyn Store>, clients: u64, calls: u64) {
    let (history, seen) = record(store, clients, calls).await;
    if let Err(why) = check(&history, &seen) {
        panic!("{why}");
    }
    faults_are_found(&history, &seen);
}
