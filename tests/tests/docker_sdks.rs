//! docker-py and testcontainers, as their users have them from PyPI.

use blackbox::{Answer, Recorder, World, image, is_root};

fn python(world: &World, host: &str, script: &str) -> Option<Answer> {
    let venv = image::client("venv")?;
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    let mut command = std::process::Command::new(venv.join("bin/python"));
    command.arg(script).env("DOCKER_HOST", host).env("DOCKER_CONFIG", world.dir().join("docker-config"));
    // Its reaper is an image of a public registry.
    command.env("TESTCONTAINERS_RYUK_DISABLED", "true").env("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1");
    command.env_remove("DOCKER_CONTEXT").env_remove("DOCKER_API_VERSION");
    Some(blackbox::finish_within(command, b"", std::time::Duration::from_secs(600)))
}

#[test]
fn docker_py_drives_containers_images_volumes_and_networks() {
    if !is_root() || image::client("venv").is_none() {
        return;
    }
    let world = World::start();
    let recorder = Recorder::start(&world.socket());
    let Some(answer) = python(&world, &recorder.host(), "docker_py.py") else { return };
    answer.success();
    with_the_stock_client(&world, &recorder);
    // What is served and what is refused stands in the table; here it was a client that asked.
    let page = include_str!("../../docs/reference/docker-operations.md");
    let rows = page.lines().filter(|line| line.starts_with("| P0 |") || line.starts_with("| P1 |"));
    let asked =
        rows.map(|line| line.split('`').nth(1).expect("an operation").split_once(' ').expect("a method and a path"));
    let elsewhere = [
        // Clients of today do without; by hand in docker_http.rs.
        ("GET", "/containers/{id}/attach/ws"),
        // Of a newer version than these clients speak.
        ("GET", "/images/{name}/attestations"),
        // The client's `docker volume update` looks for a swarm first; by hand in docker_operations.rs.
        ("PUT", "/volumes/{name}"),
    ];
    let missing: Vec<_> = asked.filter(|(method, path)| !recorder.has(method, path)).collect();
    assert_eq!(missing, elsewhere, "operations that no client has asked for");
}

/// What docker-py has no call for, or what its users leave to the command line.
fn with_the_stock_client(world: &World, recorder: &Recorder) {
    let docker = |words: &[&str], environment: &[(&str, &str)]| {
        let mut command = world.docker_command();
        command.env("DOCKER_HOST", recorder.host()).args(words).envs(environment.iter().copied());
        blackbox::finish(command, b"")
    };
    let folder = world.dir().join("context");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("Dockerfile"), "FROM busybox\nRUN true\n").unwrap();
    let folder = folder.to_str().unwrap();
    docker(&["run", "--name", "said", "busybox", "echo", "said"], &[]).success();
    docker(&["logs", "said"], &[]).success().stdout("said\n");
    docker(&["events", "--since", "1", "--until", "2"], &[]).success();
    docker(&["system", "df"], &[]).success();
    docker(&["build", "-t", "127.0.0.1:1/nobody", folder], &[("DOCKER_BUILDKIT", "0")]).success();
    docker(&["builder", "prune", "-f"], &[("DOCKER_BUILDKIT", "0")]).success();
    docker(&["push", "127.0.0.1:1/nobody"], &[]).exits(1).stderr_has("connection refused");
    docker(&["search", "127.0.0.1:1/nobody"], &[]).exits(1);
    docker(&["login", "-u", "ann", "-p", "none", "127.0.0.1:1"], &[]).exits(1);
    assert!(world.plugin("docker-buildx"));
    docker(&["build", "-t", "built", folder], &[]).success();
}

#[test]
fn testcontainers_gives_a_test_its_database() {
    if !is_root() || image::client("venv").is_none() {
        return;
    }
    let Some(redis) = image::redis() else { return };
    let world = World::empty();
    world.load(&redis);
    let Some(answer) = python(&world, &world.host(), "containers_test.py") else { return };
    answer.success().stdout_has("passed");
}
