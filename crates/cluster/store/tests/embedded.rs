//! The embedded backend: the common suite, on disk and in memory, and what only a file can be asked.

mod suite;
#[path = "../../apiserver/tests/support/weakened.rs"]
mod weakened;

use std::sync::Arc;

use store::{Embedded, Op, Options, Put, RangeRequest, Span, Store, StoreError, Test, Txn, WatchRequest};

fn open(path: &std::path::Path) -> Embedded {
    Embedded::open(path, &Options::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_holds_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    let fresh = || {
        count.set(count.get() + 1);
        Arc::new(open(&dir.path().join(count.get().to_string()))) as Arc<dyn Store>
    };
    suite::all(&fresh).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_suite_holds_in_memory() {
    suite::all(&|| Arc::new(Embedded::ephemeral()) as Arc<dyn Store>).await;
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (revision, compacted, lease);
    {
        let store = open(&path);
        for n in 0..20 {
            let key = format!("/k/{}", n % 7);
            let op = Op::Put(Put { key: key.into(), value: format!("{n}:").into(), lease: 0, stamp_at: Some(0) });
            store.txn(Txn::new().then(op)).await.unwrap();
        }
        store.txn(Txn::new().then(Op::delete("/k/3"))).await.unwrap();
        compacted = store.revision().await.unwrap() - 5;
        store.compact(compacted).await.unwrap();
        lease = store.lease_grant(0, 600).await.unwrap();
        revision = store.revision().await.unwrap();
    }
    let store = open(&path);
    assert_eq!(store.revision().await.unwrap(), revision);
    let now = store.range(RangeRequest::newest(Span::all())).await.unwrap();
    assert_eq!(now.kvs.len(), 6);
    for kv in &now.kvs {
        assert!(kv.value.starts_with(kv.mod_revision.to_string().as_bytes()), "{kv:?}");
    }
    let old = RangeRequest { revision: Some(compacted - 1), ..RangeRequest::newest(Span::all()) };
    assert!(matches!(store.range(old).await, Err(StoreError::Compacted { .. })));
    let mut watch = store.watch(WatchRequest { span: Span::all(), start: compacted + 1 }).await.unwrap();
    let events = watch.next().await.unwrap().events;
    let revisions: Vec<u64> = events.iter().map(|event| event.revision).collect();
    assert_eq!(revisions, (compacted + 1..=revision).collect::<Vec<_>>(), "a watch goes on over a restart");
    assert_eq!(store.lease_keep_alive(lease).await, Ok(600));
}

#[tokio::test]
async fn progress_is_told_on_demand() {
    let store = Embedded::ephemeral();
    let mut watch = store.watch(WatchRequest { span: Span::prefix("/w/"), start: 0 }).await.unwrap();
    store.txn(Txn::new().then(Op::put("/elsewhere", "1"))).await.unwrap();
    let progress = watch.poll().await.unwrap();
    assert_eq!((progress.events.len(), progress.through), (0, store.revision().await.unwrap()));
}

#[test]
fn a_store_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let _first = open(&path);
    assert!(matches!(Embedded::open(&path, &Options::default()), Err(StoreError::Open { .. })));
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    std::fs::write(&path, b"not a database at all").unwrap();
    assert!(matches!(Embedded::open(&path, &Options::default()), Err(StoreError::Open { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"not a database at all");
}

/// The child of the crash test: writes until it is killed, telling what was acknowledged.
fn write_until_killed(path: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(open(path.as_ref()));
        let writer = |who: u32| {
            let store = store.clone();
            async move {
                for n in 0..1000u32 {
                    let key = format!("/w/{who}/{n:04}");
                    let txn = Txn::new()
                        .when(key.clone(), Test::Absent)
                        .then(Op::put(key.clone(), "x"))
                        .then(Op::put(format!("/last/{who}"), n.to_string()));
                    let revision = store.txn(txn).await.unwrap().revision;
                    // One line, one write call: a line is wholly there or not at all.
                    use std::io::Write;
                    std::io::stdout().write_all(format!("ack {key} {revision}\n").as_bytes()).unwrap();
                    if n % 50 == 49 && who == 0 {
                        let _ = store.compact(revision).await;
                    }
                }
            }
        };
        tokio::join!(writer(0), writer(1), writer(2), writer(3));
    });
}

#[test]
fn a_kill_at_any_step_loses_no_acknowledged_write() {
    if let Ok(path) = std::env::var("STORE_CRASH_CHILD") {
        return write_until_killed(&path);
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for point in ["store.commit.before", "store.commit.after", "store.publish.after"] {
        for nth in [1, 2, 17, 60, 111] {
            let path = dir.path().join(format!("{point}-{nth}"));
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "a_kill_at_any_step_loses_no_acknowledged_write", "--nocapture"])
                .env("STORE_CRASH_CHILD", &path)
                .env("KNARR_CRASH_POINT", format!("{point}:{nth}"))
                .stderr(std::process::Stdio::null())
                .output()
                .unwrap();
            assert!(!child.status.success(), "{point}:{nth} was not reached");
            let said = String::from_utf8(child.stdout).unwrap();
            let acked: Vec<(&str, u64)> = said
                .lines()
                .filter_map(|line| line.split_once("ack ")?.1.split_once(' '))
                .map(|(key, revision)| (key, revision.parse().unwrap()))
                .collect();
            let store = open(&path);
            let reply = runtime.block_on(store.range(RangeRequest::newest(Span::all()))).unwrap();
            let found: std::collections::BTreeMap<String, u64> =
                reply.kvs.iter().map(|kv| (String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision)).collect();
            for (key, revision) in &acked {
                assert_eq!(found.get(*key), Some(revision), "{point}:{nth} lost {key}");
            }
            // Both halves of each transaction, or neither.
            for who in 0..4 {
                let count = found.keys().filter(|key| key.starts_with(&format!("/w/{who}/"))).count();
                let last = reply.kvs.iter().find(|kv| kv.key == format!("/last/{who}"));
                let last = last.map_or(0, |kv| std::str::from_utf8(&kv.value).unwrap().parse::<usize>().unwrap() + 1);
                assert_eq!(count, last, "{point}:{nth} split a transaction of writer {who}");
            }
        }
    }
}

#[test]
fn tests_notice_a_weakened_build() {
    weakened::check(&[("compare", "the_suite_holds_in_memory")]);
}
