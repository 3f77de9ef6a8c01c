//! The configuration of the image, completed with what only the steps tell: layers and times.

use std::sync::Arc;

use jiff::Timestamp;
use vocab::Digest;

use super::{Built, State};
use crate::error::{BuildError, Result};
use crate::external::StepResult;
use crate::plan::Graph;

/// Blocking.
pub(super) fn complete(
    store: &Arc<image::Store>,
    graph: &Graph,
    states: &[State],
    steps: Vec<StepResult>,
) -> Result<Built> {
    let mut config = graph.config.clone();
    let top = states[graph.result].top;
    config.rootfs.diff_ids = diff_ids(store, top)?;
    let epoch = graph.epoch.map(|secs| Timestamp::new(secs, 0).unwrap_or_default());
    // A step that made no layer happened when the layer before it was made, as BuildKit tells it.
    let mut times = graph.layers.iter().map(|node| states[*node].created_at);
    let mut last = config.history[..graph.base_history.min(config.history.len())]
        .iter()
        .rev()
        .find_map(|h| h.created.as_deref()?.parse::<Timestamp>().ok());
    for entry in config.history.iter_mut().skip(graph.base_history) {
        if !entry.empty_layer {
            last = times.next().flatten().or(last);
        }
        entry.created = epoch.or(last).map(text);
    }
    let created_at = epoch.or(last).or_else(|| Some(Timestamp::now()));
    config.created = created_at.map(text);
    let config = serde_json::to_vec(&config)
        .map_err(|e| BuildError::Invalid(format!("write the image's configuration: {e}")))?;
    let leases = states.iter().filter_map(|state| state.lease.clone()).collect();
    Ok(Built { config, top, created_at, steps: Arc::new(steps), _leases: leases })
}

fn text(at: Timestamp) -> String {
    at.to_string()
}

/// Bottom first.
fn diff_ids(store: &image::Store, top: Option<Digest>) -> Result<Vec<Digest>> {
    let mut found = Vec::new();
    let mut next = top;
    while let Some(chain) = next {
        let layer = store.layer(&chain)?.ok_or(image::Error::NoSuchLayer(chain))?;
        found.push(layer.diff_id);
        next = layer.parent;
    }
    found.reverse();
    Ok(found)
}
