//! The stock `docker compose` (version 2) runs an application with a database: a health-gated start, names that resolve, a
//! named volume that survives `down` and `up`, scale, logs, exec.

use std::os::unix::fs::symlink;

use blackbox::{World, has_docker, image};

const APPLICATION: &str = r#"
name: shop
services:
  db:
    image: redis
    volumes: [data:/data]
    healthcheck:
      test: [CMD, redis-cli, ping]
      interval: 200ms
      retries: 100
  app:
    image: redis
    command: sh -c "redis-cli -h db incr starts; exec sleep 600"
    stop_grace_period: 0s
    depends_on:
      db: { condition: service_healthy }
    labels: { tier: front }
volumes:
  data:
"#;

fn compose(world: &World, words: &[&str]) -> blackbox::Answer {
    let file = world.dir().join("compose.yml");
    let mut command = world.docker_command();
    // Nothing of a terminal in what is compared.
    command.args(["compose", "--progress", "plain", "-f"]).arg(file).args(words);
    blackbox::finish_within(command, b"", std::time::Duration::from_secs(300))
}

#[test]
fn an_application_with_a_database_comes_up_scales_and_keeps_its_data() {
    if !has_docker() {
        return;
    }
    let (Some(plugin), Some(redis)) = (image::client("docker-compose"), image::redis()) else { return };
    let world = World::empty();
    world.load(&redis);
    let plugins = world.dir().join("docker-config/cli-plugins");
    std::fs::create_dir_all(&plugins).unwrap();
    symlink(plugin.canonicalize().unwrap(), plugins.join("docker-compose")).unwrap();
    std::fs::write(world.dir().join("compose.yml"), APPLICATION).unwrap();
    assert!(compose(&world, &["version", "--short"]).success().text().starts_with('2'), "compose is not version 2");

    compose(&world, &["up", "-d", "--wait", "--wait-timeout", "240"]).success();
    let starts = || compose(&world, &["exec", "-T", "app", "redis-cli", "-h", "db", "get", "starts"]).success().text();
    blackbox::eventually("the application has reached its database", || starts() == "1");
    let services = compose(&world, &["ps", "--format", "{{.Service}} {{.State}} {{.Health}}"]).success().text();
    assert!(services.contains("db running healthy") && services.contains("app running"), "{services}");
    blackbox::eventually("logs show who said what", || {
        compose(&world, &["logs", "--no-color", "app"]).success().text().contains("app-1  | 1")
    });
    compose(&world, &["logs", "--no-color", "db"]).success().stdout_has("Ready to accept connections");

    compose(&world, &["up", "-d", "--wait", "--wait-timeout", "240", "--scale", "app=3"]).success();
    let apps = world.docker(["ps", "-q", "--filter", "label=tier=front"]).success().text();
    assert_eq!(apps.lines().count(), 3, "{apps}");
    blackbox::eventually("each of them has reached the database", || starts() == "3");

    compose(&world, &["down", "-t", "0"]).success();
    assert_eq!(world.docker(["ps", "-aq"]).success().text(), "");
    assert_eq!(world.docker(["volume", "ls", "-q", "--filter", "name=shop"]).success().text(), "shop_data");
    compose(&world, &["up", "-d", "--wait", "--wait-timeout", "240"]).success();
    blackbox::eventually("the data of the first life is there", || starts() == "4");
    compose(&world, &["restart", "-t", "0", "db"]).success();
    compose(&world, &["top", "db"]).success().stdout_has("redis-server");
    compose(&world, &["down", "-v", "-t", "0"]).success();
    assert_eq!(world.docker(["volume", "ls", "-q"]).success().text(), "");
    assert!(!world.docker(["network", "ls", "--format", "{{.Name}}"]).success().text().contains("shop"));
}
