//! Base images: from the store, or pulled into it first.

use std::sync::Arc;

use engine::Engine;

use crate::plan::{Base, Bases};

/// Brings an image into the store. Blocking: it is called from a thread that may wait.
pub type Puller = dyn Fn(&str, &image::Platform) -> Result<(), String> + Send + Sync;

/// Answers from the engine's store.
pub struct StoreBases {
    engine: Engine,
    pull: Option<Arc<Puller>>,
    /// Ask the registry even for what is there.
    always: bool,
}

impl std::fmt::Debug for StoreBases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreBases").field("always", &self.always).finish_non_exhaustive()
    }
}

impl StoreBases {
    pub fn new(engine: &Engine, pull: Option<Arc<Puller>>, always: bool) -> Self {
        Self { engine: engine.clone(), pull, always }
    }
}

impl Bases for StoreBases {
    fn resolve(&self, reference: &str, platform: &image::Platform) -> Result<Base, String> {
        let store = self.engine.store();
        let known = store.inspect(reference).ok().filter(|facts| {
            let config = &facts.config;
            config.os == platform.os && config.architecture == platform.architecture
        });
        if let Some(facts) = known.filter(|_| !self.always || self.pull.is_none()) {
            return Ok(Base { id: facts.id, config: facts.config });
        }
        let Some(pull) = &self.pull else {
            return Err(format!("{reference}: not found: there is no such image here for {platform}"));
        };
        pull(reference, platform)?;
        let facts = store.inspect(reference).map_err(|e| e.to_string())?;
        Ok(Base { id: facts.id, config: facts.config })
    }
}
