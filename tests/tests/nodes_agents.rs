//! Agents in the long run: what clients carry through their servers, certificates that end, and an API that is away for minutes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use blackbox::{Agent, Host, Lan, Server, eventually, fetch, is_root, traffic};
use rustix::process::Signal;

fn can() -> bool {
    let there = |program: &&str| Command::new(program).arg("--help").output().is_ok();
    let can = is_root() && ["kubectl", "ip", "nsenter", "curl"].iter().all(there);
    if !can {
        eprintln!("SKIPPED: needs root, kubectl, ip, nsenter, curl");
    }
    can
}

fn pod(name: &str, more: &str, command: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: one\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - {{name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, '{command}'], {more}}}\n---\n"
    )
}

fn value(server: &Server, object: &str, path: &str) -> String {
    server.kubectl_with(&["get", object, "-o", &format!("jsonpath={path}")], "").text()
}

fn ready(server: &Server, object: &str) -> bool {
    value(server, object, "{.status.conditions[?(@.type==\"Ready\")].status}") == "True"
}

/// A server and one agent `one` that is ready.
fn pair(words: &[&str]) -> (Lan, Host, Server, Agent) {
    let mut lan = Lan::new();
    let (here, there) = (lan.host(), lan.host());
    let server = Server::start(&here, words);
    let agent = Agent::start(&there, "one", &["--server", &server.url(), "--token", &server.token()]);
    eventually("the node is ready", || ready(&server, "node/one"));
    (lan, there, server, agent)
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(server: &Server, websockets: bool, words: &[&str]) -> Running {
    let mut command = server.host.command("kubectl");
    let websockets = if websockets { "true" } else { "false" };
    command.env("KUBECONFIG", server.kubeconfig()).env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
    command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets).args(words);
    Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start kubectl"))
}

/// Attach, port-forward and copies go through the server to a pod on another machine, by new and old clients.
#[test]
fn attach_and_port_forward_reach_pods_of_agents() {
    if !can() {
        return;
    }
    let (_lan, _there, server, agent) = pair(&[]);
    let echo = pod("echo", "stdin: true", "while read line; do echo \"said $line\"; done");
    let web = pod("web", "", "mkdir /www; echo here > /www/index.html; exec httpd -f -p 8080 -h /www");
    server.kubectl_with(&["apply", "-f", "-"], &(echo + &web)).success();
    server.kubectl("wait --for=condition=Ready pod/echo pod/web --timeout=60s").success();
    for websockets in [true, false] {
        let mut attached = start(&server, websockets, &["attach", "-i", "echo"]);
        let mut output = BufReader::new(attached.0.stdout.take().unwrap());
        let input = attached.0.stdin.as_mut().unwrap();
        // What is said before the streams are joined is read by nobody but the container.
        let mut line = String::new();
        writeln!(input, "one {websockets}").unwrap();
        output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), format!("said one {websockets}"));
        drop(attached);

        let mut forward = start(&server, websockets, &["port-forward", "pod/web", ":8080"]);
        let mut first = String::new();
        BufReader::new(forward.0.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
        let port = first.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).expect(&first).to_owned();
        for _ in 0..5 {
            let at = format!("127.0.0.1:{port}");
            assert_eq!(traffic::within(server.host.netns(), move || fetch(&at)), Ok("here".to_owned()), "{websockets}");
        }
    }
    server.kubectl("delete pod echo web").success();
    eventually("no pod is left", || server.kubectl("get pods -o name").text().is_empty());
    drop(agent);
}

/// Both of an agent's certificates end within seconds here: it has new ones in time, and everything goes on with them.
#[test]
fn an_agents_certificates_are_renewed_before_they_end() {
    if !can() {
        return;
    }
    let (_lan, there, server, agent) = pair(&["--cluster-signing-duration", "15s"]);
    server.kubectl_with(&["apply", "-f", "-"], &pod("web", "", "echo started; exec sleep 3600")).success();
    server.kubectl("wait --for=condition=Ready pod/web --timeout=60s").success();
    let issued = |signer: &str| {
        let all = server.kubectl("get csr").success().text();
        all.lines().filter(|line| line.contains(signer) && line.contains("Approved,Issued")).count()
    };
    let shown = || {
        let ask = format!("curl -skv https://{}:10250/pods", there.address);
        let text = there.run(&ask).errors();
        text.lines().find(|line| line.contains("start date")).map(str::to_owned).unwrap_or_default()
    };
    let before = shown();
    assert!(before.contains("start date"), "{before}");
    for signer in ["kube-apiserver-client-kubelet", "kubelet-serving"] {
        // The third one is asked for after the first one has ended.
        eventually(&format!("three certificates of {signer}"), || issued(signer) >= 3);
    }
    assert_ne!(shown(), before, "another one is shown");
    assert_eq!(server.kubectl("logs web").success().text(), "started");
    server.kubectl_with(&["exec", "web", "--", "true"], "").success();
    server.kubectl_with(&["apply", "-f", "-"], &pod("next", "", "exec sleep 3600")).success();
    server.kubectl("wait --for=condition=Ready pod/next --timeout=60s").success();
    assert!(ready(&server, "node/one"));
    server.kubectl("delete pod web next").success();
    eventually("no pod is left", || server.kubectl("get pods -o name").text().is_empty());
    drop(agent);
}

/// The API is away for longer than nodes may be silent, and stands still for as long: pods run on, are healed where they are, what
/// happened is told after, and nobody takes the nodes for lost.
#[test]
fn an_api_that_is_away_for_minutes_costs_no_pod() {
    if !can() {
        return;
    }
    const AWAY: Duration = Duration::from_secs(70);
    let (_lan, _there, mut server, agent) = pair(&[]);
    // It leaves a node that is lost at once.
    let deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  selector: {matchLabels: {app: web}}\n  \
        template:\n    metadata: {labels: {app: web}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      tolerations:\n      \
        - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 0}\n      \
        - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 0}\n      \
        containers:\n      - {name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, '3600']}\n";
    server.kubectl_with(&["apply", "-f", "-"], deployment).success();
    server.kubectl("rollout status deployment/web --timeout=60s").success();
    let uids = |server: &Server| {
        server
            .kubectl_with(&["get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.uid}"], "")
            .success()
            .text()
    };
    let container =
        || agent.world.docker(["ps", "-q", "--filter", "label=io.kubernetes.container.name=c"]).success().text();
    let (pod, first) = (uids(&server), container());
    // Time passes, and the container is looked at.
    let pass = |what: &str| {
        let began = Instant::now();
        while began.elapsed() < AWAY {
            assert!(!container().is_empty(), "{what}: the container runs on");
            std::thread::sleep(Duration::from_secs(2));
        }
    };
    let unharmed = |server: &Server, what: &str| {
        // For as long as a wrong verdict would take to be carried out.
        let until = Instant::now() + Duration::from_secs(15);
        while Instant::now() < until {
            assert_eq!(uids(server), pod, "{what}");
            assert_eq!(value(server, "node/one", "{.spec.taints}"), "", "{what}");
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(ready(server, "node/one"), "{what}");
    };

    server.signal(Signal::STOP);
    pass("the server stands still");
    server.signal(Signal::CONT);
    eventually("it answers again", || server.kubectl("get --raw /readyz").code == 0);
    unharmed(&server, "it stood still");
    assert_eq!(container(), first);

    server.kill();
    agent.world.docker(["kill", &first]).success();
    eventually("it is healed where it is", || !container().is_empty() && container() != first);
    pass("no server is there");
    server.again();
    unharmed(&server, "it was away");
    eventually("what happened is told", || {
        let path = "jsonpath={.items[0].status.containerStatuses[0].restartCount} {.items[0].status.containerStatuses[0].lastState.terminated.exitCode}";
        server.kubectl_with(&["get", "pods", "-l", "app=web", "-o", path], "").text() == "1 137"
    });
    server.kubectl("delete deployment web").success();
    eventually("no pod is left", || server.kubectl("get pods -o name").text().is_empty());
    drop(agent);
}

/// Everything that an agent's own port answers asks who is there (KN-01).
#[test]
fn kn_01_nobody_anonymous_is_answered_by_a_node() {
    if !can() {
        return;
    }
    let (mut lan, there, server, agent) = pair(&[]);
    server.kubectl_with(&["apply", "-f", "-"], &pod("web", "", "exec sleep 3600")).success();
    server.kubectl("wait --for=condition=Ready pod/web --timeout=60s").success();
    let stranger = lan.host();
    let ask = |more: &str, path: &str| {
        let line =
            format!("curl -sk -m 5 -o /dev/null -w %{{http_code}} {more} https://{}:10250/{path}", there.address);
        stranger.run(&line).text()
    };
    let pages = [
        "",
        "healthz",
        "pods",
        "runningpods/",
        "metrics",
        "metrics/cadvisor",
        "stats/summary",
        "spec/",
        "configz",
        "logs/",
        "containerLogs/default/web/c",
        "knarr/reached?revision=1",
        "debug/pprof/",
        "checkpoint/default/web/c",
    ];
    for page in pages {
        assert_eq!(ask("", page), "401", "{page}");
        assert_eq!(ask("-H Authorization:Bearer%20forged", page), "401", "{page}");
    }
    for page in [
        "run/default/web/c?cmd=id",
        "exec/default/web/c?command=id&input=1&output=1",
        "attach/default/web/c",
        "portForward/default/web",
    ] {
        assert_eq!(ask("-X POST", page), "401", "{page}");
    }
    assert_eq!(ask("", "%2e%2e/pods"), "400", "a path that could be read in two ways is not read at all");
    // Who is known and may not is told so; a node's own certificate opens no other node's pages.
    let token = server.kubectl("create token default").success().text();
    let known = |page: &str| ask(&format!("--oauth2-bearer {token}"), page);
    assert_eq!((known("pods"), known("metrics")), ("403".to_owned(), "403".to_owned()));
    // Nothing else of it listens where others reach it.
    let listening = there.run("ss -Hlnt").success().text();
    let open: Vec<&str> = listening
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3))
        .filter(|at| {
            at.starts_with(&there.address) || at.starts_with('*') || at.starts_with("0.0.0.0") || at.starts_with("[::]")
        })
        .collect();
    assert_eq!(open, [format!("{}:10250", there.address)], "{listening}");
    let mut text = String::new();
    let read_only = traffic::within(stranger.netns(), {
        let at = format!("{}:10255", there.address);
        move || std::net::TcpStream::connect(at).and_then(|mut stream| stream.read_to_string(&mut text))
    });
    assert!(read_only.is_err(), "no port without questions");
    server.kubectl("delete pod web").success();
    eventually("no pod is left", || server.kubectl("get pods -o name").text().is_empty());
    drop(agent);
}
