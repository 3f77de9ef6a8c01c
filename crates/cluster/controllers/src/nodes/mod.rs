//! What happens to pods when something happens to nodes.
//!
//! * `lifecycle` — nodes that fall silent are unknown, and taints say what is wrong with a node
//! * `eviction` — pods that do not tolerate a taint any longer go
//! * `garbage` — pods that nobody will ever end: of nodes that have gone, and too many that have ended

mod eviction;
mod garbage;
mod lifecycle;

pub use eviction::TaintEviction;
pub use garbage::PodGarbage;
pub use lifecycle::NodeLifecycle;

use cache::{Key, Kind, Write};
use jiff::Timestamp;
use resources::{Value, decode};
use serde_json::json;

/// Says in a pod's status that it is taken away, and by whom.
fn disrupted(pod: &Value, reason: &str, message: &str, failed: bool, now: Timestamp) -> Write {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": decode::format_time(now, 0)});
    let mut patch = json!({"status": {"conditions": [condition]}});
    if failed {
        patch["status"]["phase"] = "Failed".into();
    }
    Write::Strategic { kind: Kind::Pod, key: Key::of(pod), sub: "status", patch }
}
