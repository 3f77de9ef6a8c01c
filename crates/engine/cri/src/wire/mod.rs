//! The messages of the container runtime interface, version 1, by the names and field numbers of Kubernetes' public API. Windows'
//! are left out, and so are fields that were deprecated before Kubernetes 1.24.

mod container;
mod image;
mod runtime;
mod sandbox;
mod stats;

pub use container::*;
pub use image::*;
pub use runtime::*;
pub use sandbox::*;
pub use stats::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Protocol {
    Tcp = 0,
    Udp = 1,
    Sctp = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MountPropagation {
    Private = 0,
    HostToContainer = 1,
    Bidirectional = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum NamespaceMode {
    Pod = 0,
    Container = 1,
    Node = 2,
    Target = 3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ProfileType {
    RuntimeDefault = 0,
    Unconfined = 1,
    Localhost = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PodSandboxState {
    Ready = 0,
    NotReady = 1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ContainerState {
    Created = 0,
    Running = 1,
    Exited = 2,
    Unknown = 3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ContainerEventType {
    Created = 0,
    Started = 1,
    Stopped = 2,
    Deleted = 3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum CgroupDriver {
    Systemd = 0,
    Cgroupfs = 1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MetricType {
    Counter = 0,
    Gauge = 1,
}

/// Signals by their numbers in this interface; the first one leaves the choice to the runtime.
pub const SIGNALS: [&str; 35] = [
    "", "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL",
    "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// The name of a signal; `None` leaves the choice to the runtime. From 35 on they are the real-time ones: 16 up from the first, then 15 up
/// to the last.
pub fn signal_name(number: i32) -> Option<String> {
    let number = usize::try_from(number).ok()?;
    match number {
        0 => None,
        1..35 => Some(SIGNALS[number].to_owned()),
        35 => Some("RTMIN".into()),
        36..=50 => Some(format!("RTMIN+{}", number - 35)),
        51..=64 => Some(format!("RTMAX-{}", 65 - number)),
        65 => Some("RTMAX".into()),
        _ => None,
    }
}

/// The number of a signal by its name, with or without `SIG`.
pub fn signal_number(name: &str) -> i32 {
    let name = name.trim_start_matches("SIG");
    (1..=65).find(|number| signal_name(*number).as_deref() == Some(name)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_number_and_name() {
        for (number, name) in [
            (23, "TERM"),
            (13, "KILL"),
            (35, "RTMIN"),
            (37, "RTMIN+2"),
            (51, "RTMAX-14"),
            (64, "RTMAX-1"),
            (65, "RTMAX"),
        ] {
            assert_eq!(signal_name(number).as_deref(), Some(name));
            assert_eq!(signal_number(&format!("SIG{name}")), number);
        }
        assert_eq!((signal_name(0), signal_name(66), signal_name(-1), signal_number("X")), (None, None, None, 0));
    }
}
