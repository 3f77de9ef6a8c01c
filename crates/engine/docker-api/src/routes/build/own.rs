//! What `knarr build` asks for beside the classic builder's query: see [`crate::own_build`].

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use build::plan::NamedContext;
use build::{Answer, BuildError, Builder, Built, Client, Context, ImportedCache, LayerForm, PackageOptions, Remote};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Asked, refused};
use crate::http::error::{ApiError, ApiResult};
use crate::own_build::{
    CachePlace, FIRST, FrameReader, Layers, MORE, Output, StreamWriter, WISH, Wish, WishedContext, frame,
};

/// Bytes of a wish: secrets are at most half a megabyte each.
const WISH_BYTES_MAX: u64 = 16 << 20;
/// Bytes of a layout's index.
const INDEX_BYTES_MAX: u64 = 4 << 20;

/// Everything that a wish brought along.
pub(super) struct Brought {
    pub(super) wish: Wish,
    pub(super) main: Option<Arc<Context>>,
    pub(super) contexts: BTreeMap<String, Arc<Context>>,
    pub(super) client: Arc<Given>,
}

/// Reads the body. Blocking.
pub(super) fn read(
    builder: &Builder,
    kit: &buildkit::Kit,
    asked: &mut Asked,
    body: &mut (dyn Read + Send),
) -> ApiResult<Brought> {
    let kept = |name: &str| {
        kit.brought(name).ok_or_else(|| ApiError::invalid(format!("no folder was brought under the name {name:?}")))
    };
    let mut frames = FrameReader::new(body);
    let cut = |e: std::io::Error| ApiError::invalid(format!("read the build request: {e}"));
    let mut text = Vec::new();
    let mut wished = frames.stream(WISH);
    wished.by_ref().take(WISH_BYTES_MAX).read_to_end(&mut text).map_err(cut)?;
    wished.finish().map_err(cut)?;
    let wish: Wish = serde_json::from_slice(&text)
        .map_err(|e| ApiError::invalid(format!("the build request is not understood: {e}")))?;
    let said = wish.provenance.is_some() || wish.sbom || !wish.annotations.is_empty();
    let lasts = |output: &Output| matches!(output, Output::Archive { .. } | Output::Image { push: true, .. });
    if said && wish.call.is_none() && !wish.outputs.iter().any(lasts) {
        return Err(ApiError::unsupported(
            "annotations and attestations are kept in registries and archives, not in this engine's image store: push it, or use --output type=oci,dest=FILE",
        ));
    }
    for layers in wish.layers() {
        layers.form().map_err(ApiError::invalid)?;
    }
    let mut main = None;
    if let Some(name) = &wish.kept {
        main = Some(kept(name)?);
    } else if asked.remote.is_none() {
        let context = builder.new_context().map_err(refused)?;
        let mut stream = frames.stream(FIRST);
        context.unpack(&mut stream).map_err(refused)?;
        stream.finish().map_err(cut)?;
        main = Some(Arc::new(context));
    }
    let client = Arc::new(Given::new(&wish)?);
    let mut contexts = BTreeMap::new();
    let mut number = MORE;
    for (name, wished) in &wish.contexts {
        match wished {
            WishedContext::Folder | WishedContext::Layout(_) => {
                let context = builder.new_context().map_err(refused)?;
                let mut stream = frames.stream(number);
                context.unpack(&mut stream).map_err(refused)?;
                stream.finish().map_err(cut)?;
                number = number.checked_add(1).ok_or_else(|| ApiError::invalid("too many build contexts"))?;
                let named = match wished {
                    WishedContext::Layout(which) => {
                        NamedContext::Image(load_layout(builder, &context, which)?.to_string())
                    }
                    _ => {
                        contexts.insert(name.clone(), Arc::new(context));
                        NamedContext::Local(name.clone())
                    }
                };
                asked.options.contexts.insert(name.clone(), named);
            }
            WishedContext::Kept(brought) => {
                contexts.insert(name.clone(), kept(brought)?);
                asked.options.contexts.insert(name.clone(), NamedContext::Local(name.clone()));
            }
            WishedContext::Image(reference) => {
                asked.options.contexts.insert(name.clone(), NamedContext::Image(reference.clone()));
            }
            WishedContext::Remote(address) => {
                let remote = Remote::parse(address).map_err(ApiError::invalid)?;
                let remote = remote.ok_or_else(|| ApiError::invalid(format!("{address:?} is not an address")))?;
                let cancel = CancellationToken::new();
                let fetching = builder.fetch_context(&remote, false, &*client, &cancel);
                let fetched = tokio::runtime::Handle::current().block_on(fetching).map_err(refused)?;
                contexts.insert(name.clone(), fetched.context);
                asked.options.contexts.insert(name.clone(), NamedContext::Local(name.clone()));
            }
        }
    }
    for entitlement in &wish.allow {
        match entitlement.as_str() {
            "network.host" => asked.options.allow.host_network = true,
            "security.insecure" => asked.options.allow.insecure = true,
            other => return Err(ApiError::invalid(format!("invalid entitlement: {other}"))),
        }
    }
    asked.options.no_cache_stages = wish.no_cache_stages.clone();
    asked.options.only_check = wish.call.is_some();
    Ok(Brought { wish, main, contexts, client })
}

/// Caches to look into. One that cannot be read is told of and left alone, as BuildKit does.
pub(super) async fn imports(
    builder: &Builder,
    asked: &Asked,
    wish: &Wish,
    contexts: &BTreeMap<String, Arc<Context>>,
) -> (Vec<ImportedCache>, Vec<String>) {
    let (mut found, mut said) = (Vec::new(), Vec::new());
    for place in &wish.cache_from {
        let import = match place {
            CachePlace::Inline => continue,
            CachePlace::Local { context, .. } => match contexts.get(context) {
                Some(context) => ImportedCache::of_layout(context.clone()),
                None => continue,
            },
            CachePlace::Registry { reference, .. } => match references(std::slice::from_ref(reference)) {
                Err(error) => Err(error),
                Ok(names) => {
                    let credentials = asked.credentials.get(names[0].domain()).cloned().unwrap_or_default();
                    ImportedCache::of_registry(builder, names[0].clone(), credentials).await
                }
            },
        };
        match import {
            Ok(import) => found.push(import),
            Err(error) => said.push(format!("[Warning] {error}")),
        }
    }
    (found, said)
}

/// Sends the cache to where it was asked for: streams come after those of the outputs.
async fn export_cache(
    builder: &Builder,
    asked: &Asked,
    wish: &Wish,
    built: &Built,
    sink: &Sink,
) -> Result<Vec<String>, BuildError> {
    let mut said = Vec::new();
    let mut number = MORE.saturating_add(wish.outputs.len().min(200) as u8);
    for place in &wish.cache_to {
        let (max, form) = match place {
            CachePlace::Inline => continue,
            CachePlace::Registry { max, layers, .. } | CachePlace::Local { max, layers, .. } => (*max, form(layers)?),
        };
        let (working, built) = (builder.clone(), built.clone());
        let packing = tokio::task::spawn_blocking(move || working.cache_package(&[&built], max, form));
        let package = packing.await.map_err(|e| BuildError::Invalid(format!("the export was cut short: {e}")))??;
        match place {
            CachePlace::Registry { reference, .. } => {
                let names = references(std::slice::from_ref(reference))?;
                let credentials = asked.credentials.get(names[0].domain()).cloned().unwrap_or_default();
                let digest = builder.push(&Arc::new(package), &names[0], credentials).await?;
                said.push(format!("Exported cache to {} {digest}", names[0].familiar()));
            }
            _ => {
                let working = builder.clone();
                write(sink, number, move |out| working.write_archive(&package, &[], out)).await?;
                number = number.saturating_add(1);
            }
        }
    }
    Ok(said)
}

/// Takes one image of a layout into the store, without a name; returns its id.
fn load_layout(builder: &Builder, context: &Context, which: &str) -> ApiResult<vocab::Digest> {
    let invalid = |detail: String| ApiError::invalid(format!("OCI layout: {detail}"));
    let index = context.read("index.json", INDEX_BYTES_MAX).map_err(refused)?;
    let index = index.ok_or_else(|| invalid("it has no index.json".into()))?;
    let mut index: serde_json::Value = serde_json::from_slice(&index).map_err(|e| invalid(e.to_string()))?;
    let all = index["manifests"].as_array().cloned().unwrap_or_default();
    let fits = |entry: &serde_json::Value| {
        let tag = entry.pointer("/annotations/org.opencontainers.image.ref.name").and_then(|v| v.as_str());
        match which {
            "" => all.len() == 1 || tag == Some("latest"),
            which => entry["digest"] == which || tag == Some(which),
        }
    };
    let chosen = all.iter().find(|entry| fits(entry));
    let mut chosen = chosen.cloned().ok_or_else(|| invalid(format!("it has no image {which:?}")))?;
    // The copy is ours: with this one in it, and no name, nothing else is loaded and nothing is tagged.
    if let Some(entry) = chosen.as_object_mut() {
        entry.remove("annotations");
    }
    index["manifests"] = serde_json::json!([chosen]);
    context.write("index.json", index.to_string().as_bytes()).map_err(refused)?;
    let loaded = builder.engine().store().load_layout(context.path(), &image_options(), &|_| {});
    let loaded = loaded.map_err(|e| refused(BuildError::Image(e)))?;
    loaded.first().map(|loaded| loaded.id).ok_or_else(|| invalid("it has no image for this machine".into()))
}

fn image_options() -> image::LoadOptions {
    image::LoadOptions::default()
}

/// Secrets and sockets as they came with the request. They are shown to nobody, not even to a debugger's print.
#[derive(Default)]
pub(super) struct Given {
    secrets: BTreeMap<String, Vec<u8>>,
    ssh: BTreeMap<String, PathBuf>,
}

impl Given {
    fn new(wish: &Wish) -> ApiResult<Self> {
        let mut given = Self::default();
        for (id, text) in &wish.secrets {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text);
            let bytes = bytes.map_err(|_| ApiError::invalid(format!("secret {id}: not base64")))?;
            given.secrets.insert(id.clone(), bytes);
        }
        for (id, path) in &wish.ssh {
            given.ssh.insert(id.clone(), path.into());
        }
        Ok(given)
    }
}

impl Client for Given {
    fn secret(&self, id: &str) -> Answer<'_, Vec<u8>> {
        let secret = self.secrets.get(id).cloned();
        Box::pin(async move { Ok(secret) })
    }

    fn ssh(&self, id: &str) -> Answer<'_, PathBuf> {
        let socket = self.ssh.get(id).cloned();
        Box::pin(async move { Ok(socket) })
    }
}

/// Where the answer goes: lines alone, or frames.
#[derive(Clone)]
pub(super) struct Sink {
    pub(super) sender: mpsc::Sender<Bytes>,
    pub(super) framed: bool,
}

impl Sink {
    /// False: nobody listens any more.
    pub(super) async fn lines(&self, lines: Vec<u8>) -> bool {
        if lines.is_empty() {
            return !self.sender.is_closed();
        }
        let bytes = if self.framed { frame(FIRST, &lines) } else { lines };
        self.sender.send(bytes.into()).await.is_ok()
    }
}

/// Sends what is written as chunks of the answer. Only for threads that may block.
struct Chunks(mpsc::Sender<Bytes>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Hands a build to everything that was asked for. Returns the image's id, and what to say of it.
pub(super) async fn hand_out(
    builder: &Builder,
    asked: &Asked,
    wish: &Wish,
    options: PackageOptions,
    built: Built,
    sink: &Sink,
) -> Result<(vocab::Digest, Vec<String>), BuildError> {
    let mut built = built;
    if wish.cache_to.contains(&CachePlace::Inline) {
        built = tokio::task::block_in_place(|| builder.with_inline_cache(&built))?;
    }
    let id = image::hash::sha256(&built.config);
    let mut said = Vec::new();
    if wish.outputs.is_empty() {
        builder.export(built.clone(), asked.names.clone()).await?;
        said.extend(asked.names.iter().map(|name| format!("Successfully tagged {}", name.familiar())));
    }
    let in_form = |layers: &Layers| {
        Ok::<_, BuildError>(PackageOptions { form: form(layers)?, media: layers.media(), ..options.clone() })
    };
    for (at, output) in wish.outputs.iter().enumerate() {
        let number = u8::try_from(at).ok().and_then(|at| MORE.checked_add(at));
        let number = number.ok_or_else(|| BuildError::Invalid("too many outputs".into()))?;
        match output {
            Output::Image { names, push, layers } => {
                let mut all = asked.names.clone();
                all.extend(references(names)?);
                builder.export(built.clone(), all.clone()).await?;
                said.extend(all.iter().map(|name| format!("Successfully tagged {}", name.familiar())));
                if *push {
                    let package = Arc::new(builder.package_of(&built, in_form(layers)?).await?);
                    for name in &all {
                        let credentials = asked.credentials.get(name.domain()).cloned().unwrap_or_default();
                        let digest = builder.push(&package, name, credentials).await?;
                        said.push(format!("Pushed {} {digest}", name.familiar()));
                    }
                }
            }
            Output::Files => {
                let (working, built) = (builder.clone(), built.clone());
                write(sink, number, move |out| working.write_files(&built, out)).await?;
            }
            Output::Archive { names, layers } => {
                let mut all = asked.names.clone();
                all.extend(references(names)?);
                let package = builder.package_of(&built, in_form(layers)?).await?;
                let working = builder.clone();
                write(sink, number, move |out| working.write_archive(&package, &all, out)).await?;
            }
        }
    }
    said.extend(export_cache(builder, asked, wish, &built, sink).await?);
    Ok((id, said))
}

fn form(layers: &Layers) -> Result<LayerForm, BuildError> {
    layers.form().map_err(BuildError::Invalid)
}

fn references(names: &[String]) -> Result<Vec<vocab::Reference>, BuildError> {
    let parse = |name: &String| match name.parse::<vocab::Reference>() {
        Ok(reference) => Ok(reference.or_latest()),
        Err(_) => Err(BuildError::Invalid(format!("invalid reference format: {name:?}"))),
    };
    names.iter().map(parse).collect()
}

async fn write(
    sink: &Sink,
    number: u8,
    work: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), BuildError> + Send + 'static,
) -> Result<(), BuildError> {
    let sender = sink.sender.clone();
    let writing = tokio::task::spawn_blocking(move || {
        let mut out = StreamWriter::new(Chunks(sender), number);
        work(&mut out)?;
        out.end().map_err(|source| BuildError::Io { what: "send an output".into(), source })
    });
    writing.await.map_err(|e| BuildError::Invalid(format!("an output was cut short: {e}")))?
}
