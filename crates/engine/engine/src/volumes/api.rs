//! Volumes, as callers see them.

use crate::core::blocking;
use crate::stream::{Body, ByteStream};
use crate::{Engine, Filters, Pruned, Result, VolumeList, VolumeRequest, VolumeView};

/// Volumes. `name` is a volume's whole name: there are no prefixes.
impl Engine {
    /// Makes a volume; one that exists already is answered as it is. What it answers is durable.
    pub async fn volume_create(&self, request: VolumeRequest) -> Result<VolumeView> {
        let inner = self.inner.clone();
        blocking(move || inner.volume_create(request)).await
    }

    /// By name. Filters: `dangling`, `driver`, `label`, `name`.
    pub async fn volume_list(&self, filters: &Filters) -> Result<VolumeList> {
        let (inner, filters) = (self.inner.clone(), filters.clone());
        blocking(move || inner.volume_list(&filters)).await
    }

    pub async fn volume_inspect(&self, name: &str) -> Result<VolumeView> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        blocking(move || inner.volume_view(&name)).await
    }

    /// Refused while a container refers to it, running or not. `force`: a volume that does not exist is fine.
    pub async fn volume_remove(&self, name: &str, force: bool) -> Result<()> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        blocking(move || inner.volume_remove(&name, force)).await
    }

    /// Removes volumes that no container refers to. Filters: `label`, `label!`, `all` (also those with a name).
    pub async fn volume_prune(&self, filters: &Filters) -> Result<Pruned> {
        let (inner, filters) = (self.inner.clone(), filters.clone());
        blocking(move || inner.volume_prune(&filters)).await
    }

    /// The volume's files as a tar, as they are at this time: who wants a still picture stops its users first.
    pub async fn volume_export(&self, name: &str) -> Result<ByteStream> {
        self.inner.volume_export(name).await
    }

    /// Unpacks a tar (plain, gzip or zstd) into an existing volume.
    pub async fn volume_import(&self, name: &str, body: Body) -> Result<()> {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        blocking(move || inner.volume_import(&name, body)).await
    }
}
