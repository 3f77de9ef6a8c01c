//! Other people's clients against the API alone, as their users write: the Python client with typed and dynamic objects,
//! watches, a controller for a kind of its own, webhooks and leader election; Helm's own library with a chart's whole life.

use blackbox::{ApiServer, finish_within, image};

#[test]
fn the_python_client_its_controller_and_its_webhooks_work() {
    let Some(venv) = image::client("venv") else { return };
    let server = ApiServer::start(&["--ephemeral"]);
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/kubernetes_api.py");
    let mut command = std::process::Command::new(venv.join("bin/python"));
    command.arg(script).env("KUBECONFIG", server.kubeconfig()).env("HOME", server.dir());
    finish_within(command, b"", std::time::Duration::from_secs(300)).success().stdout_has("passed");
}

#[test]
fn a_chart_lives_its_life_by_helms_own_library() {
    let Some(venv) = image::client("venv") else { return };
    let python = venv.join("bin/python");
    let has = std::process::Command::new(&python).args(["-c", "import helm_python"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: no helm in {}: run scripts/clients", venv.display());
        return;
    }
    let server = ApiServer::start(&["--ephemeral"]);
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/helm.py");
    let mut command = std::process::Command::new(python);
    command.arg(script).env("KUBECONFIG", server.kubeconfig()).env("HOME", server.dir());
    finish_within(command, b"", std::time::Duration::from_secs(300)).success().stdout_has("passed with helm v4");
}
