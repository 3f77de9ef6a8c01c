//! One solve: a frontend's answer, or what a build function at the client makes of several, exported.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::cache;
use crate::errors::{of_wire, to_wire};
use crate::export;
use crate::frontend::{self, Asked};
use crate::kit::Kit;
use crate::progress::Progress;
use crate::results::{self, Lent};
use crate::session::Session;
use crate::target::{Target, Targets};
use crate::wire::control::{CacheEntry, SolveRequest, SolveResponse};
use crate::wire::gateway;
use crate::wire::pb::Definition;

/// Results that one solve may hold.
const TARGETS_MAX: usize = 1024;

#[derive(Debug)]
pub(crate) struct Solve {
    pub(crate) reference: String,
    pub(crate) request: SolveRequest,
    pub(crate) created_at: Timestamp,
    pub(crate) progress: Arc<Progress>,
    pub(crate) cancel: CancellationToken,
    targets: Mutex<Targets>,
    /// What stands for results of other builds, while this one may need it.
    lent: Mutex<Vec<Lent>>,
    /// The first question of the client's build function.
    asked: Mutex<Option<(String, HashMap<String, String>)>>,
    /// Where the client's build function says what came out of it.
    returned: Mutex<Option<oneshot::Sender<gateway::ReturnRequest>>>,
    returning: Mutex<Option<oneshot::Receiver<gateway::ReturnRequest>>>,
}

/// What is to be exported.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// One for each platform.
    pub(crate) targets: Vec<Arc<Target>>,
}

impl Solve {
    pub(crate) fn new(request: SolveRequest) -> Arc<Self> {
        let (returned, returning) = oneshot::channel();
        Arc::new(Self {
            reference: request.reference.clone(),
            progress: Progress::new(&request.reference),
            request,
            created_at: Timestamp::now(),
            cancel: CancellationToken::new(),
            targets: Mutex::default(),
            lent: Mutex::default(),
            asked: Mutex::default(),
            returned: Mutex::new(Some(returned)),
            returning: Mutex::new(Some(returning)),
        })
    }

    /// What was asked of which frontend: by the request, or first by the client's build function.
    pub(crate) fn frontend(&self) -> (String, HashMap<String, String>) {
        if !self.request.frontend.is_empty() {
            return (self.request.frontend.clone(), self.request.frontend_attrs.clone());
        }
        self.asked.lock().unwrap_or_else(|e| e.into_inner()).clone().unwrap_or_default()
    }

    pub(crate) fn target(&self, id: &str) -> Result<Arc<Target>, Status> {
        let targets = self.targets.lock().unwrap_or_else(|e| e.into_inner());
        targets.get(id).cloned().ok_or_else(|| Status::not_found(format!("no such ref: {id}")))
    }

    /// What the client's build function says at its end.
    pub(crate) fn finish(&self, answer: gateway::ReturnRequest) -> Result<(), Status> {
        let sender = self.returned.lock().unwrap_or_else(|e| e.into_inner()).take();
        let sender = sender.ok_or_else(|| Status::failed_precondition("the build has returned already"))?;
        sender.send(answer).map_err(|_| Status::cancelled("context canceled"))
    }

    pub(crate) async fn session(&self, kit: &Kit) -> Result<Arc<Session>, Status> {
        kit.sessions.get(&self.request.session).await
    }

    /// Asks a frontend: reads and plans, builds nothing yet. One target for each platform.
    pub(crate) async fn open(
        &self,
        kit: &Kit,
        frontend: &str,
        attrs: &HashMap<String, String>,
        inputs: &HashMap<String, Definition>,
        imports: &[CacheEntry],
    ) -> Result<Vec<Arc<Target>>, Status> {
        if !matches!(frontend, "dockerfile.v0" | "gateway.v0") {
            return Err(Status::not_found(format!("frontend {frontend} not found")));
        }
        self.asked
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .get_or_insert_with(|| (frontend.to_owned(), attrs.clone()));
        let mut asked = Asked::read(attrs, &self.request.entitlements).map_err(Status::invalid_argument)?;
        if asked.request.is_none() {
            self.check(&asked)?;
        }
        asked.options.rewrite_timestamps = export::rewrites_timestamps(&self.request)?;
        let own = self.request.cache.iter().flat_map(|cache| &cache.imports);
        let imports = cache::imports(own.chain(imports))?;
        let session = self.session(kit).await?;
        let mut results = BTreeMap::new();
        for (name, input) in &asked.inputs {
            let definition = inputs.get(input);
            let definition = definition
                .ok_or_else(|| Status::invalid_argument(format!("context {name}: no input named {input}")))?;
            let (base, lent) = results::base(kit, name, definition).await?;
            self.lent.lock().unwrap_or_else(|e| e.into_inner()).push(lent);
            results.insert(name.clone(), base);
        }
        if let Some(name) = inputs.keys().find(|name| !asked.inputs.values().any(|input| input == *name)) {
            return Err(Status::unimplemented(format!(
                "input {name}: a context or Dockerfile that another build makes is not supported by this builder"
            )));
        }
        let each = match asked.platforms.len() {
            0 | 1 => vec![asked],
            _ => asked.platforms.iter().map(|platform| asked.on(platform)).collect(),
        };
        let mut opened = Vec::new();
        for (number, asked) in each.into_iter().enumerate() {
            let mut prepared = frontend::prepare(kit, &session, &self.progress, &asked, results.clone()).await?;
            self.lent.lock().unwrap_or_else(|e| e.into_inner()).append(&mut prepared.lent);
            // The text is the same for every platform, and so is what is wrong with it.
            if number == 0 {
                self.warn(&prepared);
            }
            let (progress, cancel) = (&self.progress, &self.cancel);
            opened.push(Target::new(kit, &session, progress, cancel, asked, prepared, imports.clone()));
        }
        let mut targets = self.targets.lock().unwrap_or_else(|e| e.into_inner());
        if targets.len() + opened.len() > TARGETS_MAX {
            return Err(Status::resource_exhausted(format!("more than {TARGETS_MAX} results of one build")));
        }
        targets.extend(opened.iter().map(|target| (target.id.clone(), target.clone())));
        Ok(opened)
    }

    /// Refuses what no exporter could meet, before anything is done for it.
    fn check(&self, asked: &Asked) -> Result<(), Status> {
        export::check(&self.request, asked.platforms.len())?;
        cache::exports(self.request.cache.as_ref(), asked.inline_cache())?;
        let exporters = export::exporters(&self.request);
        let kept = |exporter: &crate::wire::control::Exporter| match exporter.kind.as_str() {
            "oci" | "docker" => true,
            _ => export::flag(&exporter.attrs, "push").unwrap_or(false),
        };
        if asked.attest.any() && !exporters.is_empty() && !exporters.iter().any(kept) {
            return Err(Status::unimplemented(
                "attestations are kept in registries and archives, not in this engine's image store: push it, or use --output type=oci,dest=FILE",
            ));
        }
        Ok(())
    }

    fn warn(&self, prepared: &frontend::Prepared) {
        for warning in &prepared.graph.warnings {
            self.progress.warn(crate::warnings::of(warning, &prepared.place, &prepared.vertex));
        }
    }
}

/// Answers `Control.Solve`. A client that goes away drops this, and with it the build.
pub(crate) async fn solve(kit: Kit, request: SolveRequest) -> Result<SolveResponse, Status> {
    if request.reference.is_empty() || request.reference.len() > 256 || request.reference.contains(['/', '\0']) {
        return Err(Status::invalid_argument("a build needs an identifier"));
    }
    if request.source_policy.is_some() {
        return Err(Status::unimplemented("source policies are not supported by this builder"));
    }
    let solve = Solve::new(request);
    kit.solves.add(&solve)?;
    let _cancels = solve.cancel.clone().drop_guard();
    if !solve.request.internal {
        kit.history.started(&solve);
    }
    // On a task of its own, so that it ends in order also when nobody waits for it any more.
    let task = tokio::spawn(async move {
        let result = work(&kit, &solve).await;
        solve.cancel.cancel();
        solve.progress.finish();
        if !solve.request.internal {
            kit.history.finished(&solve, &result).await;
        }
        kit.solves.remove(&solve.reference);
        result
    });
    match task.await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn work(kit: &Kit, solve: &Arc<Solve>) -> Result<SolveResponse, Status> {
    let session = solve.session(kit).await?;
    let working = async {
        let outcome = outcome(kit, solve).await?;
        let response = export::export(kit, solve, &session, outcome).await?;
        Ok(SolveResponse { exporter_response: response })
    };
    tokio::select! {
        response = working => response,
        () = solve.cancel.cancelled() => Err(Status::cancelled("context canceled")),
        () = session.gone.cancelled() => {
            // The steps stop too.
            solve.cancel.cancel();
            Err(Status::cancelled("context canceled: the client's session has ended"))
        }
    }
}

async fn outcome(kit: &Kit, solve: &Arc<Solve>) -> Result<Outcome, Status> {
    let request = &solve.request;
    if !request.frontend.is_empty() {
        let (attrs, inputs) = (&request.frontend_attrs, &request.frontend_inputs);
        let targets = solve.open(kit, &request.frontend, attrs, inputs, &[]).await?;
        if let Some(question) = targets.first().and_then(|target| target.asked.request.as_ref()) {
            return Err(Status::unimplemented(format!("unsupported request {question:?} without a gateway")));
        }
        return Ok(Outcome { targets });
    }
    if request.definition.as_ref().is_some_and(|definition| !definition.def.is_empty()) {
        return Err(Status::unimplemented("a graph of the client's own: this builder builds Dockerfiles only"));
    }
    let returning = solve.returning.lock().unwrap_or_else(|e| e.into_inner()).take();
    let returning = returning.ok_or_else(|| Status::internal("a solve runs once"))?;
    let answer = returning.await.map_err(|_| Status::cancelled("context canceled"))?;
    if let Some(error) = answer.error.filter(|error| error.code != 0) {
        return Err(of_wire(&error));
    }
    let result = answer.result.unwrap_or_default();
    let mut ids: Vec<String> = match result.refs {
        None => Vec::new(),
        Some(gateway::Refs::Id(id)) => vec![id],
        Some(gateway::Refs::One(one)) => vec![one.id],
        // By platform: in the order of their names, so that the same build gives the same index.
        Some(gateway::Refs::Several(several)) => {
            let sorted: BTreeMap<_, _> = several.refs.into_iter().collect();
            sorted.into_values().map(|one| one.id).collect()
        }
    };
    ids.retain(|id| !id.is_empty());
    let targets = ids.iter().map(|id| solve.target(id)).collect::<Result<Vec<_>, _>>()?;
    Ok(Outcome { targets })
}

/// For the record: what a failed solve ended with.
pub(crate) fn error_of(result: &Result<SolveResponse, Status>) -> Option<crate::wire::rpc::Status> {
    result.as_ref().err().map(to_wire)
}
