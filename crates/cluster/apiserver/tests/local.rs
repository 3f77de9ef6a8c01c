//! The API for parts of the same process: the same rules as over HTTPS.

use apiserver::{Config, DeleteOptions, Gvr, Happened, PODS, Patch, Selectors, Server, User};
use serde_json::json;

const MAPS: Gvr = Gvr::new("", "v1", "configmaps");

#[tokio::test]
async fn a_part_of_the_process_reads_writes_and_watches_as_a_user() {
    let server = Server::start(Config::default()).await.unwrap();
    let admin = server.local(User::admin(), "test");
    let all = Selectors::default();
    let begin = admin.list(&MAPS, "default", &all).await.unwrap();
    let mut events = admin
        .watch(&MAPS, "default", &Selectors { labels: "app=web".into(), ..all.clone() }, begin.revision)
        .await
        .unwrap();
    let map = json!({"metadata": {"name": "m", "labels": {"app": "web"}}, "data": {"k": "1"}});
    let made = admin.create(&MAPS, "default", &map).await.unwrap();
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "test");
    admin.create(&MAPS, "default", &json!({"metadata": {"name": "other"}})).await.unwrap();
    let patch = Patch::Merge(json!({"data": {"k": "2"}}));
    admin.patch(&MAPS, "default", "m", "", &patch).await.unwrap();
    let stale = admin.update(&MAPS, &made).await.unwrap_err();
    assert_eq!((stale.code, stale.reason), (409, "Conflict"));
    admin.delete(&MAPS, "default", "m", &DeleteOptions::default()).await.unwrap();
    assert_eq!(admin.get(&MAPS, "default", "m").await.unwrap_err().code, 404);
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let (batch, through) = events.next().await.unwrap();
        assert!(through > begin.revision);
        seen.extend(batch.into_iter().map(|event| (event.happened, event.object["data"]["k"].clone())));
    }
    let expected = [(Happened::Added, "1"), (Happened::Modified, "2"), (Happened::Deleted, "2")];
    assert_eq!(seen, expected.map(|(happened, text)| (happened, json!(text))));

    // Users have the rights that roles give them, here as over HTTPS.
    let nobody = admin.as_user(User::component("nobody"), "test");
    assert_eq!(nobody.list(&PODS, "", &all).await.unwrap_err().code, 403);
    let scheduler = admin.as_user(User::component("system:kube-scheduler"), "scheduler");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = admin.create(&PODS, "default", &pod).await.unwrap();
    assert_eq!(pod["spec"]["tolerations"][0]["tolerationSeconds"], 300, "admission has been");
    scheduler.bind("default", "p", "n1").await.unwrap();
    let unbound = Selectors { fields: "spec.nodeName=n1".into(), ..all };
    assert_eq!(scheduler.list(&PODS, "", &unbound).await.unwrap().items.len(), 1);
    assert_eq!(scheduler.bind("default", "p", "n2").await.unwrap_err().code, 409);
    drop((events, admin, nobody, scheduler));
    server.stop().await;
}
