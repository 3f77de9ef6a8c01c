//! Images in an OCI layout at the client, as named contexts: one image of it is fetched and stands for the name while the
//! build runs.

use std::fs::File;
use std::sync::Arc;

use serde_json::{Value, json};
use tonic::Status;
use vocab::Digest;

use crate::content::ContentStore;
use crate::errors::status_of;
use crate::kit::Kit;
use crate::results::{Lent, lend};
use crate::session::Session;

/// Bytes of a manifest or an index.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Takes the image with that digest, or the one for `platform` of that index, into the store.
pub(super) async fn load(
    kit: &Kit,
    session: &Arc<Session>,
    layout: &str,
    digest: &Digest,
    platform: image::Platform,
) -> Result<(Digest, Lent), Status> {
    let content = ContentStore::new(session, format!("oci:{layout}"));
    let builder = kit.builder.clone();
    let context = tokio::task::spawn_blocking(move || builder.new_context()).await;
    let context = context.map_err(|error| Status::internal(error.to_string()))?;
    let context = context.map_err(|error| status_of(&error, None))?;
    let failed = |error: std::io::Error| Status::unknown(format!("keep the layout: {error}"));
    let blobs = context.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).map_err(failed)?;
    let mut bytes = content.read(digest, DOCUMENT_BYTES_MAX).await?;
    let (mut digest, mut manifest) = (*digest, document(&bytes)?);
    if let Some(all) = manifest["manifests"].as_array() {
        let fits = |entry: &&Value| {
            let told = &entry["platform"];
            told["os"] == platform.os.as_str() && told["architecture"] == platform.architecture.as_str()
        };
        let entry = all.iter().find(fits).or_else(|| all.first().filter(|_| all.len() == 1));
        let entry =
            entry.ok_or_else(|| Status::not_found(format!("no match for platform {platform} in the layout")))?;
        digest = digest_of(entry)?;
        bytes = content.read(&digest, DOCUMENT_BYTES_MAX).await?;
        manifest = document(&bytes)?;
    }
    std::fs::write(blobs.join(digest.hex()), &bytes).map_err(failed)?;
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    for link in std::iter::once(&manifest["config"]).chain(&layers) {
        let blob = digest_of(link)?;
        let size = link["size"].as_u64().unwrap_or_default();
        let mut file = File::create(blobs.join(blob.hex())).map_err(failed)?;
        content.fetch(&blob, size, &mut file).await?;
    }
    let media_type = manifest["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json");
    let entry = json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    let write = |name: &str, text: String| context.write(name, text.as_bytes());
    write("index.json", index.to_string()).map_err(|error| status_of(&error, None))?;
    write("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }).to_string()).map_err(|e| status_of(&e, None))?;
    let store = kit.builder.engine().store().clone();
    let options = image::LoadOptions { platform: Some(platform), ..image::LoadOptions::default() };
    let loading = tokio::task::spawn_blocking(move || store.load_layout(context.path(), &options, &|_| {})).await;
    let loaded = loading.map_err(|error| Status::internal(error.to_string()))?;
    let loaded = loaded.map_err(|error| status_of(&error.into(), None))?;
    let id = loaded.first().map(|loaded| loaded.id).ok_or_else(|| Status::not_found("the layout has no image"))?;
    Ok((id, lend(kit, id)))
}

fn document(bytes: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(bytes).map_err(|error| Status::invalid_argument(format!("the layout: {error}")))
}

fn digest_of(link: &Value) -> Result<Digest, Status> {
    let text = link["digest"].as_str().unwrap_or_default();
    text.parse().map_err(|_| Status::invalid_argument("the layout has a link without a digest"))
}
