//! `/stats/summary`, as upstream's kubelet writes it. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use resources::{Value, decode, meta};
use serde_json::json;

use super::machine::Disk;
use super::{ContainerUse, PodUse, Reading};
use crate::runtime::{Traffic, Used};

fn stamp(at: Timestamp) -> String {
    decode::format_time(at, 0)
}

fn cpu(at: Timestamp, rate: u64, total: u64) -> Value {
    json!({"time": stamp(at), "usageNanoCores": rate, "usageCoreNanoSeconds": total})
}

fn memory(at: Timestamp, used: &Used) -> Value {
    let mut out = json!({"time": stamp(at), "usageBytes": used.memory_bytes, "workingSetBytes": used.working_set_bytes,
        "rssBytes": used.rss_bytes, "pageFaults": used.page_faults, "majorPageFaults": used.major_page_faults});
    if let Some(limit) = used.memory_limit_bytes {
        out["availableBytes"] = limit.saturating_sub(used.working_set_bytes).into();
    }
    out
}

fn disk(at: Timestamp, disk: &Disk, used: Option<u64>) -> Value {
    json!({"time": stamp(at), "availableBytes": disk.available_bytes, "capacityBytes": disk.capacity_bytes,
        "usedBytes": used.unwrap_or_else(|| disk.used_bytes()), "inodesFree": disk.inodes_free, "inodes": disk.inodes,
        "inodesUsed": disk.inodes.saturating_sub(disk.inodes_free)})
}

/// The first interface stands for all, as upstream's default one does.
fn network(at: Timestamp, interfaces: &BTreeMap<String, Traffic>) -> Value {
    let row = |(name, traffic): (&String, &Traffic)| {
        json!({"name": name, "rxBytes": traffic.rx_bytes, "rxErrors": traffic.rx_errors, "txBytes": traffic.tx_bytes,
            "txErrors": traffic.tx_errors})
    };
    let rows: Vec<Value> = interfaces.iter().map(row).collect();
    let mut out = rows.iter().find(|row| row["name"] == "eth0").or(rows.first()).cloned().unwrap_or_else(|| json!({}));
    out["time"] = stamp(at).into();
    out["interfaces"] = rows.into();
    out
}

fn container(at: Timestamp, of: &ContainerUse) -> Value {
    let (name, began) = (of.seen.name.as_str(), stamp(of.began));
    json!({"name": name, "startTime": began, "cpu": cpu(at, of.cpu_rate, of.used.cpu_nanos), "memory": memory(at, &of.used)})
}

fn pod(at: Timestamp, of: &PodUse) -> Value {
    let sum = |what: fn(&ContainerUse) -> u64| of.containers.iter().map(what).sum::<u64>();
    let used = Used {
        memory_bytes: sum(|of| of.used.memory_bytes),
        working_set_bytes: sum(|of| of.used.working_set_bytes),
        rss_bytes: sum(|of| of.used.rss_bytes),
        page_faults: sum(|of| of.used.page_faults),
        major_page_faults: sum(|of| of.used.major_page_faults),
        ..Used::default()
    };
    let mut out = json!({
        "podRef": {"name": meta::name(&of.pod), "namespace": meta::namespace(&of.pod), "uid": meta::uid(&of.pod)},
        "startTime": of.pod["status"]["startTime"],
        "containers": of.containers.iter().map(|of| container(at, of)).collect::<Vec<_>>(),
        "cpu": cpu(at, sum(|of| of.cpu_rate), sum(|of| of.used.cpu_nanos)),
        "memory": memory(at, &used),
        "process_stats": {"process_count": sum(|of| of.used.processes)},
    });
    if let Some(interfaces) = &of.network {
        out["network"] = network(at, interfaces);
    }
    if !of.volumes.is_empty() {
        let row = |(name, bytes): (&String, &u64)| json!({"time": stamp(at), "name": name, "usedBytes": bytes});
        out["volume"] = of.volumes.iter().map(row).collect();
    }
    out
}

pub fn summary(node: &str, reading: &Reading) -> Value {
    let (at, use_of) = (reading.at, &reading.node);
    let file_system = disk(at, &use_of.disk, None);
    json!({
        "node": {
            "nodeName": node,
            "startTime": stamp(use_of.booted),
            "cpu": cpu(at, reading.node_cpu_rate, use_of.cpu_nanos),
            "memory": {"time": stamp(at), "availableBytes": use_of.memory.available_bytes,
                "usageBytes": use_of.memory.usage_bytes, "workingSetBytes": use_of.memory.working_set_bytes,
                "rssBytes": use_of.memory.rss_bytes, "pageFaults": 0, "majorPageFaults": 0},
            "swap": {"time": stamp(at), "swapUsageBytes": use_of.memory.swap_used_bytes,
                "swapAvailableBytes": use_of.memory.swap_total_bytes - use_of.memory.swap_used_bytes},
            "network": network(at, &use_of.network),
            "fs": file_system.clone(),
            "runtime": {"imageFs": file_system.clone(), "containerFs": file_system},
            "rlimit": {"time": stamp(at), "maxpid": use_of.processes_max, "curproc": use_of.processes},
        },
        "pods": reading.pods.iter().map(|of| pod(at, of)).collect::<Vec<_>>(),
    })
}
