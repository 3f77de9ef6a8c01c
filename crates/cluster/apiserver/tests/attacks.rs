//! The attack catalogue's groups about the API server (KA) and its store (ST): which test shows each case.
//!
//! *Defence* is the name by which a build with `--features weaken` leaves it out (`KNARR_WEAKEN`): `tests_notice_a_weakened_build`, here
//! and in the file named, shows that the test fails then. Where none is named the defence is that something does not exist, or a
//! limit of the libraries. `KNARR_CATALOGUE=1` takes the catalogue's own numbers, of which a part is enough from day to day.
//!
//! | case | shown by | defence |
//! |---|---|---|
//! | KA-01 upgrades that fail | `handed_on.rs`: `only_a_switch_that_was_asked_for_opens_a_pipe`, with a row that has one | `redirect` (`handed_on.rs`) |
//! | KA-02 parser bombs | `bombs_do_not_go_off`, `hostile_input_is_refused` in `http.rs`, `resources/tests/fuzz.rs` | `body` (`http.rs`) |
//! | KA-03 the path that is judged is the path that is served | `no_spelling_of_a_path_gets_past_the_roles` | `roles`, `segments` (`src/request.rs`) |
//! | KA-04 fields that slip past admission | `admission.rs`: `namespaces_limit_what_pods_may`, `a_nodes_agent_minds_its_own_business`; `plugins.rs` | `pods`, `nodes` (`admission.rs`) |
//! | KA-05 escalation through roles | `every_cell_of_the_matrix_is_as_the_roles_say`, `access_is_by_roles` in `kubectl.rs` | `roles`, `escalation` (`kubectl.rs`) |
//! | KA-06 forged tokens and certificates | `forged_tokens_and_certificates_are_nobody`, `http.rs` | `signature`, `audience`, `account` |
//! | KA-07 floods of HTTP/2 frames | `floods_leave_the_others_served` | `headers`; resets, pings and settings are bounded by the library |
//! | KA-08 other sites' scripts | `no_origin_is_let_in` |  |
//! | KA-09 many lists and watches | `many_lists_and_watches_share_what_they_show`; paging in `http.rs` | `pages` |
//! | KA-10, KA-13 | encryption at rest and audit are not offered |  |
//! | KA-11 definitions and rules that cost | `rules_have_a_budget`, `a_thousand_rules_end`, `objects_without_optional_fields_break_nothing`, the budget's tests in `resources` and `cel` | `budget` |
//! | KA-12 webhooks that lead elsewhere | `a_webhook_leads_nowhere_else` | `silence` |
//! | KA-14 names that strangers ask for | `names_that_strangers_ask_for_change_nothing` |  |
//! | KA-15 data of other namespaces | claims name no other namespace: `a_claim_stays_in_its_namespace` | `namespace` |
//! | ST-01 roles of a store | one user, the server itself; etcd's own roles are etcd's |  |
//! | ST-02 connections that never finish | `idle_connections_keep_nobody_out` | `handshake` |
//! | ST-03 damaged files | `store`: `a_changed_byte_is_an_error_at_worst`, `cut_records_are_refused`, backups in `kubernetes_server.rs` | `walk`, `acknowledged`, `checksum` (`store/src/defences.rs`) |
//! | ST-04 file permissions | `what_is_kept_is_nobody_elses`, `kubernetes_server.rs`: `a_killed_server_goes_on_where_it_was` | `folder` |
//! | ST-05 consistency | `store/tests/suite/history.rs`: eleven faults that its checker finds; `store`'s power cuts | `sync` (`store/src/power.rs`), `compare` (`store/tests/embedded.rs`) |

#[path = "support/weakened.rs"]
mod weakened;
#[path = "support/wire.rs"]
mod wire;

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wire::{Wire, tls};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The catalogue's own numbers instead of a part of them.
fn catalogue() -> bool {
    std::env::var("KNARR_CATALOGUE").is_ok_and(|set| set == "1")
}

/// Bombs of every format: each is refused quickly, and holds little memory.
#[tokio::test]
async fn bombs_do_not_go_off() {
    let mut client = Wire::start().await;
    client.config_map("target", json!({})).await;
    let target = format!("{MAPS}/target");
    let yaml_nest = |depth: usize| "a:\n".to_owned() + &(1..depth).map(|n| " ".repeat(n) + "a:\n").collect::<String>();
    let aliases = |width: usize, depth: usize| {
        let mut text = format!("a0: &a0 [{}]\n", vec!["x"; width].join(","));
        for n in 1..depth {
            text += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); width].join(","));
        }
        text
    };
    let mut proto = vec![];
    for _ in 0..5000 {
        // A message in a message in a message, by field 2 (spec of anything).
        let mut outer = vec![0x12];
        let mut length = proto.len();
        while length >= 0x80 {
            outer.push(length as u8 | 0x80);
            length >>= 7;
        }
        outer.push(length as u8);
        outer.extend(&proto);
        proto = outer;
    }
    let wrapped = [&b"k8s\0\x0a\x0b\x0a\x02v1\x12\x05Event"[..], &proto].concat();
    let copies = |n: usize| {
        let first = json!({"op": "add", "path": "/data", "value": {"k": "v".repeat(1000)}});
        let copy = (0..n).map(|i| json!({"op": "copy", "from": "/data", "path": format!("/data/x{i}")}));
        Value::from_iter(std::iter::once(first).chain(copy)).to_string()
    };
    let mut bombs: Vec<(&str, Vec<u8>)> = vec![("application/vnd.kubernetes.protobuf", wrapped)];
    for n in [1_000, 100_000] {
        bombs.push(("application/json", "[".repeat(n).into()));
        bombs.push(("application/json", "{\"a\":".repeat(n).into()));
        bombs.push(("application/json", format!("{{\"metadata\":{}1{}}}", "[".repeat(n), "]".repeat(n)).into()));
        bombs.push(("application/yaml", "[".repeat(n).into()));
        bombs.push(("application/yaml", "- ".repeat(n).into()));
        bombs.push(("application/yaml", "{a: ".repeat(n).into()));
    }
    for (width, depth) in [(9, 12), (2, 40), (100, 5), (1000, 3)] {
        bombs.push(("application/yaml", aliases(width, depth).into()));
    }
    bombs.push(("application/yaml", yaml_nest(1500).into()));
    bombs.push(("application/yaml", "&a [*a]".into()));
    bombs.push(("application/yaml", "<<: &a {<<: *a}".into()));
    bombs.push((
        "application/json",
        format!("{{\"metadata\":{{\"name\":\"n\"}},\"data\":{{\"k\":{}}}}}", "9".repeat(1 << 20)).into(),
    ));
    let before = resident_kib();
    for (at, (kind, body)) in bombs.iter().enumerate() {
        let begun = Instant::now();
        let answer = client.send(Method::POST, MAPS, &[("content-type", kind)], body.clone()).await;
        assert!((400..500).contains(&answer.code), "bomb {at} ({kind}): {} {:?}", answer.code, answer.body);
        assert!(begun.elapsed() < Duration::from_secs(20), "bomb {at} ({kind})");
    }
    for body in [copies(12), copies(9_000)] {
        let begun = Instant::now();
        let answer =
            client.send(Method::PATCH, &target, &[("content-type", "application/json-patch+json")], body).await;
        assert!(
            matches!(answer.code, 413 | 422 | 400),
            "{} {:?}",
            answer.code,
            &answer.body[..answer.body.len().min(300)]
        );
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    // The bombs themselves and the client that sends them are in this process too.
    assert!(resident_kib() < before + (160 << 10), "{} KiB more", resident_kib() - before);
    assert_eq!(client.get("/readyz").await.code, 200);
}

/// A user who may read one object of one namespace, and ten thousand ways to write the path of another.
#[tokio::test]
async fn no_spelling_of_a_path_gets_past_the_roles() {
    let mut client = Wire::start().await;
    let canary = "canary-of-the-other-namespace";
    client.post("/api/v1/namespaces", &json!({"metadata": {"name": "other"}})).await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"k": canary}, "type": "Opaque"});
    let encoded = "Y2FuYXJ5LW9mLXRoZS1vdGhlci1uYW1lc3BhY2U";
    assert_eq!(client.post("/api/v1/namespaces/other/secrets", &secret).await.code, 201);
    let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["mine"]}]);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    client.post(&format!("{rbac}/roles"), &json!({"metadata": {"name": "r"}, "rules": rules})).await;
    let binding = json!({"metadata": {"name": "r"}, "subjects": [{"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}});
    assert_eq!(client.post(&format!("{rbac}/rolebindings"), &binding).await.code, 201);
    client.config_map("mine", json!({})).await;
    client.token = "plain".into();
    assert_eq!(client.get(&format!("{MAPS}/mine")).await.code, 200);

    let count = std::env::var("KNARR_PATHS").ok().and_then(|text| text.parse().ok()).unwrap_or(if catalogue() {
        10_000
    } else {
        2_000
    });
    let pieces = [
        "/", "//", "/./", "/../", "%2f", "%2F", "%2e%2e/", "..;/", "/%2e/", "\\", "%5c", "%00", "%20", ";a=b", "?",
        "#", "%23", "%3f",
    ];
    let words = [
        "api",
        "v1",
        "namespaces",
        "default",
        "other",
        "configmaps",
        "mine",
        "secrets",
        "s",
        "watch",
        "apis",
        "proxy",
        "status",
    ];
    let queries = [
        "",
        "?watch=1",
        "?fieldSelector=metadata.name=mine",
        "?fieldSelector=metadata.name%3Dmine",
        "?labelSelector=a",
        "?namespace=default",
    ];
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |n: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % n as u64) as usize
    };
    let (mut allowed, mut refused) = (0, 0);
    for _ in 0..count {
        let mut path = String::from("/api/v1/namespaces/other/secrets/s");
        // The path of the secret, the one that is allowed, or chance, then spelled otherwise.
        match below(4) {
            0 => path = format!("{MAPS}/mine"),
            1 => path = (0..below(7) + 2).map(|_| format!("/{}", words[below(words.len())])).collect(),
            _ => {}
        }
        for _ in 0..below(3) + 1 {
            let at = (0..=path.len())
                .filter(|at| path.is_char_boundary(*at) && *at > 0)
                .nth(below(path.len()))
                .unwrap_or(path.len());
            match below(3) {
                0 => path.insert_str(at, pieces[below(pieces.len())]),
                1 => path = path.replacen('/', pieces[below(8)], below(5) + 1),
                _ => path.insert_str(at, &format!("/{}", words[below(words.len())])),
            }
        }
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        path += queries[below(queries.len())];
        if path.parse::<http::Uri>().is_err() || path.contains("watch=1") {
            continue;
        }
        let answer = client.get(&path).await;
        let text = String::from_utf8_lossy(&answer.body);
        assert!(!text.contains(canary) && !text.contains(encoded), "{path} shows the secret");
        if answer.code == 200 && text.starts_with("{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\"") {
            assert_eq!(answer.json()["metadata"]["name"], "mine", "{path}");
        }
        if answer.code == 200 { allowed += 1 } else { refused += 1 }
    }
    assert!(refused > count / 2 && allowed > 0, "{allowed} {refused}");
}

/// What roles give, asked cell by cell and compared with a model that is written down here another way.
#[tokio::test]
async fn every_cell_of_the_matrix_is_as_the_roles_say() {
    let mut client = Wire::start().await;
    client.post("/api/v1/namespaces", &json!({"metadata": {"name": "other"}})).await;
    let group = "rbac.authorization.k8s.io";
    let root = format!("/apis/{group}/v1");
    let role = |name: &str, rules: Value| json!({"metadata": {"name": name}, "rules": rules});
    client
        .post(
            &format!("{root}/namespaces/default/roles"),
            &role("r", json!([{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}])),
        )
        .await;
    client
        .post(
            &format!("{root}/clusterroles"),
            &role("wide", json!([{"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]}])),
        )
        .await;
    client
        .post(
            &format!("{root}/clusterroles"),
            &role(
                "one",
                json!([{"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"], "verbs": ["get"]}]),
            ),
        )
        .await;
    let bind = |name: &str, kind: &str, role: &str, subjects: Value| json!({"metadata": {"name": name}, "subjects": subjects, "roleRef": {"apiGroup": group, "kind": kind, "name": role}});
    let user = |name: &str| json!([{"kind": "User", "name": name, "apiGroup": group}]);
    let of_group = |name: &str| json!([{"kind": "Group", "name": name, "apiGroup": group}]);
    let account = json!([{"kind": "ServiceAccount", "name": "default", "namespace": "other"}]);
    for (path, binding) in [
        ("namespaces/default/rolebindings", bind("a", "Role", "r", user("ann"))),
        ("namespaces/default/rolebindings", bind("b", "ClusterRole", "wide", of_group("devs"))),
        ("clusterrolebindings", bind("c", "ClusterRole", "wide", user("cid"))),
        ("clusterrolebindings", bind("d", "ClusterRole", "one", account)),
        ("namespaces/other/rolebindings", bind("e", "ClusterRole", "view", user("eve"))),
        ("namespaces/other/rolebindings", bind("f", "ClusterRole", "edit", user("fay"))),
        ("clusterrolebindings", bind("g", "ClusterRole", "cluster-admin", user("gus"))),
    ] {
        assert_eq!(client.post(&format!("{root}/{path}"), &binding).await.code, 201, "{binding}");
    }
    let subjects: [(&str, &[&str]); 10] = [
        ("ann", &[]),
        ("bob", &["devs"]),
        ("cid", &[]),
        ("system:serviceaccount:other:default", &[]),
        ("eve", &[]),
        ("fay", &[]),
        ("gus", &[]),
        ("root", &["system:masters"]),
        ("nobody", &[]),
        ("Ann", &["system:authenticated"]),
    ];
    let resources = [
        ("", "pods", ""),
        ("", "pods", "log"),
        ("", "pods", "exec"),
        ("", "secrets", ""),
        ("apps", "deployments", ""),
        ("", "nodes", ""),
        (group, "roles", ""),
    ];
    let reads = ["get", "list", "watch"];
    let model = |user: &str,
                 groups: &[&str],
                 verb: &str,
                 (api, resource, sub): (&str, &str, &str),
                 namespace: &str,
                 name: &str|
     -> bool {
        let read = reads.contains(&verb);
        match user {
            "gus" | "root" => true,
            "ann" => namespace == "default" && resource == "pods" && sub != "exec" && matches!(verb, "get" | "list"),
            "bob" => groups.contains(&"devs") && namespace == "default" && api == "apps",
            "cid" => api == "apps",
            "system:serviceaccount:other:default" => resource == "secrets" && name == "s" && verb == "get",
            "eve" => {
                namespace == "other" && read && matches!((resource, sub), ("pods", "" | "log") | ("deployments", ""))
            }
            // Edit: what works with workloads and secrets, nothing about roles and nodes.
            "fay" => {
                let writes = matches!(verb, "create" | "delete" | "deletecollection" | "patch" | "update");
                namespace == "other"
                    && match (resource, sub) {
                        ("pods", "") | ("secrets" | "deployments", "") => read || writes,
                        ("pods", "log") => read,
                        ("pods", "exec") => read || writes,
                        _ => false,
                    }
            }
            _ => false,
        }
    };
    let mut cells = 0;
    for (user, groups) in subjects {
        for resource in resources {
            for namespace in ["default", "other", ""] {
                for (verb, name) in [
                    ("get", "s"),
                    ("get", "t"),
                    ("list", ""),
                    ("watch", ""),
                    ("create", ""),
                    ("update", "s"),
                    ("patch", "t"),
                    ("delete", "s"),
                    ("deletecollection", ""),
                    ("escalate", "s"),
                ] {
                    let review = json!({"spec": {"user": user, "groups": groups, "resourceAttributes": {"verb": verb, "group": resource.0,
                        "resource": resource.1, "subresource": resource.2, "namespace": namespace, "name": name}}});
                    let answer =
                        client.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await.json();
                    let expected = model(user, groups, verb, resource, namespace, name);
                    assert_eq!(answer["status"]["allowed"] == true, expected, "{review} {answer}");
                    cells += 1;
                }
            }
        }
    }
    assert_eq!(cells, 2100);
}

#[tokio::test]
async fn forged_tokens_and_certificates_are_nobody() {
    use base64::Engine as _;
    let b64 = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let mut client = Wire::start().await;
    client.account("default").await;
    let request = json!({"spec": {"expirationSeconds": 600}});
    let tokens = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let good = client.post(tokens, &request).await.json()["status"]["token"].as_str().unwrap().to_owned();
    let (head, rest) = good.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let decoded = |part: &str| -> Value {
        serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    };
    client.token = good.clone();
    assert_eq!(client.get(MAPS).await.code, 403, "it is somebody, who may not");
    let mut forged: Vec<String> = vec![
        format!("{head}.{claims}."),
        format!("{head}.{claims}"),
        format!("{head}..{signature}"),
        format!(".{claims}.{signature}"),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!(" {good}x"),
        "..".into(),
        "Bearer".into(),
    ];
    for algorithm in ["none", "None", "HS256", "RS256", "ES384", "", "es256"] {
        let mut changed = decoded(head);
        changed["alg"] = algorithm.into();
        forged.push(format!("{}.{claims}.{signature}", b64(&changed.to_string())));
        forged.push(format!("{}.{claims}.", b64(&changed.to_string())));
    }
    for (claim, value) in [
        ("sub", json!("system:serviceaccount:kube-system:default")),
        ("exp", json!(99_999_999_999_u64)),
        ("exp", json!("never")),
        ("aud", json!(["other"])),
        ("iss", json!("https://elsewhere")),
        ("nbf", json!(99_999_999_999_u64)),
        ("kubernetes.io", json!({"namespace": "kube-system"})),
        ("kubernetes.io", json!(null)),
    ] {
        let mut changed = decoded(claims);
        changed[claim] = value;
        forged.push(format!("{head}.{}.{signature}", b64(&changed.to_string())));
    }
    for at in (0..signature.len()).step_by(3) {
        let mut changed: Vec<u8> = signature.bytes().collect();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        forged.push(format!("{head}.{claims}.{}", String::from_utf8(changed).unwrap()));
    }
    assert!(forged.len() >= 50);
    for token in forged {
        client.token = token.clone();
        assert_eq!(client.get(MAPS).await.code, 401, "{token}");
    }
    // For other audiences it is not good here, and not once its account is gone.
    client.token = "secret".into();
    let request = json!({"spec": {"expirationSeconds": 600, "audiences": ["vault"]}});
    let foreign = client.post(tokens, &request).await.json()["status"]["token"].as_str().unwrap().to_owned();
    client.token = foreign;
    assert_eq!(client.get(MAPS).await.code, 401);
    client.token = "secret".into();
    client.send(Method::DELETE, "/api/v1/namespaces/default/serviceaccounts/default", &[], "").await;
    client.token = good;
    assert_eq!(client.get(MAPS).await.code, 401);
    // Headers of a front proxy that nobody named are headers.
    client.token = String::new();
    let headers = [("x-remote-user", "admin"), ("x-remote-group", "system:masters"), ("x-forwarded-user", "admin")];
    assert_eq!(client.send(Method::GET, MAPS, &headers, "").await.code, 403);
    // Certificates of another authority, and of none.
    for (signer, name) in [(true, "kubernetes-admin"), (false, "kubernetes-admin"), (true, "system:node:n")] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
        let certificate = match signer {
            true => {
                let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
                authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                // With the very name of the real one.
                authority.distinguished_name.push(rcgen::DnType::CommonName, "kubernetes");
                let issuer_key = rcgen::KeyPair::generate().unwrap();
                params.signed_by(&key, &rcgen::Issuer::new(authority, issuer_key)).unwrap()
            }
            false => params.self_signed(&key).unwrap(),
        };
        let identity =
            (certificate.der().clone(), rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap());
        let code = client.get_as(identity, MAPS).await;
        assert!(matches!(code, None | Some(401)), "{name}: {code:?}");
    }
}

#[tokio::test]
async fn no_origin_is_let_in() {
    let mut client = Wire::start().await;
    for origin in [
        "https://example.com",
        "null",
        "https://localhost",
        "http://127.0.0.1",
        "https://kubernetes.default.svc.example.com",
    ] {
        for method in [Method::GET, Method::OPTIONS] {
            let headers = [
                ("origin", origin),
                ("access-control-request-method", "GET"),
                ("access-control-request-headers", "authorization"),
            ];
            let answer = client.send(method, MAPS, &headers, "").await;
            assert!(
                !answer.headers.keys().any(|name| name.as_str().starts_with("access-control")),
                "{origin}: {:?}",
                answer.headers
            );
        }
    }
}

/// Frames of HTTP/2: head and payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// GET / by HPACK's static table, with an authority.
const HEADERS: &[u8] = b"\x82\x87\x84\x41\x01x";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_leave_the_others_served() {
    let mut client = Wire::start().await;
    let before = resident_kib();
    type Flood = fn(u32) -> Vec<u8>;
    // Whether the server must end the connection before it has taken all of it.
    let floods: [(&str, bool, Flood); 6] = [
        ("streams opened and reset", false, |n| {
            [frame(1, 5, 2 * n + 1, HEADERS), frame(3, 0, 2 * n + 1, &8u32.to_be_bytes())].concat()
        }),
        ("headers that never end", true, |n| match n {
            0 => frame(1, 1, 1, HEADERS),
            _ => frame(9, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(100)),
        }),
        ("pings", false, |_| frame(6, 0, 0, &[0; 8])),
        ("settings", false, |_| frame(4, 0, 0, &[0, 4, 0, 0, 0xff, 0xff])),
        ("empty data", false, |n| match n {
            0 => frame(1, 4, 1, b"\x83\x87\x84\x41\x01x"),
            _ => frame(0, 0, 1, &[]),
        }),
        ("windows of nothing", false, |n| frame(8, 0, 2 * n + 1, &0u32.to_be_bytes())),
    ];
    for (what, ends, flood) in floods {
        let mut stream = tls(&client.server, &[b"h2"], None, "localhost").await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
        let (mut read, mut write) = tokio::io::split(stream);
        let reading = tokio::spawn(async move {
            let mut bytes = vec![0; 16 << 10];
            while read.read(&mut bytes).await.is_ok_and(|count| count > 0) {}
        });
        let flooding = tokio::spawn(async move {
            // Until the server has had enough of it, or for a bounded number of frames.
            for n in 0..30_000 {
                if write.write_all(&flood(n)).await.is_err() {
                    return true;
                }
            }
            false
        });
        let mut slowest = Duration::ZERO;
        while !flooding.is_finished() {
            let begun = Instant::now();
            assert_eq!(client.get("/livez").await.code, 200, "{what}");
            slowest = slowest.max(begun.elapsed());
        }
        assert!(slowest < Duration::from_secs(5), "{what}: another client waited {slowest:?}");
        assert!(flooding.await.unwrap() || !ends, "{what}");
        reading.abort();
        assert!(resident_kib() < before + (64 << 10), "{what}: {} KiB more", resident_kib() - before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_keep_nobody_out() {
    let mut client = Wire::start().await;
    let before = resident_kib();
    let mut idle = Vec::new();
    for n in 0..500 {
        let mut stream = tokio::net::TcpStream::connect(client.server.address()).await.unwrap();
        if n % 2 == 0 {
            // The beginning of a handshake that never goes on.
            stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
        }
        idle.push(stream);
    }
    assert_eq!(client.get("/readyz").await.code, 200);
    assert!(resident_kib() < before + (64 << 10), "{} KiB more", resident_kib() - before);
    // They are closed when their time for a handshake is over.
    let closed = async {
        for stream in &mut idle {
            let mut byte = [0; 1];
            while stream.read(&mut byte).await.is_ok_and(|count| count > 0) {}
        }
    };
    tokio::time::timeout(Duration::from_secs(60), closed).await.expect("idle connections are closed");
}

#[tokio::test]
async fn names_that_strangers_ask_for_change_nothing() {
    let client = Wire::start().await;
    let certificate = async |name: &str| {
        let stream = tls(&client.server, &[], None, name).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = certificate("localhost").await;
    let before = resident_kib();
    for n in 0..300 {
        // Handshakes end in an error on the client's side, since the certificate is for other names.
        assert!(tls(&client.server, &[], None, &format!("{n}.stranger.example.com")).await.is_err());
    }
    assert_eq!(certificate("localhost").await, first);
    assert!(resident_kib() < before + (32 << 10));
}

#[tokio::test]
async fn rules_have_a_budget() {
    let mut client = Wire::start().await;
    let definition = |n: usize, rule: &str| {
        json!({"metadata": {"name": format!("bombs{n}.example.com")}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": format!("bombs{n}"), "kind": format!("Bomb{n}")}, "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
                    "x-kubernetes-validations": [{"rule": rule, "message": "no"}],
                    "properties": {"list": {"type": "array", "items": {"type": "string"}}, "text": {"type": "string"}}}}}}}]}})
    };
    let rules = [
        "self.list.all(a, self.list.all(b, self.list.all(c, self.list.all(d, a + b + c + d != ''))))",
        "self.list.map(a, self.list.map(b, self.list.map(c, a + b + c))).size() > 0",
        "self.text.matches('(a+)+$')",
        "(self.text + self.text + self.text + self.text).matches('^(.*.*.*.*)*$')",
        "self.list.exists(a, self.list.exists(b, self.list.exists(c, self.list.exists(d, a + b + c == d + 'x'))))",
    ];
    for (n, rule) in rules.iter().enumerate() {
        let made = client.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition(n, rule)).await;
        if made.code != 201 {
            assert_eq!(made.code, 422, "{rule}: {:?}", made.body);
            continue;
        }
        let bombs = format!("/apis/example.com/v1/namespaces/default/bombs{n}");
        let deadline = Instant::now() + Duration::from_secs(20);
        while client.get(&bombs).await.code != 200 {
            assert!(Instant::now() < deadline);
        }
        let list: Vec<String> = (0..300).map(|n| format!("x{n}")).collect();
        let body = json!({"apiVersion": "example.com/v1", "kind": format!("Bomb{n}"), "metadata": {"name": "b"}, "spec": {"list": list, "text": "a".repeat(5000) + "b"}});
        let begun = Instant::now();
        let answer = client.post(&bombs, &body).await;
        assert!(matches!(answer.code, 201 | 422), "{rule}: {} {:?}", answer.code, answer.body);
        assert!(begun.elapsed() < Duration::from_secs(20), "{rule} took {:?}", begun.elapsed());
    }
    // Deep text is refused before anything is made of it.
    let deep = format!("{}1{}", "(".repeat(5000), ")".repeat(5000));
    assert_eq!(
        client.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition(99, &deep)).await.code,
        422
    );
}

/// A server that sends every caller elsewhere, over TLS.
#[tokio::test]
async fn a_webhook_leads_nowhere_else() {
    use base64::Engine as _;
    let mut client = Wire::start().await;
    let inner = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = inner.local_addr().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let outer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = outer.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = outer.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut bytes = vec![0; 64 << 10];
            let _ = stream.read(&mut bytes).await;
            let answer =
                format!("HTTP/1.1 302 Found\r\nlocation: http://{target}/steal\r\ncontent-length: 6\r\n\r\ncanary");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let bundle = base64::engine::general_purpose::STANDARD.encode(made.cert.pem());
    let hook = json!({"metadata": {"name": "v"}, "webhooks": [{"name": "v.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"url": format!("https://127.0.0.1:{port}/x"), "caBundle": bundle},
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]}]});
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    assert_eq!(client.post(hooks, &hook).await.code, 201);
    let answer = client.config_map("m", json!({})).await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.code == 500 && text.contains("failed calling webhook"), "{} {text}", answer.code);
    assert!(!text.contains("canary"), "what the other side says is not passed on: {text}");
    let nobody = tokio::time::timeout(Duration::from_millis(200), inner.accept()).await;
    assert!(nobody.is_err(), "a redirect was followed");
}

#[tokio::test]
async fn a_claim_stays_in_its_namespace() {
    let mut client = Wire::start().await;
    client.post("/api/v1/namespaces", &json!({"metadata": {"name": "other"}})).await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        "dataSourceRef": {"kind": "PersistentVolumeClaim", "name": "theirs", "namespace": "other"}});
    let answer = client.post(claims, &json!({"metadata": {"name": "c"}, "spec": spec})).await;
    // Refused, or made without the other namespace: upstream drops the field while its gate is closed.
    let kept = answer.json()["spec"]["dataSourceRef"].get("namespace").is_some();
    assert!(answer.code == 422 || (answer.code == 201 && !kept), "{} {:?}", answer.code, answer.body);
}

/// Thousands of watchers and many large lists at once: they share the bytes that they show, so that memory does not grow with
/// the number of readers, each watcher hears of a change once, and others are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_lists_and_watches_share_what_they_show() {
    // What is shared is the same for a few large objects and for many small ones.
    let (watchers, objects, object_kib, lists) =
        if catalogue() { (10_000, 150_000, 0, 50) } else { (3_000, 1_000, 8, 5) };
    let mut client = Wire::start().await;
    let maps = apiserver::Gvr::new("", "v1", "configmaps");
    let all = apiserver::Selectors::default();
    let admin = client.server.local(apiserver::User::admin(), "test");
    let text = "x".repeat(object_kib << 10);
    for n in 0..objects {
        let map = json!({"metadata": {"name": format!("m{n}")}, "data": {"k": text}});
        admin.create(&maps, "default", &map).await.unwrap();
    }
    let before = resident_kib();
    let now = admin.list(&maps, "default", &all).await.unwrap().revision;
    let mut watches = Vec::new();
    for _ in 0..watchers {
        watches.push(admin.watch(&maps, "default", &all, now).await.unwrap());
    }
    // A copy for each of them would be 24 GB.
    let touched = apiserver::Patch::Merge(json!({"metadata": {"labels": {"touched": "yes"}}}));
    let changes = 4;
    for n in 0..changes {
        admin.patch(&maps, "default", &format!("m{n}"), "", &touched).await.unwrap();
    }
    assert_eq!(client.get("/readyz").await.code, 200);
    let mut heard = 0;
    for watch in &mut watches {
        let mut seen = Vec::new();
        while seen.len() < changes {
            let (events, _) = watch.next().await.unwrap();
            seen.extend(events.into_iter().map(|event| event.object["metadata"]["name"].as_str().unwrap().to_owned()));
        }
        assert_eq!(seen, ["m0", "m1", "m2", "m3"], "each change once, in order");
        heard += seen.len();
    }
    assert_eq!(heard, watchers * changes);
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 192 << 10, "{watchers} watchers took {grown} KiB");
    // Readers who take pages of a list, side by side with one who only asks whether all is well.
    let path = format!("{MAPS}?limit=500");
    for _ in 0..20 {
        let page = client.get(&path).await;
        assert_eq!(page.code, 200);
        assert!(page.json()["metadata"]["continue"].is_string());
    }
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 256 << 10, "lists and watchers took {grown} KiB");
    // Whole lists side by side: what is sent is made while it is sent, and others wait for nobody.
    let mut readers = Vec::new();
    for _ in 0..lists {
        let mut stream = tls(&client.server, &[], None, "localhost").await.unwrap();
        readers.push(tokio::spawn(async move {
            let request =
                format!("GET {MAPS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let (mut bytes, mut length, mut last) = (vec![0; 64 << 10], 0, Vec::new());
            while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                length += count;
                last = bytes[..count].to_vec();
            }
            (length, last.ends_with(b"]}\n") || last.ends_with(b"0\r\n\r\n"))
        }));
    }
    let mut slowest = Duration::ZERO;
    while readers.iter().any(|reader| !reader.is_finished()) {
        let begun = Instant::now();
        assert_eq!(client.get("/livez").await.code, 200);
        slowest = slowest.max(begun.elapsed());
        tokio::task::yield_now().await;
    }
    let mut lengths = Vec::new();
    for reader in readers {
        let (length, whole) = reader.await.unwrap();
        assert!(whole, "a list was cut short after {length} bytes");
        lengths.push(length);
    }
    assert!(lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
    assert!(slowest < Duration::from_secs(10), "another client waited {slowest:?}");
    let grown = resident_kib().saturating_sub(before);
    // Each reader holds where it is in the list, not the list.
    let bound = (256 << 10) + lists * objects * 32 / 1024;
    assert!(grown < bound as u64, "{lists} lists took {grown} KiB");
}

/// Rules of a thousand shapes over one object: each ends soon, by its result or by its budget, and so does compiling it.
#[tokio::test]
async fn a_thousand_rules_end() {
    let mut client = Wire::start().await;
    const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let count = if catalogue() { 1_000 } else { 60 };
    let leaves = [
        "a + 'x' != ''",
        "a.matches('(x+x+)+y')",
        "self.text.contains(a)",
        "self.text.split('a').size() > 0",
        "[a, a, a].join(self.text) != a",
        "self.text.replace('a', a) != ''",
        "self.list.exists(z, z == a)",
        "dyn(a) == dyn(self.list)",
        "self.text.upperAscii() == a",
        "a in self.list",
    ];
    let folds = ["all", "exists", "exists_one", "filter", "map"];
    let rule = |n: usize| {
        let (mut n, leaf) = (n / leaves.len(), leaves[n % leaves.len()]);
        let mut rule = leaf.to_owned();
        let mut truth = true;
        for depth in 0..3 {
            let fold = folds[n % folds.len()];
            n /= folds.len();
            let name = ["a", "b", "c"][depth];
            let inner = if truth { rule } else { format!("{rule}.size() > 0") };
            rule = format!("self.list.{fold}({name}, {inner})");
            truth = !matches!(fold, "filter" | "map");
        }
        if truth { rule } else { format!("{rule}.size() >= 0") }
    };
    let mut kept = 0;
    for batch in (0..count).collect::<Vec<_>>().chunks(20) {
        let name = format!("r{}", batch[0]);
        let fields: serde_json::Map<String, Value> = batch
            .iter()
            .map(|n| {
                let schema = json!({"type": "object", "x-kubernetes-validations": [{"rule": rule(*n), "message": "no"}],
                "properties": {"list": {"type": "array", "items": {"type": "string"}}, "text": {"type": "string"}}});
                (format!("f{n}"), schema)
            })
            .collect();
        let definition = json!({"metadata": {"name": format!("{name}s.example.com")}, "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": format!("{name}s"), "kind": format!("Rule{name}")}, "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": fields}}}]}});
        let made = client.post(DEFINITIONS, &definition).await;
        assert_eq!(made.code, 201, "{:?}", made.body);
        let path = format!("/apis/example.com/v1/namespaces/default/{name}s");
        let deadline = Instant::now() + Duration::from_secs(20);
        while client.get(&path).await.code != 200 {
            assert!(Instant::now() < deadline);
        }
        let list: Vec<String> = (0..200).map(|n| format!("x{n}")).collect();
        for n in batch {
            let mut object = json!({"apiVersion": "example.com/v1", "kind": format!("Rule{name}"), "metadata": {"name": format!("o{n}")}});
            object[format!("f{n}")] = json!({"list": list, "text": "a".repeat(2000)});
            let begun = Instant::now();
            let answer = client.post(&path, &object).await;
            assert!(matches!(answer.code, 201 | 422), "{}: {} {:?}", rule(*n), answer.code, answer.body);
            // Room for a busy machine: two hundred to the fourth of steps take far longer.
            assert!(begun.elapsed() < Duration::from_secs(60), "{} took {:?}", rule(*n), begun.elapsed());
            kept += usize::from(answer.code == 201);
        }
    }
    assert!(kept > 0, "some of them hold");
}

/// Every kind as an object that has nothing but a name, and with every field that may be there as an empty object, list or null:
/// an answer that says what is wrong, if anything is, and controllers that go on.
#[tokio::test]
async fn objects_without_optional_fields_break_nothing() {
    let mut client = Wire::start().await;
    let mut asked = 0;
    for group in &resources::facts::facts().groups {
        for resource in group.resources.iter().filter(|resource| resource.verbs.contains(&"create")) {
            let root = if group.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", group.group) };
            let place = if resource.namespaced { "namespaces/default/" } else { "" };
            let path = format!("{root}/{}/{place}{}", group.version, resource.plural);
            let Some(id) = resource.type_id else { continue };
            let fields = &resources::facts::facts().struct_def(id).fields;
            let mut bodies = vec![json!({})];
            for field in
                fields.iter().filter(|field| !matches!(field.name.as_str(), "apiVersion" | "kind" | "metadata"))
            {
                for value in [json!({}), json!([]), json!(null), json!([{}]), json!([null]), json!({"x": null})] {
                    bodies.push(json!({(field.name.as_str()): value}));
                }
            }
            for (number, mut body) in bodies.into_iter().enumerate() {
                body["metadata"] = json!({"name": format!("bare-{number}")});
                let answer = client.post(&path, &body).await;
                assert!(answer.code != 500 && answer.code != 0, "{path} {body}: {} {:?}", answer.code, answer.body);
                asked += 1;
            }
        }
    }
    assert!(asked > 500, "{asked}");
    // Whoever follows what was kept still does.
    client.post("/api/v1/namespaces", &json!({"metadata": {"name": "after"}})).await;
    client.account("after").await;
}

/// Keys, secrets and all objects are for the server's user alone, also where the folder was open to all before.
#[tokio::test]
async fn what_is_kept_is_nobody_elses() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o777)).unwrap();
    let config = apiserver::Config { root: Some(root.clone()), ..apiserver::Config::default() };
    apiserver::Server::start(config).await.unwrap().stop().await;
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&root), 0o700);
    let mut folders = vec![root];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_none_or(|extension| extension != "crt") {
                files += 1;
                assert_eq!(mode(&entry) & 0o077, 0, "{}", entry.display());
            }
        }
    }
    assert!(files >= 3, "{files}");
}

#[test]
fn tests_notice_a_weakened_build() {
    weakened::check(&[
        ("roles", "no_spelling_of_a_path_gets_past_the_roles"),
        ("signature", "forged_tokens_and_certificates_are_nobody"),
        ("audience", "forged_tokens_and_certificates_are_nobody"),
        ("account", "forged_tokens_and_certificates_are_nobody"),
        ("headers", "floods_leave_the_others_served"),
        ("namespace", "a_claim_stays_in_its_namespace"),
        ("pages", "many_lists_and_watches_share_what_they_show"),
        ("budget", "rules_have_a_budget"),
        ("silence", "a_webhook_leads_nowhere_else"),
        ("handshake", "idle_connections_keep_nobody_out"),
        ("folder", "what_is_kept_is_nobody_elses"),
    ]);
}
