//! The roles that are not commands: engine, keeper and runtime, each wired to its crate, started and stopped in order.

use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;

use engine::{Engine, EngineConfig};
use tracing::{info, warn};

use crate::client::autostart::READY;
use crate::client::http::Host;
use crate::cri::Interface;
use crate::failure::{Failure, chain};
use crate::flags::{self, Matches};
use crate::settings::Settings;

/// Threads that serve the API. Work that blocks has threads of its own, which end when idle.
const WORKERS: usize = 2;

pub fn runtime(words: Vec<OsString>) -> ExitCode {
    ExitCode::from(runtime::cli::main(std::env::args_os().collect(), &words))
}

/// Holds containers until there is nothing to hold and no engine to serve.
pub fn keeper(words: Vec<OsString>) -> ExitCode {
    let ended = linux::clone::SingleThreaded::new()
        .map_err(|error| error.to_string())
        .and_then(|token| Ok((token, keeper::Args::parse(words)?)))
        .and_then(|(token, args)| {
            keeper::serve(&token, &args, &keeper::RuntimeLauncher).map_err(|error| error.to_string())
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("knarr keeper: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Answers what containers ask of their resolvers while no engine is there: a keeper starts it.
pub fn resolver(words: Vec<OsString>) -> ExitCode {
    let run = match words.as_slice() {
        [flag, run] if flag == "--run" => Path::new(run),
        _ => {
            eprintln!("knarr resolver: a keeper starts it, with --run DIR");
            return ExitCode::FAILURE;
        }
    };
    match std::io::stdin().as_fd().try_clone_to_owned().and_then(|orders| engine::serve_names(run, orders)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("knarr resolver: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the engine until a signal asks it to end. Containers run on.
pub fn engine(settings: &Settings, matches: &Matches) -> Result<u8, Failure> {
    let background = matches.is("background");
    // A client that takes signals itself, as `run` does, may have started us: a blocked SIGTERM would never end this engine.
    linux::signal::unblock_all().map_err(|error| Failure::new(format!("knarr engine: {error}")))?;
    if background {
        // Away from the terminal and the session of whoever needed an engine.
        linux::process::setsid().map_err(|error| Failure::new(format!("knarr engine: {error}")))?;
    }
    log(settings.debug);
    let Host::Unix(socket) = &settings.host else {
        return Err("knarr engine: it listens on a unix socket only: --host unix:///PATH".into());
    };
    let config = engine_config(settings, matches)?;
    let keep = build_cache(matches)?;
    let interface = Interface::read(settings, matches)?;
    // A handful of descriptors for each running container. Refused: as many as fit.
    let _ = linux::rlimit::raise_soft(linux::rlimit::Resource::NOFILE);
    make_directory(&settings.run, 0o711)?;
    make_directory(&settings.root, 0o711)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("knarr engine: start threads: {error}")))?;
    let served = runtime.block_on(serve(settings, socket, background, config, keep, interface));
    // A blocking call may still hang on a dead file system: it is not waited for.
    runtime.shutdown_background();
    served.map(|()| 0)
}

/// What the engine's doctor finds where no engine runs, as the Docker socket would tell it. Starts no container, and leaves
/// nothing running that did not run before. For whoever is alone ([`crate::client::autostart::alone`]).
pub fn examine(settings: &Settings, deep: bool) -> Result<serde_json::Value, Failure> {
    let failed = |error: engine::Error| Failure::new(format!("knarr doctor: {}", chain(&error)));
    let config = EngineConfig {
        restarts: false,
        published_ports: None,
        root: settings.root.clone(),
        run: settings.run.clone(),
        keeper: vec!["/proc/self/exe".into(), "keeper".into()],
        labels: Vec::new(),
        cdi_dirs: Vec::new(),
        plugins: engine::PluginConfig::default(),
        registries: engine::Registries::default(),
        users: engine::UserRanges::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("knarr doctor: start threads: {error}")))?;
    let found = runtime.block_on(async {
        let engine = Engine::open(config).await.map_err(failed)?;
        let found = engine.doctor(deep).await.map_err(failed);
        engine.shutdown().await;
        found
    });
    runtime.shutdown_background();
    Ok(found?.iter().map(docker_api::finding).collect())
}

/// How much the build cache may keep.
pub const BUILD_CACHE: flags::Flag = flags::text(
    "build-cache",
    "Most that the build cache keeps: a size, or \"all\" (default: KNARR_BUILD_CACHE, else by the size of the disk)",
);

/// Where devices of vendors are described.
pub const CDI_DIRECTORIES: flags::Flag = flags::list(
    "cdi-spec-dir",
    "Directories of CDI files, which name vendors' devices (default: /etc/cdi, /var/run/cdi)",
);

/// Whose ids containers have.
pub const USERNS_REMAP: flags::Flag = flags::text(
    "userns-remap",
    "Ids of containers: a user whose ranges in /etc/subuid and /etc/subgid they have (\"default\": dockremap), or FIRST+COUNT (default: KNARR_USERNS_REMAP, else the host's ids)",
);

fn users(matches: &Matches) -> Result<engine::UserRanges, Failure> {
    let named = std::env::var("KNARR_USERNS_REMAP").ok();
    engine::UserRanges::read(matches.text("userns-remap").or(named.as_deref()))
        .map_err(|error| Failure::new(format!("--userns-remap: {}", chain(&error))))
}

/// Whether the host's own filters are asked.
pub const PUBLISHED_PORTS: flags::Flag = flags::text(
    "published-ports",
    "What nftables' filters at input are to published ports: \"bypass-input\" as Docker's, \"obey-input\" as a program of the host (default: KNARR_PUBLISHED_PORTS, else bypass-input)",
);

/// An engine that a command has started without a word about it goes on as the last one did.
fn published_ports(matches: &Matches) -> Result<Option<engine::PublishedPorts>, Failure> {
    let named = std::env::var("KNARR_PUBLISHED_PORTS").ok().filter(|text| !text.is_empty());
    let Some(text) = matches.text("published-ports").or(named.as_deref()) else {
        return Ok((!matches.is("background")).then_some(engine::PublishedPorts::BypassInput));
    };
    engine::PublishedPorts::parse(text)
        .map(Some)
        .ok_or_else(|| Failure::new(format!("--published-ports {text}: it is bypass-input or obey-input")))
}

/// Where drivers of volumes are looked for.
pub const PLUGIN_DIRECTORIES: flags::Flag = flags::list(
    "plugin-dir",
    "Directories of volume plugins (default: /run/docker/plugins, /etc/docker/plugins, /usr/lib/docker/plugins)",
);

/// How long they may take.
pub const PLUGIN_PATIENCE: flags::Flag =
    flags::duration("plugin-timeout", "How long a volume plugin may take for an answer (default: 2m)");

fn plugins(matches: &Matches) -> Result<engine::PluginConfig, Failure> {
    let mut config = engine::PluginConfig::default();
    if let named @ [_, ..] = matches.list("plugin-dir") {
        config.dirs = named.iter().map(Into::into).collect();
    }
    if let Some(nanos) = matches.duration_nanos("plugin-timeout") {
        let nanos = u64::try_from(nanos).map_err(|_| Failure::new("--plugin-timeout: less than nothing"))?;
        config.patience = std::time::Duration::from_nanos(nanos);
    }
    Ok(config)
}

/// The engine of a process: where it is by the settings, and the registries that the flag or the variable names.
pub fn engine_config(settings: &Settings, matches: &Matches) -> Result<EngineConfig, Failure> {
    let named = std::env::var("KNARR_REGISTRIES").ok().filter(|file| !file.is_empty());
    Ok(EngineConfig {
        restarts: true,
        root: settings.root.clone(),
        run: settings.run.clone(),
        keeper: vec!["/proc/self/exe".into(), "keeper".into()],
        labels: Vec::new(),
        cdi_dirs: match matches.list("cdi-spec-dir") {
            [] => cdi::DIRECTORIES.map(Into::into).to_vec(),
            named => named.iter().map(Into::into).collect(),
        },
        plugins: plugins(matches)?,
        registries: crate::registry::registries(matches.text("registries").or(named.as_deref()))?,
        users: users(matches)?,
        published_ports: published_ports(matches)?,
    })
}

/// What the Docker socket serves, over an open engine.
pub fn doors(engine: &Engine, keep: build::Keep) -> Result<docker_api::Doors, Box<dyn std::error::Error>> {
    let builder = build::Builder::open(engine, keep)?;
    let buildkit = buildkit::Kit::open(&builder)?;
    Ok(docker_api::Doors { engine: engine.clone(), builder, buildkit })
}

/// What the flag or the variable says.
pub fn build_cache(matches: &Matches) -> Result<build::Keep, Failure> {
    let named = std::env::var("KNARR_BUILD_CACHE").ok().filter(|text| !text.is_empty());
    match matches.text("build-cache").or(named.as_deref()) {
        None => Ok(build::Keep::ByDisk),
        Some("all") => Ok(build::Keep::All),
        Some(text) => {
            let bytes = crate::units::parse_bytes(text)?;
            let bytes =
                u64::try_from(bytes).map_err(|_| Failure::new(format!("--build-cache {text}: less than nothing")))?;
            Ok(build::Keep::Bytes(bytes))
        }
    }
}

/// Logs to standard error from now on.
pub fn log(debug: bool) {
    let level = if debug { tracing::Level::DEBUG } else { tracing::Level::INFO };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(linux::pty::is_tty(std::io::stderr()))
        .with_target(false)
        // It would complain on standard error with a macro that panics: a log on a full disk would end its server.
        .log_internal_errors(false)
        .init();
}

pub fn make_directory(path: &Path, mode: u32) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| Failure::new(format!("knarr engine: create {}: {error}", path.display())))
}

async fn serve(
    settings: &Settings,
    socket: &Path,
    background: bool,
    config: EngineConfig,
    keep: build::Keep,
    interface: Option<Interface>,
) -> Result<(), Failure> {
    let failed =
        |what: &str, error: &dyn std::error::Error| Failure::new(format!("knarr engine: {what}: {}", chain(error)));
    // Before the first container is touched, so that a signal during adoption waits for its end.
    let stop = stop_signal().map_err(|error| failed("take signals", &error))?;
    let engine = Engine::open(config).await.map_err(|error| failed("open", &error))?;
    let kubelets = match interface {
        Some(interface) => Some(interface.start(&engine, &settings.run).await?),
        None => None,
    };
    let listener = docker_api::bind(socket, None).map_err(|error| failed("listen", &error))?;
    info!(socket = %socket.display(), root = %settings.root.display(), "serving Docker's API");
    if background {
        say_ready().map_err(|error| failed("tell the client", &error))?;
    }
    let doors = doors(&engine, keep).map_err(|error| failed("open the builder", error.as_ref()))?;
    docker_api::serve(doors, listener, stop).await.map_err(|error| failed("serve", &error))?;
    if let Some(kubelets) = kubelets {
        kubelets.abort();
        let _ = kubelets.await;
    }
    engine.shutdown().await;
    info!("ended; containers run on");
    Ok(())
}

/// Resolves at the first signal that asks the engine to end.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A closed terminal is no reason to end; there is nothing to reload either.
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return info!("SIGTERM: ending"),
                _ = interrupt.recv() => return info!("SIGINT: ending"),
                _ = hangup.recv() => warn!("SIGHUP: there is no configuration to read again"),
            }
        }
    })
}

/// Tells the client that waits on our standard output, and lets go of it.
pub fn say_ready() -> std::io::Result<()> {
    rustix::io::write(std::io::stdout(), READY.as_bytes())?;
    rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    Ok(())
}
