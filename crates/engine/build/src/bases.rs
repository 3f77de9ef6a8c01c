//! Base images: from the store, or pulled into it first.

use std::collections::BTreeMap;

use engine::{Credentials, Engine, PullRequest};

use crate::plan::{Base, Bases};

/// Answers from the engine's store, and pulls what it lacks. To be asked from a thread of the runtime that may wait.
#[derive(Debug)]
pub struct StoreBases {
    engine: Engine,
    /// By registry (`docker.io`, `host:5000`).
    credentials: BTreeMap<String, Credentials>,
    /// Ask the registry even for what is there.
    always: bool,
}

impl StoreBases {
    pub fn new(engine: &Engine, credentials: BTreeMap<String, Credentials>, always: bool) -> Self {
        Self { engine: engine.clone(), credentials, always }
    }

    fn pull(&self, reference: &str, platform: &image::Platform) -> Result<(), String> {
        let parsed: vocab::Reference = reference.parse().map_err(|e| format!("{reference}: {e}"))?;
        let parsed = parsed.or_latest();
        let credentials = self.credentials.get(parsed.domain()).cloned().unwrap_or_default();
        let request = PullRequest {
            reference: parsed.to_string(),
            all_tags: false,
            platform: Some(platform.to_string()),
            credentials,
        };
        tokio::runtime::Handle::current().block_on(async {
            let mut reports = self.engine.image_pull(request).await.map_err(|e| e.to_string())?;
            while let Some(report) = reports.next().await {
                report.map_err(|e| e.to_string())?;
            }
            Ok(())
        })
    }
}

impl Bases for StoreBases {
    fn resolve(&self, reference: &str, platform: &image::Platform) -> Result<Base, String> {
        let store = self.engine.store();
        let known = store.inspect(reference).ok().filter(|facts| {
            let config = &facts.config;
            config.os == platform.os && config.architecture == platform.architecture
        });
        let known = match (known, self.always) {
            (Some(facts), false) => facts,
            // What nobody but this machine has is not looked for elsewhere in vain.
            (Some(facts), true) => match self.pull(reference, platform) {
                Ok(()) => store.inspect(reference).map_err(|e| e.to_string())?,
                Err(_) if facts.digests.is_empty() => facts,
                Err(error) => return Err(error),
            },
            (None, _) => {
                self.pull(reference, platform)?;
                store.inspect(reference).map_err(|e| e.to_string())?
            }
        };
        Ok(Base { id: known.id, config: known.config })
    }
}
