//! What containers and pods use.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use grpc::Outcome;
use pods::{Runtime, Traffic, Used};

use super::records::Record;
use super::{Server, now, request, status};
use crate::wire::*;

/// The last reading of each container's processor time: when, and how much.
#[derive(Debug, Default)]
pub(super) struct Samples(Mutex<BTreeMap<String, (i64, u64)>>);

impl Samples {
    /// Billionths of a processor since the reading before; nothing for the first.
    fn rate(&self, id: &str, at: i64, cpu_nanos: u64) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, last) = all.insert(id.to_owned(), (at, cpu_nanos))?;
        rate(at - before, cpu_nanos.saturating_sub(last))
    }

    fn keep(&self, known: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| known(id));
    }
}

fn rate(over_nanos: i64, cpu_nanos: u64) -> Option<u64> {
    let over = u128::try_from(over_nanos).ok().filter(|over| *over > 0)?;
    u64::try_from(u128::from(cpu_nanos) * 1_000_000_000 / over).ok()
}

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn cpu(at: i64, nanos: u64, rate: Option<u64>) -> CpuUsage {
    CpuUsage { timestamp: at, usage_core_nano_seconds: value(nanos), usage_nano_cores: rate.and_then(value) }
}

fn memory(at: i64, used: &Used) -> MemoryUsage {
    let available = used.memory_limit_bytes.map(|limit| limit.saturating_sub(used.working_set_bytes));
    MemoryUsage {
        timestamp: at,
        working_set_bytes: value(used.working_set_bytes),
        available_bytes: available.and_then(value),
        usage_bytes: value(used.memory_bytes),
        rss_bytes: value(used.rss_bytes),
        page_faults: value(used.page_faults),
        major_page_faults: value(used.major_page_faults),
    }
}

fn interface(name: &str, traffic: &Traffic) -> NetworkInterfaceUsage {
    NetworkInterfaceUsage {
        name: name.to_owned(),
        rx_bytes: value(traffic.rx_bytes),
        rx_errors: value(traffic.rx_errors),
        tx_bytes: value(traffic.tx_bytes),
        tx_errors: value(traffic.tx_errors),
    }
}

/// What the containers of a pod use together.
fn together(all: &[Used]) -> Used {
    all.iter().fold(Used::default(), |sum, one| Used {
        cpu_nanos: sum.cpu_nanos + one.cpu_nanos,
        memory_bytes: sum.memory_bytes + one.memory_bytes,
        working_set_bytes: sum.working_set_bytes + one.working_set_bytes,
        rss_bytes: sum.rss_bytes + one.rss_bytes,
        page_faults: sum.page_faults + one.page_faults,
        major_page_faults: sum.major_page_faults + one.major_page_faults,
        processes: sum.processes + one.processes,
        ..sum
    })
}

impl Server {
    /// A container's stats; of one that does not run, its writable layer only.
    async fn stats_of(&self, container: &Container) -> Outcome<(ContainerStats, Option<Used>)> {
        let (at, id) = (now(), container.id.as_str());
        let used = self.0.runtime.used(id).await.map_err(status)?;
        let written = self.0.runtime.written(id).await.map_err(status)?;
        let attributes = ContainerAttributes {
            id: container.id.clone(),
            metadata: container.metadata.clone(),
            labels: container.labels.clone(),
            annotations: container.annotations.clone(),
        };
        let layer = FilesystemUsage {
            timestamp: at,
            fs_id: Some(self.filesystem()),
            used_bytes: value(written),
            inodes_used: value(0),
        };
        let stats = ContainerStats {
            attributes: Some(attributes),
            cpu: used.as_ref().map(|used| cpu(at, used.cpu_nanos, self.0.samples.rate(id, at, used.cpu_nanos))),
            memory: used.as_ref().map(|used| memory(at, used)),
            writable_layer: Some(layer),
            swap: used.as_ref().map(|used| SwapUsage {
                timestamp: at,
                swap_available_bytes: None,
                swap_usage_bytes: value(used.swap_bytes),
            }),
        };
        Ok((stats, used))
    }

    async fn running(&self, filter: ContainerFilter) -> Outcome<Vec<Container>> {
        let state = Some(ContainerStateValue { state: ContainerState::Running as i32 });
        let asked = ListContainersRequest { filter: Some(ContainerFilter { state, ..filter }) };
        Ok(self.list_containers(asked).await?.containers)
    }

    pub(super) async fn container_stats(&self, asked: ContainerStatsRequest) -> Outcome<ContainerStatsResponse> {
        let id = self.container_id(&asked.container_id).await?;
        let filter = Some(ContainerFilter { id, ..ContainerFilter::default() });
        let found = self.list_containers(ListContainersRequest { filter }).await?.containers;
        match found.first() {
            Some(container) => Ok(ContainerStatsResponse { stats: Some(self.stats_of(container).await?.0) }),
            None => Err(tonic::Status::not_found(format!("container {:?} is not found", asked.container_id))),
        }
    }

    pub(super) async fn list_container_stats(
        &self,
        asked: ListContainerStatsRequest,
    ) -> Outcome<ListContainerStatsResponse> {
        let filter = asked.filter.unwrap_or_default();
        let everybody = filter == ContainerStatsFilter::default();
        let ContainerStatsFilter { id, pod_sandbox_id, label_selector } = filter;
        let running = self.running(ContainerFilter { id, state: None, pod_sandbox_id, label_selector }).await?;
        if everybody {
            self.0.samples.keep(|id| running.iter().any(|container| container.id == id));
        }
        let mut stats = Vec::new();
        for container in &running {
            // Gone meanwhile: nothing to tell.
            if let Ok((one, Some(_))) = self.stats_of(container).await {
                stats.push(one);
            }
        }
        Ok(ListContainerStatsResponse { stats })
    }

    async fn pod_stats(&self, id: &str, record: &Record) -> Outcome<PodSandboxStats> {
        let filter = ContainerFilter { pod_sandbox_id: id.to_owned(), ..ContainerFilter::default() };
        let (mut containers, mut uses) = (Vec::new(), Vec::new());
        for container in self.running(filter).await? {
            if let Ok((stats, Some(used))) = self.stats_of(&container).await {
                containers.push(stats);
                uses.push(used);
            }
        }
        let (at, sum) = (now(), together(&uses));
        let rates: Option<Vec<u64>> =
            containers.iter().map(|stats| Some(stats.cpu.as_ref()?.usage_nano_cores.as_ref()?.value)).collect();
        let traffic =
            if record.ips.is_empty() { BTreeMap::new() } else { self.0.runtime.traffic(id).await.unwrap_or_default() };
        let interfaces: Vec<_> = traffic.iter().map(|(name, traffic)| interface(name, traffic)).collect();
        let network = interfaces.first().map(|first| NetworkUsage {
            timestamp: at,
            default_interface: Some(first.clone()),
            interfaces: interfaces[1..].to_vec(),
        });
        let attributes = PodSandboxAttributes {
            id: id.to_owned(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        };
        let linux = LinuxPodSandboxStats {
            cpu: Some(cpu(at, sum.cpu_nanos, rates.map(|rates| rates.iter().sum()))),
            memory: Some(memory(at, &sum)),
            network,
            process: Some(ProcessUsage { timestamp: at, process_count: value(sum.processes) }),
            containers,
        };
        Ok(PodSandboxStats { attributes: Some(attributes), linux: Some(linux) })
    }

    pub(super) async fn sandbox_stats(&self, asked: PodSandboxStatsRequest) -> Outcome<PodSandboxStatsResponse> {
        let (id, record) = self.0.records.find(&asked.pod_sandbox_id)?;
        Ok(PodSandboxStatsResponse { stats: Some(self.pod_stats(&id, &record).await?) })
    }

    pub(super) async fn list_sandbox_stats(
        &self,
        asked: ListPodSandboxStatsRequest,
    ) -> Outcome<ListPodSandboxStatsResponse> {
        let filter = asked.filter.unwrap_or_default();
        let mut stats = Vec::new();
        for (id, record) in self.0.records.all() {
            let wanted = filter.id.is_empty() || id.starts_with(&filter.id);
            if wanted && !record.stopped && request::matches(&filter.label_selector, &record.config.labels) {
                stats.push(self.pod_stats(&id, &record).await?);
            }
        }
        Ok(ListPodSandboxStatsResponse { stats })
    }

    pub(super) async fn metric_descriptors(
        &self,
        _: ListMetricDescriptorsRequest,
    ) -> Outcome<ListMetricDescriptorsResponse> {
        let descriptors = METRICS.iter().map(|metric| MetricDescriptor {
            name: metric.name.into(),
            help: metric.help.into(),
            label_keys: vec!["id".into(), "name".into()],
        });
        Ok(ListMetricDescriptorsResponse { descriptors: descriptors.collect() })
    }

    pub(super) async fn sandbox_metrics(
        &self,
        _: ListPodSandboxMetricsRequest,
    ) -> Outcome<ListPodSandboxMetricsResponse> {
        let mut pod_metrics = Vec::new();
        for (id, record) in self.0.records.all().into_iter().filter(|(_, record)| !record.stopped) {
            let filter = ContainerFilter { pod_sandbox_id: id.clone(), ..ContainerFilter::default() };
            let (mut uses, mut container_metrics) = (Vec::new(), Vec::new());
            for container in self.running(filter).await? {
                let Ok(Some(used)) = self.0.runtime.used(&container.id).await else { continue };
                let name = container.metadata.map(|metadata| metadata.name).unwrap_or_default();
                let metrics = metrics(&used, &container.id, &name);
                container_metrics.push(ContainerMetrics { container_id: container.id, metrics });
                uses.push(used);
            }
            let name = record.config.metadata.map(|metadata| metadata.name).unwrap_or_default();
            let metrics = metrics(&together(&uses), &id, &name);
            pod_metrics.push(PodSandboxMetrics { pod_sandbox_id: id, metrics, container_metrics });
        }
        Ok(ListPodSandboxMetricsResponse { pod_metrics })
    }
}

/// A figure under the name that cAdvisor gave it.
struct Described {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    of: fn(&Used) -> u64,
}

const METRICS: [Described; 7] = [
    Described {
        name: "container_cpu_usage_seconds_total",
        help: "Cumulative cpu time consumed in seconds",
        kind: MetricType::Counter,
        of: |used| used.cpu_nanos / 1_000_000_000,
    },
    Described {
        name: "container_cpu_cfs_periods_total",
        help: "Number of elapsed enforcement period intervals",
        kind: MetricType::Counter,
        of: |used| used.periods,
    },
    Described {
        name: "container_cpu_cfs_throttled_periods_total",
        help: "Number of throttled period intervals",
        kind: MetricType::Counter,
        of: |used| used.throttled_periods,
    },
    Described {
        name: "container_memory_usage_bytes",
        help: "Current memory usage in bytes, including all memory regardless of when it was accessed",
        kind: MetricType::Gauge,
        of: |used| used.memory_bytes,
    },
    Described {
        name: "container_memory_working_set_bytes",
        help: "Current working set in bytes",
        kind: MetricType::Gauge,
        of: |used| used.working_set_bytes,
    },
    Described {
        name: "container_memory_rss",
        help: "Size of RSS in bytes",
        kind: MetricType::Gauge,
        of: |used| used.rss_bytes,
    },
    Described {
        name: "container_processes",
        help: "Number of processes running inside the container",
        kind: MetricType::Gauge,
        of: |used| used.processes,
    },
];

fn metrics(used: &Used, id: &str, name: &str) -> Vec<Metric> {
    let labels = vec![id.to_owned(), name.to_owned()];
    let one = |metric: &Described| Metric {
        name: metric.name.into(),
        timestamp: 0,
        metric_type: metric.kind as i32,
        label_values: labels.clone(),
        value: value((metric.of)(used)),
    };
    METRICS.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings() {
        let samples = Samples::default();
        assert_eq!(samples.rate("c", 0, 5), None);
        assert_eq!(samples.rate("c", 2_000_000_000, 1_000_000_005), Some(500_000_000));
        assert_eq!(samples.rate("c", 2_000_000_000, 1_000_000_005), None, "no time has passed");
        samples.keep(|_| false);
        assert_eq!(samples.rate("c", 3_000_000_000, 1_000_000_005), None, "forgotten");
    }

    #[test]
    fn a_pod_uses_what_its_containers_use() {
        let one = Used { cpu_nanos: 1, working_set_bytes: 10, processes: 2, ..Used::default() };
        let sum = together(&[one.clone(), one]);
        assert_eq!((sum.cpu_nanos, sum.working_set_bytes, sum.processes), (2, 20, 4));
        assert_eq!(metrics(&sum, "i", "n").len(), METRICS.len());
    }
}
