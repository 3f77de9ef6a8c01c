//! runc's command line: its commands, flags, exit codes, log and state formats, so that Podman, containerd and Docker can call this
//! program instead. One command, one container, no daemon: what a command leaves behind is a directory under `--root`.

mod args;
mod container;
mod control;
mod exec;
mod foreground;
mod log;
mod show;
mod specfile;
mod state;
mod update;

use std::ffi::OsString;
use std::path::PathBuf;

use linux::clone::SingleThreaded;

use args::{Flag, Parsed, parse, switch, value};
use log::Log;

/// Version of runc whose behaviour this follows; tools parse the first line of `--version`.
const VERSION: &str = "1.3.3";
/// Of the runtime-spec.
const SPEC_VERSION: &str = "1.2.1";

const GLOBAL: &[Flag] = &[
    value(&["root"]),
    value(&["log"]),
    value(&["log-format"]),
    switch(&["debug"]),
    switch(&["systemd-cgroup"]),
    value(&["rootless"]),
    value(&["criu"]),
    switch(&["version", "v"]),
    switch(&["help", "h"]),
];

/// What every command gets.
struct Context {
    root: PathBuf,
    log: Log,
    systemd_cgroup: bool,
    rootless: bool,
    token: SingleThreaded,
    /// The words this program was called with, to call itself again.
    argv: Vec<OsString>,
}

/// A command's failure: what to say, and the exit code.
#[derive(Debug)]
struct Fatal {
    message: String,
    code: u8,
}

impl Fatal {
    fn with_code(message: impl std::fmt::Display, code: u8) -> Self {
        Self { message: message.to_string(), code }
    }

    fn prefix(self, prefix: &str) -> Self {
        Self { message: format!("{prefix}{}", self.message), code: self.code }
    }
}

impl<E: std::fmt::Display> From<E> for Fatal {
    fn from(error: E) -> Self {
        Self { message: error.to_string(), code: 1 }
    }
}

type Outcome = Result<u8, Fatal>;

/// Runs one command. `argv` is what the program was called with, `words` the part after `runc` or `knarr runtime`.
/// Returns the exit code. Call it before any thread is started.
pub fn main(argv: Vec<OsString>, words: &[OsString]) -> u8 {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let globals = match parse(&words, GLOBAL) {
        Ok(globals) => globals,
        Err(message) => {
            eprintln!("{message}");
            return 1;
        }
    };
    if globals.is_set("version") {
        println!("runc version {VERSION}+knarr-{}\nspec: {SPEC_VERSION}", env!("CARGO_PKG_VERSION"));
        return 0;
    }
    let Some((command, rest)) = globals.words.split_first().filter(|_| !globals.is_set("help")) else {
        print!("{HELP}");
        return 0;
    };
    let log = match Log::open(globals.get("log"), globals.get("log-format"), globals.is_set("debug")) {
        Ok(log) => log,
        Err(message) => {
            eprintln!("{message}");
            return 1;
        }
    };
    let outcome = context(&globals, log, argv).map(|context| {
        let outcome = dispatch(&context, command, rest);
        if let Err(fatal) = &outcome {
            context.log.fatal(&fatal.message);
        }
        outcome.unwrap_or_else(|fatal| fatal.code)
    });
    match outcome {
        Ok(code) => code,
        Err(fatal) => {
            eprintln!("{}", fatal.message);
            fatal.code
        }
    }
}

fn context(globals: &Parsed, log: Log, argv: Vec<OsString>) -> Result<Context, Fatal> {
    let (euid, _) = linux::cred::effective_ids();
    let rootless = match globals.get("rootless") {
        None | Some("auto") => euid != 0,
        Some("true" | "1") => true,
        Some("false" | "0") => false,
        Some(other) => return Err(format!("invalid value for --rootless: {other}").into()),
    };
    let root = match globals.get("root").filter(|root| !root.is_empty()) {
        Some(root) => std::path::absolute(root)?,
        None => match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| euid != 0 && !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir).join("knarr/runtime"),
            None => PathBuf::from("/run/knarr/runtime"),
        },
    };
    Ok(Context {
        root,
        log,
        systemd_cgroup: globals.is_set("systemd-cgroup"),
        rootless,
        token: SingleThreaded::new()?,
        argv,
    })
}

fn dispatch(context: &Context, command: &str, rest: &[String]) -> Outcome {
    match command {
        "create" => container::create(context, rest),
        "run" => container::run(context, rest),
        "start" => container::start(context, rest),
        "exec" => exec::exec(context, rest),
        "kill" => control::kill(context, rest),
        "delete" => control::delete(context, rest),
        "pause" => control::pause(context, rest),
        "resume" => control::resume(context, rest),
        "update" => update::update(context, rest),
        "state" => show::state(context, rest),
        "list" => show::list(context, rest),
        "ps" => show::ps(context, rest),
        "events" => show::events(context, rest),
        "spec" => specfile::spec(rest),
        "features" => specfile::features(),
        "help" => {
            print!("{HELP}");
            Ok(0)
        }
        "checkpoint" | "restore" => Err(format!("{command}: checkpointing is not supported").into()),
        other => Err(format!("No help topic for '{other}'").into()),
    }
}

/// Exactly one word, the container's id.
fn container_id<'a>(parsed: &'a Parsed, command: &str) -> Result<&'a str, Fatal> {
    match parsed.words.as_slice() {
        [id] => Ok(id),
        words => {
            Err(format!("runc: \"{command}\" requires exactly 1 argument(s), and {} were given", words.len()).into())
        }
    }
}

/// Starts over from a view of this program that nobody can write through, unless this is one: what joins a container must not lead back to
/// the program's file.
fn protect(context: &Context) -> Result<(), Fatal> {
    if linux::self_exe::is_protected()? {
        return Ok(());
    }
    let program = linux::self_exe::protected()?;
    use std::os::unix::ffi::OsStrExt;
    let argv = linux::exec::CStrings::new(context.argv.iter().map(|word| word.as_bytes()))?;
    let envp = linux::exec::CStrings::new(std::env::vars_os().map(|(name, value)| {
        let mut entry = name.as_bytes().to_vec();
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        entry
    }))?;
    Err(linux::exec::execve_fd(&program, &argv, &envp).into())
}

const HELP: &str = "\
NAME:
   runc - Open Container Initiative runtime (Knarr)

USAGE:
   runc [global options] command [command options] [arguments...]

COMMANDS:
   create    create a container
   delete    delete any resources held by the container
   events    display container events such as OOM notifications, cpu, memory, and IO usage statistics
   exec      execute new process inside the container
   features  show the enabled features
   kill      send a signal to the container's init process
   list      list containers started with the given root
   pause     suspend all processes inside the container
   ps        display the processes running inside a container
   resume    resume all processes that have been previously paused
   run       create and run a container
   spec      create a new specification file
   start     execute the user defined process in a created container
   state     output the state of a container
   update    update container resource constraints

GLOBAL OPTIONS:
   --debug             enable debug logging
   --log value         the log file to write runc logs to (default is '/dev/stderr')
   --log-format value  the log format ('text' (default), or 'json')
   --root value        root directory for storage of container state
   --systemd-cgroup    read cgroupsPath as 'slice:prefix:name'
   --rootless value    ignore cgroup permission errors ('true', 'false', or 'auto')
   --help, -h          show help
   --version, -v       print the version
";
