//! What every backend must do, written once over the trait. A backend's test hands in fresh stores.

pub(crate) mod history;

use std::sync::Arc;
use std::time::Duration;

use store::{Bytes, Change, Compare, Op, OpReply, Put, RangeRequest, Span, Store, StoreError, Test, Txn, WatchRequest};

pub(crate) type Fresh<'a> = &'a dyn Fn() -> Arc<dyn Store>;

pub(crate) async fn all(fresh: Fresh<'_>) {
    create_update_delete_by_compare(&*fresh()).await;
    ranges_page_and_count(&*fresh()).await;
    old_revisions_are_answered_until_compacted(&*fresh()).await;
    stamps_show_the_revision(&*fresh()).await;
    transactions_are_all_or_nothing(&*fresh()).await;
    watches_see_every_change_once_in_order(&*fresh()).await;
    watches_resume_from_a_kept_revision(&*fresh()).await;
    watches_wake_up_only_for_their_span(&*fresh()).await;
    leases_take_their_keys_along(&*fresh()).await;
    leases_expire(&*fresh()).await;
    racing_compare_and_swaps_lose_nothing(fresh()).await;
    a_backup_moves_to_another_store(&*fresh(), &*fresh()).await;
    history::is_linearizable(fresh(), 8, 60).await;
}

async fn put(store: &dyn Store, key: &'static str, value: impl Into<Bytes>) -> u64 {
    store.txn(Txn::new().then(Op::put(key, value))).await.unwrap().revision
}

async fn keys(store: &dyn Store, span: Span) -> Vec<String> {
    let reply = store.range(RangeRequest::newest(span)).await.unwrap();
    reply.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

async fn create_update_delete_by_compare(store: &dyn Store) {
    let create = || Txn::new().when("/a", Test::ModRevision(0)).then(Op::put("/a", "1")).otherwise(Op::get("/a"));
    let first = store.txn(create()).await.unwrap();
    assert!(first.succeeded);
    let again = store.txn(create()).await.unwrap();
    assert!(!again.succeeded, "a second create must not overwrite");
    assert_eq!(again.revision, first.revision, "a transaction that writes nothing takes no revision");
    let OpReply::Get { kvs } = &again.replies[0] else { panic!("{again:?}") };
    assert_eq!((kvs[0].mod_revision, kvs[0].version, &kvs[0].value[..]), (first.revision, 1, &b"1"[..]));

    let update = Txn::new().when("/a", Test::ModRevision(first.revision)).then(Op::put("/a", "2"));
    let second = store.txn(update.clone()).await.unwrap();
    assert!(second.succeeded && second.revision == first.revision + 1);
    assert!(!store.txn(update).await.unwrap().succeeded, "a stale revision must not write");

    let delete = Txn::new().when("/a", Test::Exists).then(Op::delete("/a"));
    let gone = store.txn(delete.clone()).await.unwrap();
    let OpReply::Delete { prev } = &gone.replies[0] else { panic!("{gone:?}") };
    assert_eq!((prev[0].create_revision, prev[0].version, &prev[0].value[..]), (first.revision, 2, &b"2"[..]));
    assert!(!store.txn(delete).await.unwrap().succeeded);
    assert_eq!(keys(store, Span::all()).await, Vec::<String>::new());

    put(store, "/a", "3").await;
    let reply = store.range(RangeRequest::newest(Span::key("/a"))).await.unwrap();
    assert_eq!(reply.kvs[0].version, 1, "a key made anew counts from one");
}

async fn ranges_page_and_count(store: &dyn Store) {
    for key in ["/p/a", "/p/b", "/p/c", "/p0", "/q/a"] {
        put(store, key, key).await;
    }
    let page =
        store.range(RangeRequest { span: Span::prefix("/p/"), revision: None, limit: 2, count: true }).await.unwrap();
    assert_eq!((page.kvs.len(), page.more, page.count), (2, true, Some(3)));
    let rest = Span::prefix("/p/").starting_at("/p/b\0");
    assert_eq!(keys(store, rest).await, ["/p/c"]);
    let whole = RangeRequest { limit: 3, ..RangeRequest::newest(Span::prefix("/p/")) };
    assert!(!store.range(whole).await.unwrap().more, "a full last page is the last");
    assert_eq!(keys(store, Span::range("/p/c", "/q/a")).await, ["/p/c", "/p0"]);
    assert_eq!(keys(store, Span::range("/z", "/a")).await, Vec::<String>::new());
}

async fn old_revisions_are_answered_until_compacted(store: &dyn Store) {
    let one = put(store, "/k", "1").await;
    let two = put(store, "/k", "2").await;
    store.txn(Txn::new().then(Op::delete("/k"))).await.unwrap();
    let last = put(store, "/other", "x").await;
    let at = |revision| store.range(RangeRequest { revision: Some(revision), ..RangeRequest::newest(Span::all()) });
    assert_eq!(&at(one).await.unwrap().kvs[0].value[..], b"1");
    assert_eq!(&at(two).await.unwrap().kvs[0].value[..], b"2");
    assert_eq!(at(two + 1).await.unwrap().kvs.len(), 0);
    assert_eq!(at(last + 1).await, Err(StoreError::Future { asked: last + 1, current: last }));

    store.compact(two).await.unwrap();
    assert_eq!(at(one).await, Err(StoreError::Compacted { asked: one, oldest: two }));
    assert_eq!(&at(two).await.unwrap().kvs[0].value[..], b"2", "the compacted revision itself is kept");
    assert!(matches!(store.compact(two).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.compact(last + 9).await, Err(StoreError::Future { .. })));
    store.compact(last).await.unwrap();
    assert_eq!(at(last).await.unwrap().kvs.len(), 1);
}

async fn stamps_show_the_revision(store: &dyn Store) {
    let op = Op::Put(Put { key: "/s".into(), value: "<>".into(), lease: 0, stamp_at: Some(1) });
    let reply = store.txn(Txn::new().then(op)).await.unwrap();
    let OpReply::Put { now, .. } = &reply.replies[0] else { panic!("{reply:?}") };
    assert_eq!(now.value, format!("<{}>", reply.revision));
    assert_eq!(now.restamped(1_000_000), "<1000000>");
    let read = store.range(RangeRequest::newest(Span::key("/s"))).await.unwrap();
    assert_eq!(read.kvs[0], *now);
    let bad = Op::Put(Put { key: "/s".into(), value: "<>".into(), lease: 0, stamp_at: Some(3) });
    assert!(matches!(store.txn(Txn::new().then(bad)).await, Err(StoreError::BadStamp { .. })));
}

async fn transactions_are_all_or_nothing(store: &dyn Store) {
    let before = store.revision().await.unwrap();
    let twice = Txn::new().then(Op::put("/x", "1")).then(Op::put("/x", "2"));
    assert!(matches!(store.txn(twice).await, Err(StoreError::DuplicateKey(_))));
    let leased = Put { key: "/y".into(), value: "1".into(), lease: 77, stamp_at: None };
    let lost = Txn::new().then(Op::put("/x", "1")).then(Op::Put(leased));
    assert_eq!(store.txn(lost).await, Err(StoreError::LeaseNotFound(77)));
    let huge = Txn::new().then(Op::put("/x", vec![0; (3 << 20) + 1]));
    assert!(matches!(store.txn(huge).await, Err(StoreError::TooLarge { .. })));
    assert_eq!(store.revision().await.unwrap(), before);

    let both = Txn::new().then(Op::put("/x", "1")).then(Op::put("/y", "2")).then(Op::get("/x"));
    let reply = store.txn(both).await.unwrap();
    assert_eq!(reply.revision, before + 1, "one transaction, one revision");
    let OpReply::Get { kvs } = &reply.replies[2] else { panic!("{reply:?}") };
    assert_eq!(&kvs[0].value[..], b"1", "a transaction sees its own writes");
    let compares = vec![
        Compare { key: "/x".into(), test: Test::Value("1".into()) },
        Compare { key: "/y".into(), test: Test::Version(1) },
        Compare { key: "/y".into(), test: Test::CreateRevision(before + 1) },
        Compare { key: "/z".into(), test: Test::Absent },
    ];
    assert!(store.txn(Txn { compares, ..Txn::default() }).await.unwrap().succeeded);
}

/// `+key=value` or `-key` for each event.
fn shown(events: &[store::Event]) -> Vec<String> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let one = |event: &store::Event| match event.change {
        Change::Put => format!("+{}={}", text(&event.kv.key), text(&event.kv.value)),
        Change::Delete => format!("-{}", text(&event.kv.key)),
    };
    events.iter().map(one).collect()
}

async fn watches_see_every_change_once_in_order(store: &dyn Store) {
    put(store, "/w/old", "0").await;
    let mut watch = store.watch(WatchRequest { span: Span::prefix("/w/"), start: 0 }).await.unwrap();
    put(store, "/w/a", "1").await;
    put(store, "/elsewhere", "1").await;
    store.txn(Txn::new().then(Op::delete("/w/old")).then(Op::put("/w/a", "2"))).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let batch = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap();
        seen.extend(batch.events);
    }
    assert_eq!(shown(&seen), ["+/w/a=1", "-/w/old", "+/w/a=2"]);
    assert_eq!(seen[1].kv.value, "0", "a delete shows what was deleted");
    assert_eq!(seen[2].prev.as_ref().unwrap().value, "1", "an update shows what was before");
    assert!(seen[0].revision < seen[1].revision && seen[1].revision == seen[2].revision);
    let progress = watch.poll().await.unwrap();
    assert_eq!(progress.events.len(), 0);
    // An old etcd cannot be asked how far its events have come; what has been seen is certain.
    let certain = seen[2].revision..=store.revision().await.unwrap();
    assert!(certain.contains(&progress.through), "{progress:?} {certain:?}");
}

async fn watches_resume_from_a_kept_revision(store: &dyn Store) {
    let one = put(store, "/r/a", "1").await;
    put(store, "/r/b", "2").await;
    let three = put(store, "/r/a", "3").await;
    let from = |start| store.watch(WatchRequest { span: Span::prefix("/r/"), start });
    let all = from(one).await.unwrap().next().await.unwrap();
    assert_eq!((shown(&all.events), all.through), (vec!["+/r/a=1".into(), "+/r/b=2".into(), "+/r/a=3".into()], three));
    let some = from(one + 1).await.unwrap().next().await.unwrap();
    assert_eq!(shown(&some.events), ["+/r/b=2", "+/r/a=3"]);

    let mut behind = from(one).await.unwrap();
    store.compact(one + 1).await.unwrap();
    assert_eq!(from(one).await.err(), Some(StoreError::Compacted { asked: one, oldest: one + 1 }));
    assert!(matches!(behind.next().await, Err(StoreError::Compacted { .. })), "a watch that fell behind learns it");
    assert_eq!(shown(&from(three).await.unwrap().next().await.unwrap().events), ["+/r/a=3"]);
    let mut future = from(three + 2).await.unwrap();
    put(store, "/r/c", "skipped").await;
    put(store, "/r/c", "seen").await;
    assert_eq!(shown(&future.next().await.unwrap().events), ["+/r/c=seen"]);
}

async fn watches_wake_up_only_for_their_span(store: &dyn Store) {
    let mut watch = store.watch(WatchRequest { span: Span::key("/n/a"), start: 0 }).await.unwrap();
    put(store, "/n/ab", "x").await;
    assert!(tokio::time::timeout(Duration::from_millis(20), watch.next()).await.is_err());
    put(store, "/n/a", "y").await;
    let batch = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap();
    assert_eq!(shown(&batch.events), ["+/n/a=y"]);
}

async fn leases_take_their_keys_along(store: &dyn Store) {
    let id = store.lease_grant(0, 600).await.unwrap();
    assert_eq!(store.lease_grant(id, 600).await, Err(StoreError::LeaseExists(id)));
    let leased = |key: &'static str| Op::Put(Put { key: key.into(), value: "v".into(), lease: id, stamp_at: None });
    store.txn(Txn::new().then(leased("/l/a")).then(leased("/l/b"))).await.unwrap();
    put(store, "/l/b", "freed from its lease").await;
    assert_eq!(store.lease_keep_alive(id).await, Ok(600));
    store.lease_revoke(id).await.unwrap();
    assert_eq!(keys(store, Span::prefix("/l/")).await, ["/l/b"]);
    assert_eq!(store.lease_revoke(id).await, Err(StoreError::LeaseNotFound(id)));
    assert_eq!(store.lease_keep_alive(id).await, Err(StoreError::LeaseNotFound(id)));
}

async fn leases_expire(store: &dyn Store) {
    let id = store.lease_grant(4242, 1).await.unwrap();
    let mut watch = store.watch(WatchRequest { span: Span::key("/e"), start: 0 }).await.unwrap();
    let op = Op::Put(Put { key: "/e".into(), value: "v".into(), lease: id, stamp_at: None });
    store.txn(Txn::new().then(op)).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(tokio::time::timeout(Duration::from_secs(30), watch.next()).await.unwrap().unwrap().events);
    }
    assert_eq!(shown(&seen), ["+/e=v", "-/e"]);
}

/// Sixteen writers add to one counter by compare-and-swap while a watcher looks on: the sum is exact, and the watcher
/// sees every value once, in order.
async fn racing_compare_and_swaps_lose_nothing(store: Arc<dyn Store>) {
    const WRITERS: u64 = 16;
    const EACH: u64 = 25;
    let mut watch = store.watch(WatchRequest { span: Span::key("/n"), start: 0 }).await.unwrap();
    let one = |store: Arc<dyn Store>| async move {
        for _ in 0..EACH {
            loop {
                let read = store.range(RangeRequest::newest(Span::key("/n"))).await.unwrap();
                let (value, revision) = read.kvs.first().map_or((0, 0), |kv| {
                    (std::str::from_utf8(&kv.value).unwrap().parse::<u64>().unwrap(), kv.mod_revision)
                });
                let next = Op::put("/n", (value + 1).to_string());
                let txn = Txn::new().when("/n", Test::ModRevision(revision)).then(next);
                if store.txn(txn).await.unwrap().succeeded {
                    break;
                }
            }
        }
    };
    let tasks: Vec<_> = (0..WRITERS).map(|_| tokio::spawn(one(store.clone()))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut values = Vec::new();
    while values.len() < (WRITERS * EACH) as usize {
        values.extend(watch.next().await.unwrap().events.into_iter().map(|event| event.kv.value));
    }
    let expected: Vec<Bytes> = (1..=WRITERS * EACH).map(|n| n.to_string().into()).collect();
    assert_eq!(values, expected);
}

async fn a_backup_moves_to_another_store(from: &dyn Store, to: &dyn Store) {
    for n in 0..250 {
        let put = Put { key: format!("/b/{n:03}").into(), value: format!("<>{n}").into(), lease: 0, stamp_at: Some(1) };
        from.txn(Txn::new().then(Op::Put(put))).await.unwrap();
    }
    put(from, "/plain", vec![b'x'; 1 << 20]).await;
    let mut file = Vec::new();
    let (revision, count) = store::backup(from, &mut file).await.unwrap();
    assert_eq!((revision, count), (from.revision().await.unwrap(), 251));

    for bad in [&file[..file.len() - 1], &file[..40], &[&file[..], b"x"].concat()] {
        let refused = store::restore(to, std::io::Cursor::new(bad)).await;
        assert!(matches!(refused, Err(store::BackupError::Damaged(_))), "{refused:?}");
    }
    let mut flipped = file.clone();
    flipped[100] ^= 1;
    assert!(store::restore(to, std::io::Cursor::new(flipped)).await.is_err());
    assert_eq!(keys(to, Span::all()).await, Vec::<String>::new(), "a damaged backup changes nothing");

    assert_eq!(store::restore(to, std::io::Cursor::new(&file)).await.unwrap(), 251);
    let (old, new) = (from.range(RangeRequest::newest(Span::all())), to.range(RangeRequest::newest(Span::all())));
    let (old, new) = (old.await.unwrap().kvs, new.await.unwrap().kvs);
    assert_eq!(old.len(), new.len());
    for (old, new) in old.iter().zip(&new) {
        assert_eq!((&old.key, old.restamped(7)), (&new.key, new.restamped(7)));
        assert!(new.stamp_at.is_none() || new.value.starts_with(format!("<{}>", new.mod_revision).as_bytes()));
    }
    assert!(matches!(store::restore(to, std::io::Cursor::new(&file)).await, Err(store::BackupError::NotEmpty(_))));
}
