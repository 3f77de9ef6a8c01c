//! What operations under way count on, though no record may speak of it yet or any more: pinned layers, which a sweep
//! spares, and claimed snapshots, whose folder and record come and go one after the other. In memory only: after a crash
//! nothing is under way.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

use vocab::Digest;

use super::Store;

#[derive(Default)]
pub(super) struct Held(Mutex<State>);

#[derive(Default)]
pub(super) struct State {
    /// Layers by chain id.
    pins: HashMap<Digest, usize>,
    /// Layers that a sweep spared for their pin alone: when that goes, so must they.
    owed: HashSet<Digest>,
    /// Snapshots whose folder may be there without a record, or the reverse.
    claims: HashMap<String, usize>,
}

impl State {
    pub(super) fn is_claimed(&self, container: &str) -> bool {
        self.claims.contains_key(container)
    }

    pub(super) fn is_anything_claimed(&self) -> bool {
        !self.claims.is_empty()
    }

    pub(super) fn is_pinned(&self, chain: &Digest) -> bool {
        self.pins.contains_key(chain)
    }

    /// Told by each sweep anew.
    pub(super) fn set_owed(&mut self, owed: HashSet<Digest>) {
        self.owed = owed;
    }
}

impl Held {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Keeps layers in the store while it lives. Never drop it under the lock of the files: the layers that only it kept are
/// removed then.
#[derive(Debug)]
pub(crate) struct Pins<'a> {
    store: &'a Store,
    chains: Vec<Digest>,
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let mut owed = false;
        {
            let mut held = self.store.held.lock();
            for chain in &self.chains {
                if let Some(count) = held.pins.get_mut(chain) {
                    *count -= 1;
                    if *count == 0 {
                        held.pins.remove(chain);
                        owed |= held.owed.contains(chain);
                    }
                }
            }
        }
        if owed && let Err(error) = self.store.collect() {
            tracing::warn!(%error, "layers that are no longer needed stay until the next collection");
        }
    }
}

/// Says that a snapshot's folder and record do not match for a while.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    store: &'a Store,
    container: String,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut held = self.store.held.lock();
        if let Some(count) = held.claims.get_mut(&self.container) {
            *count -= 1;
            if *count == 0 {
                held.claims.remove(&self.container);
            }
        }
    }
}

impl Store {
    /// Call it under the lock of the files, so that what is pinned is still there.
    pub(crate) fn pin(&self, chains: impl IntoIterator<Item = Digest>) -> Pins<'_> {
        let chains: Vec<Digest> = chains.into_iter().collect();
        let mut held = self.held.lock();
        for chain in &chains {
            *held.pins.entry(*chain).or_default() += 1;
        }
        Pins { store: self, chains }
    }

    pub(crate) fn claim(&self, container: &str) -> Claim<'_> {
        *self.held.lock().claims.entry(container.to_owned()).or_default() += 1;
        Claim { store: self, container: container.to_owned() }
    }
}
