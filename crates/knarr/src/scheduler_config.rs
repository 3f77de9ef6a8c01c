//! `--scheduler-config FILE`: how pods find their nodes.

use std::path::Path;

use scheduler::Config;

use crate::flags::{Flag, text};

pub const FLAG: Flag = text(
    "scheduler-config",
    "File that says how pods find their nodes: a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1, YAML or JSON",
);

/// Reads the file that is named, if one is. What it says that changes nothing here is told in the log.
pub fn read(path: Option<&str>) -> Result<Config, String> {
    let Some(path) = path else { return Ok(Config::default()) };
    let failed = |why: String| format!("--scheduler-config {path}: {why}");
    let text = std::fs::read_to_string(Path::new(path)).map_err(|error| failed(error.to_string()))?;
    let value: serde_json::Value = serde_saphyr::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let config = scheduler::parse_config(&value).map_err(|faults| failed(faults.join("; ")))?;
    for field in &config.idle {
        tracing::info!(file = path, field, "has no effect: the scheduler runs in the server's process");
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_or_refused_with_all_that_is_wrong() {
        assert_eq!(read(None), Ok(Config::default()));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("scheduler.yaml");
        let path = file.to_str().unwrap();
        let head = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
        std::fs::write(&file, format!("{head}profiles:\n- schedulerName: packing\n- schedulerName: other\n")).unwrap();
        let names: Vec<String> = read(Some(path)).unwrap().profiles.into_iter().map(|profile| profile.name).collect();
        assert_eq!(names, ["packing", "other"]);
        std::fs::write(&file, format!("{head}percentage: 5\nextenders: [{{}}]\n")).unwrap();
        let why = read(Some(path)).unwrap_err();
        let expected = format!(
            "--scheduler-config {path}: percentage: unknown field; extenders: not supported: decisions are made in one process"
        );
        assert_eq!(why, expected);
        assert!(read(Some("/nowhere")).unwrap_err().starts_with("--scheduler-config /nowhere: No such file"));
    }
}
