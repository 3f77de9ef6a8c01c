//! The command line: which commands there are, how they are found, and what their help says.
//!
//! A command is a row in a table: words, flags, and a function from matches to an exit code. Only the row that was named is
//! looked at. Add one by writing it in the file of its family and naming it in [`GROUPS`] or [`PLAIN`].

mod archives;
mod attach;
mod build;
mod cloud;
mod completion;
mod containers;
mod context;
mod copy;
mod doctor;
mod exec;
mod images;
mod inspect;
mod kube;
mod logs;
mod networks;
mod nodes;
mod ps;
mod registries;
mod run;
mod stats;
mod status;
mod stream;
mod system;
mod top_help;
mod volume;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use crate::client::Client;
use crate::failure::Failure;
use crate::flags::{self, Arity, Flag, Matches};
use crate::settings::{self, Settings};

/// One command.
pub struct Command {
    /// As it is usually called; groups may list it under another name (`ps` is `container ls`).
    pub name: &'static str,
    /// What follows the name in the usage line.
    pub usage: &'static str,
    pub about: &'static str,
    pub examples: &'static str,
    pub flags: &'static [&'static [Flag]],
    /// Whether flags may follow arguments.
    pub interspersed: bool,
    pub arity: Arity,
    pub run: fn(&Context, &Matches) -> Result<u8, Failure>,
}

/// What a command works with.
pub struct Context {
    pub client: Client,
}

impl Context {
    pub fn settings(&self) -> &Settings {
        &self.client.settings
    }
}

/// A management command: `container`, `image`, ... with the names of its commands.
pub struct Group {
    pub name: &'static str,
    pub about: &'static str,
    pub commands: &'static [(&'static str, &'static Command)],
}

pub static GROUPS: &[Group] = &[
    Group {
        name: "container",
        about: "Manage containers",
        commands: &[
            ("attach", &attach::ATTACH),
            ("commit", &archives::COMMIT),
            ("cp", &copy::CP),
            ("create", &run::CREATE),
            ("diff", &containers::DIFF),
            ("exec", &exec::EXEC),
            ("export", &archives::EXPORT),
            ("inspect", &inspect::CONTAINER_INSPECT),
            ("kill", &containers::KILL),
            ("logs", &logs::LOGS),
            ("ls", &ps::PS),
            ("list", &ps::PS),
            ("ps", &ps::PS),
            ("pause", &containers::PAUSE),
            ("port", &containers::PORT),
            ("prune", &system::CONTAINER_PRUNE),
            ("rename", &containers::RENAME),
            ("restart", &containers::RESTART),
            ("rm", &containers::RM),
            ("run", &run::RUN),
            ("start", &attach::START),
            ("stats", &stats::STATS),
            ("stop", &containers::STOP),
            ("top", &containers::TOP),
            ("unpause", &containers::UNPAUSE),
            ("update", &containers::UPDATE),
            ("wait", &containers::WAIT),
        ],
    },
    Group {
        name: "image",
        about: "Manage images",
        commands: &[
            ("build", &build::BUILD),
            ("history", &images::HISTORY),
            ("import", &archives::IMPORT),
            ("inspect", &inspect::IMAGE_INSPECT),
            ("load", &archives::LOAD),
            ("ls", &images::IMAGES),
            ("list", &images::IMAGES),
            ("prune", &system::IMAGE_PRUNE),
            ("pull", &registries::PULL),
            ("push", &registries::PUSH),
            ("rm", &images::RMI),
            ("remove", &images::RMI),
            ("save", &archives::SAVE),
            ("tag", &images::TAG),
        ],
    },
    Group {
        name: "manifest",
        about: "Look at manifests in registries",
        commands: &[("inspect", &registries::MANIFEST_INSPECT)],
    },
    Group {
        name: "rollout",
        about: "Follow, undo and repeat changes of the cluster's workloads",
        commands: &[
            ("history", &kube::HISTORY),
            ("pause", &kube::PAUSE),
            ("restart", &kube::RESTART),
            ("resume", &kube::RESUME),
            ("status", &kube::STATUS),
            ("undo", &kube::UNDO),
        ],
    },
    Group { name: "builder", about: "Manage builds", commands: &[("build", &build::BUILD), ("prune", &build::PRUNE)] },
    Group {
        name: "network",
        about: "Manage networks",
        commands: &[
            ("connect", &networks::CONNECT),
            ("create", &networks::CREATE),
            ("disconnect", &networks::DISCONNECT),
            ("inspect", &inspect::NETWORK_INSPECT),
            ("ls", &networks::LS),
            ("list", &networks::LS),
            ("prune", &system::NETWORK_PRUNE),
            ("rm", &networks::RM),
            ("remove", &networks::RM),
        ],
    },
    Group {
        name: "system",
        about: "Manage the engine",
        commands: &[
            ("df", &system::DF),
            ("events", &system::EVENTS),
            ("info", &system::INFO),
            ("prune", &system::SYSTEM_PRUNE),
        ],
    },
    Group {
        name: "context",
        about: "Manage contexts",
        commands: &[
            ("inspect", &context::INSPECT),
            ("ls", &context::LS),
            ("list", &context::LS),
            ("show", &context::SHOW),
            ("use", &context::USE),
        ],
    },
    Group {
        name: "token",
        about: "Manage tokens by which nodes join",
        commands: &[
            ("create", &nodes::CREATE),
            ("ls", &nodes::LS),
            ("list", &nodes::LS),
            ("rm", &nodes::RM),
            ("delete", &nodes::RM),
        ],
    },
    Group {
        name: "volume",
        about: "Manage volumes",
        commands: &[
            ("create", &volume::CREATE),
            ("export", &volume::EXPORT),
            ("import", &volume::IMPORT),
            ("inspect", &inspect::VOLUME_INSPECT),
            ("ls", &volume::LS),
            ("list", &volume::LS),
            ("prune", &volume::PRUNE),
            ("rm", &volume::RM),
            ("remove", &volume::RM),
        ],
    },
];

/// Commands that need no group, in the order of the help.
pub static PLAIN: &[(&str, &[&Command])] = &[
    (
        "Common Commands",
        &[
            &run::RUN,
            &exec::EXEC,
            &ps::PS,
            &images::IMAGES,
            &archives::LOAD,
            &logs::LOGS,
            &system::VERSION,
            &system::INFO,
            &doctor::DOCTOR,
        ],
    ),
    (
        "Commands",
        &[
            &attach::ATTACH,
            &build::BUILD,
            &archives::COMMIT,
            &completion::COMPLETION,
            &copy::CP,
            &run::CREATE,
            &containers::DIFF,
            &system::EVENTS,
            &archives::EXPORT,
            &images::HISTORY,
            &archives::IMPORT,
            &inspect::INSPECT,
            &containers::KILL,
            &containers::PAUSE,
            &containers::PORT,
            &registries::LOGIN,
            &registries::LOGOUT,
            &registries::PULL,
            &registries::PUSH,
            &containers::RENAME,
            &containers::RESTART,
            &containers::RM,
            &images::RMI,
            &archives::SAVE,
            &registries::SEARCH,
            &attach::START,
            &stats::STATS,
            &containers::STOP,
            &images::TAG,
            &containers::TOP,
            &containers::UNPAUSE,
            &containers::UPDATE,
            &containers::WAIT,
        ],
    ),
    (
        "A whole cloud (exec, attach, logs, top and wait take pod/NAME or deploy/NAME as well)",
        &[
            &cloud::UP,
            &cloud::DOWN,
            &status::STATUS,
            &nodes::AGENT,
            &kube::APPLY,
            &kube::DELETE,
            &kube::DESCRIBE,
            &kube::EXPLAIN,
            &kube::GET,
            &kube::PORT_FORWARD,
            &kube::SCALE,
            &kube::WHY,
        ],
    ),
    ("Roles of this program", &[&ENGINE, &REGISTRY]),
];

static ENGINE: Command = Command {
    name: "engine",
    usage: "[OPTIONS]",
    about: "Run the engine in the foreground",
    examples: "  knarr engine                              serve /run/knarr/docker.sock from /var/lib/knarr
  knarr --root /srv/k --run /run/k engine   another instance beside it
  knarr engine --cri default                for a kubelet: --container-runtime-endpoint=unix:///run/knarr/cri.sock

Containers run on when it ends, and the next one adopts them.",
    flags: &[
        &[
            flags::switch("background", "").hidden(),
            flags::text(
                "registries",
                "File that says which registries there are (default: /etc/knarr/registries.json)",
            ),
            crate::daemon::BUILD_CACHE,
            crate::daemon::CDI_DIRECTORIES,
            crate::daemon::USERNS_REMAP,
            crate::daemon::PUBLISHED_PORTS,
            crate::daemon::PLUGIN_DIRECTORIES,
            crate::daemon::PLUGIN_PATIENCE,
        ],
        crate::cri::FLAGS,
        settings::FLAGS,
    ],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| crate::daemon::engine(context.settings(), matches),
};

static REGISTRY: Command = Command {
    name: "registry",
    usage: "--root DIR [OPTIONS] [hash NAME]",
    about: "Run a registry in the foreground, or print a line for its file of users",
    examples: "  knarr registry --root /srv/registry --listen 127.0.0.1:5000
  knarr registry --root /srv/cache --upstream docker.io   a cache of another registry
  echo secret | knarr registry hash ann >>users           a user for --users",
    flags: &[crate::registry::FLAGS, settings::FLAGS],
    interspersed: true,
    arity: Arity::Between(0, 2),
    run: |context, matches| {
        let given = matches.given("root") || context.settings().root_named;
        crate::registry::main(context.settings(), given, matches)
    },
};

/// Finds and runs the command that `words` name. This is the whole life of the process.
pub fn main(words: Vec<OsString>) -> ExitCode {
    let mut text = Vec::with_capacity(words.len());
    for word in words {
        match word.into_string() {
            Ok(word) => text.push(word),
            Err(word) => {
                eprintln!("knarr: an argument is not UTF-8: {}", word.to_string_lossy());
                return ExitCode::from(125);
            }
        }
    }
    match dispatch(&text) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.message.is_empty() {
                // Nothing can be done for a standard error that is gone.
                let _ = writeln!(std::io::stderr(), "{}", failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(words: &[String]) -> Result<u8, Failure> {
    let global = flags::parse(&[settings::FLAGS], false, words)
        .map_err(|problem| usage_error(&problem, "knarr [OPTIONS] COMMAND [ARG...]", "knarr"))?;
    if global.arguments.first().is_some_and(|first| first == "docker") {
        // `knarr docker ps` is what `docker ps` is under that name: flags before the command may stand on both sides.
        let at = words.len() - global.arguments.len();
        return dispatch(&[&words[..at], &words[at + 1..]].concat());
    }
    if let Some(other) = global.text("context").filter(|name| *name != "default") {
        return Err(Failure::new(format!(
            "context {other:?}: not found: --host or DOCKER_HOST says where the engine is"
        )));
    }
    if global.is("version") {
        out(&format!("Knarr version {}\n", env!("CARGO_PKG_VERSION")))?;
        return Ok(0);
    }
    let Some((first, rest)) = global.arguments.split_first() else {
        out(&top_help::top_help())?;
        return Ok(0);
    };
    if global.help || first == "help" {
        return help_on(if first == "help" { rest } else { &global.arguments });
    }
    let Found { command, called, rest } = match find(first, rest)? {
        Some(found) => found,
        None => return Ok(0),
    };
    let matches = flags::parse(command.flags, command.interspersed, rest)
        .map_err(|problem| usage_error(&problem, &usage_line(command, &called), &format!("knarr {called}")))?;
    if matches.help {
        out(&top_help::command_help(command, &called))?;
        return Ok(0);
    }
    if let Some(problem) = command.arity.complaint(matches.arguments.len()) {
        return Err(Failure::new(format!(
            "knarr: 'knarr {called}' {problem}\n\nUsage:  {}\n\nSee 'knarr {called} --help' for more information",
            usage_line(command, &called)
        )));
    }
    // `knarr engine --root X` as well as `knarr --root X engine`.
    let mut chosen = global;
    if matches!(command.name, "engine" | "registry" | "up" | "down" | "status") {
        chosen.absorb(&matches);
    }
    let is_root = rustix::process::geteuid().is_root();
    let settings =
        Settings::new(&chosen, &|name| std::env::var(name).ok(), is_root).map_err(|e| Failure::new(e).code(125))?;
    (command.run)(&Context { client: Client::new(settings) }, &matches)
}

struct Found<'a> {
    command: &'static Command,
    /// The words by which it was called.
    called: String,
    rest: &'a [String],
}

/// The command that the words name; nothing if they asked for a group's help, which is then printed.
fn find<'a>(first: &str, rest: &'a [String]) -> Result<Option<Found<'a>>, Failure> {
    if let Some(group) = GROUPS.iter().find(|group| group.name == first) {
        let Some((second, rest)) = rest.split_first().filter(|(second, _)| *second != "--help" && *second != "-h")
        else {
            out(&top_help::group_help(group))?;
            return Ok(None);
        };
        return match group.commands.iter().find(|(name, _)| name == second) {
            Some((name, command)) => Ok(Some(Found { command, called: format!("{first} {name}"), rest })),
            None => Err(Failure::new(format!(
                "knarr: unknown command: knarr {first} {second}\n\nUsage:  knarr {first}\n\nRun 'knarr {first} --help' for more information"
            ))),
        };
    }
    let mut plain = PLAIN.iter().flat_map(|(_, commands)| commands.iter());
    let twin = kube::twin(first, rest);
    match twin.or_else(|| plain.find(|command| command.name == first).copied()) {
        Some(command) => Ok(Some(Found { command, called: first.to_owned(), rest })),
        None => Err(Failure::new(unknown(first))),
    }
}

fn unknown(name: &str) -> String {
    let planned = match name {
        "buildx" => Some("'knarr build' builds; 'knarr builder prune' removes its cache"),
        "compose" => Some("use the stock docker compose with DOCKER_HOST set to this engine's socket"),
        "swarm" | "node" | "service" | "stack" | "secret" | "config" => Some("there is no swarm mode"),
        _ => None,
    };
    let hint = planned.map(|hint| format!("\n{hint}\n")).unwrap_or_default();
    format!("knarr: unknown command: knarr {name}\n{hint}\nRun 'knarr --help' for more information")
}

fn usage_line(command: &Command, called: &str) -> String {
    format!("knarr {called} {}", command.usage)
}

fn usage_error(problem: &str, usage: &str, help: &str) -> Failure {
    Failure::new(format!("{problem}\n\nUsage:  {usage}\n\nRun '{help} --help' for more information")).code(125)
}

fn help_on(words: &[String]) -> Result<u8, Failure> {
    let Some((first, rest)) = words.split_first() else {
        out(&top_help::top_help())?;
        return Ok(0);
    };
    if let Some(found) = find(first, rest)? {
        out(&top_help::command_help(found.command, &found.called))?;
    }
    Ok(0)
}

/// Runs `act` for each name; says what failed and goes on, as docker does. The exit code tells whether all went well.
pub fn for_each(names: &[String], mut act: impl FnMut(&str) -> Result<(), Failure>) -> Result<u8, Failure> {
    let mut code = 0;
    for name in names {
        if let Err(failure) = act(name) {
            if failure.message.is_empty() {
                return Err(failure);
            }
            eprintln!("{}", failure.message);
            code = failure.code.max(1);
        }
    }
    Ok(code)
}

/// Prints to standard output; a reader that has gone ends the command quietly.
pub fn out(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = &'static Command> {
        let grouped = GROUPS.iter().flat_map(|group| group.commands.iter().map(|(_, command)| *command));
        let twins = kube::TWINS.iter().copied();
        PLAIN.iter().flat_map(|(_, commands)| commands.iter().copied()).chain(grouped).chain(twins)
    }

    #[test]
    fn no_command_names_a_flag_twice() {
        for command in all() {
            let flags: Vec<&Flag> = command.flags.iter().flat_map(|table| table.iter()).collect();
            for (at, flag) in flags.iter().enumerate() {
                for other in &flags[at + 1..] {
                    assert_ne!(flag.long, other.long, "{}", command.name);
                    assert!(flag.short.is_none() || flag.short != other.short, "{}: -{:?}", command.name, flag.short);
                }
            }
        }
    }

    #[test]
    fn every_command_explains_itself() {
        for command in all() {
            assert!(!command.about.is_empty() && !command.about.ends_with('.'), "{}", command.name);
            let help = top_help::command_help(command, command.name);
            assert!(help.starts_with("Usage:  knarr"), "{help}");
            for flag in command.flags.iter().flat_map(|table| table.iter()).filter(|flag| !flag.hidden) {
                assert!(!flag.help.is_empty(), "{} --{}", command.name, flag.long);
            }
        }
    }

    #[test]
    fn unknown_commands_say_where_to_look() {
        assert!(unknown("buildx").contains("knarr build"));
        assert_eq!(unknown("foo"), "knarr: unknown command: knarr foo\n\nRun 'knarr --help' for more information");
    }
}
