//! Commands about the cluster: kubectl's words, so that none is needed. What they stand on is in `crate::kube`.

mod apply;
mod delete;
mod describe;
mod exec;
mod explain;
mod get;
mod logs;
mod port_forward;
mod rollout;
mod scale;
mod top;
mod wait;
mod why;

use super::Command;

pub(super) use apply::APPLY;
pub(super) use delete::DELETE;
pub(super) use describe::DESCRIBE;
pub(super) use explain::EXPLAIN;
pub(super) use get::GET;
pub(super) use port_forward::PORT_FORWARD;
pub(super) use rollout::{HISTORY, PAUSE, RESTART, RESUME, STATUS, UNDO};
pub(super) use scale::SCALE;
pub(super) use why::{WHY, complaints};

/// Words that both worlds have: a bare name is a container, `pod/web` is the cluster's.
pub(super) static TWINS: &[&Command] = &[&exec::ATTACH, &exec::EXEC, &logs::LOGS, &top::TOP, &wait::WAIT];

/// The cluster's command of a name that containers have too, if the words are about the cluster.
pub(super) fn twin(name: &str, words: &[String]) -> Option<&'static Command> {
    let twin = TWINS.iter().find(|command| command.name == name)?;
    let matches = crate::flags::parse(twin.flags, twin.interspersed, words).ok()?;
    let first = matches.arguments.first()?;
    let is_kind = name == "top" && matches!(first.as_str(), "pod" | "pods" | "po" | "node" | "nodes" | "no");
    (is_kind || crate::kube::kinds::is_of_cluster(first)).then_some(*twin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slash_makes_a_command_the_clusters() {
        let is_clusters = |name: &str, words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            twin(name, &words).is_some()
        };
        assert!(is_clusters("exec", &["-it", "pod/web", "--", "sh"]));
        assert!(is_clusters("exec", &["deploy/web", "-c", "x", "--", "ls"]));
        assert!(!is_clusters("exec", &["-it", "web", "ls", "pod/web"]));
        assert!(!is_clusters("exec", &["-w", "/tmp", "web", "ls"]), "a flag that only containers have");
        assert!(is_clusters("logs", &["-f", "deploy/web"]) && !is_clusters("logs", &["-f", "web"]));
        assert!(is_clusters("top", &["pods"]) && !is_clusters("top", &["web"]));
        assert!(!is_clusters("ps", &["pod/web"]));
    }
}
