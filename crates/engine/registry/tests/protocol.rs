//! The server against the OCI distribution specification 1.1, requirement by requirement, by a client that speaks bare HTTP.
//!
//! | section | requirement | test |
//! |---|---|---|
//! | Pull: manifests | by tag, by digest; `HEAD`; digest header; 404 | `manifests_are_pulled_by_tag_and_digest` |
//! | Pull: manifests | content negotiation | `what_a_client_does_not_accept_it_does_not_get` |
//! | Pull: blobs | `GET`, `HEAD`, 404, ranges, 416 | `blobs_are_pulled_whole_and_in_ranges` |
//! | Push: blobs | `POST` then `PUT` | `a_blob_is_pushed_in_two_requests` |
//! | Push: blobs | single `POST` | `a_blob_is_pushed_in_one_request` |
//! | Push: blobs | in chunks: order, 416, status by `GET` | `chunks_come_in_order_or_are_refused` |
//! | Push: blobs | every chunk's answer says where to go on and how far it is; closed without a body | `an_upload_is_closed_by_a_request_without_a_body` |
//! | Push: blobs | streamed, cut anywhere, resumed | `an_upload_that_is_cut_anywhere_goes_on_there` |
//! | Push: blobs | cancel by `DELETE` | `an_upload_is_cancelled` |
//! | Push: blobs | mount, also where it cannot be done | `blobs_are_mounted_from_other_repositories` |
//! | Push: blobs | the digest decides | `a_wrong_digest_makes_no_blob` |
//! | Push: manifests | by tag, by digest; references must be there; sizes | `manifests_are_taken_if_their_blobs_are_there` |
//! | Push: manifests | kept byte for byte; without layers; 4 MiB are taken | `manifests_are_kept_as_they_came` |
//! | Push: subject | `OCI-Subject`, subject may be missing | `referrers_are_listed_and_filtered` |
//! | Discovery: tags | order, `n`, `last`, `Link` (none with `n=0`), 404 | `tags_are_listed_in_pages` |
//! | Push: manifests | tags of 128 characters, none longer, of which letters | `tags_are_what_the_specification_lets_them_be` |
//! | Discovery: referrers | index, filter, empty list, tags of older clients | `referrers_are_listed_and_filtered` |
//! | Discovery: referrers | descriptors: type, size, `artifactType` of manifests and indexes, annotations | `a_referrer_is_described_by_what_it_is` |
//! | Discovery: referrers | never 404; those that came before their subject; none that are deleted | `referrers_are_listed_before_and_after_their_subject` |
//! | Management | delete tags, manifests, blobs; 404 after; refused | `what_is_deleted_is_gone` |
//! | API | `/v2/`; errors in their form | `errors_have_the_specified_form` |
//! | API | names of repositories | `names_are_what_the_specification_lets_them_be` |
//!
//! Where the specification leaves a choice: tags come in the order of their bytes (its conformance tests take that or an order without
//! case), a mount without a source begins an upload, and digests are SHA-256.
//!
//! | | beyond it | |
//! |---|---|---|
//! | (ours) | collection while serving | `collection_spares_what_is_needed` |
//! | (ours) | uploads survive a restart, expire | `uploads_outlive_the_server_and_expire` |
//! | (ours) | rights at every verb, tokens, mounts | `users_do_what_they_may` |

mod common;

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::*;
use registry::server::{Action, AuthMethod, Config, Grant, User};

fn plain() -> Registry {
    Registry::start(Config::default())
}

#[test]
fn manifests_are_pulled_by_tag_and_digest() {
    let registry = plain();
    let digest = registry.put_artifact("a/b", Some("v1"), b"content", "");
    for name in ["v1", &digest] {
        let path = format!("/v2/a/b/manifests/{name}");
        let got = registry.call("GET", &path).is(200);
        assert_eq!(
            (got.header("docker-content-digest"), common::digest(&got.body).as_str()),
            (digest.as_str(), digest.as_str())
        );
        assert_eq!(got.header("content-type"), MANIFEST);
        let head = registry.call("HEAD", &path).is(200);
        assert_eq!(head.header("content-length"), got.body.len().to_string());
        assert_eq!(head.header("docker-content-digest"), digest);
        assert!(head.body.is_empty());
        registry.send("GET", &path, &[("If-None-Match", &format!("\"{digest}\""))], b"").is(304);
    }
    registry.call("GET", "/v2/a/b/manifests/v2").refused(404, "MANIFEST_UNKNOWN");
    registry.call("HEAD", "/v2/a/b/manifests/v2").is(404);
    registry.call("GET", &format!("/v2/a/b/manifests/{}", common::digest(b"x"))).refused(404, "MANIFEST_UNKNOWN");
    registry.call("GET", "/v2/none/manifests/v1").refused(404, "NAME_UNKNOWN");
    // What one repository has, another has not.
    registry.put_artifact("other", Some("x"), b"y", "");
    registry.call("GET", &format!("/v2/other/manifests/{digest}")).refused(404, "MANIFEST_UNKNOWN");
}

#[test]
fn what_a_client_does_not_accept_it_does_not_get() {
    let registry = plain();
    let image = registry.put_artifact("r", None, b"amd64", "");
    let size = registry.call("GET", &format!("/v2/r/manifests/{image}")).body.len();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{image}","size":{size},"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
    );
    registry.send("PUT", "/v2/r/manifests/multi", &[("Content-Type", INDEX)], index.as_bytes()).is(201);
    let get = |accept: &str| registry.send("GET", "/v2/r/manifests/multi", &[("Accept", accept)], b"");
    for accept in [INDEX, "*/*", &format!("{MANIFEST}, {INDEX};q=0.5"), "application/*"] {
        assert_eq!(get(accept).is(200).header("content-type"), INDEX, "{accept}");
    }
    assert_eq!(registry.call("GET", "/v2/r/manifests/multi").is(200).header("content-type"), INDEX);
    // A client from before there were indexes gets the image that it would have got then.
    assert_eq!(get(MANIFEST).is(200).header("docker-content-digest"), image);
    get("text/html").refused(404, "MANIFEST_UNKNOWN");
    // By digest there is nothing to choose.
    let path = format!("/v2/r/manifests/{}", common::digest(index.as_bytes()));
    assert_eq!(registry.send("GET", &path, &[("Accept", MANIFEST)], b"").is(200).header("content-type"), INDEX);
}

#[test]
fn blobs_are_pulled_whole_and_in_ranges() {
    let registry = plain();
    let content = noise(1, 700_000);
    let digest = registry.put_blob("r", &content);
    let path = format!("/v2/r/blobs/{digest}");
    let got = registry.call("GET", &path).is(200);
    assert!(got.body == content);
    assert_eq!(got.header("docker-content-digest"), digest);
    let head = registry.call("HEAD", &path).is(200);
    assert_eq!((head.header("content-length"), head.body.len()), ("700000", 0));
    assert_eq!(head.header("docker-content-digest"), digest);
    for (range, first, last) in [
        ("bytes=0-9", 0, 9),
        ("bytes=300000-", 300_000, 699_999),
        ("bytes=-5", 699_995, 699_999),
        ("bytes=5-9999999", 5, 699_999),
    ] {
        let part = registry.send("GET", &path, &[("Range", range)], b"").is(206);
        assert!(part.body == content[first..=last], "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {first}-{last}/700000"));
    }
    let refused = registry.send("GET", &path, &[("Range", "bytes=700000-")], b"").is(416);
    assert_eq!(refused.header("content-range"), "bytes */700000");
    registry.send("GET", &path, &[("If-None-Match", &format!("\"{digest}\""))], b"").is(304);
    registry.call("GET", &format!("/v2/r/blobs/{}", common::digest(b"no"))).refused(404, "BLOB_UNKNOWN");
    registry.call("HEAD", &format!("/v2/other/blobs/{digest}")).is(404);
    let empty = registry.put_blob("r", b"");
    assert_eq!(registry.call("GET", &format!("/v2/r/blobs/{empty}")).is(200).body, b"");
}

#[test]
fn a_blob_is_pushed_in_two_requests() {
    let registry = plain();
    let begun = registry.call("POST", "/v2/r/blobs/uploads/").is(202);
    let location = begun.header("location").to_owned();
    let digest = digest(b"hello");
    let done =
        registry.send("PUT", &format!("{location}?digest={}", digest.replace(':', "%3A")), &[], b"hello").is(201);
    assert_eq!(done.header("location"), format!("/v2/r/blobs/{digest}"));
    assert_eq!(done.header("docker-content-digest"), digest);
    assert_eq!(registry.call("GET", done.header("location")).is(200).body, b"hello");
    // The upload is over.
    registry.call("GET", &location).refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn a_blob_is_pushed_in_one_request() {
    let registry = plain();
    let digest = registry.put_blob("r", b"hello");
    assert_eq!(registry.call("GET", &format!("/v2/r/blobs/{digest}")).is(200).body, b"hello");
    // Again is fine, and elsewhere as well.
    registry.put_blob("r", b"hello");
    registry.put_blob("s", b"hello");
}

#[test]
fn chunks_come_in_order_or_are_refused() {
    let registry = plain();
    let content = noise(2, 10_000);
    let location = registry.call("POST", "/v2/r/blobs/uploads/").is(202).header("location").to_owned();
    let chunk = |range: &str, bytes: &[u8]| registry.send("PATCH", &location, &[("Content-Range", range)], bytes);
    let first = chunk("0-3999", &content[..4000]).is(202);
    assert_eq!(first.header("range"), "0-3999");
    // Not the next one, too early, of another length than it says.
    for (range, length) in [("5000-5999", 1000), ("0-3999", 4000), ("3999-4998", 1000)] {
        let refused = chunk(range, &content[..length]).is(416);
        assert_eq!(refused.header("range"), "0-3999", "{range}");
    }
    chunk("4000-4999", &content[..10]).refused(400, "SIZE_INVALID");
    chunk("nonsense", b"x").is(416);
    let status = registry.call("GET", &location).is(204);
    assert_eq!((status.header("range"), status.header("location")), ("0-3999", location.as_str()));
    chunk("4000-7999", &content[4000..8000]).is(202);
    let path = format!("{location}?digest={}", digest(&content));
    registry.send("PUT", &path, &[("Content-Range", "8000-9999")], &content[8000..]).is(201);
    assert!(registry.call("GET", &format!("/v2/r/blobs/{}", digest(&content))).is(200).body == content);
}

#[test]
fn an_upload_is_closed_by_a_request_without_a_body() {
    let registry = plain();
    let content = noise(7, 5000);
    let mut location = registry.call("POST", "/v2/r/blobs/uploads/").is(202).header("location").to_owned();
    let headers = [("Content-Range", "0-2999"), ("Content-Type", "application/octet-stream")];
    for (headers, bytes, end) in
        [(&headers[..], &content[..3000], "0-2999"), (&headers[1..], &content[3000..], "0-4999")]
    {
        let answer = registry.send("PATCH", &location, headers, bytes).is(202);
        assert_eq!(answer.header("range"), end);
        location = answer.header("location").to_owned();
    }
    let done = registry.call("PUT", &format!("{location}?digest={}", digest(&content))).is(201);
    assert!(registry.call("GET", done.header("location")).is(200).body == content);
}

#[test]
fn an_upload_that_is_cut_anywhere_goes_on_there() {
    let registry = plain();
    let content = noise(3, 3000);
    for cut in (0..3000).step_by(271) {
        let location = registry.call("POST", "/v2/r/blobs/uploads/").is(202).header("location").to_owned();
        let mut stream = TcpStream::connect(registry.address).unwrap();
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: {}\r\nContent-Length: 3000\r\n\r\n", registry.address);
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&content[..cut]).unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
        drop(stream);
        // What was sent before the end arrives before it; the server takes its time to see both.
        let deadline = Instant::now() + PATIENCE;
        let offset = loop {
            let status = registry.call("GET", &location).is(204);
            let end: usize = status.header("range").strip_prefix("0-").unwrap().parse().unwrap();
            let offset = if end == 0 { 0 } else { end + 1 };
            if offset == cut {
                break offset;
            }
            assert!(Instant::now() < deadline, "cut at {cut}, arrived {offset}");
        };
        let path = format!("{location}?digest={}", digest(&content));
        let range = format!("{offset}-2999");
        registry.send("PUT", &path, &[("Content-Range", &range)], &content[offset..]).is(201);
    }
    assert!(registry.call("GET", &format!("/v2/r/blobs/{}", digest(&content))).is(200).body == content);
}

#[test]
fn an_upload_is_cancelled() {
    let registry = plain();
    let location = registry.call("POST", "/v2/r/blobs/uploads/").is(202).header("location").to_owned();
    registry.send("PATCH", &location, &[], b"some").is(202);
    registry.call("DELETE", &location).is(204);
    for method in ["GET", "PATCH", "DELETE"] {
        registry.call(method, &location).refused(404, "BLOB_UPLOAD_UNKNOWN");
    }
    // An upload is known in its own repository only, and by nothing but its id.
    let location = registry.call("POST", "/v2/r/blobs/uploads/").is(202).header("location").to_owned();
    registry.call("GET", &location.replace("/r/", "/s/")).refused(404, "BLOB_UPLOAD_UNKNOWN");
    for id in ["..", "%2e%2e", "x", "00000000000000000000000000000000", "..%2f..%2fknarr.db"] {
        let status = registry.call("GET", &format!("/v2/r/blobs/uploads/{id}")).status;
        assert!(matches!(status, 400 | 404), "{id}: {status}");
    }
    assert_eq!(std::fs::read_dir(registry.folder.path().join("uploads")).unwrap().count(), 1);
}

#[test]
fn blobs_are_mounted_from_other_repositories() {
    let registry = plain();
    let digest = registry.put_blob("from/here", b"shared");
    let mount =
        |from: &str, digest: &str| registry.call("POST", &format!("/v2/to/there/blobs/uploads/?mount={digest}{from}"));
    registry.call("HEAD", &format!("/v2/to/there/blobs/{digest}")).is(404);
    // Without a source, from a repository that has it not, of a blob that is nowhere: an upload begins instead.
    mount("", &digest).is(202);
    mount("&from=nowhere", &digest).is(202);
    mount("&from=from/here", &common::digest(b"none")).is(202);
    mount("&from=Bad", &digest).refused(400, "NAME_INVALID");
    let done = mount("&from=from/here", &digest).is(201);
    assert_eq!(done.header("location"), format!("/v2/to/there/blobs/{digest}"));
    assert_eq!(registry.call("GET", &format!("/v2/to/there/blobs/{digest}")).is(200).body, b"shared");
    // It is the other repository's own from now on.
    registry.call("DELETE", &format!("/v2/from/here/blobs/{digest}")).is(202);
    registry.server.collect(Duration::from_secs(3600)).unwrap();
    assert_eq!(registry.call("GET", &format!("/v2/to/there/blobs/{digest}")).is(200).body, b"shared");
}

#[test]
fn a_wrong_digest_makes_no_blob() {
    let registry = plain();
    let wrong = digest(b"other");
    registry
        .send("POST", &format!("/v2/r/blobs/uploads/?digest={wrong}"), &[], b"hello")
        .refused(400, "DIGEST_INVALID");
    let location = registry.call("POST", "/v2/r/blobs/uploads/").is(202).header("location").to_owned();
    registry.send("PUT", &location, &[], b"hello").refused(400, "DIGEST_INVALID");
    registry.send("PUT", &format!("{location}?digest=md5:00"), &[], b"hello").refused(400, "DIGEST_INVALID");
    registry.send("PUT", &format!("{location}?digest={wrong}"), &[], b"hello").refused(400, "DIGEST_INVALID");
    for content in [&b"hello"[..], b"other"] {
        registry.call("HEAD", &format!("/v2/r/blobs/{}", digest(content))).is(404);
    }
    assert_eq!(registry.store.check(true).unwrap(), []);
    // Too much is refused before it is kept.
    let small = Registry::start(Config { blob_bytes_max: 10, ..Config::default() });
    let path = format!("/v2/r/blobs/uploads/?digest={}", digest(&[0; 11]));
    small.send("POST", &path, &[], &[0; 11]).refused(413, "SIZE_INVALID");
}

#[test]
fn manifests_are_taken_if_their_blobs_are_there() {
    let registry = plain();
    let put = |name: &str, kind: &str, text: &str| {
        registry.send("PUT", &format!("/v2/r/manifests/{name}"), &[("Content-Type", kind)], text.as_bytes())
    };
    let absent = digest(b"absent");
    let blob = format!(r#"{{"mediaType":"x/y","digest":"{absent}","size":6}}"#);
    let manifest = format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{blob},"layers":[]}}"#);
    put("v1", MANIFEST, &manifest).refused(404, "MANIFEST_BLOB_UNKNOWN");
    registry.put_blob("r", b"absent");
    let done = put("v1", MANIFEST, &manifest).is(201);
    assert_eq!(done.header("docker-content-digest"), digest(manifest.as_bytes()));
    assert_eq!(done.header("location"), format!("/v2/r/manifests/{}", digest(manifest.as_bytes())));
    put(&digest(b"another"), MANIFEST, &manifest).refused(400, "DIGEST_INVALID");
    put("v1", INDEX, &manifest).refused(400, "MANIFEST_INVALID");
    put("v1", MANIFEST, "{").refused(400, "MANIFEST_INVALID");
    put("v1", MANIFEST, r#"{"schemaVersion":1}"#).refused(400, "MANIFEST_INVALID");
    put(".bad", MANIFEST, &manifest).refused(400, "TAG_INVALID");
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{blob}]}}"#);
    put("multi", INDEX, &index).refused(404, "MANIFEST_BLOB_UNKNOWN");
    let huge = format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","x":"{}"}}"#, "y".repeat(5 << 20));
    put("v1", MANIFEST, &huge).is(413);
    // Layers that have an address of their own need not be here.
    let foreign =
        format!(r#"{{"mediaType":"x/y","digest":"{}","size":1,"urls":["https://elsewhere"]}}"#, digest(b"far"));
    put("far", MANIFEST, &manifest.replace("[]", &format!("[{foreign}]"))).is(201);
}

#[test]
fn referrers_are_listed_and_filtered() {
    let registry = plain();
    let subject = registry.put_artifact("r", Some("v1"), b"subject", "");
    let list = |query: &str| registry.call("GET", &format!("/v2/r/referrers/{subject}{query}")).is(200);
    let empty = list("");
    assert_eq!(empty.header("content-type"), INDEX);
    assert_eq!(empty.json()["manifests"], serde_json::json!([]));
    let about = format!(r#","subject":{{"mediaType":"{MANIFEST}","digest":"{subject}","size":1}}"#);
    let with = |kind: &str| format!(r#"{about},"artifactType":"{kind}","annotations":{{"a":"b"}}"#);
    let signature = registry.put_artifact("r", None, b"signature", &with("application/signature"));
    let bill = registry.put_artifact("r", None, b"bill", &with("application/sbom"));
    let typed = registry.put_artifact("r", None, b"typed by its configuration", &about);
    let all = list("").json();
    let mut digests: Vec<&str> =
        all["manifests"].as_array().unwrap().iter().map(|m| m["digest"].as_str().unwrap()).collect();
    digests.sort();
    let mut expected = [signature.as_str(), &bill, &typed];
    expected.sort();
    assert_eq!(digests, expected);
    assert!(!list("").headers.contains_key("oci-filters-applied"));
    let filtered = list("?artifactType=application%2Fsbom");
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    let json = filtered.json();
    assert_eq!(
        (json["manifests"].as_array().unwrap().len(), &json["manifests"][0]["digest"]),
        (1, &serde_json::json!(bill))
    );
    assert_eq!(json["manifests"][0]["annotations"]["a"], "b");
    assert_eq!(list("?artifactType=application/x.test").json()["manifests"][0]["digest"], typed);
    let none = list("?artifactType=application/nothing");
    assert_eq!((&none.json()["manifests"], none.header("content-type")), (&serde_json::json!([]), INDEX));
    // The subject may come later, or never; the answer says that it was understood.
    let config = registry.put_blob("r", b"{}");
    let later = digest(b"later");
    let orphan = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"a/b","digest":"{config}","size":2}},"layers":[],"subject":{{"mediaType":"{MANIFEST}","digest":"{later}","size":5}}}}"#
    );
    let done = registry.send("PUT", "/v2/r/manifests/orphan", &[("Content-Type", MANIFEST)], orphan.as_bytes()).is(201);
    assert_eq!(done.header("oci-subject"), later);
    // What an older client has listed under the tag that stands in for referrers is listed too.
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{subject}","size":1,"artifactType":"old/kind"}}]}}"#
    );
    let tag = subject.replace(':', "-");
    registry.send("PUT", &format!("/v2/r/manifests/{tag}"), &[("Content-Type", INDEX)], index.as_bytes()).is(201);
    assert_eq!(list("?artifactType=old/kind").json()["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(list("").json()["manifests"].as_array().unwrap().len(), 4);
    registry.call("GET", "/v2/r/referrers/sha256:x").refused(400, "DIGEST_INVALID");
}

#[test]
fn manifests_are_kept_as_they_came() {
    let registry = plain();
    let config = registry.put_blob("r", b"{}");
    // White space, the order of keys and those that nobody knows are a part of what the digest is of.
    let text = format!(
        "{{\n \t\"layers\": [],\"x-unknown\":[1e3,null],\"config\":{{\"size\":2,\"mediaType\":\"a/b\",\"digest\":\"{config}\"}},\r\n\"mediaType\":\"{MANIFEST}\",\"schemaVersion\":2}}\n\n"
    );
    let put = |text: &str| {
        let path = format!("/v2/r/manifests/{}", digest(text.as_bytes()));
        registry.send("PUT", &path, &[("Content-Type", MANIFEST)], text.as_bytes()).is(201);
        assert!(registry.call("GET", &path).is(200).text() == text);
    };
    put(&text);
    let most = (4 << 20) - text.len() - 20;
    put(&text.replacen('{', &format!("{{\"filler\":\"{}\",", "y".repeat(most)), 1));
}

/// A manifest or an index about a subject, pushed by its digest.
fn put_about(registry: &Registry, kind: &str, body: &str, subject: &str) -> (String, usize) {
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}",{body},"subject":{{"mediaType":"{MANIFEST}","digest":"{subject}","size":5}}}}"#
    );
    let name = digest(text.as_bytes());
    let path = format!("/v2/r/manifests/{name}");
    let answer = registry.send("PUT", &path, &[("Content-Type", kind)], text.as_bytes()).is(201);
    assert_eq!(answer.header("oci-subject"), subject);
    (name, text.len())
}

#[test]
fn a_referrer_is_described_by_what_it_is() {
    let registry = plain();
    let subject = registry.put_artifact("r", None, b"subject", "");
    let config = registry.put_blob("r", b"{}");
    let config = format!(r#""config":{{"mediaType":"a/config","digest":"{config}","size":2}},"layers":[]"#);
    let annotated = r#""annotations":{"a":"b"}"#;
    let rows = [
        (MANIFEST, format!(r#""artifactType":"a/kind",{config},{annotated}"#), Some("a/kind")),
        (MANIFEST, format!(r#"{config},{annotated}"#), Some("a/config")),
        (MANIFEST, format!(r#""artifactType":"",{config},{annotated}"#), Some("a/config")),
        (INDEX, format!(r#""artifactType":"a/kind","manifests":[],{annotated}"#), Some("a/kind")),
        (INDEX, format!(r#""manifests":[],{annotated}"#), None),
    ];
    for (kind, body, artifact_type) in rows {
        let (name, size) = put_about(&registry, kind, &body, &subject);
        let list = registry.call("GET", &format!("/v2/r/referrers/{subject}")).is(200).json();
        let listed = list["manifests"].as_array().unwrap().iter().find(|entry| entry["digest"] == name);
        let mut wanted = serde_json::json!({
            "mediaType": kind, "digest": name, "size": size, "annotations": { "a": "b" },
        });
        if let Some(artifact_type) = artifact_type {
            wanted["artifactType"] = artifact_type.into();
        }
        assert_eq!(listed, Some(&wanted), "{body}");
    }
}

#[test]
fn referrers_are_listed_before_and_after_their_subject() {
    let registry = plain();
    let nobody = digest(b"nobody");
    // Not of a repository that is not there either: a client would take that for a registry without referrers.
    for name in ["nowhere", "r"] {
        let answer = registry.call("GET", &format!("/v2/{name}/referrers/{nobody}")).is(200);
        assert_eq!((answer.header("content-type"), &answer.json()["manifests"]), (INDEX, &serde_json::json!([])));
    }
    let elsewhere = Registry::start(Config::default());
    let subject = elsewhere.put_artifact("r", None, b"subject", "");
    let (early, _) = put_about(&registry, INDEX, r#""manifests":[]"#, &subject);
    let listed = || {
        let list = registry.call("GET", &format!("/v2/r/referrers/{subject}")).is(200).json();
        list["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["digest"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed(), [early.as_str()]);
    assert_eq!(registry.put_artifact("r", None, b"subject", ""), subject);
    assert_eq!(listed(), [early.as_str()]);
    registry.call("DELETE", &format!("/v2/r/manifests/{early}")).is(202);
    assert_eq!(listed(), [""; 0]);
    assert_eq!(
        registry.call("GET", &format!("/v2/other/referrers/{subject}")).is(200).json()["manifests"],
        serde_json::json!([])
    );
}

#[test]
fn names_are_what_the_specification_lets_them_be() {
    let registry = plain();
    // With the name of a host before it, as clients count, it has 255 characters at most.
    let longest = format!("{}/{}", "a".repeat(120), "b".repeat(120));
    for name in ["a", "0", "a.b", "a_b", "a__b", "a-b", "a--b", "a---b", "a1/b2/c.d/e__f", longest.as_str()] {
        let name_digest = registry.put_artifact(name, Some("v1"), b"x", "");
        let got = registry.call("GET", &format!("/v2/{name}/manifests/v1")).is(200);
        assert_eq!(got.header("docker-content-digest"), name_digest, "{name}");
    }
    for name in
        ["A", "a_", "_a", ".a", "a.", "-a", "a-", "a..b", "a___b", "a._b", "a//b", "a/", "/a", "a%20b", "%C3%A9"]
    {
        let answer = registry.call("POST", &format!("/v2/{name}/blobs/uploads/"));
        assert!(matches!(answer.status, 400 | 404), "{name}: {} {}", answer.status, answer.text());
    }
}

#[test]
fn tags_are_listed_in_pages() {
    let registry = plain();
    let digest = registry.put_artifact("r", Some("b"), b"x", "");
    let manifest = registry.call("GET", &format!("/v2/r/manifests/{digest}")).text();
    for tag in ["a", "d", "c", "A"] {
        let path = format!("/v2/r/manifests/{tag}");
        registry.send("PUT", &path, &[("Content-Type", MANIFEST)], manifest.as_bytes()).is(201);
    }
    let tags = |query: &str| registry.call("GET", &format!("/v2/r/tags/list{query}")).is(200);
    let all = tags("");
    assert_eq!(all.json(), serde_json::json!({"name": "r", "tags": ["A", "a", "b", "c", "d"]}));
    assert!(!all.headers.contains_key("link"));
    let (mut seen, mut next) = (Vec::new(), Some("/v2/r/tags/list?n=2".to_owned()));
    while let Some(path) = next {
        let page = registry.call("GET", &path).is(200);
        let names = page.json()["tags"].as_array().unwrap().clone();
        assert!(names.len() <= 2);
        seen.extend(names);
        next = page.headers.get("link").map(|link| link.split(['<', '>']).nth(1).unwrap().to_owned());
    }
    assert_eq!(seen, ["A", "a", "b", "c", "d"]);
    let none = tags("?n=0");
    assert_eq!((none.json()["tags"].clone(), none.headers.contains_key("link")), (serde_json::json!([]), false));
    assert_eq!(tags("?n=2&last=a").json()["tags"], serde_json::json!(["b", "c"]));
    assert_eq!(tags("?last=b").json()["tags"], serde_json::json!(["c", "d"]));
    registry.call("GET", "/v2/r/tags/list?n=x").refused(400, "PAGINATION_NUMBER_INVALID");
    registry.call("GET", "/v2/none/tags/list").refused(404, "NAME_UNKNOWN");
    registry.put_artifact("s", None, b"untagged", "");
    assert_eq!(registry.call("GET", "/v2/s/tags/list").is(200).json()["tags"], serde_json::json!([]));
    assert_eq!(registry.call("GET", "/v2/_catalog").is(200).json()["repositories"], serde_json::json!(["r", "s"]));
}

#[test]
fn tags_are_what_the_specification_lets_them_be() {
    let registry = plain();
    let digest = registry.put_artifact("r", None, b"x", "");
    let manifest = registry.call("GET", &format!("/v2/r/manifests/{digest}")).text();
    let put = |tag: &str| {
        let path = format!("/v2/r/manifests/{tag}");
        registry.send("PUT", &path, &[("Content-Type", MANIFEST)], manifest.as_bytes())
    };
    let (longest, longer) = ("t".repeat(128), "t".repeat(129));
    for tag in [longest.as_str(), "_", "A", "0.1-b_C"] {
        put(tag).is(201);
        assert_eq!(
            registry.call("GET", &format!("/v2/r/manifests/{tag}")).is(200).header("docker-content-digest"),
            digest
        );
    }
    for tag in [longer.as_str(), ".a", "-a", "a%20b", "a+b", "%C3%A9"] {
        let refused = put(tag);
        assert!(matches!(refused.status, 400 | 404), "{tag}: {}", refused.status);
    }
    let tags = registry.call("GET", "/v2/r/tags/list").is(200).json();
    assert_eq!(tags["tags"].as_array().unwrap().len(), 4, "{tags}");
}

#[test]
fn what_is_deleted_is_gone() {
    let registry = plain();
    let digest = registry.put_artifact("r", Some("v1"), b"content", "");
    let manifest = registry.call("GET", "/v2/r/manifests/v1").text();
    registry.send("PUT", "/v2/r/manifests/v2", &[("Content-Type", MANIFEST)], manifest.as_bytes()).is(201);
    let blob = format!("/v2/r/blobs/{}", common::digest(b"content"));
    registry.call("DELETE", &blob).refused(405, "UNSUPPORTED");
    registry.call("DELETE", "/v2/r/manifests/v1").is(202);
    registry.call("GET", "/v2/r/manifests/v1").is(404);
    registry.call("DELETE", "/v2/r/manifests/v1").refused(404, "MANIFEST_UNKNOWN");
    registry.call("GET", "/v2/r/manifests/v2").is(200);
    registry.call("DELETE", &format!("/v2/r/manifests/{digest}")).is(202);
    for name in ["v2", &digest] {
        registry.call("GET", &format!("/v2/r/manifests/{name}")).is(404);
    }
    registry.call("DELETE", &blob).is(202);
    registry.call("GET", &blob).is(404);
    registry.call("DELETE", &blob).refused(404, "BLOB_UNKNOWN");
    let fixed = Registry::start(Config { deletes: false, ..Config::default() });
    let digest = fixed.put_artifact("r", Some("v1"), b"content", "");
    fixed.call("DELETE", &format!("/v2/r/manifests/{digest}")).refused(405, "UNSUPPORTED");
    let closed = Registry::start(Config { read_only: true, ..Config::default() });
    closed.call("POST", "/v2/r/blobs/uploads/").refused(405, "UNSUPPORTED");
}

#[test]
fn errors_have_the_specified_form() {
    let registry = plain();
    for method in ["GET", "HEAD"] {
        let base = registry.call(method, "/v2/").is(200);
        assert_eq!(base.header("docker-distribution-api-version"), "registry/2.0");
    }
    registry.call("GET", "/v2/Upper/tags/list").refused(400, "NAME_INVALID");
    registry.call("GET", &format!("/v2/{}/tags/list", "a".repeat(300))).refused(400, "NAME_INVALID");
    registry.call("GET", "/v2/r/blobs/sha256:short").refused(400, "DIGEST_INVALID");
    registry.call("GET", "/v2/r/what").is(404);
    registry.call("PUT", "/v2/").refused(405, "UNSUPPORTED");
    registry.send("GET", "/v2/", &[("Origin", "http://evil.example")], b"").refused(403, "DENIED");
    registry.send("GET", "/v2/", &[("Host", "evil.example")], b"").refused(421, "DENIED");
}

#[test]
fn collection_spares_what_is_needed() {
    let registry = plain();
    let kept = registry.put_artifact("r", Some("v1"), b"kept", "");
    registry.put_blob("r", b"loose");
    let blobs = || std::fs::read_dir(registry.folder.path().join("blobs/sha256")).unwrap().count();
    assert_eq!(blobs(), 3);
    // Within the grace everything stays: its manifest may be on its way.
    registry.server.collect(Duration::from_secs(3600)).unwrap();
    assert_eq!(blobs(), 3);
    registry.server.collect(Duration::ZERO).unwrap();
    assert_eq!(blobs(), 2);
    registry.call("HEAD", &format!("/v2/r/blobs/{}", digest(b"loose"))).is(404);
    assert_eq!(registry.call("GET", &format!("/v2/r/blobs/{}", digest(b"kept"))).is(200).body, b"kept");
    registry.call("DELETE", &format!("/v2/r/manifests/{kept}")).is(202);
    registry.server.collect(Duration::ZERO).unwrap();
    assert_eq!(blobs(), 0);
    assert_eq!(registry.store.check(true).unwrap(), []);
}

#[test]
fn readers_and_writers_go_on_while_it_collects() {
    let registry = plain();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                registry.server.collect(Duration::from_secs(3600)).unwrap();
            }
        });
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let registry = &registry;
                scope.spawn(move || {
                    for round in 0..8 {
                        let content = noise(writer * 100 + round, 5000);
                        let name = format!("r{writer}");
                        let digest = registry.put_artifact(&name, Some("v"), &content, "");
                        let path = format!("/v2/{name}/blobs/{}", common::digest(&content));
                        assert!(registry.call("GET", &path).is(200).body == content);
                        registry.call("DELETE", &format!("/v2/{name}/manifests/{digest}")).is(202);
                    }
                })
            })
            .collect();
        let done: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(done.iter().all(Result::is_ok));
    });
    assert_eq!(registry.store.check(true).unwrap(), []);
}

#[test]
fn uploads_outlive_the_server_and_expire() {
    let registry = plain();
    let location = registry.call("POST", "/v2/r/blobs/uploads/").is(202).header("location").to_owned();
    registry.send("PATCH", &location, &[], b"hello ").is(202);
    // Another server over the same store knows the upload by its file alone.
    let again = registry::server::Server::open(
        registry.store.clone(),
        Config { upload_idle: Duration::ZERO, ..Config::default() },
        registry::client::Client::new(registry::client::Config::default()),
    )
    .unwrap();
    let listen = registry::server::Listen {
        address: "127.0.0.1:0".parse().unwrap(),
        tls: None,
        names: Vec::new(),
        plain: false,
    };
    let listening = registry.runtime.block_on(again.bind(&listen)).unwrap();
    let address = listening.address();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = registry.runtime.spawn(listening.serve(async move { drop(stopped.await) }));
    assert_eq!(call(address, "GET", &location, &[], b"").is(204).header("range"), "0-5");
    let path = format!("{location}?digest={}", digest(b"hello world"));
    call(address, "PUT", &path, &[], b"world").is(201);
    let left = registry.call("POST", "/v2/r/blobs/uploads/").is(202).header("location").to_owned();
    again.collect(Duration::from_secs(3600)).unwrap();
    call(address, "GET", &left, &[], b"").refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(std::fs::read_dir(registry.folder.path().join("uploads")).unwrap().count(), 0);
    drop(stop);
    registry.runtime.block_on(served).unwrap();
}

fn users() -> Vec<User> {
    ["ann:", "bob:team/*=pull,push"]
        .iter()
        .map(|text| {
            let (name, grants) = text.split_once(':').unwrap();
            User::parse(&format!("{}:{grants}", User::line(name, "pw").unwrap())).unwrap()
        })
        .collect()
}

#[test]
fn users_do_what_they_may() {
    let anonymous = vec![Grant::parse("public/*=pull").unwrap()];
    let registry = Registry::start(Config { users: users(), anonymous, ..Config::default() });
    let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
    let (ann, bob, eve) = (basic("ann:pw"), basic("bob:pw"), basic("ann:no"));
    let call = |who: &str, method: &str, path: &str, body: &[u8]| match who {
        "" => registry.send(method, path, &[], body),
        who => registry.send(method, path, &[("Authorization", who)], body),
    };
    let digest = digest(b"secret");
    call(&ann, "POST", &format!("/v2/private/x/blobs/uploads/?digest={digest}"), b"secret").is(201);
    call(&ann, "POST", &format!("/v2/public/x/blobs/uploads/?digest={digest}"), b"secret").is(201);
    let private = format!("/v2/private/x/blobs/{digest}");
    let refused = call("", "GET", &private, b"").refused(401, "UNAUTHORIZED");
    assert_eq!(refused.header("www-authenticate"), "Basic realm=\"knarr-registry\"");
    for (who, method, path, status) in [
        ("", "GET", "/v2/", 401),
        (&*ann, "GET", "/v2/", 200),
        (&*eve, "GET", "/v2/", 401),
        (&*ann, "GET", &*private, 200),
        (&*bob, "GET", &*private, 403),
        (&*bob, "DELETE", &*private, 403),
        (&*eve, "GET", &*private, 401),
        ("", "GET", &*format!("/v2/public/x/blobs/{digest}"), 200),
        ("", "DELETE", &*format!("/v2/public/x/blobs/{digest}"), 401),
        ("", "POST", "/v2/public/x/blobs/uploads/", 401),
        (&*bob, "POST", "/v2/team/a/blobs/uploads/", 202),
        (&*bob, "POST", "/v2/teams/blobs/uploads/", 403),
        (&*bob, "PUT", "/v2/private/x/manifests/v1", 403),
        (&*bob, "GET", "/v2/private/x/tags/list", 403),
        (&*bob, "GET", &*format!("/v2/private/x/referrers/{digest}"), 403),
    ] {
        call(who, method, path, b"").is(status);
    }
    // A mount needs the right to read the source: without it nothing is said about whether the blob is there.
    call(&bob, "POST", &format!("/v2/team/a/blobs/uploads/?mount={digest}&from=private/x"), b"").is(202);
    call(&ann, "POST", &format!("/v2/team/a/blobs/uploads/?mount={digest}&from=private/x"), b"").is(201);
    // The catalog tells each what they may read.
    assert_eq!(call(&bob, "GET", "/v2/_catalog", b"").is(200).json()["repositories"], serde_json::json!([]));
}

#[test]
fn tokens_say_what_they_allow() {
    let anonymous = vec![Grant::everywhere(vec![Action::Pull])];
    let registry =
        Registry::start(Config { users: users(), anonymous, method: AuthMethod::Token, ..Config::default() });
    let refused = registry.call("POST", "/v2/team/a/blobs/uploads/").refused(401, "UNAUTHORIZED");
    let challenge = refused.header("www-authenticate").to_owned();
    assert!(challenge.contains(&format!("realm=\"http://{}/token\"", registry.address)), "{challenge}");
    assert!(challenge.contains("scope=\"repository:team/a:pull,push\""), "{challenge}");
    let basic = format!("Basic {}", STANDARD.encode("bob:pw"));
    let path = "/token?service=knarr-registry&scope=repository:team/a:pull,push&scope=repository:private:pull,push&offline_token=true";
    let answer = registry.send("GET", path, &[("Authorization", &basic)], b"").is(200).json();
    let bearer = format!("Bearer {}", answer["token"].as_str().unwrap());
    registry.send("POST", "/v2/team/a/blobs/uploads/", &[("Authorization", &bearer)], b"").is(202);
    registry.send("POST", "/v2/private/blobs/uploads/", &[("Authorization", &bearer)], b"").is(401);
    // A login gives a token that stands for it; it opens nothing by itself.
    let refresh = answer["refresh_token"].as_str().unwrap();
    let direct = format!("Bearer {refresh}");
    registry.send("POST", "/v2/team/a/blobs/uploads/", &[("Authorization", &direct)], b"").is(401);
    let form = format!("grant_type=refresh_token&service=s&scope=repository:team/a:pull,push&refresh_token={refresh}");
    let answer = registry.send("POST", "/token", &[], form.as_bytes()).is(200).json();
    let bearer = format!("Bearer {}", answer["access_token"].as_str().unwrap());
    registry.send("POST", "/v2/team/a/blobs/uploads/", &[("Authorization", &bearer)], b"").is(202);
    let wrong = format!("Basic {}", STANDARD.encode("bob:no"));
    registry.send("GET", path, &[("Authorization", &wrong)], b"").refused(401, "UNAUTHORIZED");
    registry.send("POST", "/token", &[], b"grant_type=password&username=bob&password=pw&scope=x").is(200);
    registry.send("POST", "/token", &[], b"grant_type=magic").is(405);
}
