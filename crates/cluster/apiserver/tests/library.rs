//! The API as a library: as many isolated ones in a process as somebody likes, as tests of controllers use it
//! (`docs/guides/testing-controllers.md`).

use std::time::{Duration, Instant};

use apiserver::{Client, Config, Gvr, Happened, Selectors, Server, User};
use serde_json::json;

const MAPS: Gvr = Gvr::new("", "v1", "configmaps");
const NAMESPACES: Gvr = Gvr::new("", "v1", "namespaces");
const DEFINITIONS: Gvr = Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
const MANY: usize = 20;

fn admin(server: &Server) -> Client {
    server.local(User::admin(), "test")
}

fn sockets() -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = links.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Twenty at once: each knows its own objects, its own kinds, its own authority, and tells its own watchers alone. When
/// they end, nothing of them is left: no task, no socket, no port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_apis_in_one_process_know_nothing_of_each_other() {
    let (sockets_before, tasks_before) = (sockets(), tasks());
    let mut servers = Vec::new();
    for _ in 0..MANY {
        servers.push(Server::start(Config::default()).await.unwrap());
    }
    let all = Selectors::default();
    let mut watches = Vec::new();
    for server in &servers {
        let client = admin(server);
        let now = client.list(&MAPS, "mine", &all).await.unwrap().revision;
        watches.push(client.watch(&MAPS, "mine", &all, now).await.unwrap());
    }
    // All are written to at the same time, and all write the same names.
    let writers: Vec<_> = servers
        .iter()
        .enumerate()
        .map(|(number, server)| {
            let client = admin(server);
            tokio::spawn(async move {
                client.create(&NAMESPACES, "", &json!({"metadata": {"name": "mine"}})).await.unwrap();
                let map = json!({"metadata": {"name": "same"}, "data": {"of": number.to_string()}});
                client.create(&MAPS, "mine", &map).await.unwrap();
                if number % 2 == 0 {
                    let definition = json!({"metadata": {"name": "boats.example.com"}, "spec": {"group": "example.com",
                        "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"}, "versions": [{"name": "v1",
                        "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
                    client.create(&DEFINITIONS, "", &definition).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let boats = Gvr::new("example.com", "v1", "boats");
    for (number, (server, watch)) in servers.iter().zip(&mut watches).enumerate() {
        let client = admin(server);
        let mut seen = Vec::new();
        while !seen.iter().any(|(_, name, _)| name == "same") {
            let (events, _) = watch.next().await.unwrap();
            seen.extend(events.into_iter().map(|event| {
                let name = event.object["metadata"]["name"].as_str().unwrap().to_owned();
                (event.happened, name, event.object["data"]["of"].clone())
            }));
        }
        // The authority's certificate in the new namespace is of this server's making; everything else was written above.
        seen.retain(|(_, name, _)| name != "kube-root-ca.crt");
        assert_eq!(seen, [(Happened::Added, "same".to_owned(), json!(number.to_string()))]);
        assert_eq!(client.get(&MAPS, "mine", "same").await.unwrap()["data"]["of"], number.to_string());
        let known = loop {
            // A definition takes effect a moment after it was made.
            match client.list(&boats, "mine", &all).await {
                Err(_) if number % 2 == 0 => tokio::task::yield_now().await,
                answer => break answer,
            }
        };
        assert_eq!(known.is_ok(), number % 2 == 0, "{number}: {known:?}");
        let others = servers.iter().filter(|other| other.address() != server.address());
        assert!(
            others.clone().count() == MANY - 1
                && others.into_iter().all(|o| o.authority_pem() != server.authority_pem())
        );
    }
    let clients: Vec<_> = servers.iter().map(admin).collect();
    let addresses: Vec<_> = servers.iter().map(Server::address).collect();
    // One after the other ends, and the ones that are left go on.
    for (number, server) in servers.into_iter().enumerate() {
        server.stop().await;
        assert_eq!(clients[number].get(&MAPS, "mine", "same").await.unwrap_err().code, 503);
        if let Some(next) = clients.get(number + 1) {
            assert!(next.get(&MAPS, "mine", "same").await.is_ok());
        }
    }
    drop((watches, clients));
    for address in addresses {
        std::net::TcpListener::bind(address).expect("its port is free again");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while sockets() > sockets_before || tasks() > tasks_before {
        assert!(Instant::now() < deadline, "{} sockets and {} tasks are left", sockets(), tasks());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
