//! The cases. Each is a sentence about the engine, with a world of its own.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use engine::*;

use crate::world::*;

type Case = (&'static str, fn() -> std::pin::Pin<Box<dyn Future<Output = ()>>>);

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        const CASES: &[Case] = &[$((stringify!($name), || Box::pin($name()))),*];
    };
}

cases! {
    a_container_runs_and_its_exit_code_and_output_arrive,
    a_program_that_is_not_there_fails_the_start_with_127,
    names_are_unique_and_freed_by_remove,
    stop_kills_after_the_timeout_and_restart_policies_restart,
    pause_freezes_and_stop_thaws,
    logs_tail_and_follow_without_loss,
    exec_runs_beside_and_tells_its_exit_code,
    stdin_reaches_the_container_and_ends,
    a_terminal_echoes_and_knows_its_size,
    users_groups_and_environment_are_dockers,
    limits_are_set_and_updated,
    confinement_is_dockers_default,
    volumes_are_filled_once_and_removed_with_the_container,
    commit_diff_and_export_see_the_changes,
    files_are_copied_both_ways,
    auto_remove_removes,
    a_forced_removal_wins_over_restarts,
    a_removal_that_nobody_waits_for_is_whole,
    an_exec_that_nobody_waits_for_is_forgotten_when_it_ends,
    a_step_that_nobody_waits_for_is_ended_and_forgotten,
    an_engine_that_ends_leaves_its_keeper_nothing_that_nobody_knows,
    memory_that_was_given_back_is_not_missed,
    events_tell_the_story,
    an_oom_kill_is_told,
    top_and_stats_tell_what_runs,
    a_killed_engine_loses_nothing,
    a_killed_keeper_loses_nothing,
    engine_and_keeper_killed_together_leave_nothing_behind,
    every_crash_point_leaves_a_clean_state,
    many_containers_are_made_quickly,
}

pub fn main(filter: Option<&str>) -> ExitCode {
    if linux::cred::effective_ids().0 != 0 {
        println!("SKIPPED: the engine's privileged tests need root");
        return ExitCode::SUCCESS;
    }
    let mut failed = Vec::new();
    for (name, case) in CASES.iter().filter(|(name, _)| filter.is_none_or(|f| name.contains(f))) {
        let begun = Instant::now();
        let ended = std::panic::catch_unwind(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(case());
        });
        println!(
            "test {name} ... {} ({} ms)",
            if ended.is_ok() { "ok" } else { "FAILED" },
            begun.elapsed().as_millis()
        );
        if ended.is_err() {
            failed.push(name);
        }
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn clean(engine: &Engine) {
    let found = engine.doctor(true).await.unwrap();
    assert!(found.is_empty(), "{found:#?}");
}

async fn create(engine: &Engine, request: CreateRequest) -> String {
    engine.create(request).await.unwrap().id.to_string()
}

async fn started(engine: &Engine, request: CreateRequest) -> String {
    let id = create(engine, request).await;
    engine.start(&id).await.unwrap();
    id
}

async fn remove(engine: &Engine, id: &str) {
    engine.remove(id, RemoveOptions { force: true, volumes: true }).await.unwrap();
}

async fn state(engine: &Engine, id: &str) -> ContainerState {
    engine.inspect(id, false).await.unwrap().state
}

async fn a_container_runs_and_its_exit_code_and_output_arrive() {
    let world = World::new();
    let engine = world.busybox().await;
    let (code, text) = run(&engine, shell("echo out; echo err >&2; exit 3")).await;
    assert_eq!(code, 3);
    assert!(text.contains("out\n") && text.contains("err\n"), "{text:?}");
    clean(&engine).await;
}

async fn a_program_that_is_not_there_fails_the_start_with_127() {
    let world = World::new();
    let engine = world.busybox().await;
    for (program, wanted) in [("nosuch", 127), ("/bin/nosuch", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        let id = create(&engine, command(&[program])).await;
        let error = engine.start(&id).await.unwrap_err();
        assert!(matches!(error, Error::Start { exit_code, .. } if exit_code == wanted), "{program}: {error}");
        let state = state(&engine, &id).await;
        assert_eq!((state.status, state.exit_code), (Status::Created, wanted));
        remove(&engine, &id).await;
    }
    clean(&engine).await;
}

async fn names_are_unique_and_freed_by_remove() {
    let world = World::new();
    let engine = world.busybox().await;
    let named = |name: &str| CreateRequest { name: Some(name.into()), ..command(&["true"]) };
    let id = create(&engine, named("box")).await;
    let error = engine.create(named("box")).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "Conflict. The container name \"/box\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
        )
    );
    engine.rename("box", "other").await.unwrap();
    let second = create(&engine, named("box")).await;
    remove(&engine, "other").await;
    remove(&engine, &second[..8]).await;
    assert_eq!(engine.inspect("box", false).await.unwrap_err().to_string(), "No such container: box");
    let missing = CreateRequest {
        config: ContainerConfig { image: "nosuch".into(), ..Default::default() },
        ..Default::default()
    };
    assert_eq!(engine.create(missing).await.unwrap_err().kind(), vocab::ErrorKind::NotFound);
    clean(&engine).await;
}

async fn stop_kills_after_the_timeout_and_restart_policies_restart() {
    let world = World::new();
    let engine = world.busybox().await;
    let id = started(&engine, shell("trap '' TERM; while true; do sleep 1; done")).await;
    let error = engine.remove(&id, RemoveOptions::default()).await.unwrap_err().to_string();
    assert!(error.ends_with("container is running: stop the container before removing or force remove"), "{error}");
    assert_eq!(engine.start(&id).await.unwrap_err().kind(), vocab::ErrorKind::NotModified);
    engine.stop(&id, None, Some(0)).await.unwrap();
    assert_eq!(state(&engine, &id).await.exit_code, 137);
    assert_eq!(engine.stop(&id, None, Some(0)).await.unwrap_err().kind(), vocab::ErrorKind::NotModified);
    let error = engine.kill(&id, "TERM").await.unwrap_err().to_string();
    assert_eq!(error, format!("cannot kill container: {id}: container {id} is not running"));
    remove(&engine, &id).await;

    let mut request = shell("exit 7");
    request.host.restart_policy = RestartPolicy { mode: RestartMode::OnFailure, retries_max: 2 };
    let id = started(&engine, request).await;
    until(|| async {
        let view = engine.inspect(&id, false).await.unwrap();
        view.restart_count == 2 && view.state.status == Status::Exited
    })
    .await;
    remove(&engine, &id).await;

    let mut request = shell("sleep 0.05");
    request.host.restart_policy.mode = RestartMode::Always;
    let id = started(&engine, request).await;
    until(|| async { engine.inspect(&id, false).await.unwrap().restart_count >= 1 }).await;
    engine.stop(&id, None, None).await.unwrap();
    assert_eq!(state(&engine, &id).await.status, Status::Exited);
    remove(&engine, &id).await;
    clean(&engine).await;
}

async fn pause_freezes_and_stop_thaws() {
    let world = World::new();
    let engine = world.busybox().await;
    let id = started(&engine, shell("while true; do sleep 1; done")).await;
    engine.pause(&id).await.unwrap();
    assert_eq!(state(&engine, &id).await.status, Status::Paused);
    assert_eq!(engine.pause(&id).await.unwrap_err().to_string(), format!("Container {id} is already paused"));
    engine.unpause(&id).await.unwrap();
    assert_eq!(state(&engine, &id).await.status, Status::Running);
    engine.pause(&id).await.unwrap();
    engine.stop(&id, Some("KILL"), Some(5)).await.unwrap();
    assert_eq!(state(&engine, &id).await.exit_code, 137);
    remove(&engine, &id).await;
    clean(&engine).await;
}

async fn logs_tail_and_follow_without_loss() {
    let world = World::new();
    let engine = world.busybox().await;
    let mut request = shell("seq 1 2000; seq 2001 2010 >&2; sleep 0.2; seq 2011 6000");
    request.host.log.options = [("max-size", "64k"), ("max-file", "20")].map(|(k, v)| (k.into(), v.into())).into();
    let id = create(&engine, request).await;
    let follow = LogOptions { follow: true, ..Default::default() };
    engine.start(&id).await.unwrap();
    let text = logs(&engine, &id, follow).await;
    let mut numbers: Vec<u32> = text.lines().map(|l| l.parse().unwrap()).collect();
    // Two streams: their order is not told, but nothing is lost or doubled.
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=6000).collect::<Vec<_>>());
    let tail = logs(&engine, &id, LogOptions { tail: Some(3), ..Default::default() }).await;
    assert_eq!(tail, "5998\n5999\n6000\n");
    let errors = logs(&engine, &id, LogOptions { stdout: false, ..Default::default() }).await;
    assert_eq!(errors.lines().count(), 10);
    assert_eq!(logs(&engine, &id, LogOptions { tail: Some(0), ..Default::default() }).await, "");
    remove(&engine, &id).await;
    clean(&engine).await;
}

async fn exec(engine: &Engine, id: &str, config: ExecConfig) -> (i32, String) {
    let exec = engine.exec_create(id, config).await.unwrap().to_string();
    let mut attached = engine.exec_start(&exec, ExecStart::default()).await.unwrap().unwrap();
    let mut text = Vec::new();
    while let Some(chunk) = within(attached.output.next()).await {
        text.extend_from_slice(&chunk.unwrap().bytes);
    }
    until(|| async { engine.exec_inspect(&exec).await.unwrap().exit_code.is_some() }).await;
    (engine.exec_inspect(&exec).await.unwrap().exit_code.unwrap(), String::from_utf8(text).unwrap())
}

fn exec_config(words: &[&str]) -> ExecConfig {
    ExecConfig {
        cmd: words.iter().map(|w| w.to_string()).collect(),
        attach_stdout: true,
        attach_stderr: true,
        ..Default::default()
    }
}

async fn exec_runs_beside_and_tells_its_exit_code() {
    let world = World::new();
    let engine = world.busybox().await;
    let mut request = shell("while true; do sleep 1; done");
    request.config.env = vec!["OWN=1".into()];
    let id = started(&engine, request).await;
    let (code, text) = exec(&engine, &id, exec_config(&["sh", "-c", "echo $OWN $EXEC $IMAGE; pwd; exit 5"])).await;
    assert_eq!((code, text.as_str()), (5, "1 yes\n/\n"));
    let config = ExecConfig {
        env: vec!["EXEC=2".into()],
        user: "app".into(),
        working_dir: "/tmp".into(),
        ..exec_config(&["sh", "-c", "echo $EXEC; id; pwd"])
    };
    let (_, text) = exec(&engine, &id, config).await;
    assert_eq!(text, "2\nuid=1000(app) gid=100(users) groups=100(users),200(extra)\n/tmp\n");
    let missing = engine.exec_create(&id, exec_config(&["nosuch"])).await.unwrap().to_string();
    let error = engine.exec_start(&missing, ExecStart::default()).await.unwrap_err();
    assert!(matches!(error, Error::Start { exit_code: 127, .. }), "{error}");
    assert_eq!(engine.exec_inspect(&missing).await.unwrap().exit_code, Some(127));
    remove(&engine, &id).await;
    clean(&engine).await;
}

async fn stdin_reaches_the_container_and_ends() {
    let world = World::new();
    let engine = world.busybox().await;
    let mut request = command(&["cat"]);
    request.config.open_stdin = true;
    request.config.stdin_once = true;
    request.config.attach_stdin = true;
    let id = create(&engine, request).await;
    let options = AttachOptions { stdin: true, stdout: true, stderr: true, stream: true, logs: false };
    let mut attached = engine.attach(&id, options).await.unwrap();
    let waiter = engine.wait(&id, WaitCondition::NextExit).await.unwrap();
    engine.start(&id).await.unwrap();
    let mut input = attached.input.take().unwrap();
    let sent: Vec<u8> = (0..300_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let sending = sent.clone();
    tokio::spawn(async move {
        input.write(&sending).await.unwrap();
        input.close();
    });
    let mut got = Vec::new();
    while let Some(chunk) = within(attached.output.next()).await {
        got.extend_from_slice(&chunk.unwrap().bytes);
    }
    assert!(got == sent, "{} bytes came back of {}", got.len(), sent.len());
    assert_eq!(within(waiter.outcome()).await.unwrap().exit_code, 0);
    remove(&engine, &id).await;
    clean(&engine).await;
}

async fn a_terminal_echoes_and_knows_its_size() {
    let world = World::new();
    let engine = world.busybox().await;
    let mut request = shell("stty size; echo $TERM; cat");
    request.config.tty = true;
    request.config.open_stdin = true;
    request.host.console_size = Some(ConsoleSize { rows: 33, cols: 77 });
    let id = create(&engine, request).await;
    let options = AttachOptions { stdin: true, stdout: true, stderr: true, stream: true, logs: false };
    let mut attached = engine.attach(&id, options).await.unwrap();
    assert!(attached.tty);
    engine.start(&id).await.unwrap();
    let mut text = String::new();
    let mut read_until = async |text: &mut String, wanted: &str| {
        while !text.contains(wanted) {
            let chunk = within(attached.output.next()).await.unwrap().unwrap();
            text.push_str(std::str::from_utf8(&chunk.bytes).unwrap());
        }
    };
    read_until(&mut text, "33 77\r\nxterm\r\n").await;
    engine.resize(&id, ConsoleSize { rows: 10, cols: 20 }).await.unwrap();
    let (_, size) = exec(
        &engine,
        &id,
        ExecConfig {
            tty: true,
            console_size: Some(ConsoleSize { rows: 5, cols: 6 }),
            ..exec_config(&["stty", "size"])
        },
    )
    .await;
    assert_eq!(size, "5 6\r\n");
    let mut input = attached.input.take().unwrap();
    input.write(b"hello\n").await.unwrap();
    read_until(&mut text, "hello\r\nhello\r\n").await;
    remove(&engine, &id).await;
    clean(&engine).await;
}

async fn users_groups_and_environment_are_dockers() {
    let world = World::new();
    let engine = world.busybox().await;
    let mut request = shell("id; env; cat /etc/hostname; pwd");
    request.config.user = "app".into();
    request.config.hostname = "boxy".into();
    request.config.working_dir = "/made/here".into();
    request.config.env = vec!["A=1".into()];
    request.host.group_add = vec!["300".into()];
    let (code, text) = run(&engine, request).await;
    assert_eq!(code, 0, "{text}");
    let wanted = [
        "uid=1000(app) gid=100(users) groups=100(users),200(extra),300",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=boxy",
        "A=1",
        "IMAGE=yes",
        "HOME=/tmp",
        "boxy",
        "/made/here",
    ];
    for line in wanted {
        assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
    }
    let mut request = command(&["true"]);
    request.config.user = "nosuch".into();
    let id = create(&engine, request).await;
    let error = engine.start(&id).await.unwrap_err().to_string();
    assert_eq!(error, "unable to find user nosuch: no matching entries in passwd file");
    remove(&engine, &id).await;
    clean(&engine).await;
}

async fn limits_are_set_and_updated() {
    let world = World::new();
    let engine = world.busybox().await;
    let mut request = shell("while true; do sleep 1; done");
    request.host.resources.memory_bytes = 64 << 20;
    request.host.resources.pids_limit = Some(50);
    request.host.resources.cpu_shares = 512;
    let id = started(&engine, request).await;
    let stats = engine.stats(&id).await.unwrap();
    assert_eq!((stats.memory.limit_bytes, stats.pids.limit), (64 << 20, Some(50)));
    let update = UpdateRequest {
        resources: Resources { memory_bytes: 32 << 20, pids_limit: Some(20), ..Default::default() },
        restart_policy: Some(RestartPolicy { mode: RestartMode::Always, retries_max: 0 }),
    };
    engine.update(&id, update).await.unwrap();
    let stats = engine.stats(&id).await.unwrap();
    assert_eq!((stats.memory.limit_bytes, stats.pids.limit), (32 << 20, Some(20)));
    let view = engine.inspect(&id, false).await.unwrap();
    assert_eq!(view.host.resources.cpu_shares, 512);
    assert_eq!(view.host.restart_policy.mode, RestartMode::Always);
    remove(&engine, &id).await;
    clean(&engine).await;
}

async fn confinement_is_dockers_default() {
    let world = World::new();
    let engine = world.busybox().await;
    let script = "cat /proc/self/status | while read k v; do case $k in Cap*|NoNewPrivs:|Seccomp:) echo $k $v;; esac; done; \
        (echo x > /proc/sys/kernel/hostname) 2>/dev/null && echo sysctl-writable; cat /proc/kcore | head -c 1 | wc -c; \
        mount -t tmpfs t /tmp 2>/dev/null && echo mount-allowed; ls /proc/self/fd | wc -l";
    let (_, text) = run(&engine, shell(script)).await;
    for line in [
        "CapInh: 0000000000000000",
        "CapBnd: 00000000a80425fb",
        "CapEff: 00000000a80425fb",
        "CapAmb: 0000000000000000",
        "Seccomp: 2",
        "NoNewPrivs: 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
    }
    assert!(!text.contains("sysctl-writable") && !text.contains("mount-allowed"), "{text}");
    let mut request = shell("cat /proc/self/status; touch /file || echo readonly; touch /tmp/file && echo tmpfs");
    request.host.cap_drop = vec!["ALL".into()];
    request.host.security_opt = vec!["no-new-privileges".into(), "seccomp=unconfined".into()];
    request.host.readonly_rootfs = true;
    request.host.tmpfs = [("/tmp".to_owned(), String::new())].into();
    let (_, text) = run(&engine, request).await;
    for line in ["CapBnd:\t0000000000000000", "Seccomp:\t0", "NoNewPrivs:\t1", "readonly", "tmpfs"] {
        assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
    }
    clean(&engine).await;
}

async fn volumes_are_filled_once_and_removed_with_the_container() {
    let world = World::new();
    let engine = world.busybox().await;
    let with = |bind: &str, script: &str| {
        let mut request = shell(script);
        request.host.binds = vec![bind.into()];
        request
    };
    let (_, text) = run(&engine, with("store:/data", "cat /data/seed; echo own > /data/seed")).await;
    assert_eq!(text, "from the image\n");
    let (_, text) = run(&engine, with("store:/data:ro", "cat /data/seed; touch /data/x || echo ro")).await;
    assert!(text.contains("own\n") && text.contains("ro\n"), "{text}");
    let host = world.root().parent().unwrap().join("bind");
    let (_, _) = run(&engine, with(&format!("{}:/mnt", host.display()), "echo hi > /mnt/file")).await;
    assert_eq!(std::fs::read_to_string(host.join("file")).unwrap(), "hi\n");
    let mut request = shell("true");
    request.config.volumes.insert("/anon".into());
    let id = started(&engine, request).await;
    let name = engine.inspect(&id, false).await.unwrap().mounts[0].name.clone();
    let names =
        async || engine.disk_usage().await.unwrap().volumes.into_iter().map(|v| v.name).collect::<BTreeSet<_>>();
    assert!(names().await.contains(&name));
    remove(&engine, &id).await;
    assert_eq!(names().await, ["store".to_owned()].into());
    clean(&engine).await;
}

async fn commit_diff_and_export_see_the_changes() {
    let world = World::new();
    let engine = world.busybox().await;
    let id = started(&engine, shell("echo new > /new; rm /etc/group; echo x >> /etc/passwd")).await;
    within(engine.wait(&id, WaitCondition::NotRunning).await.unwrap().outcome()).await.unwrap();
    let changes = engine.changes(&id).await.unwrap();
    let shown: BTreeSet<String> = changes.iter().map(|c| format!("{:?} {}", c.kind, c.path)).collect();
    let wanted = ["Added /new", "Deleted /etc/group", "Modified /etc", "Modified /etc/passwd"];
    assert_eq!(shown, wanted.map(str::to_owned).into());
    let request = CommitRequest {
        reference: Some("made:1".into()),
        changes: vec!["CMD [\"cat\", \"/new\"]".into()],
        ..Default::default()
    };
    engine.commit(&id, request).await.unwrap();
    let mut request = command(&[]);
    request.config.image = "made:1".into();
    request.config.cmd = None;
    assert_eq!(run(&engine, request).await, (0, "new\n".into()));
    let mut stream = engine.export(&id).await.unwrap();
    let mut size = 0;
    while let Some(piece) = within(stream.next()).await {
        size += piece.unwrap().len();
    }
    assert!(size > 1_000_000);
    remove(&engine, &id).await;
    clean(&engine).await;
}

async fn files_are_copied_both_ways() {
    let world = World::new();
    let engine = world.busybox().await;
    let id = create(&engine, shell("cat /tmp/sub/file; while true; do sleep 1; done")).await;
    let tar = archive(&engine, &id, "/data").await;
    put(&engine, &id, "/tmp", rename_root(&tar, "sub")).await;
    let stat = engine.archive_stat(&id, "/tmp/sub/seed").await.unwrap();
    assert_eq!((stat.name.as_str(), stat.size_bytes), ("seed", 15));
    engine.start(&id).await.unwrap();
    put(&engine, &id, "/root", tar).await;
    let again = archive(&engine, &id, "/root/data/seed").await;
    assert!(again.windows(14).any(|w| w == b"from the image"));
    for path in ["/nosuch", "/etc/nosuch/x"] {
        let error = engine.archive_stat(&id, path).await.unwrap_err().to_string();
        assert_eq!(error, format!("Could not find the file {path} in container {id}"));
    }
    remove(&engine, &id).await;
    clean(&engine).await;
}

async fn archive(engine: &Engine, id: &str, path: &str) -> Vec<u8> {
    let (_, mut stream) = engine.archive_get(id, path).await.unwrap();
    let mut tar = Vec::new();
    while let Some(piece) = within(stream.next()).await {
        tar.extend_from_slice(&piece.unwrap());
    }
    tar
}

async fn put(engine: &Engine, id: &str, path: &str, tar: Vec<u8>) {
    let (sender, body) = Body::channel();
    tokio::spawn(async move { sender.send(tar.into()).await });
    engine.archive_put(id, path, false, false, body).await.unwrap();
}

/// The same archive with its first component renamed.
fn rename_root(tar: &[u8], name: &str) -> Vec<u8> {
    use image::chunk::{Pool, ReadSource};
    let mut reader = image::tar::Reader::new(ReadSource::new(tar, Pool::new(2)));
    let mut writer = image::tar::Writer::new(Vec::new());
    while let Some(mut entry) = reader.next_entry().unwrap() {
        let rest = entry.path.splitn(2, |b| *b == b'/').nth(1).unwrap_or_default().to_vec();
        entry.path = [name.as_bytes(), b"/", &rest].concat();
        writer.entry(&entry).unwrap();
        while let Some(piece) = reader.data().unwrap() {
            writer.data(&piece).unwrap();
        }
    }
    writer.finish().unwrap()
}

/// What an engine does after a while in which nothing happened.
async fn memory_that_was_given_back_is_not_missed() {
    let world = World::new();
    let engine = world.busybox().await;
    for round in 0..3 {
        linux::memory::give_back();
        let (code, text) = run(&engine, shell(&format!("echo {round}; exit {round}"))).await;
        assert_eq!((code, text), (round, format!("{round}\n")));
    }
    clean(&engine).await;
}

async fn auto_remove_removes() {
    let world = World::new();
    let engine = world.busybox().await;
    let mut request = shell("exit 4");
    request.host.auto_remove = true;
    let id = create(&engine, request).await;
    let waiter = engine.wait(&id, WaitCondition::Removed).await.unwrap();
    engine.start(&id).await.unwrap();
    assert_eq!(within(waiter.outcome()).await.unwrap().exit_code, 4);
    assert_eq!(engine.inspect(&id, false).await.unwrap_err().kind(), vocab::ErrorKind::NotFound);
    clean(&engine).await;
}

/// The asker goes away as soon as the container is gone, which is before the keeper has forgotten it.
async fn a_forced_removal_wins_over_restarts() {
    let world = World::new();
    let engine = world.busybox().await;
    for patience in 0..40 {
        let mut request = shell("exit 1");
        request.host.restart_policy.mode = RestartMode::Always;
        let id = started(&engine, request).await;
        // Each time at another moment of its short lives.
        tokio::time::sleep(Duration::from_micros(5_300 * patience)).await;
        engine.remove(&id, RemoveOptions { force: true, ..Default::default() }).await.unwrap();
    }
    clean(&engine).await;
}

async fn a_removal_that_nobody_waits_for_is_whole() {
    let world = World::new();
    let engine = world.busybox().await;
    for _ in 0..20 {
        let id = create(&engine, shell("exec sleep 1000")).await;
        engine.start(&id).await.unwrap();
        let (asked, name) = (engine.clone(), id.clone());
        let options = RemoveOptions { force: true, ..RemoveOptions::default() };
        let removal = tokio::spawn(async move { asked.remove(&name, options).await });
        while engine.inspect(&id, false).await.is_ok() {
            tokio::task::yield_now().await;
        }
        removal.abort();
        let forgotten = async {
            while engine.keeper().held(&id).is_some() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        within(forgotten).await;
    }
    clean(&engine).await;
}

async fn an_exec_that_nobody_waits_for_is_forgotten_when_it_ends() {
    let world = World::new();
    let engine = world.busybox().await;
    let id = started(&engine, shell("exec sleep 1000")).await;
    for patience in 0..40 {
        let config = exec_config(&["true"]);
        let exec = engine.exec_create(&id, config).await.unwrap().to_string();
        let asked = engine.clone();
        let start = tokio::spawn(async move { asked.exec_start(&exec, ExecStart::default()).await });
        // Each time a little later in its life.
        tokio::time::sleep(Duration::from_micros(100 * patience)).await;
        start.abort();
        let _ = start.await;
    }
    let forgotten = async {
        while engine.keeper().all_held().len() > 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(forgotten).await;
    engine.remove(&id, RemoveOptions { force: true, ..Default::default() }).await.unwrap();
    clean(&engine).await;
}

/// A build's step in a root of its own, which sleeps for ever.
async fn sleeping_step(engine: &Engine, name: &str) -> Result<Step> {
    let image = engine.image_inspect("busybox").await.unwrap();
    let (store, snapshot) = (engine.store().clone(), name.to_owned());
    let (root, files) = tokio::task::spawn_blocking(move || {
        let root = store.prepare(&snapshot, &image.id).unwrap();
        (root, store.mount(&snapshot, true).unwrap())
    })
    .await
    .unwrap();
    let request = StepRequest {
        root,
        files,
        args: ["sleep", "1000"].map(String::from).to_vec(),
        env: vec!["PATH=/bin".into()],
        working_dir: "/".into(),
        user: String::new(),
        mounts: Vec::new(),
        host: HostConfig::default(),
        hostname: "step".into(),
    };
    engine.run_step(request).await
}

async fn a_step_that_nobody_waits_for_is_ended_and_forgotten() {
    let world = World::new();
    let engine = world.busybox().await;
    drop(sleeping_step(&engine, "step").await.unwrap());
    for patience in 0..20 {
        let asked = engine.clone();
        let step = tokio::spawn(async move { sleeping_step(&asked, &format!("step{patience}")).await });
        tokio::time::sleep(Duration::from_millis(patience)).await;
        step.abort();
        drop(step.await);
    }
    let forgotten = async {
        while !engine.keeper().all_held().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(forgotten).await;
    engine.shutdown().await;
    assert!(!world.run().join("steps").exists() || world.run().join("steps").read_dir().unwrap().next().is_none());
}

async fn an_engine_that_ends_leaves_its_keeper_nothing_that_nobody_knows() {
    let world = World::new();
    let engine = world.busybox().await;
    let id = started(&engine, shell("exec sleep 1000")).await;
    let config = ExecConfig { cmd: ["sleep", "1000"].map(String::from).to_vec(), ..Default::default() };
    let exec = engine.exec_create(&id, config).await.unwrap().to_string();
    engine.exec_start(&exec, ExecStart { detach: true, ..Default::default() }).await.unwrap();
    let step = sleeping_step(&engine, "step").await.unwrap();
    engine.remove(&id, RemoveOptions { force: true, ..Default::default() }).await.unwrap();
    within(engine.shutdown()).await;
    // A keeper that holds nothing ends.
    assert_eq!(engine.keeper().all_held().iter().map(|held| held.kind).collect::<Vec<_>>(), []);
    assert_eq!(within(step.outcome()).await.unwrap().exit_code, 137);
}

async fn events_tell_the_story() {
    let world = World::new();
    let engine = world.busybox().await;
    let mut events = engine.events(EventQuery::default()).await.unwrap();
    run(&engine, shell("exit 1")).await;
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("destroy") {
        let event = within(events.next()).await.unwrap().unwrap();
        if event.kind == EventKind::Container {
            seen.push(event.action);
        }
    }
    assert_eq!(seen, ["create", "attach", "start", "die", "destroy"]);
    let since = EventQuery {
        since: Some(jiff::Timestamp::UNIX_EPOCH),
        until: Some(jiff::Timestamp::now()),
        ..Default::default()
    };
    let mut past = engine.events(since).await.unwrap();
    let mut count = 0;
    while let Some(event) = within(past.next()).await {
        event.unwrap();
        count += 1;
    }
    assert!(count >= 5, "{count}");
}

async fn an_oom_kill_is_told() {
    let world = World::new();
    let engine = world.busybox().await;
    let mut request = shell("x=a; while true; do x=$x$x; done");
    request.host.resources.memory_bytes = 16 << 20;
    request.host.resources.memory_swap_bytes = 16 << 20;
    let id = started(&engine, request).await;
    let outcome = within(engine.wait(&id, WaitCondition::NotRunning).await.unwrap().outcome()).await.unwrap();
    assert_eq!(outcome.exit_code, 137);
    assert!(state(&engine, &id).await.oom_killed);
    remove(&engine, &id).await;
    clean(&engine).await;
}

async fn top_and_stats_tell_what_runs() {
    let world = World::new();
    let engine = world.busybox().await;
    let id = started(&engine, shell("sleep 1000 & while true; do sleep 0.1; done")).await;
    until(|| async {
        let top = engine.top(&id, "").await.unwrap();
        top.processes.iter().any(|p| p.last().is_some_and(|cmd| cmd == "sleep 1000"))
    })
    .await;
    let stats = engine.stats(&id).await.unwrap();
    assert!(stats.running && stats.pids.current >= 2 && stats.memory.usage_bytes > 0);
    let list = engine.list(ListOptions::default()).await.unwrap();
    assert_eq!(list.len(), 1);
    assert!(list[0].status.starts_with("Up "), "{}", list[0].status);
    remove(&engine, &id).await;
    clean(&engine).await;
}

fn act(world: &World, words: &[&str], crash: Option<&str>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("act").arg(world.root()).arg(world.run()).args(words);
    command.stdout(std::process::Stdio::piped());
    if let Some(point) = crash {
        command.env("KNARR_CRASH_POINT", point).stderr(std::process::Stdio::null());
    }
    command
}

/// Ends an engine in this process, so that another can open the root.
async fn close(engine: Engine) {
    engine.shutdown().await;
    drop(engine);
}

async fn a_killed_engine_loses_nothing() {
    const COUNT: usize = 40;
    let world = World::new();
    let engine = world.busybox().await;
    close(engine).await;
    // An engine in a process of its own starts nothing by itself: this one makes them, then is killed.
    let engine = reopen(&world).await;
    let mut ids = Vec::new();
    for _ in 0..COUNT {
        ids.push(started(&engine, shell("n=0; while true; do echo $n; n=$((n+1)); sleep 0.02; done")).await);
    }
    let mut pids = Vec::new();
    for id in &ids {
        pids.push(state(&engine, id).await.pid);
    }
    close(engine).await;
    let mut served = act(&world, &["serve"], None).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(served.stdout.as_mut().unwrap()), &mut line).unwrap();
    assert_eq!(line, "ready\n");
    served.kill().unwrap();
    served.wait().unwrap();
    let begun = Instant::now();
    let engine = reopen(&world).await;
    println!("  adopted {COUNT} in {} ms", begun.elapsed().as_millis());
    assert!(begun.elapsed() < Duration::from_secs(2));
    for (id, pid) in ids.iter().zip(&pids) {
        let state = state(&engine, id).await;
        assert_eq!((state.status, state.pid), (Status::Running, *pid));
    }
    let (code, _) = exec(&engine, &ids[0], exec_config(&["true"])).await;
    assert_eq!(code, 0);
    for id in &ids {
        engine.kill(id, "KILL").await.unwrap();
        let text = logs(&engine, id, LogOptions::default()).await;
        for (at, line) in text.lines().enumerate() {
            assert_eq!(line, at.to_string());
        }
        remove(&engine, id).await;
    }
    clean(&engine).await;
}

/// The engine before may still be letting go of the database.
async fn reopen(world: &World) -> Engine {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Engine::open(config(&world.root(), &world.run())).await {
            Ok(engine) => return engine,
            Err(error) if Instant::now() < deadline && error.kind() == vocab::ErrorKind::Conflict => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn a_killed_keeper_loses_nothing() {
    let world = World::new();
    let engine = world.busybox().await;
    let id = started(&engine, shell("n=0; while true; do echo $n; n=$((n+1)); sleep 0.01; done")).await;
    let pid = state(&engine, &id).await.pid;
    let keeper = engine.info().await.unwrap().keeper_pid;
    kill(keeper);
    until(|| async { engine.info().await.unwrap().keeper_pid != keeper }).await;
    let now = state(&engine, &id).await;
    assert_eq!((now.status, now.pid), (Status::Running, pid));
    let (code, _) = exec(&engine, &id, exec_config(&["true"])).await;
    assert_eq!(code, 0);
    engine.stop(&id, Some("KILL"), Some(5)).await.unwrap();
    let text = logs(&engine, &id, LogOptions::default()).await;
    for (at, line) in text.lines().enumerate() {
        assert_eq!(line, at.to_string());
    }
    remove(&engine, &id).await;
    clean(&engine).await;
}

/// Nobody is left who could hold what runs: it is ended, what it wrote is kept, and an exit that was written down is known.
async fn engine_and_keeper_killed_together_leave_nothing_behind() {
    let world = World::new();
    let engine = world.busybox().await;
    let running = started(&engine, shell("echo words; while true; do sleep 1; done")).await;
    let ended = started(&engine, shell("while true; do sleep 1; done")).await;
    let (running_pid, ended_pid) = (state(&engine, &running).await.pid, state(&engine, &ended).await.pid);
    let logged = || async { logs(&engine, &running, LogOptions::default()).await == "words\n" };
    until(logged).await;
    let keeper = engine.info().await.unwrap().keeper_pid;
    close(engine).await;
    let mut served = act(&world, &["serve"], None).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(served.stdout.as_mut().unwrap()), &mut line).unwrap();
    assert_eq!(line, "ready\n");
    // An engine that does not hear any more, a container that ends, and then nobody.
    linux::process::kill(served.id() as i32, 19).unwrap();
    let record = world.run().join("keeper").join(format!("{ended}.exit"));
    linux::process::kill(ended_pid, 9).unwrap();
    until(|| async { record.exists() }).await;
    served.kill().unwrap();
    served.wait().unwrap();
    kill(keeper);

    let engine = reopen(&world).await;
    until(|| async { state(&engine, &ended).await.status == Status::Exited }).await;
    let known = state(&engine, &ended).await;
    assert_eq!((known.exit_code, known.error.as_str()), (137, ""));
    let lost = state(&engine, &running).await;
    assert_eq!((lost.status, lost.exit_code), (Status::Exited, 255));
    assert!(lost.error.contains("exit code is not known"), "{}", lost.error);
    until(|| async { !Path::new(&format!("/proc/{running_pid}")).exists() }).await;
    assert_eq!(logs(&engine, &running, LogOptions::default()).await, "words\n");
    until(|| async { engine.doctor(true).await.unwrap().is_empty() }).await;
    engine.start(&running).await.unwrap();
    assert_eq!(state(&engine, &running).await.error, "");
    for id in [running, ended] {
        remove(&engine, &id).await;
    }
    clean(&engine).await;
    until(|| async { !record.exists() }).await;
}

async fn every_crash_point_leaves_a_clean_state() {
    const POINTS: [(&str, &str); 17] = [
        ("create", "engine.create.before_snapshot"),
        ("create", "engine.create.after_snapshot"),
        ("create", "engine.create.after_commit"),
        ("start", "engine.start.before"),
        ("start", "engine.start.after_keeper"),
        ("start", "engine.start.after_commit"),
        ("stop", "engine.stop.before_signal"),
        ("stop", "engine.stop.after_signal"),
        ("stop", "engine.exit.before_cleanup"),
        ("remove", "engine.remove.before_commit"),
        ("remove", "engine.remove.after_commit"),
        ("remove", "engine.remove.after_files"),
        ("rename", "engine.rename.before_commit"),
        ("exec", "engine.exec.before_start"),
        ("exec", "engine.exec.after_start"),
        ("commit", "engine.commit.before"),
        ("commit", "engine.commit.after"),
    ];
    let world = World::new();
    let engine = world.busybox().await;
    close(engine).await;
    for (what, point) in POINTS {
        let engine = reopen(&world).await;
        let mut request = shell("while true; do sleep 1; done");
        request.name = Some("subject".into());
        let id = create(&engine, request).await;
        if what != "start" {
            engine.start(&id).await.unwrap();
        }
        let before = state(&engine, &id).await;
        close(engine).await;
        let status = act(&world, &[what, "subject"], Some(point)).status().unwrap();
        assert!(!status.success(), "{point} was never reached");

        let engine = reopen(&world).await;
        until(|| async { engine.doctor(true).await.unwrap().is_empty() }).await;
        // Whole or not at all.
        match (what, engine.inspect(&id, false).await) {
            ("remove", Err(error)) => assert_eq!(error.kind(), vocab::ErrorKind::NotFound),
            ("stop" | "start" | "remove", Ok(_)) => {}
            (_, Ok(view)) => assert_eq!((view.state.status, view.state.pid), (before.status, before.pid), "{point}"),
            (_, Err(error)) => panic!("{point}: {error}"),
        }
        for line in engine.list(ListOptions { all: true, ..Default::default() }).await.unwrap() {
            remove(&engine, &line.id.to_string()).await;
        }
        clean(&engine).await;
        close(engine).await;
        println!("  {point}");
    }
}

async fn many_containers_are_made_quickly() {
    let world = World::new();
    let engine = world.busybox().await;
    let cycle = async |engine: &Engine| {
        let id = create(engine, command(&["true"])).await;
        let waiter = engine.wait(&id, WaitCondition::NextExit).await.unwrap();
        engine.start(&id).await.unwrap();
        assert_eq!(within(waiter.outcome()).await.unwrap().exit_code, 0);
        engine.remove(&id, RemoveOptions::default()).await.unwrap();
    };
    cycle(&engine).await;
    let (mut at, mut steps) = (Instant::now(), [0.0; 4]);
    for _ in 0..20 {
        let mut lap = |step: usize| {
            steps[step] += at.elapsed().as_secs_f64() * 1000.0 / 20.0;
            at = Instant::now();
        };
        let id = create(&engine, command(&["true"])).await;
        lap(0);
        let waiter = engine.wait(&id, WaitCondition::NextExit).await.unwrap();
        engine.start(&id).await.unwrap();
        lap(1);
        within(waiter.outcome()).await.unwrap();
        lap(2);
        engine.remove(&id, RemoveOptions::default()).await.unwrap();
        lap(3);
    }
    println!("  create {:.2}, start {:.2}, wait {:.2}, remove {:.2} ms", steps[0], steps[1], steps[2], steps[3]);
    let begun = Instant::now();
    for _ in 0..20 {
        cycle(&engine).await;
    }
    println!("  one after another: {:.2} ms each", begun.elapsed().as_secs_f64() * 50.0);
    let begun = Instant::now();
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move {
                for _ in 0..5 {
                    let id = create(&engine, command(&["true"])).await;
                    let waiter = engine.wait(&id, WaitCondition::NextExit).await.unwrap();
                    engine.start(&id).await.unwrap();
                    within(waiter.outcome()).await.unwrap();
                    engine.remove(&id, RemoveOptions::default()).await.unwrap();
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    println!("  eight at a time: {:.0} a second", 40.0 / begun.elapsed().as_secs_f64());
    clean(&engine).await;
}
