//! Which filter a container gets. Compiling one costs more than the rest of a plan, so filters are kept by what they
//! depend on.

use std::sync::Mutex;

use linux::seccomp::docker::{DockerProfile, Target, default_profile};
use linux::seccomp::{Arch, compile};
use runtime::plan::SeccompPlan;

use crate::spec::SeccompChoice;
use crate::{Error, Result};

const KEPT: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct SeccompFilters {
    known: Mutex<Vec<(Key, Option<SeccompPlan>)>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    choice: SeccompChoice,
    capabilities: Vec<String>,
}

/// At create: a profile that does not parse is refused before anything exists.
pub(crate) fn check(choice: &SeccompChoice) -> Result<()> {
    match choice {
        SeccompChoice::Profile(text) => parse(text).map(drop),
        SeccompChoice::Builtin | SeccompChoice::Unconfined => Ok(()),
    }
}

fn parse(text: &str) -> Result<DockerProfile> {
    serde_json::from_str(text).map_err(|e| Error::Invalid(format!("decoding seccomp profile failed: {e}")))
}

impl SeccompFilters {
    /// The filter for a container with these capabilities (`CAP_*`); `None` is unconfined.
    pub(crate) fn plan(&self, choice: &SeccompChoice, capabilities: &[&str]) -> Result<Option<SeccompPlan>> {
        if *choice == SeccompChoice::Unconfined {
            return Ok(None);
        }
        let key = Key { choice: choice.clone(), capabilities: capabilities.iter().map(|c| (*c).to_owned()).collect() };
        if let Some((_, plan)) = self.known().iter().find(|(known, _)| *known == key) {
            return Ok(plan.clone());
        }
        let plan = make(&key)?;
        let mut known = self.known();
        if known.len() == KEPT {
            known.remove(0);
        }
        known.push((key, plan.clone()));
        Ok(plan)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Vec<(Key, Option<SeccompPlan>)>> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn make(key: &Key) -> Result<Option<SeccompPlan>> {
    let profile = match &key.choice {
        SeccompChoice::Profile(text) => parse(text)?,
        _ => default_profile(),
    };
    let refused = |e: &dyn std::fmt::Display| Error::Invalid(format!("seccomp profile: {e}"));
    let target = Target { capabilities: &key.capabilities, arch: Arch::NATIVE, kernel: kernel_version() };
    let Some(profile) = profile.resolve(&target).map_err(|e| refused(&e))? else { return Ok(None) };
    let filter = compile(&profile, Arch::NATIVE).map_err(|e| refused(&e))?;
    if filter.notifies {
        return Err(Error::Unsupported(
            "seccomp profile: SCMP_ACT_NOTIFY needs a listener, which docker has no way to name".into(),
        ));
    }
    Ok(Some(SeccompPlan { filter, listener: None }))
}

fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|n| n.trim().parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
