//! Results of builds as inputs of others (`target:` contexts of a bake file). The client carries them around as definitions;
//! ours name a target that is kept here for a while.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use build::plan::Base;
use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::Status;
use vocab::Digest;

use crate::errors::status_of;
use crate::kit::Kit;
use crate::target::Target;
use crate::wire::pb;

const SCHEME: &str = "knarr-result://";

/// Results that are kept for builds that may still name them, and how long.
const KEPT_MAX: usize = 128;
const KEPT_TIME: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(crate) struct Results {
    kept: Mutex<VecDeque<(Instant, Arc<Target>)>>,
    /// Images that only stand for results while some build uses them: how many builds do.
    lent: Mutex<HashMap<Digest, usize>>,
}

impl Results {
    pub(crate) fn keep(&self, target: &Arc<Target>) {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        kept.retain(|(at, _)| at.elapsed() < KEPT_TIME);
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back((Instant::now(), target.clone()));
    }

    /// Lets go of what no build under way can name any more, so that pruning finds it unused.
    pub(crate) fn forget(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        kept.retain(|(_, target)| !target.is_over());
    }

    fn find(&self, id: &str) -> Option<Arc<Target>> {
        let kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        kept.iter().find(|(_, target)| target.id == id).map(|(_, target)| target.clone())
    }
}

/// A graph of one source, which is the target.
pub(crate) fn definition(target: &Target) -> pb::Definition {
    let source = pb::Op {
        operation: Some(pb::Operation::Source(pb::SourceOp {
            identifier: format!("{SCHEME}{}", target.id),
            attrs: HashMap::new(),
        })),
        ..pb::Op::default()
    }
    .encode_to_vec();
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&source)));
    let last = pb::Op { inputs: vec![pb::Input { digest: digest.clone(), index: 0 }], ..pb::Op::default() };
    let metadata = HashMap::from([(digest, pb::OpMetadata::default())]);
    pb::Definition { def: vec![source, last.encode_to_vec()], metadata }
}

/// Which target a definition names; none if it is not one of ours.
fn named(definition: &pb::Definition) -> Option<String> {
    let op = pb::Op::decode(definition.def.first()?.as_slice()).ok()?;
    let Some(pb::Operation::Source(source)) = op.operation else { return None };
    (definition.def.len() == 2).then(|| source.identifier.strip_prefix(SCHEME).map(str::to_owned))?
}

/// An image that stands for a result; gone with this unless it is somebody's by then.
#[derive(Debug)]
pub(crate) struct Lent {
    kit: Kit,
    id: Digest,
}

/// Lets an image that is in the store stand for something as long as the answer is held.
pub(crate) fn lend(kit: &Kit, id: Digest) -> Lent {
    *kit.results.lent.lock().unwrap_or_else(|e| e.into_inner()).entry(id).or_default() += 1;
    Lent { kit: kit.clone(), id }
}

/// What a definition of ours stands for, built, as an image to build on.
pub(crate) async fn base(kit: &Kit, name: &str, definition: &pb::Definition) -> Result<(Base, Lent), Status> {
    let id = named(definition).ok_or_else(|| {
        Status::unimplemented(format!(
            "input {name}: a graph of the client's own; this builder builds Dockerfiles only"
        ))
    })?;
    let target = kit.results.find(&id).ok_or_else(|| Status::not_found(format!("input {name}: no such result")))?;
    let built = target.built().await?;
    let config = serde_json::from_slice(&built.config)
        .map_err(|error| Status::internal(format!("read the configuration of {name}: {error}")))?;
    // Counted before it is made: whoever ends meanwhile must not remove it.
    let id = image::hash::sha256(&built.config);
    let lent = lend(kit, id);
    let made = kit.builder.export(build::Built::clone(&built), Vec::new()).await;
    let made = made.map_err(|error| status_of(&error, None))?;
    debug_assert_eq!(made, id, "an image's id is the digest of its configuration");
    Ok((Base { id, config }, lent))
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut lent = self.kit.results.lent.lock().unwrap_or_else(|e| e.into_inner());
        let Some(users) = lent.get_mut(&self.id) else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        lent.remove(&self.id);
        let (kit, id) = (self.kit.clone(), self.id.to_string());
        tokio::spawn(async move {
            // Whoever has named it since, or runs it, keeps it.
            let nameless =
                kit.builder.engine().store().inspect(&id).is_ok_and(|facts| {
                    facts.tags.is_empty() && facts.digests.is_empty() && facts.containers.is_empty()
                });
            if nameless && let Err(error) = kit.builder.engine().image_remove(&id, false, true).await {
                tracing::debug!(id, %error, "an image that stood for a build's result stays");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_definitions_are_understood() {
        let op = |identifier: &str| pb::Op {
            operation: Some(pb::Operation::Source(pb::SourceOp {
                identifier: identifier.into(),
                attrs: HashMap::new(),
            })),
            ..pb::Op::default()
        };
        let definition = |identifier: &str| pb::Definition {
            def: vec![op(identifier).encode_to_vec(), pb::Op::default().encode_to_vec()],
            ..pb::Definition::default()
        };
        assert_eq!(named(&definition("knarr-result://abc")).as_deref(), Some("abc"));
        assert_eq!(named(&definition("docker-image://abc")), None);
        assert_eq!(named(&pb::Definition::default()), None);
        assert_eq!(named(&pb::Definition { def: vec![vec![0xff; 9]], ..Default::default() }), None);
    }
}
