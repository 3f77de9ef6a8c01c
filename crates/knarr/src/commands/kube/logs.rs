//! `logs pod/web`: what the cluster's containers wrote.

use std::io::Write;

use serde_json::Value;

use super::super::{Command, Context};
use crate::failure::Failure;
use crate::flags::{Arity, Matches, duration, int, switch, text};
use crate::kube::{self, Cluster};

pub(crate) static LOGS: Command = Command {
    name: "logs",
    usage: "KIND/NAME [OPTIONS]",
    about: "Show what the containers of a pod wrote",
    examples: "  knarr logs -f deploy/web
  knarr logs pod/web -c app --previous
  knarr logs pod/web --all-containers --tail=20",
    flags: &[
        kube::FLAGS,
        &[
            switch("all-containers", "All containers of the pod"),
            text("container", "Container of the pod").short('c'),
            switch("follow", "Go on with what is written").short('f'),
            int("limit-bytes", "At most so many bytes"),
            switch("previous", "What the container before this one wrote").short('p'),
            switch("prefix", "Say in front of each line whose it is"),
            duration("since", "Only what is younger than this"),
            text("since-time", "Only what was written after this time (RFC 3339)"),
            int("tail", "Lines from the end; -1 is all").default("-1"),
            switch("timestamps", "Show when each line was written"),
        ],
    ],
    interspersed: true,
    arity: Arity::Between(1, 2),
    run,
};

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let cluster = Cluster::open(context.settings(), matches)?;
    let (_, object) = cluster.object(&matches.arguments[0], "pods")?;
    let pods = cluster.pods_of(&object)?;
    let Some(pod) = pods.first() else { return Err("error: there is no pod yet".into()) };
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if pods.len() > 1 {
        eprintln!("Found {} pods, using pod/{name}", pods.len());
    }
    let named = matches.text("container").or(matches.arguments.get(1).map(String::as_str));
    let containers = chosen(pod, named, matches.is("all-containers"))?;
    let prefix = matches.is("prefix");
    for container in &containers {
        let path = path(&cluster, pod, container, matches)?;
        let mut stdout = std::io::stdout();
        let label = if prefix { format!("[pod/{name}/{container}] ") } else { String::new() };
        let mut at_start = true;
        cluster.api.stream(&path, "*/*", |bytes| {
            if label.is_empty() {
                stdout.write_all(bytes)?;
            } else {
                for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                    if at_start {
                        stdout.write_all(label.as_bytes())?;
                    }
                    stdout.write_all(line)?;
                    at_start = line.ends_with(b"\n");
                }
            }
            stdout.flush()?;
            Ok(true)
        })?;
    }
    Ok(0)
}

/// Which containers are meant; the annotation that names the usual one counts as it does for kubectl.
pub(super) fn chosen(pod: &Value, named: Option<&str>, all: bool) -> Result<Vec<String>, Failure> {
    let names: Vec<String> = ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|field| pod["spec"][*field].as_array().into_iter().flatten())
        .filter_map(|container| container["name"].as_str().map(str::to_owned))
        .collect();
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    if all {
        return Ok(names);
    }
    if let Some(named) = named {
        return match names.iter().any(|name| name == named) {
            true => Ok(vec![named.to_owned()]),
            false => Err(Failure::new(format!(
                "error: container {named} is not valid for pod {pod_name}: it has {}",
                names.join(", ")
            ))),
        };
    }
    let usual = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
    if let Some(usual) = usual.filter(|usual| names.iter().any(|name| name == usual)) {
        return Ok(vec![usual.to_owned()]);
    }
    let first = pod["spec"]["containers"][0]["name"].as_str().unwrap_or_default().to_owned();
    if names.len() > 1 {
        eprintln!("Defaulted container {first:?} out of: {}", names.join(", "));
    }
    Ok(vec![first])
}

fn path(cluster: &Cluster, pod: &Value, container: &str, matches: &Matches) -> Result<String, Failure> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let mut pairs = vec![("container", container.to_owned())];
    for (flag, parameter) in [("follow", "follow"), ("previous", "previous"), ("timestamps", "timestamps")] {
        if matches.is(flag) {
            pairs.push((parameter, "true".into()));
        }
    }
    if let Some(lines) = matches.int("tail").filter(|lines| *lines >= 0) {
        pairs.push(("tailLines", lines.to_string()));
    }
    if let Some(bytes) = matches.int("limit-bytes") {
        pairs.push(("limitBytes", bytes.to_string()));
    }
    if let Some(nanos) = matches.duration_nanos("since") {
        pairs.push(("sinceSeconds", (nanos / 1_000_000_000).max(1).to_string()));
    }
    if let Some(time) = matches.text("since-time") {
        pairs.push(("sinceTime", time.to_owned()));
    }
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let resource = cluster.catalog.named("pods")?;
    Ok(format!("{}/log{}", resource.object(namespace, name), crate::client::query(&pairs)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_are_chosen_as_kubectl_does() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(chosen(&pod, None, false).unwrap(), ["a"]);
        assert_eq!(chosen(&pod, Some("b"), false).unwrap(), ["b"]);
        assert_eq!(chosen(&pod, None, true).unwrap(), ["i", "a", "b"]);
        assert!(chosen(&pod, Some("x"), false).unwrap_err().message.contains("it has i, a, b"));
        pod["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "b"});
        assert_eq!(chosen(&pod, None, false).unwrap(), ["b"]);
    }
}
