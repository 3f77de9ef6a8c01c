//! A full disk under the API, for real: needs root to mount one.

use apiserver::{Config, DeleteOptions, Gvr, Patch, Selectors, Server, User};
use serde_json::json;

const MAPS: Gvr = Gvr::new("", "v1", "configmaps");

/// A small file system of its own, gone with the value.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "knarr-api-test"])
            .arg(folder.path())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: a full disk needs root");
            return None;
        }
        Some(Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_refused_clearly_and_work_again_when_there_is_room() {
    let Some(disk) = Small::mount() else { return };
    let config = Config { root: Some(disk.0.path().join("root")), ..Config::default() };
    let server = Server::start(config.clone()).await.unwrap();
    let api = server.local(User::admin(), "test");
    let map = |n: usize| json!({"metadata": {"name": format!("m{n:04}")}, "data": {"k": "v".repeat(20_000)}});
    let filler = disk.0.path().join("filler");
    std::fs::write(&filler, vec![1; 4 << 20]).unwrap();
    let mut taken = 0;
    let refused = loop {
        match api.create(&MAPS, "default", &map(taken)).await {
            Ok(_) => taken += 1,
            Err(status) => break status,
        }
        assert!(taken < 1000, "the disk never filled");
    };
    assert_eq!((refused.code, refused.reason, refused.retry_after_secs), (503, "ServiceUnavailable", 1), "{refused}");
    assert!(refused.message.contains("disk full while writing"), "{refused}");

    // Reading goes on, and so does making room.
    let count = async || {
        let listed = api.list(&MAPS, "default", &Selectors::default()).await.unwrap();
        listed.items.iter().filter(|map| map["metadata"]["name"].as_str().unwrap().starts_with('m')).count()
    };
    assert_eq!(count().await, taken, "what was refused is not there");
    for n in 0..taken / 2 {
        api.delete(&MAPS, "default", &format!("m{n:04}"), &DeleteOptions::default()).await.unwrap();
    }
    std::fs::remove_file(&filler).unwrap();
    for n in 0..20 {
        api.create(&MAPS, "default", &map(taken + n)).await.unwrap();
    }
    let patch = Patch::Merge(json!({"data": {"k": "small"}}));
    api.patch(&MAPS, "default", &format!("m{:04}", taken - 1), "", &patch).await.unwrap();
    let expected = taken - taken / 2 + 20;
    assert_eq!(count().await, expected);
    drop(api);
    server.stop().await;
    let server = Server::start(config).await.unwrap();
    let api = server.local(User::admin(), "test");
    let listed = api.list(&MAPS, "default", &Selectors::default()).await.unwrap();
    assert_eq!(listed.items.len(), expected + 1, "and the authority's");
    drop(api);
    server.stop().await;
}
