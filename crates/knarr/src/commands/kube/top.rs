//! `top pods`, `top nodes`: what they use of processor and memory.

use serde_json::Value;
use vocab::quantity::Quantity;

use super::super::{Command, Context, out};
use crate::failure::Failure;
use crate::flags::{Arity, Matches, switch, text};
use crate::kube::{self, Cluster, output};

pub(crate) static TOP: Command = Command {
    name: "top",
    usage: "pods|nodes [NAME] [OPTIONS]",
    about: "Show what pods or nodes use",
    examples: "  knarr top pods -A
  knarr top nodes",
    flags: &[
        kube::FLAGS,
        kube::ALL_NAMESPACES,
        &[
            switch("containers", "A line for each container"),
            switch("no-headers", "Print no heading line"),
            text("selector", "Only objects with these labels").short('l'),
            text("sort-by", "cpu or memory"),
        ],
    ],
    interspersed: true,
    arity: Arity::Between(1, 2),
    run,
};

/// Thousandths of a processor, bytes.
type Usage = (f64, f64);

fn usage(value: &Value) -> Usage {
    let quantity = |text: &str| Quantity::parse(text).ok().map(|quantity| quantity.nanos() as f64 / 1e9);
    let read = |field: &str| value[field].as_str().and_then(quantity).unwrap_or(0.0);
    (read("cpu") * 1000.0, read("memory"))
}

fn cells((cpu, memory): Usage) -> String {
    format!("{}m\t{}Mi", cpu.ceil(), (memory / 1_048_576.0).floor())
}

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let cluster = Cluster::open(context.settings(), matches)?;
    let nodes = matches.arguments[0].starts_with("no");
    let name = matches.arguments.get(1);
    let base = "/apis/metrics.k8s.io/v1beta1";
    let path = match (nodes, cluster.namespace.as_str()) {
        (true, _) => format!("{base}/nodes"),
        (false, "") => format!("{base}/pods"),
        (false, namespace) => format!("{base}/namespaces/{namespace}/pods"),
    };
    let list =
        cluster.api.get(&format!("{path}{}", kube::selectors(matches))).map_err(|failure| match failure.status {
            Some(404) => Failure::new("error: Metrics API not available"),
            _ => failure,
        })?;
    let mut rows: Vec<(Usage, String)> = Vec::new();
    for item in list["items"].as_array().into_iter().flatten() {
        let own = item["metadata"]["name"].as_str().unwrap_or_default();
        if name.is_some_and(|name| name != own) {
            continue;
        }
        if nodes {
            let used = usage(&item["usage"]);
            rows.push((used, format!("{own}\t{}", share(&cluster, own, used)?)));
            continue;
        }
        let namespace = match cluster.namespace.is_empty() {
            true => format!("{}\t", item["metadata"]["namespace"].as_str().unwrap_or_default()),
            false => String::new(),
        };
        let mut sum = (0.0, 0.0);
        for container in item["containers"].as_array().into_iter().flatten() {
            let used = usage(&container["usage"]);
            sum = (sum.0 + used.0, sum.1 + used.1);
            if matches.is("containers") {
                let inner = container["name"].as_str().unwrap_or_default();
                rows.push((used, format!("{namespace}{own}\t{inner}\t{}", cells(used))));
            }
        }
        if !matches.is("containers") {
            rows.push((sum, format!("{namespace}{own}\t{}", cells(sum))));
        }
    }
    match matches.text("sort-by") {
        Some("cpu") => rows.sort_by(|a, b| b.0.0.total_cmp(&a.0.0)),
        Some("memory") => rows.sort_by(|a, b| b.0.1.total_cmp(&a.0.1)),
        Some(other) => return Err(Failure::new(format!("error: --sort-by accepts only cpu or memory, not {other}"))),
        None => {}
    }
    if rows.is_empty() {
        let what =
            name.map_or_else(|| "No resources found".to_owned(), |name| format!("error: no metrics of {name} yet"));
        return Err(Failure::new(what));
    }
    let heading = match (nodes, cluster.namespace.is_empty(), matches.is("containers")) {
        (true, _, _) => "NAME\tCPU(cores)\tCPU(%)\tMEMORY(bytes)\tMEMORY(%)",
        (_, false, false) => "NAME\tCPU(cores)\tMEMORY(bytes)",
        (_, true, false) => "NAMESPACE\tNAME\tCPU(cores)\tMEMORY(bytes)",
        (_, false, true) => "POD\tNAME\tCPU(cores)\tMEMORY(bytes)",
        (_, true, true) => "NAMESPACE\tPOD\tNAME\tCPU(cores)\tMEMORY(bytes)",
    };
    let mut lines = Vec::new();
    if !matches.is("no-headers") {
        lines.push(heading.to_owned());
    }
    lines.extend(rows.into_iter().map(|(_, line)| line));
    out(&output::align(&lines))?;
    Ok(0)
}

/// A node's usage beside what it has.
fn share(cluster: &Cluster, name: &str, used: Usage) -> Result<String, Failure> {
    let node = cluster.api.get(&cluster.catalog.named("nodes")?.object("", name))?;
    let has = usage(&node["status"]["allocatable"]);
    let percent = |part: f64, whole: f64| if whole > 0.0 { (part * 100.0 / whole).round() } else { 0.0 };
    let (cpu, memory) = (percent(used.0, has.0), percent(used.1, has.1));
    Ok(format!("{}m\t{cpu}%\t{}Mi\t{memory}%", used.0.ceil(), (used.1 / 1_048_576.0).floor()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_become_cores_and_bytes() {
        assert_eq!(usage(&json!({"cpu": "12500000n", "memory": "2048Ki"})), (12.5, 2_097_152.0));
        assert_eq!(usage(&json!({"cpu": "2", "memory": "1Gi"})), (2000.0, 1_073_741_824.0));
        assert_eq!(cells((12.5, 2_097_152.0)), "13m\t2Mi");
    }
}
