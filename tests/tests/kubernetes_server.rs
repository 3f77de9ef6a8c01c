//! `knarr server --no-node` as an administrator has it: throwaway servers, data that is kept, backed up, restored and moved
//! to an etcd and back, and one that is killed.

#[path = "../../crates/cluster/store/tests/support/etcd_server.rs"]
mod etcd_server;

use std::process::{Command, Stdio};

use blackbox::{Answer, ApiServer, eventually, finish, program};
use etcd_server::Server as Etcd;

fn there(program: &str) -> bool {
    let found = Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("SKIPPED: there is no {program} here");
    }
    found
}

fn server(words: &[&str]) -> Answer {
    let mut command = Command::new(program());
    command.arg("server").args(words);
    finish(command, b"")
}

/// What a user has in the cluster, with what says that it is the same object.
fn content(server: &ApiServer) -> String {
    let columns = "custom-columns=K:.kind,N:.metadata.name,U:.metadata.uid,D:.data,R:.spec.replicas";
    let all = server
        .kubectl(&format!("get configmaps,secrets,deployments,boats,namespaces -A --no-headers -o {columns}"))
        .success()
        .text();
    // The server's own token for nodes is made by whoever starts; it is no part of what was put in.
    let lines: Vec<&str> = all.lines().filter(|line| !line.contains("bootstrap-token-")).collect();
    lines.join("\n")
}

const OBJECTS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {word: \"\\u00fcber\"}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {key: value}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}
";

fn fill(server: &ApiServer) {
    server.kubectl_with(&["apply", "-f", "-"], OBJECTS).success();
    server.kubectl("wait --for=condition=Established crd/boats.example.com").success();
    let boat = "apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: ormen}\nspec: {sails: 1}\n";
    server.kubectl_with(&["create", "-f", "-"], boat).success();
}

/// The authority and the key of tokens are files of their own, which whoever restores a cluster keeps too.
fn keep_keys(from: &str, to: &str) {
    let copied = Command::new("cp").arg("-a").arg(format!("{from}/cluster/pki")).arg(format!("{to}/cluster/")).status();
    assert!(copied.unwrap().success());
}

#[test]
fn a_throwaway_server_forgets_everything() {
    if !there("kubectl") {
        return;
    }
    let mut server = ApiServer::start(&["--ephemeral"]);
    assert!(server.log().contains("ready"), "{}", server.log());
    fill(&server);
    assert!(content(&server).contains("ormen"));
    // It is one of many, and none knows of another.
    let other = ApiServer::start(&["--ephemeral"]);
    other.kubectl("get configmap words").exits(1).stderr_has("NotFound");
    server.stop();
    assert!(!server.root().join("cluster").exists(), "nothing was written");
    server.start_again(None);
    server.kubectl("get configmap words").exits(1).stderr_has("NotFound");
}

#[test]
fn data_is_backed_up_restored_and_moved_to_an_etcd_and_back() {
    if !there("kubectl") || !there("etcd") {
        return;
    }
    let mut server_a = ApiServer::start(&[]);
    fill(&server_a);
    let before = content(&server_a);
    let root = server_a.root().to_str().unwrap().to_owned();
    let dir = server_a.dir().to_owned();
    let in_dir = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let (file, live, other) = (in_dir("backup"), in_dir("live"), in_dir("other"));

    // From a running server, and not from its files while it has them.
    server(&["backup", "--from", &root, "--to", &file]).exits(1).stderr_has("another process has it open");
    let raw = server_a.kubectl("get --raw /knarr/backup").success();
    std::fs::write(&live, &raw.stdout).unwrap();
    server_a.stop();
    server(&["backup", "--from", &root, "--to", &file]).success().stdout_has("keys at revision");
    server(&["restore", "--from", &file, "--to", &root]).exits(1).stderr_has("restore into an empty one");
    let mut cut = std::fs::read(&file).unwrap();
    cut.truncate(cut.len() - 7);
    std::fs::write(in_dir("cut"), cut).unwrap();
    server(&["restore", "--from", &in_dir("cut"), "--to", &in_dir("nowhere")]).exits(1).stderr_has("damaged");

    // Both backups hold the same cluster.
    for backup in [&file, &live] {
        let restored = in_dir(if backup == &file { "restored" } else { "restored-live" });
        server(&["restore", "--from", backup, "--to", &restored]).success().stdout_has("are restored");
        keep_keys(&root, &restored);
        let again = ApiServer::start(&["--root", &restored]);
        assert_eq!(content(&again), before);
    }

    // To an etcd, where it goes on, and back with what was added there.
    let etcd = Etcd::start().expect("there is one");
    server(&["move", "--from", &root, "--to", &etcd.client]).success().stdout_has("are copied");
    server(&["move", "--from", &root, "--to", &etcd.client]).exits(1).stderr_has("restore into an empty one");
    server_a.start_again(Some(&["--datastore", &etcd.client]));
    assert_eq!(content(&server_a), before);
    server_a.kubectl("create configmap added --from-literal=a=b").success();
    let after = content(&server_a);
    server_a.stop();
    server(&["move", "--from", &etcd.client, "--to", &other]).success();
    keep_keys(&root, &other);
    server_a.start_again(Some(&["--root", &other]));
    assert_eq!(content(&server_a), after);
    assert!(after.contains("added") && after.len() > before.len());
}

/// An etcd that asks for certificates and a password, with a dead one named beside it, and one that goes away for a while.
#[test]
fn data_moves_to_a_guarded_etcd_and_back() {
    if !there("kubectl") || !there("etcd") {
        return;
    }
    let mut etcd = Etcd::with_tls().expect("there is one");
    etcd.ask_for_passwords();
    let mut server_a = ApiServer::start(&[]);
    fill(&server_a);
    let before = content(&server_a);
    server_a.stop();
    let root = server_a.root().to_str().unwrap().to_owned();
    let dir = server_a.dir().to_owned();
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (authority, (certificate, key)) = etcd.papers().unwrap();
    let (ca, certificate, key) = (file("ca", &authority), file("crt", &certificate), file("key", &key));
    let papers = ["--datastore-cafile", &ca, "--datastore-certfile", &certificate, "--datastore-keyfile", &key];
    let login = |password: &str| {
        let name = file(&format!("password-{}", password.trim()), password);
        ["--datastore-user", "root", "--datastore-password-file"].map(str::to_owned).into_iter().chain([name])
    };
    let with = |words: &[&str], password: &str| -> Vec<String> {
        words.iter().chain(&papers).map(|word| (*word).to_owned()).chain(login(password)).collect()
    };
    let run = |words: &[String]| server(&words.iter().map(String::as_str).collect::<Vec<_>>());

    let there = ["move", "--from", &root, "--to", &etcd.client];
    server(&there).exits(1).stderr_has("https needs the certificate of its authority");
    run(&with(&there, "wrong")).exits(1).stderr_has("authentication failed");
    // Editors end a file with a newline.
    run(&with(&there, "sesame\n")).success().stdout_has("are copied");
    let both = format!("https://127.0.0.1:1,{}", etcd.client);
    let flags = with(&["--datastore", &both], "sesame");
    server_a.start_again(Some(&flags.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(content(&server_a), before);
    etcd.kill();
    server_a.kubectl("create configmap lost --request-timeout=30s").exits(1).stderr_has("does not answer");
    etcd.restart();
    eventually("the server is ready again", || server_a.kubectl("get --raw /readyz").stdout == b"ok");
    server_a.kubectl("create configmap added --from-literal=a=b").success();
    let after = content(&server_a);
    assert!(after.contains("added") && !after.contains("lost") && after.len() > before.len());
    server_a.stop();
    let other = dir.join("other").to_str().unwrap().to_owned();
    run(&with(&["move", "--from", &etcd.client, "--to", &other], "sesame")).success();
    keep_keys(&root, &other);
    server_a.start_again(Some(&["--root", &other]));
    assert_eq!(content(&server_a), after);
}

#[test]
fn a_killed_server_goes_on_where_it_was() {
    if !there("kubectl") {
        return;
    }
    let mut server = ApiServer::start(&[]);
    fill(&server);
    let before = content(&server);
    for _ in 0..3 {
        server.kill();
        server.start_again(None);
        assert_eq!(content(&server), before);
    }
    // A directory that others may read holds keys and secrets: it is repaired.
    server.stop();
    let cluster = server.root().join("cluster");
    let mode = |path: &std::path::Path| {
        std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777
    };
    let open = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    for path in [cluster.clone(), cluster.join("pki")] {
        std::fs::set_permissions(&path, open.clone()).unwrap();
    }
    server.start_again(None);
    assert_eq!((mode(&cluster), mode(&cluster.join("pki")), mode(&cluster.join("cluster.db"))), (0o700, 0o700, 0o600));
}
