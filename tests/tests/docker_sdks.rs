//! docker-py and testcontainers, as their users have them from PyPI.

use blackbox::{Answer, World, image, is_root};

fn python(world: &World, script: &str) -> Option<Answer> {
    let venv = image::client("venv")?;
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    let mut command = std::process::Command::new(venv.join("bin/python"));
    command.arg(script).env("DOCKER_HOST", world.host()).env("DOCKER_CONFIG", world.dir().join("docker-config"));
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
    let Some(answer) = python(&world, "docker_py.py") else { return };
    answer.success();
}

#[test]
fn testcontainers_gives_a_test_its_database() {
    if !is_root() || image::client("venv").is_none() {
        return;
    }
    let Some(redis) = image::redis() else { return };
    let world = World::empty();
    world.load(&redis);
    let Some(answer) = python(&world, "containers_test.py") else { return };
    answer.success().stdout_has("passed");
}
