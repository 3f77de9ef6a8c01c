//! The kubelet's figures as Prometheus reads them. Pure.

use std::fmt::Write as _;

use resources::meta;

use super::{ContainerUse, Reading};

/// A metric's name, kind and help, and what it says of a container.
type Metric = (&'static str, &'static str, &'static str, fn(&ContainerUse) -> f64);

/// Lines of one metric after the other.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn row(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        if !labels.is_empty() {
            let pairs: Vec<String> =
                labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
            let _ = write!(self.0, "{{{}}}", pairs.join(","));
        }
        let _ = writeln!(self.0, " {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn secs(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn unix(at: jiff::Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}

/// `/metrics/resource`.
pub fn resource(reading: &Reading) -> String {
    let mut page = Page::default();
    let rows: [Metric; 4] = [
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the container in core-seconds",
            |of| secs(of.used.cpu_nanos),
        ),
        ("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes", |of| {
            of.used.working_set_bytes as f64
        }),
        ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds", |of| {
            unix(of.began)
        }),
        ("container_swap_usage_bytes", "gauge", "Current amount of the container swap usage in bytes", |of| {
            of.used.swap_bytes as f64
        }),
    ];
    for (name, kind, help, value) in rows {
        page.head(name, kind, help);
        for pod in &reading.pods {
            for of in &pod.containers {
                let labels = [
                    ("container", of.seen.name.as_str()),
                    ("namespace", meta::namespace(&pod.pod)),
                    ("pod", meta::name(&pod.pod)),
                ];
                page.row(name, &labels, value(of));
            }
        }
    }
    let node = [
        (
            "node_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the node in core-seconds",
            secs(reading.node.cpu_nanos),
        ),
        (
            "node_memory_working_set_bytes",
            "gauge",
            "Current working set of the node in bytes",
            reading.node.memory.working_set_bytes as f64,
        ),
        (
            "node_swap_usage_bytes",
            "gauge",
            "Current swap usage of the node in bytes",
            reading.node.memory.swap_used_bytes as f64,
        ),
    ];
    for (name, kind, help, value) in node {
        page.head(name, kind, help);
        page.row(name, &[], value);
    }
    let pods: [Metric; 2] = [
        ("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds", |of| {
            secs(of.used.cpu_nanos)
        }),
        ("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes", |of| {
            of.used.working_set_bytes as f64
        }),
    ];
    for (name, kind, help, value) in pods {
        page.head(name, kind, help);
        for pod in &reading.pods {
            let labels = [("namespace", meta::namespace(&pod.pod)), ("pod", meta::name(&pod.pod))];
            page.row(name, &labels, pod.containers.iter().map(value).sum::<f64>());
        }
    }
    page.head("resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise");
    page.row("resource_scrape_error", &[], 0);
    page.0
}

/// `/metrics/cadvisor`.
pub fn cadvisor(reading: &Reading, cpus: usize) -> String {
    let mut page = Page::default();
    page.head("cadvisor_version_info", "gauge", "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.");
    page.row("cadvisor_version_info", &[("cadvisorVersion", ""), ("kernelVersion", "")], 1);
    page.head("machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    page.row("machine_cpu_cores", &[], cpus);
    page.head("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
    page.row("machine_memory_bytes", &[], reading.node.memory.total_bytes);
    let rows: [Metric; 9] = [
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |of| {
            secs(of.used.cpu_nanos)
        }),
        ("container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.", |of| {
            of.used.periods as f64
        }),
        ("container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", |of| {
            of.used.throttled_periods as f64
        }),
        (
            "container_cpu_cfs_throttled_seconds_total",
            "counter",
            "Total time duration the container has been throttled.",
            |of| secs(of.used.throttled_nanos),
        ),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |of| of.used.memory_bytes as f64,
        ),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |of| {
            of.used.working_set_bytes as f64
        }),
        ("container_memory_rss", "gauge", "Size of RSS in bytes.", |of| of.used.rss_bytes as f64),
        ("container_processes", "gauge", "Number of processes running inside the container.", |of| {
            of.used.processes as f64
        }),
        ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", |of| {
            unix(of.began)
        }),
    ];
    for (name, kind, help, value) in rows {
        page.head(name, kind, help);
        for pod in &reading.pods {
            for of in &pod.containers {
                let labels = [
                    ("container", of.seen.name.as_str()),
                    ("id", of.used.cgroup.as_str()),
                    ("image", of.seen.image.as_str()),
                    ("name", of.seen.id.as_str()),
                    ("namespace", meta::namespace(&pod.pod)),
                    ("pod", meta::name(&pod.pod)),
                ];
                page.row(name, &labels, value(of));
            }
        }
    }
    for (name, help, receives) in [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", true),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", false),
    ] {
        page.head(name, "counter", help);
        for pod in &reading.pods {
            for (interface, traffic) in pod.network.iter().flatten() {
                let labels = [
                    ("interface", interface.as_str()),
                    ("namespace", meta::namespace(&pod.pod)),
                    ("pod", meta::name(&pod.pod)),
                ];
                page.row(name, &labels, if receives { traffic.rx_bytes } else { traffic.tx_bytes });
            }
        }
    }
    page.0
}

/// `/metrics`.
pub fn kubelet(node: &str, version: &str, reading: &Reading) -> String {
    let mut page = Page::default();
    page.head("kubernetes_build_info", "gauge", "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.");
    page.row(
        "kubernetes_build_info",
        &[("git_version", version), ("major", "1"), ("minor", "36"), ("platform", "linux")],
        1,
    );
    page.head("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    page.row("kubelet_node_name", &[("node", node)], 1);
    page.head("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox");
    page.row("kubelet_running_pods", &[], reading.pods.len());
    page.head("kubelet_running_containers", "gauge", "Number of containers currently running");
    for (state, count) in &reading.states {
        page.row("kubelet_running_containers", &[("container_state", state)], count);
    }
    let own = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = own.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    page.head("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.");
    page.row("process_resident_memory_bytes", &[], pages * 4096);
    page.0
}
