//! The API as clients see it on the wire: paging, watches, media types, hostile input.

#[path = "support/weakened.rs"]
mod weakened;
#[path = "support/wire.rs"]
mod wire;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use wire::{Wire, tls};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_ask() {
    let mut client = Wire::start().await;
    let small = client.send(Method::GET, MAPS, &[("accept-encoding", "gzip")], "").await;
    assert!(small.headers.get("content-encoding").is_none(), "not worth it");
    let kilobyte = "v".repeat(1000);
    for n in 0..150 {
        let map = json!({"metadata": {"name": format!("m{n}")}, "data": {"k": kilobyte}});
        assert_eq!(client.post(MAPS, &map).await.code, 201);
    }
    for path in [MAPS.to_owned(), format!("{MAPS}?limit=140"), "/openapi/v2".to_owned()] {
        let plain = client.get(&path).await;
        assert!(plain.headers.get("content-encoding").is_none(), "nobody asked");
        let none = client.send(Method::GET, &path, &[("accept-encoding", "gzip;q=0, identity")], "").await;
        assert_eq!(none.body, plain.body);
        let packed = client.send(Method::GET, &path, &[("accept-encoding", "deflate, gzip")], "").await;
        assert_eq!((packed.code, &packed.headers["content-encoding"]), (200, &"gzip".parse().unwrap()));
        assert!(packed.body.len() < plain.body.len() / 4, "{} of {}", packed.body.len(), plain.body.len());
        let mut read = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed.body[..]), &mut read).unwrap();
        assert!(read == plain.body, "{path}");
    }
}

#[tokio::test]
async fn lists_come_in_pages_of_one_revision() {
    let mut client = Wire::start().await;
    for n in 0..7 {
        let answer = client.config_map(&format!("m{n}"), json!({"even": (n % 2 == 0).to_string()})).await;
        assert_eq!(answer.code, 201, "{:?}", answer.body);
    }
    let first = client.get(&format!("{MAPS}?limit=3")).await.json();
    assert_eq!(first["items"].as_array().unwrap().len(), 3);
    assert_eq!(first["metadata"]["remainingItemCount"], 5, "seven and the authority's");
    client.config_map("m99", json!({})).await;
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let second = client.get(&format!("{MAPS}?limit=10&continue={token}")).await.json();
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["items"].as_array().unwrap().len(), 5, "what came later is not in this list");
    let even = client.get(&format!("{MAPS}?limit=2&labelSelector=even%3Dtrue")).await.json();
    assert_eq!(even["items"].as_array().unwrap().len(), 2);
    let token = even["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest = client.get(&format!("{MAPS}?limit=2&labelSelector=even%3Dtrue&continue={token}")).await.json();
    let names: Vec<&str> =
        rest["items"].as_array().unwrap().iter().map(|map| map["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["m4", "m6"]);
    assert_eq!(client.get(&format!("{MAPS}?limit=1&continue=nonsense")).await.code, 400);
    // A revision that the store has not reached, and one that is no number.
    assert_eq!(client.get(&format!("{MAPS}?resourceVersion=99999999")).await.code, 504);
    assert_eq!(client.get(&format!("{MAPS}?resourceVersion=x")).await.code, 422);
    let old = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let exact = client.get(&format!("{MAPS}?resourceVersion={old}&resourceVersionMatch=Exact")).await.json();
    assert_eq!(exact["items"].as_array().unwrap().len(), 8);
}

fn lines(body: &Bytes) -> Vec<Value> {
    body.split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[tokio::test]
async fn watches_begin_where_they_are_asked_to() {
    let mut client = Wire::start().await;
    let made = client.config_map("w", json!({})).await.json();
    let version = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    client.send(Method::DELETE, &format!("{MAPS}/w"), &[], "").await;
    let from = client.get(&format!("{MAPS}?watch=1&resourceVersion={version}&timeoutSeconds=1")).await;
    let mut events = lines(&from.body);
    // The authority's certificate may come into the namespace meanwhile.
    events.retain(|event| event["object"]["metadata"]["name"] == "w");
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["type"], "DELETED");
    let gone: u64 = events[0]["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(gone > version.parse().unwrap(), "a deletion has a revision of its own");

    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let streamed = client.get(&format!("{MAPS}?watch=1&{initial}&timeoutSeconds=1")).await;
    let events = lines(&streamed.body);
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["ADDED", "BOOKMARK"]);
    assert_eq!(events[1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(client.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.code, 422);
    let future = client.get(&format!("{MAPS}?watch=1&resourceVersion=1&timeoutSeconds=1")).await;
    assert!(!lines(&future.body).is_empty(), "nothing is compacted yet: revision 1 is still kept");
}

/// A quiet watch learns how far it has come.
#[tokio::test]
async fn a_bookmark_comes_after_a_minute_to_who_wants_it() {
    let mut client = Wire::start().await;
    let made = client.config_map("w", json!({})).await.json();
    let version = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    // What happens elsewhere moves the revision on, and is told by nothing else.
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    let later = client.post("/api/v1/namespaces/default/secrets", &secret).await.json();
    let later: u64 = later["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let watch = format!("{MAPS}?watch=1&resourceVersion={version}&fieldSelector=metadata.name%3Dw&timeoutSeconds=61");
    let quiet = tls(&client.server, &[], None, "localhost").await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(quiet)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(&watch).header("host", "localhost").header("authorization", "Bearer secret");
    let unasked = sender.send_request(request.body(http_body_util::Empty::<Bytes>::new()).unwrap());
    let asked = format!("{watch}&allowWatchBookmarks=true");
    let (unasked, asked) = tokio::join!(unasked, client.get(&asked));
    let events = lines(&asked.body);
    // Another one may come with the end.
    assert!(events.iter().all(|event| event["type"] == "BOOKMARK"), "{events:?}");
    let event = events.first().expect("a bookmark");
    assert_eq!(event["object"]["kind"], "ConfigMap");
    let through: u64 = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(through >= later, "{through} of {later}");
    let body = http_body_util::BodyExt::collect(unasked.unwrap().into_body()).await.unwrap().to_bytes();
    assert_eq!(lines(&body), Vec::<Value>::new());
}

/// What clients of before 1.26 ask for tells the same as the documents that are asked for today.
#[tokio::test]
async fn discovery_in_pieces_says_what_the_whole_says() {
    let mut client = Wire::start().await;
    let core = client.get("/api").await.json();
    assert_eq!((&core["kind"], &core["versions"]), (&json!("APIVersions"), &json!(["v1"])));
    let groups = client.get("/apis").await.json();
    assert_eq!(groups["kind"], "APIGroupList");
    let accept = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let mut whole = Vec::new();
    for path in ["/api", "/apis"] {
        let found = client.send(Method::GET, path, &[accept], "").await.json();
        assert_eq!(found["kind"], "APIGroupDiscoveryList");
        whole.extend(found["items"].as_array().unwrap().clone());
    }
    assert_eq!(groups["groups"].as_array().unwrap().len() + 1, whole.len());
    let names = |list: &Value, field: &str| -> Vec<String> {
        let all = list.as_array().into_iter().flatten();
        all.map(|item| item[field].as_str().unwrap().to_owned()).collect()
    };
    for group in &whole {
        let name = group["metadata"]["name"].as_str().unwrap_or("");
        if !name.is_empty() {
            let alone = client.get(&format!("/apis/{name}")).await.json();
            assert_eq!(alone["kind"], "APIGroup");
            let listed = groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == name).unwrap();
            assert_eq!(
                (&alone["versions"], &alone["preferredVersion"]),
                (&listed["versions"], &listed["preferredVersion"])
            );
            assert_eq!(names(&alone["versions"], "version"), names(&group["versions"], "version"), "{name}");
        }
        for version in group["versions"].as_array().unwrap() {
            let number = version["version"].as_str().unwrap();
            let path = if name.is_empty() { format!("/api/{number}") } else { format!("/apis/{name}/{number}") };
            let list = client.get(&path).await.json();
            assert_eq!(list["kind"], "APIResourceList");
            let mut told: Vec<String> = Vec::new();
            for resource in version["resources"].as_array().unwrap() {
                let plural = resource["resource"].as_str().unwrap();
                told.push(plural.to_owned());
                told.extend(
                    names(&resource["subresources"], "subresource").iter().map(|sub| format!("{plural}/{sub}")),
                );
            }
            let mut legacy = names(&list["resources"], "name");
            told.sort();
            legacy.sort();
            assert_eq!(legacy, told, "{path}");
        }
    }
    assert_eq!(client.get("/apis/nosuch.example.com").await.code, 404);
}

#[tokio::test]
async fn each_check_of_health_has_a_path_of_its_own() {
    let mut client = Wire::start().await;
    for kind in ["livez", "readyz", "healthz"] {
        let verbose = client.get(&format!("/{kind}?verbose")).await;
        let text = String::from_utf8(verbose.body.to_vec()).unwrap();
        let checks: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("[+]")?.strip_suffix(" ok")).collect();
        assert!(checks.contains(&"ping") && checks.contains(&"store"), "{text}");
        assert!(text.ends_with(&format!("{kind} check passed\n")), "{text}");
        for check in checks {
            let alone = client.get(&format!("/{kind}/{check}")).await;
            assert_eq!((alone.code, &alone.body[..]), (200, &b"ok"[..]), "{kind}/{check}");
            let without = client.get(&format!("/{kind}?verbose&exclude={check}")).await;
            let text = String::from_utf8(without.body.to_vec()).unwrap();
            assert!(text.contains(&format!("[+]{check} excluded: ok")), "{text}");
        }
        assert_eq!(client.get(&format!("/{kind}/nosuch")).await.code, 404);
    }
}

#[tokio::test]
async fn answers_come_in_the_form_asked_for() {
    let mut client = Wire::start().await;
    let table = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
    let found = client.send(Method::GET, "/api/v1/namespaces", &[table], "").await.json();
    assert_eq!((&found["kind"], &found["columnDefinitions"][0]["name"]), (&json!("Table"), &json!("Name")));
    let partial = ("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io");
    let found = client.send(Method::GET, "/api/v1/namespaces", &[partial], "").await.json();
    assert_eq!(found["kind"], "PartialObjectMetadataList");
    assert_eq!(found["items"][0].get("spec"), None);
    let yaml = client.send(Method::GET, "/api/v1/namespaces/default", &[("accept", "application/yaml")], "").await;
    assert!(yaml.body.starts_with(b"apiVersion: v1\nkind: Namespace\n"), "{:?}", yaml.body);
    let body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: yaml}\ndata: {a: 'yes'}\n";
    let made = client.send(Method::POST, MAPS, &[("content-type", "application/yaml")], body).await;
    assert_eq!((made.code, &made.json()["data"]["a"]), (201, &json!("yes")));
    assert_eq!(client.send(Method::POST, MAPS, &[("content-type", "text/plain")], "x").await.code, 415);
    let unknown = json!({"metadata": {"name": "warned"}, "dato": {}});
    let warned = client.post(MAPS, &unknown).await;
    assert_eq!(
        (warned.code, warned.headers["warning"].to_str().unwrap()),
        (201, "299 - \"unknown field \\\"dato\\\"\"")
    );
    let twice = r#"{"metadata": {"name": "twice"}, "data": {"a": "1", "a": "2"}}"#;
    let json_type = [("content-type", "application/json")];
    let strict = client.send(Method::POST, &format!("{MAPS}?fieldValidation=Strict"), &json_type, twice).await;
    assert!(strict.code == 400 && strict.json()["message"].as_str().unwrap().contains("duplicate field \"data.a\""));
    assert_eq!(client.send(Method::POST, &format!("{MAPS}?fieldValidation=Ignore"), &json_type, twice).await.code, 201);
}

/// Versions of different shapes are one object: written in either, read and watched in both.
#[tokio::test]
async fn a_claim_is_the_same_in_every_version() {
    let mut client = Wire::start().await;
    let claims = |version: &str| format!("/apis/resource.k8s.io/{version}/namespaces/default/resourceclaims");
    let selectors = json!([{"cel": {"expression": "device.driver == 'd'"}}]);
    let flat = json!({"metadata": {"name": "old"}, "spec": {"devices": {"requests": [
        {"name": "r", "deviceClassName": "c", "selectors": selectors}]}}});
    let made = client.post(&claims("v1beta1"), &flat).await;
    assert_eq!(made.code, 201, "{:?}", made.body);
    let shown = json!({"name": "r", "deviceClassName": "c", "selectors": selectors, "allocationMode": "ExactCount", "count": 1});
    let mut exactly = shown.clone();
    exactly.as_object_mut().unwrap().remove("name");
    let below = json!({"name": "r", "exactly": exactly});
    assert_eq!(made.json()["spec"]["devices"]["requests"][0], shown);
    let newer = json!({"metadata": {"name": "new"}, "spec": {"devices": {"requests": [below]}}});
    assert_eq!(client.post(&claims("v1"), &newer).await.code, 201);
    for (version, request) in [("v1", &below), ("v1beta2", &below), ("v1beta1", &shown)] {
        let list = client.get(&claims(version)).await.json();
        let watched = client.get(&format!("{}?watch=1&timeoutSeconds=1", claims(version))).await;
        let watched: Vec<Value> = lines(&watched.body).into_iter().map(|event| event["object"].clone()).collect();
        for objects in [list["items"].as_array().unwrap(), &watched] {
            assert_eq!(objects.len(), 2, "{objects:?}");
            for object in objects {
                assert_eq!(object["apiVersion"], format!("resource.k8s.io/{version}"));
                assert_eq!(&object["spec"]["devices"]["requests"][0], request);
            }
        }
    }
    // Faults name the fields of the newest version, as upstream's do, whichever was written.
    let bad = json!({"metadata": {"name": "bad"}, "spec": {"devices": {"requests": [{"name": "r", "count": 2}]}}});
    let refused = client.post(&claims("v1beta1"), &bad).await;
    let path = "spec.devices.requests[0].exactly.deviceClassName";
    assert_eq!((refused.code, &refused.json()["details"]["causes"][0]["field"]), (422, &json!(path)));
    let label = [("content-type", "application/merge-patch+json")];
    let patch = r#"{"metadata":{"labels":{"a":"b"}}}"#;
    let labelled = client.send(Method::PATCH, &format!("{}/new", claims("v1beta1")), &label, patch).await;
    assert_eq!((labelled.code, &labelled.json()["spec"]["devices"]["requests"][0]), (200, &shown));
    let patch = json!({"spec": {"devices": {"requests": [{"name": "r", "deviceClassName": "other"}]}}}).to_string();
    let fixed = client.send(Method::PATCH, &format!("{}/new", claims("v1beta1")), &label, patch).await;
    assert!(fixed.code == 422 && fixed.json()["message"].as_str().unwrap().contains("field is immutable"));
}

#[tokio::test]
async fn writers_that_saw_an_old_revision_are_told() {
    let mut client = Wire::start().await;
    let made = client.config_map("c", json!({})).await.json();
    let path = format!("{MAPS}/c");
    let mut first = made.clone();
    first["data"]["a"] = "1".into();
    let json_type = [("content-type", "application/json")];
    let stored = client.send(Method::PUT, &path, &json_type, first.to_string()).await;
    assert_eq!(stored.code, 200);
    let late = client.send(Method::PUT, &path, &json_type, first.to_string()).await;
    let status = late.json();
    assert_eq!((late.code, &status["reason"]), (409, &json!("Conflict")));
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on configmaps \"c\": the object has been modified; please apply your changes to the \
         latest version and try again"
    );
    let same = client.send(Method::PUT, &path, &json_type, stored.body.clone()).await;
    assert_eq!(
        same.json()["metadata"]["resourceVersion"],
        stored.json()["metadata"]["resourceVersion"],
        "nothing changed"
    );
    let wrong = json!({"preconditions": {"uid": "other"}});
    assert_eq!(client.send(Method::DELETE, &path, &json_type, wrong.to_string()).await.code, 409);
    let generated = json!({"metadata": {"generateName": "g-"}});
    let name = client.post(MAPS, &generated).await.json()["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("g-") && name.len() == 7, "{name}");
}

#[tokio::test]
async fn hostile_input_is_refused() {
    let mut client = Wire::start().await;
    let deep_json = "[".repeat(200_000);
    let deep_object = "{\"a\":".repeat(5000) + "1" + &"}".repeat(5000);
    let bomb = {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            let before = n - 1;
            text += &format!(
                "a{n}: &a{n} [*a{before},*a{before},*a{before},*a{before},*a{before},*a{before},*a{before},*a{before},*a{before}]\n"
            );
        }
        text
    };
    let copies: Vec<Value> = (0..10_001).map(|_| json!({"op": "test", "path": "/x", "value": 1})).collect();
    client.config_map("target", json!({})).await;
    let target = format!("{MAPS}/target");
    let rows: Vec<(Method, &str, &str, Bytes, &[u16])> = vec![
        (Method::POST, MAPS, "application/json", deep_json.into(), &[400]),
        (Method::POST, MAPS, "application/json", deep_object.into(), &[400]),
        (Method::POST, MAPS, "application/json", "".into(), &[400]),
        (Method::POST, MAPS, "application/json", "null".into(), &[400]),
        (Method::POST, MAPS, "application/json", "{\"metadata\": 1}".into(), &[400]),
        (Method::POST, MAPS, "application/json", vec![0xff, 0xfe].into(), &[400]),
        (Method::POST, MAPS, "application/yaml", bomb.into(), &[400]),
        (Method::POST, MAPS, "application/yaml", "a: [".into(), &[400]),
        (
            Method::POST,
            MAPS,
            "application/vnd.kubernetes.protobuf",
            Bytes::from_static(b"k8s\0\x0a\xff\xff\xff\xff\x0f"),
            &[400],
        ),
        (Method::POST, MAPS, "application/json", vec![b' '; (3 << 20) + 1].into(), &[413, 0]),
        (Method::PATCH, &target, "application/json-patch+json", Value::from(copies).to_string().into(), &[413]),
        (Method::PATCH, &target, "application/merge-patch+json", "[".into(), &[400]),
        (Method::PATCH, &target, "application/strategic-merge-patch+json", "[]".into(), &[400]),
        (Method::PATCH, &target, "application/strategic-merge-patch+json", "{\"$patch\": \"explode\"}".into(), &[400]),
        (Method::PATCH, &target, "application/apply-patch+yaml", "{}".into(), &[422]),
        (Method::GET, "/api/v1/namespaces/default/configmaps/%2e%2e", "", "".into(), &[404]),
        (Method::GET, "/api/v1/namespaces/default%2fx/configmaps", "", "".into(), &[404]),
        (Method::GET, "/api/v1/pods?labelSelector=%28%28", "", "".into(), &[400]),
        (Method::GET, "/api/v1/pods?limit=-1", "", "".into(), &[400]),
        (Method::GET, "/api/v1/namespaces/default/nodes", "", "".into(), &[404]),
        (Method::GET, "/api/v9/pods", "", "".into(), &[404]),
    ];
    for (method, path, kind, body, expected) in rows {
        let begun = std::time::Instant::now();
        let size = body.len();
        let answer = client.send(method.clone(), path, &[("content-type", kind)], body).await;
        assert!(
            expected.contains(&answer.code),
            "{method} {path} {kind} ({size} bytes): {} {:?}",
            answer.code,
            answer.body
        );
        // A bomb that goes off takes hours; a busy machine takes seconds.
        assert!(begun.elapsed().as_secs() < 120, "{method} {path} {kind}");
    }
    assert_eq!(client.get("/readyz").await.code, 200);
}

/// Field 2 of a message, all occurrences, in a plain way: enough for what lists and watches are made of.
fn parts(mut rest: &[u8], wanted: u64) -> Vec<&[u8]> {
    let varint = |rest: &mut &[u8]| {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = rest[0];
            *rest = &rest[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    let mut out = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest);
        let length = varint(&mut rest);
        if tag & 7 == 2 {
            let (head, tail) = rest.split_at(length as usize);
            rest = tail;
            if tag >> 3 == wanted {
                out.push(head);
            }
        }
    }
    out
}

#[tokio::test]
async fn protobuf_says_the_same_as_json() {
    let mut client = Wire::start().await;
    let pod = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i",
        "resources": {"limits": {"cpu": "500m"}}, "livenessProbe": {"httpGet": {"port": "http"}}}],
        "volumes": [{"name": "v", "emptyDir": {}}]}});
    const PODS: &str = "/api/v1/namespaces/default/pods";
    assert_eq!(client.post(PODS, &pod).await.code, 201);
    let proto = [("accept", "application/vnd.kubernetes.protobuf, application/json")];
    let node = resources::facts::facts().node("a:core.v1.Pod");
    let plain = |mut object: Value| {
        for field in ["apiVersion", "kind"] {
            object.as_object_mut().unwrap().remove(field);
        }
        object
    };
    let expected = plain(client.get(&format!("{PODS}/p")).await.json());
    let one = client.send(Method::GET, &format!("{PODS}/p"), &proto, "").await;
    assert_eq!(one.headers["content-type"], "application/vnd.kubernetes.protobuf");
    let opened = resources::proto::envelope(&one.body).unwrap();
    assert_eq!((opened.api_version.as_str(), opened.kind.as_str()), ("v1", "Pod"));
    assert_eq!(resources::proto::decode(opened.raw, &node).unwrap(), expected);

    let list = client.send(Method::GET, PODS, &proto, "").await;
    let opened = resources::proto::envelope(&list.body).unwrap();
    assert_eq!(opened.kind, "PodList");
    let items = parts(opened.raw, 2);
    assert_eq!(resources::proto::decode(items[0], &node).unwrap(), expected);
    assert_eq!(parts(parts(opened.raw, 1)[0], 2).len(), 1, "the list has a resource version");

    let frames = client.send(Method::GET, &format!("{PODS}?watch=1&timeoutSeconds=1"), &proto, "").await;
    assert_eq!(frames.headers["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let length = u32::from_be_bytes(frames.body[..4].try_into().unwrap()) as usize;
    let event = &frames.body[4..4 + length];
    assert_eq!(parts(event, 1)[0], b"ADDED");
    let opened = resources::proto::envelope(parts(parts(event, 2)[0], 1)[0]).unwrap();
    assert_eq!(resources::proto::decode(opened.raw, &node).unwrap(), expected);

    let partial = [("accept", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")];
    let list = client.send(Method::GET, PODS, &partial, "").await;
    let opened = resources::proto::envelope(&list.body).unwrap();
    assert_eq!((opened.kind.as_str(), parts(opened.raw, 2).len()), ("PartialObjectMetadataList", 1));
    let missing = client.send(Method::GET, &format!("{PODS}/q"), &proto, "").await;
    let opened = resources::proto::envelope(&missing.body).unwrap();
    assert_eq!((missing.code, opened.kind.as_str()), (404, "Status"));
    // Tables have no form in protobuf, custom resources neither.
    let table = [("accept", "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1")];
    assert_eq!(client.send(Method::GET, PODS, &table, "").await.code, 406);
    // What was read can be written back.
    let headers = [("content-type", "application/vnd.kubernetes.protobuf"), proto[0]];
    let back = client.send(Method::PUT, &format!("{PODS}/p"), &headers, one.body.clone()).await;
    assert_eq!(back.code, 200, "{:?}", back.body);
    assert_eq!(back.body, one.body, "nothing changed");
}

/// A list that is sent while it is encoded: as long as it says, whole, in order, and the same compressed.
#[tokio::test]
async fn a_long_list_in_protobuf_is_whole() {
    const COUNT: usize = 2100;
    let mut client = Wire::start().await;
    let maps = apiserver::Gvr::new("", "v1", "configmaps");
    let admin = client.server.local(apiserver::User::admin(), "tests");
    for n in 0..COUNT {
        let map = json!({"metadata": {"name": format!("m{n:05}")}, "data": {"k": "é\"\n".repeat(n % 97)}});
        admin.create(&maps, "default", &map).await.unwrap();
    }
    let expected = client.get(MAPS).await.json();
    let proto = ("accept", "application/vnd.kubernetes.protobuf");
    let plain = client.send(Method::GET, MAPS, &[proto], "").await;
    assert_eq!(plain.headers["content-length"], plain.body.len().to_string().as_str());
    assert!(plain.body.len() > 512 << 10);
    let opened = resources::proto::envelope(&plain.body).unwrap();
    let items = parts(opened.raw, 2);
    assert_eq!(items.len(), expected["items"].as_array().unwrap().len());
    let node = resources::facts::facts().node("a:core.v1.ConfigMap");
    for (item, expected) in items.iter().zip(expected["items"].as_array().unwrap()) {
        let mut expected = expected.clone();
        for field in ["apiVersion", "kind"] {
            expected.as_object_mut().unwrap().remove(field);
        }
        if expected["data"]["k"] == "" {
            // In protobuf an empty text is one that is not there.
            expected["data"] = resources::proto::decode(item, &node).unwrap()["data"].clone();
        }
        assert_eq!(resources::proto::decode(item, &node).unwrap(), expected);
    }
    let packed = client.send(Method::GET, MAPS, &[proto, ("accept-encoding", "gzip")], "").await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed.body[..]), &mut unpacked).unwrap();
    assert!(unpacked == plain.body);
    // Who leaves in the middle leaves nothing behind, and others are served.
    let stream = tls(&client.server, &[], None, "localhost").await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let request =
        format!("GET {MAPS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\naccept: {}\r\n\r\n", proto.1);
    tokio::io::AsyncWriteExt::write_all(&mut write, request.as_bytes()).await.unwrap();
    tokio::io::AsyncReadExt::read_exact(&mut read, &mut [0; 1000]).await.unwrap();
    drop((read, write));
    assert!(client.send(Method::GET, MAPS, &[proto], "").await.body == plain.body);
}

#[tokio::test]
async fn nobody_gets_in_with_a_token_of_their_own_making() {
    let mut client = Wire::start().await;
    client.token = "plain".into();
    let refused = client.get(MAPS).await;
    let text = "configmaps is forbidden: User \"ann\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    assert_eq!((refused.code, refused.json()["message"].as_str().unwrap()), (403, text));
    for token in ["x", "secre", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "secret secret"] {
        client.token = token.into();
        assert_eq!(client.get(MAPS).await.code, 401, "{token}");
    }
    client.token = String::new();
    let anonymous = client.get(MAPS).await;
    assert!(anonymous.code == 403 && anonymous.json()["message"].as_str().unwrap().contains("system:anonymous"));
    for open in ["/livez", "/readyz", "/healthz", "/version"] {
        assert_eq!(client.get(open).await.code, 200, "{open}");
    }
    assert_eq!(client.get("/metrics").await.code, 403);
    // Impersonation is a right of its own.
    client.token = "plain".into();
    let sent = client
        .send(Method::GET, MAPS, &[("impersonate-user", "admin"), ("impersonate-group", "system:masters")], "")
        .await;
    assert_eq!(sent.code, 403);
}

#[test]
fn tests_notice_a_weakened_build() {
    weakened::check(&[("body", "hostile_input_is_refused")]);
}
