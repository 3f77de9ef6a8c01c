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
    /// Snapshots whose folder may be there without a record, or the reverse; partial blobs (`partial/...`) in use.
    claims: HashMap<String, usize>,
}

impl State {
    pub(super) fn is_claimed(&self, container: &str) -> bool {
        self.claims.contains_key(container) && !vocab::weak::without("claims")
    }

    /// Whether any snapshot is on its way in or out; a container's name has no slash.
    pub(super) fn is_a_snapshot_claimed(&self) -> bool {
        self.claims.keys().any(|name| !name.contains('/'))
    }

    pub(super) fn is_pinned(&self, chain: &Digest) -> bool {
        self.pins.contains_key(chain) && !vocab::weak::without("pins")
    }

    fn let_go(&mut self, chains: &[Digest]) {
        for chain in chains {
            if let Some(count) = self.pins.get_mut(chain) {
                *count -= 1;
                if *count == 0 {
                    self.pins.remove(chain);
                }
            }
        }
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
        self.store.unpin(&self.chains);
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
        self.pin_all(&chains);
        Pins { store: self, chains }
    }

    pub(super) fn pin_all(&self, chains: &[Digest]) {
        let mut held = self.held.lock();
        for chain in chains {
            *held.pins.entry(*chain).or_default() += 1;
        }
    }

    /// Whether somebody holds a lease of the layer, or makes a snapshot on it, at this moment.
    pub fn is_leased(&self, chain: &Digest) -> bool {
        self.held.lock().pins.contains_key(chain)
    }

    /// Never under the lock of the files.
    pub(super) fn unpin(&self, chains: &[Digest]) {
        let last = |held: &State| {
            let only = |chain: &&Digest| held.pins.get(*chain) == Some(&1) && held.owed.contains(*chain);
            chains.iter().any(|chain| only(&chain))
        };
        {
            let mut held = self.held.lock();
            if !last(&held) {
                return held.let_go(chains);
            }
        }
        // Let go and collected in one, so that nobody sees a layer that nothing needs.
        let files = self.lock();
        self.held.lock().let_go(chains);
        if let Err(error) = self.collect_locked(files) {
            tracing::warn!(%error, "layers that are no longer needed stay until the next collection");
        }
    }

    /// Says that nothing but a pin keeps this layer so far.
    pub(super) fn owe(&self, chain: Digest) {
        self.held.lock().owed.insert(chain);
    }

    pub(crate) fn claim(&self, container: &str) -> Claim<'_> {
        *self.held.lock().claims.entry(container.to_owned()).or_default() += 1;
        Claim { store: self, container: container.to_owned() }
    }

    /// A claim on what nobody else may have claimed.
    pub(crate) fn claim_alone(&self, name: &str) -> Option<Claim<'_>> {
        let mut held = self.held.lock();
        if held.is_claimed(name) {
            return None;
        }
        held.claims.insert(name.to_owned(), 1);
        Some(Claim { store: self, container: name.to_owned() })
    }
}
