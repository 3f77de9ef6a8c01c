//! The client's two ways: within the process and over HTTPS. One suite holds both to the same answers.

use apiserver::{Config, Server, User};
use client::{Client, DeleteOptions, Gvr, Happened, Https, Identity, PODS, Patch, Selectors, Target};
use serde_json::json;

const MAPS: Gvr = Gvr::new("", "v1", "configmaps");

/// `of` makes a client for a user, who writes as `agent`.
async fn suite(of: impl Fn(User, &str) -> Client) {
    let admin = of(User::admin(), "test");
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
    let nobody = of(User::component("nobody"), "test");
    assert_eq!(nobody.list(&PODS, "", &all).await.unwrap_err().code, 403);
    let scheduler = of(User::component("system:kube-scheduler"), "scheduler");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = admin.create(&PODS, "default", &pod).await.unwrap();
    assert_eq!(pod["spec"]["tolerations"][0]["tolerationSeconds"], 300, "admission has been");
    scheduler.bind("default", "p", "n1").await.unwrap();
    let unbound = Selectors { fields: "spec.nodeName=n1".into(), ..all };
    assert_eq!(scheduler.list(&PODS, "", &unbound).await.unwrap().items.len(), 1);
    assert_eq!(scheduler.bind("default", "p", "n2").await.unwrap_err().code, 409);
    // Errors are the same values.
    let twice = admin.create(&MAPS, "default", &json!({"metadata": {"name": "other"}})).await.unwrap_err();
    assert_eq!((twice.code, twice.reason, twice.kind.as_str()), (409, "AlreadyExists", "configmaps"));
    let none = Selectors { fields: "spec.bogus=x".into(), ..Selectors::default() };
    assert_eq!(admin.list(&PODS, "default", &none).await.unwrap_err().code, 400);
}

#[tokio::test]
async fn within_the_process() {
    let server = Server::start(Config::default()).await.unwrap();
    suite(|user, agent| server.local(user, agent)).await;
    server.stop().await;
}

/// A server whose tokens are users' names.
async fn over_https(dir: &std::path::Path, listen: &str) -> Server {
    let tokens = dir.join("tokens");
    let lines = [User::admin(), User::component("nobody"), User::component("system:kube-scheduler")]
        .map(|user| format!("{0},{0},{0},\"{1}\"\n", user.name, user.groups.join(",")));
    std::fs::write(&tokens, lines.concat()).unwrap();
    let config = Config {
        root: Some(dir.join("root")),
        tokens: Some(tokens),
        listen: listen.parse().unwrap(),
        ..Config::default()
    };
    Server::start(config).await.unwrap()
}

fn https(server: &Server, user: &str, agent: &str) -> Client {
    let target = Target::parse(&format!("https://{}", server.address())).unwrap();
    let nobody = Identity::default();
    Client::new(Https::new(vec![target], server.authority_pem(), &nobody, Some(user), agent).unwrap())
}

#[tokio::test]
async fn from_another_machine() {
    let dir = tempfile::tempdir().unwrap();
    let server = over_https(dir.path(), "127.0.0.1:0").await;
    suite(|user, agent| https(&server, &user.name, agent)).await;
    let stranger = https(&server, "what token", "test");
    assert_eq!(stranger.list(&PODS, "", &Selectors::default()).await.unwrap_err().code, 401);
    server.stop().await;
}

/// Many objects come in pages and are one list.
#[tokio::test]
async fn long_lists_come_whole() {
    let dir = tempfile::tempdir().unwrap();
    let server = over_https(dir.path(), "127.0.0.1:0").await;
    let admin = server.local(User::admin(), "test");
    for number in 0..1001 {
        admin.create(&MAPS, "default", &json!({"metadata": {"name": format!("m{number}")}})).await.unwrap();
    }
    let client = https(&server, "kubernetes-admin", "test");
    let list = client.list(&MAPS, "default", &Selectors::default()).await.unwrap();
    let here = admin.list(&MAPS, "default", &Selectors::default()).await.unwrap();
    assert_eq!((list.items.len(), list.revision), (here.items.len(), here.revision));
    assert_eq!(list.items, here.items);
    server.stop().await;
}

/// The server goes and comes again: a watch goes on where it was, and nothing is missed or told twice.
#[tokio::test]
async fn a_watch_survives_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = over_https(dir.path(), "127.0.0.1:0").await;
    let (client, all) =
        (https(&server, "kubernetes-admin", "test"), Selectors { labels: "app=x".into(), ..Selectors::default() });
    let listen = server.address().to_string();
    let from = client.list(&MAPS, "default", &all).await.unwrap().revision;
    let mut events = client.watch(&MAPS, "default", &all, from).await.unwrap();
    let make = async |client: &Client, name: &str| {
        client.create(&MAPS, "default", &json!({"metadata": {"name": name, "labels": {"app": "x"}}})).await.unwrap();
    };
    make(&client, "before").await;
    let mut seen = Vec::new();
    let mut next = async |seen: &mut Vec<String>| {
        let (batch, _) = events.next().await.unwrap();
        seen.extend(batch.iter().map(|event| event.object["metadata"]["name"].as_str().unwrap().to_owned()));
    };
    next(&mut seen).await;
    server.stop().await;
    assert_eq!(client.get(&MAPS, "default", "before").await.unwrap_err().code, 503);
    let server = over_https(dir.path(), &listen).await;
    make(&server.local(User::admin(), "test"), "after").await;
    while seen.len() < 2 {
        next(&mut seen).await;
    }
    assert_eq!(seen, ["before", "after"]);
    assert_eq!(client.get(&MAPS, "default", "after").await.unwrap()["metadata"]["name"], "after");
    server.stop().await;
}
