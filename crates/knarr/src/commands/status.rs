//! `knarr status`: one page about the cloud that runs here: what runs, what is wrong, what to do.

use serde_json::Value;

use super::{Arity, Command, Context, kube, out};
use crate::cloud::Running;
use crate::failure::Failure;
use crate::flags::Matches;
use crate::kube::{Cluster, output};
use crate::settings;
use crate::text::printable;
use crate::units;

pub static STATUS: Command = Command {
    name: "status",
    usage: "[OPTIONS]",
    about: "Show what runs in the cloud, what is wrong, and what to do",
    examples: "  knarr status",
    flags: &[settings::FLAGS],
    interspersed: true,
    arity: Arity::None,
    run,
};

/// What the page tells, gathered.
#[derive(Debug, Default)]
struct Seen {
    nodes: Vec<Value>,
    pods: Vec<Value>,
    workloads: Vec<Value>,
    /// Of the engine; nothing if it does not answer.
    info: Option<Value>,
    /// Why the API could not be asked.
    api_problem: Option<String>,
}

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let settings = context.settings();
    let Some(running) = Running::find(&settings.run) else {
        out(&format!("No cloud runs in {}\n\nStart one: knarr up\n", settings.run.display()))?;
        return Ok(1);
    };
    let Some(address) = running.api else { return agent(settings, &running) };
    let seen = gather(context, matches);
    let memory =
        std::fs::read_to_string(format!("/proc/{}/smaps_rollup", running.pid)).ok().and_then(|text| pss(&text));
    let answers = |good: bool| if good { "answers" } else { "does not answer: see the log" };
    let rows = [
        ("Process", format!("{}, {}", running.pid, memory.map_or_else(|| "?".into(), units::size_binary))),
        ("Kubernetes", format!("https://{address} {}", answers(seen.api_problem.is_none()))),
        ("Docker", format!("{} {}", settings.host, answers(seen.info.is_some()))),
        ("Nodes", nodes(&seen.nodes)),
        ("Pods", pods(&seen.pods)),
        ("Containers", containers(seen.info.as_ref())),
        ("Root", settings.root.display().to_string()),
        ("Log", settings.run.join("up.log").display().to_string()),
    ];
    let mut text: String = rows.iter().map(|(name, value)| format!("{name:12}{value}\n")).collect();
    text.push_str(&workloads(&seen.workloads));
    let wrong = wrong(&seen);
    match wrong.is_empty() {
        true => text.push_str("\nNothing is wrong.\n"),
        false => {
            text.push_str("\nWhat is wrong:\n");
            wrong.iter().for_each(|line| text.push_str(&format!("  * {line}\n")));
        }
    }
    text.push_str(&format!("\n  export KUBECONFIG={}\n  export DOCKER_HOST={}\n", running.kubeconfig, settings.host));
    out(&printable(&text))?;
    Ok(u8::from(seen.api_problem.is_some() || seen.info.is_none()))
}

fn gather(context: &Context, matches: &Matches) -> Seen {
    let mut seen = Seen { info: context.client.get("/info").ok(), ..Seen::default() };
    let asked = Cluster::open(context.settings(), matches).and_then(|cluster| {
        let list = |word: &str| cluster.list(cluster.catalog.named(word)?, "", "");
        seen.nodes = list("nodes")?;
        seen.pods = list("pods")?;
        for kind in ["deployments.apps", "statefulsets.apps", "daemonsets.apps"] {
            seen.workloads.extend(list(kind)?);
        }
        Ok(())
    });
    seen.api_problem = asked.err().map(|failure| failure.message);
    seen
}

/// Proportional set size, bytes, from `smaps_rollup`.
fn pss(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kilobytes| kilobytes * 1024.0)
}

fn is_ready(node: &Value) -> bool {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn nodes(nodes: &[Value]) -> String {
    let names: Vec<&str> = nodes.iter().filter_map(|node| node["metadata"]["name"].as_str()).collect();
    let ready = nodes.iter().filter(|node| is_ready(node)).count();
    format!("{ready} of {} ready: {}", nodes.len(), names.join(", "))
}

fn pods(pods: &[Value]) -> String {
    let count = |phase: &str| pods.iter().filter(|pod| pod["status"]["phase"] == phase).count();
    let mut text = format!("{} running", count("Running"));
    for (phase, word) in [("Pending", "pending"), ("Failed", "failed"), ("Succeeded", "done")] {
        if count(phase) > 0 {
            text.push_str(&format!(", {} {word}", count(phase)));
        }
    }
    text
}

fn containers(info: Option<&Value>) -> String {
    let Some(info) = info else { return "?".into() };
    format!("{} running of {}; {} images", info["ContainersRunning"], info["Containers"], info["Images"])
}

fn workloads(workloads: &[Value]) -> String {
    if workloads.is_empty() {
        return String::new();
    }
    let mut lines = vec!["NAMESPACE\tWORKLOAD\tREADY".to_owned()];
    for workload in workloads {
        let number = |value: &Value| value.as_i64().unwrap_or(0);
        let status = &workload["status"];
        let (ready, wanted) = match workload["kind"].as_str() {
            Some("DaemonSet") => (number(&status["numberReady"]), number(&status["desiredNumberScheduled"])),
            _ => (number(&status["readyReplicas"]), number(&workload["spec"]["replicas"])),
        };
        let namespace = workload["metadata"]["namespace"].as_str().unwrap_or_default();
        lines.push(format!("{namespace}\t{}\t{ready}/{wanted}", output::name(workload)));
    }
    format!("\n{}", output::align(&lines))
}

/// Pure.
fn wrong(seen: &Seen) -> Vec<String> {
    let mut wrong: Vec<String> = seen.api_problem.iter().cloned().collect();
    for node in seen.nodes.iter().filter(|node| !is_ready(node)) {
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        wrong.push(format!("node/{name} is not ready\n    See why: knarr describe node {name}"));
    }
    // What a workload complains of is what its pods complain of, in other words.
    let pods: Vec<String> = seen.pods.iter().flat_map(kube::complaints).collect();
    let workloads = seen.workloads.iter().flat_map(kube::complaints);
    match pods.is_empty() {
        true => wrong.extend(workloads),
        false => wrong.extend(pods),
    }
    wrong
}

/// An agent's servers are elsewhere; what runs here is its engine and pods.
fn agent(settings: &settings::Settings, running: &Running) -> Result<u8, Failure> {
    let engine = crate::client::http::Stream::connect(&settings.host).is_ok();
    let word = if engine { "answers" } else { "does not answer: see the log" };
    let pods = std::fs::read_dir(settings.run.join("pods")).map_or(0, Iterator::count);
    let servers = std::fs::read_to_string(settings.root.join("agent/servers")).unwrap_or_default();
    let servers: Vec<&str> = servers.lines().collect();
    let servers = if servers.is_empty() { "none yet".to_owned() } else { servers.join(" ") };
    let rows = [
        ("Process", running.pid.to_string()),
        ("Agent", running.node.clone()),
        ("Servers", servers),
        ("Docker", format!("{} {word}", settings.host)),
        ("Pods here", pods.to_string()),
        ("Root", settings.root.display().to_string()),
    ];
    out(&rows.iter().map(|(name, value)| format!("{name:12}{value}\n")).collect::<String>())?;
    Ok(u8::from(!engine))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_page_counts_and_complains() {
        let node = |ready: &str| json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        let pod = |phase: &str| json!({"kind": "Pod", "metadata": {"name": "p"}, "status": {"phase": phase}});
        assert_eq!(nodes(&[node("True"), node("False")]), "1 of 2 ready: n, n");
        assert_eq!(pods(&[pod("Running"), pod("Pending"), pod("Running")]), "2 running, 1 pending");
        assert_eq!(pss("Rss: 1 kB\nPss:        2 kB\n"), Some(2048.0));
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "d"},
            "spec": {"replicas": 2}, "status": {"readyReplicas": 1, "conditions": [
                {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable", "message": "few"}]}});
        let text = workloads(std::slice::from_ref(&deployment));
        assert_eq!(text, "\nNAMESPACE   WORKLOAD              READY\nd           deployment.apps/web   1/2\n");
        let mut seen = Seen { nodes: vec![node("False")], workloads: vec![deployment], ..Seen::default() };
        assert_eq!(
            wrong(&seen),
            [
                "node/n is not ready\n    See why: knarr describe node n",
                "deployment/web: MinimumReplicasUnavailable: few"
            ]
        );
        let waiting =
            json!({"name": "c", "image": "app", "state": {"waiting": {"reason": "ErrImagePull", "message": "m"}}});
        seen.pods = vec![json!({"kind": "Pod", "metadata": {"name": "p"}, "status": {"containerStatuses": [waiting]}})];
        assert!(wrong(&seen)[1].contains("knarr pull app"));
    }
}
