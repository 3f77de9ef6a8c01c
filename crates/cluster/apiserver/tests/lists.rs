//! Lists that are too long to be taken from the store at once.

use apiserver::{Config, Server, User};
use client::{Gvr, Selectors};
use serde_json::json;

const MAPS: Gvr = Gvr::new("", "v1", "configmaps");

#[tokio::test]
async fn a_long_list_is_whole_and_of_one_revision() {
    let server = Server::start(Config::default()).await.unwrap();
    let api = server.local(User::admin(), "test");
    let make = async |name: String| {
        let labels = json!({"odd": (name.len() % 2 == 1).to_string()});
        api.create(&MAPS, "default", &json!({"metadata": {"name": name, "labels": labels}})).await.unwrap();
    };
    for number in 0..4500 {
        make(format!("m-{number}")).await;
    }
    // One that stands before all of them, then one that stands behind: no list may have the second and not the first.
    let writer = async {
        for number in 0..20 {
            make(format!("a-{number}")).await;
            make(format!("z-{number}")).await;
        }
    };
    let reader = async {
        loop {
            let list = api.list(&MAPS, "default", &Selectors::default()).await.unwrap();
            let names: Vec<&str> = list.items.iter().filter_map(|map| map["metadata"]["name"].as_str()).collect();
            assert!(names.is_sorted());
            let count = |start: &str| names.iter().filter(|name| name.starts_with(start)).count();
            let (first, behind) = (count("a-"), count("z-"));
            assert_eq!(count("m-"), 4500);
            assert!(first == behind || first == behind + 1, "{first} and {behind}");
            if behind == 20 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(writer, reader);
    let odd = Selectors { labels: "odd=true".into(), ..Default::default() };
    let chosen = api.list(&MAPS, "default", &odd).await.unwrap().items.len();
    // m-0 to m-9, m-100 to m-999, and ten of each of the two others.
    assert_eq!(chosen, 10 + 900 + 2 * 10);
    server.stop().await;
}
