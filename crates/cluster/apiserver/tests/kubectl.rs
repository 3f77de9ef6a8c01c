//! The stock kubectl against a server in this process. Skipped aloud where there is no kubectl.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/weakened.rs"]
mod weakened;

use std::process::Stdio;

use cluster::Cluster;

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: nginx, ports: [{containerPort: 80}], env: [{name: A, value: b}]}
";

#[test]
fn apply_diff_and_edit_work_client_side() {
    let Some(cluster) = Cluster::start(false) else { return };
    assert!(cluster.ok_with("apply -f -", DEPLOYMENT).ends_with("created"));
    assert!(cluster.ok_with("apply -f -", DEPLOYMENT).ends_with("unchanged"));
    let changed = DEPLOYMENT.replace("image: nginx", "image: nginx:2").replace("replicas: 2", "replicas: 3");
    let (same, diff) = cluster.try_with(&["diff", "-f", "-"], &changed);
    assert!(!same && diff.contains("-        image: nginx\n+        image: nginx:2"), "{diff}");
    assert!(cluster.ok_with("apply -f -", &changed).ends_with("configured"));
    assert_eq!(cluster.field("deploy/web", ".spec.replicas"), "3");
    assert_eq!(cluster.field("deploy/web", ".metadata.generation"), "2");
    // Removing a field from the manifest removes it from the object; the default comes back.
    cluster.ok_with("apply -f -", &changed.replace("  replicas: 3\n", ""));
    assert_eq!(cluster.field("deploy/web", ".spec.replicas"), "1");
    let mut edit = cluster.command(&["edit", "deploy/web"]);
    edit.env("KUBE_EDITOR", "sed -i s/nginx:2/nginx:3/");
    assert!(edit.output().unwrap().status.success());
    assert_eq!(cluster.field("deploy/web", ".spec.template.spec.containers[0].image"), "nginx:3");
    assert_eq!(cluster.field("deploy/web", ".spec.template.spec.containers[0].env[0].value"), "b");
}

#[test]
fn apply_works_server_side_with_conflicts() {
    let Some(cluster) = Cluster::start(false) else { return };
    cluster.ok_with("apply --server-side --field-manager=one -f -", DEPLOYMENT);
    let other = DEPLOYMENT.replace("replicas: 2", "replicas: 5");
    let conflict = "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas";
    cluster.fails("apply --server-side --field-manager=two -f -", &other, conflict);
    cluster.ok_with("apply --server-side --field-manager=two --force-conflicts -f -", &other);
    assert_eq!(cluster.field("deploy/web", ".spec.replicas"), "5");
    // What only one manager had goes when that one drops it.
    let less = DEPLOYMENT.replace("  replicas: 2\n", "").replace(", env: [{name: A, value: b}]", "");
    cluster.ok_with("apply --server-side --field-manager=one -f -", &less);
    assert_eq!(cluster.field("deploy/web", ".spec.template.spec.containers[0].env[0].value"), "b", "two has it still");
    cluster.ok_with("apply --server-side --field-manager=two -f -", &less);
    assert_eq!(cluster.field("deploy/web", ".spec.template.spec.containers[0].env"), "");
    cluster.ok("scale deploy/web --replicas=4");
    let taken = "with subresource \"scale\" using apps/v1: .spec.replicas";
    cluster.fails("apply --server-side --field-manager=one -f -", DEPLOYMENT, taken);
}

#[test]
fn patches_labels_and_scale_work() {
    let Some(cluster) = Cluster::start(false) else { return };
    cluster.ok("create deployment web --image=nginx --replicas=0");
    assert_eq!(cluster.field("deploy/web", ".spec.replicas"), "0");
    cluster.ok("scale deploy web --replicas=5");
    cluster.fails("scale deploy web --current-replicas=4 --replicas=9", "", "Expected replicas to be 4, was 5");
    cluster.ok("label deploy web tier=front");
    cluster.fails("label deploy web tier=back", "", "already has a value (front)");
    cluster.ok("label deploy web tier-");
    cluster.ok("annotate deploy web note=hi");
    assert_eq!(cluster.field("deploy/web", ".metadata.annotations.note"), "hi");
    cluster.ok(r#"patch deploy web -p {"spec":{"template":{"spec":{"containers":[{"name":"nginx","image":"x"},{"name":"b","image":"y"}]}}}}"#);
    assert_eq!(cluster.field("deploy/web", ".spec.template.spec.containers[*].image"), "x y");
    cluster.ok(r#"patch deploy web --type=json -p [{"op":"remove","path":"/spec/template/spec/containers/1"}]"#);
    cluster.ok(r#"patch deploy web --type=merge -p {"spec":{"replicas":7}}"#);
    assert_eq!(cluster.field("deploy/web", ".spec.replicas"), "7");
    cluster.fails(
        r#"patch deploy web --type=json -p [{"op":"test","path":"/spec/replicas","value":1}]"#,
        "",
        "testing value /spec/replicas failed",
    );
    cluster.ok("set image deploy/web nginx=z");
    let wide = cluster.ok("get deploy web -o wide --no-headers");
    assert!(
        wide.split_whitespace().eq([
            "web",
            "0/7",
            "0",
            "0",
            wide.split_whitespace().nth(4).unwrap(),
            "nginx",
            "z",
            "app=web"
        ]),
        "{wide}"
    );
    cluster.fails("autoscale deploy nope --max=3", "", "not found");
    assert!(cluster.ok("get deploy -o name").contains("deployment.apps/web"));
    assert!(cluster.ok("get deploy -l app=web,tier!=x -o custom-columns=N:.metadata.name").ends_with("web"));
}

#[test]
fn a_list_is_checked_by_the_client_itself() {
    let Some(cluster) = Cluster::start(false) else { return };
    let list = |field: &str| {
        format!(
            "apiVersion: v1\nkind: List\nitems:\n- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: a}}, {field}: {{k: v}}}}\n\
             - {{apiVersion: v1, kind: Service, metadata: {{name: b}}, spec: {{ports: [{{port: 80}}]}}}}\n"
        )
    };
    cluster.fails("create -f -", &list("dataa"), "unknown field \"dataa\"");
    assert_eq!(cluster.ok_with("create -f -", &list("data")), "configmap/a created\nservice/b created");
    cluster.ok_with("apply -f -", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
        metadata: {name: boats.example.com}\nspec: {group: example.com, scope: Namespaced, names: {plural: boats, kind: Boat},\n\
        versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object,\n\
        properties: {sails: {type: integer, minimum: 1}}}}}}}]}\n");
    cluster.ok("wait --for=condition=Established crd/boats.example.com");
    let boat = |field: &str| {
        format!(
            "apiVersion: v1\nkind: List\nitems: [{{apiVersion: example.com/v1, kind: Boat, metadata: {{name: a}}, spec: {{{field}: 2}}}}]\n"
        )
    };
    cluster.ok_with("create -f -", &boat("sails"));
}

#[test]
fn what_is_wrong_is_said_as_upstream_says_it() {
    let Some(cluster) = Cluster::start(false) else { return };
    let pod = |body: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {body}\n");
    let rows = [
        (
            "apply -f -",
            pod("{containers: [{name: x, image: im, imagee: z}]}"),
            "strict decoding error: unknown field \"spec.containers[0].imagee\"",
        ),
        ("create --validate=false -f -", pod("{containers: []}"), "spec.containers: Required value"),
        (
            "create --validate=false -f -",
            pod("{containers: [{name: A, image: im}]}"),
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label",
        ),
        (
            "create --validate=false -f -",
            pod("{containers: [{name: a, image: im, volumeMounts: [{name: v, mountPath: /x}]}]}"),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            "create --validate=false -f -",
            pod("{containers: [{name: a, image: im, imagePullPolicy: Maybe}]}"),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            "create --validate=false -f -",
            pod("{containers: 7}"),
            "cannot unmarshal number into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            "create --validate=false -f -",
            DEPLOYMENT.replace("app: web}}\n  template", "app: other}}\n  template"),
            "`selector` does not match template `labels`",
        ),
        (
            "create --validate=false -f -",
            DEPLOYMENT.replace("replicas: 2", "replicas: -1"),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        ("-n nowhere create -f -", pod("{containers: [{name: a, image: im}]}"), "namespaces \"nowhere\" not found"),
    ];
    for (line, input, expected) in &rows {
        cluster.fails(line, input, expected);
    }
    cluster.ok_with("create -f -", DEPLOYMENT);
    cluster.fails("create -f -", DEPLOYMENT, "deployments.apps \"web\" already exists");
    let moved = DEPLOYMENT.replace("app: web", "app: new");
    cluster.fails(
        "replace -f -",
        &moved,
        "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"new\"}}: field is immutable",
    );
    cluster.fails("get pods lost", "", "pods \"lost\" not found");
    cluster.fails("get pods --field-selector=no=x", "", "is not a known field selector");
    cluster.fails("delete ns kube-system", "", "this namespace may not be deleted");
}

#[test]
fn dry_run_changes_nothing() {
    let Some(cluster) = Cluster::start(false) else { return };
    assert!(cluster.ok("run p --image=busybox --dry-run=server -o yaml").contains("kube-api-access-"));
    cluster.fails("get pod p", "", "not found");
    cluster.ok("run p --image=busybox");
    assert_eq!(cluster.field("pod/p", ".status.phase"), "Pending");
    assert_eq!(cluster.field("pod/p", ".spec.initContainers"), "");
    cluster.ok("delete pod p --dry-run=server");
    cluster.ok("label pod p a=b --dry-run=server");
    assert_eq!(cluster.field("pod/p", ".metadata.labels.a"), "");
    cluster.ok("delete pod p");
}

#[test]
fn namespaces_take_their_content_along() {
    let Some(cluster) = Cluster::start(false) else { return };
    cluster.ok("create ns one");
    cluster.eventually("-n one get sa,cm -o name", "serviceaccount/default");
    cluster.ok("-n one create cm a --from-literal=x=y");
    cluster.ok("-n one create secret generic s --from-literal=p=q");
    assert_eq!(cluster.ok("-n one get secret s -o jsonpath={.data.p}"), "cQ==");
    cluster.ok("delete ns one");
    cluster.fails("get ns one", "", "not found");
    cluster.ok("create ns one");
    cluster.fails("-n one get cm a", "", "not found");
}

#[test]
fn owners_take_dependents_along_or_leave_them() {
    let Some(cluster) = Cluster::start(false) else { return };
    let child = |name: &str, uid: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, ownerReferences: [{{apiVersion: apps/v1, kind: \
             Deployment, name: web, uid: {uid:?}, blockOwnerDeletion: true}}]}}\n"
        )
    };
    for (cascade, stays) in [("background", false), ("foreground", false), ("orphan", true)] {
        cluster.ok_with("create -f -", DEPLOYMENT);
        let uid = cluster.field("deploy/web", ".metadata.uid");
        cluster.ok_with("create -f -", &child(cascade, &uid));
        cluster.ok(&format!("delete deploy web --cascade={cascade}"));
        cluster.fails("get deploy web", "", "not found");
        if stays {
            assert_eq!(cluster.field(&format!("cm/{cascade}"), ".metadata.ownerReferences"), "");
        } else {
            cluster.eventually(&format!("get cm {cascade}"), "not found");
        }
    }
    cluster.ok_with("create -f -", &child("stray", "00000000-0000-0000-0000-000000000000"));
    cluster.eventually("get cm stray", "not found");
}

#[test]
fn watches_show_what_happens() {
    let Some(cluster) = Cluster::start(false) else { return };
    let mut watch = cluster
        .command(&[
            "get",
            "cm",
            "-l",
            "w=1",
            "--watch",
            "--output-watch-events",
            "--no-headers",
            "-o",
            "custom-columns=E:.type,N:.object.metadata.name",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
    let mut next = || lines.next().unwrap().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    // The watch may begin before or after the first object is made; either way it is shown once.
    cluster.ok_with("create -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {w: '1'}}");
    assert_eq!(next(), "ADDED a");
    cluster.ok("annotate cm a x=y");
    assert_eq!(next(), "MODIFIED a");
    cluster.ok("label cm a w=2 --overwrite");
    assert_eq!(next(), "DELETED a", "it left the selection");
    cluster.ok("label cm a w=1 --overwrite");
    assert_eq!(next(), "ADDED a");
    cluster.ok("delete cm a");
    assert_eq!(next(), "DELETED a");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn wait_and_status_work() {
    let Some(cluster) = Cluster::start(false) else { return };
    cluster.ok("run p --image=busybox");
    let mut wait = cluster.command(&["wait", "--for=condition=Ready", "pod/p", "--timeout=30s"]).spawn().unwrap();
    cluster.ok(r#"patch pod p --subresource=status --type=merge -p {"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}"#);
    assert!(wait.wait().unwrap().success());
    assert_eq!(cluster.field("pod/p", ".spec.containers[0].image"), "busybox");
    // The main endpoint does not write status, nor the status endpoint the spec.
    cluster.ok(r#"patch pod p --type=merge -p {"status":{"phase":"Failed"}}"#);
    cluster.ok(r#"patch pod p --subresource=status --type=merge -p {"spec":{"nodeName":"n"}}"#);
    assert_eq!(cluster.field("pod/p", ".status.phase"), "Running");
    assert_eq!(cluster.field("pod/p", ".spec.nodeName"), "");
    cluster.fails(
        r#"patch pod p --type=merge -p {"spec":{"hostNetwork":true}}"#,
        "",
        "pod updates may not change fields other than",
    );
}

#[test]
fn access_is_by_roles() {
    let Some(cluster) = Cluster::start(false) else { return };
    cluster.ok("create sa robot");
    cluster.ok("create role reader --verb=get,list --resource=pods");
    let who = "--as=system:serviceaccount:default:robot";
    cluster.fails(&format!("auth can-i list pods {who}"), "", "no");
    cluster.ok("create rolebinding rb --role=reader --serviceaccount=default:robot");
    cluster.eventually(&format!("auth can-i list pods {who}"), "yes");
    cluster.fails(&format!("auth can-i list pods -n kube-system {who}"), "", "no");
    cluster.ok(&format!("get pods {who}"));
    let refused = "cannot list resource \"secrets\" in API group \"\" in the namespace \"default\"";
    cluster.fails(&format!("get secrets {who}"), "", refused);
    let token = cluster.ok("create token robot");
    let with_token = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        // Without the administrator's certificate: a user of its own.
        words.extend(["--user", "robot"]);
        cluster.try_with(&words, "")
    };
    cluster.ok(&format!("config set-credentials robot --token={token}"));
    let (good, said) = with_token("auth whoami");
    assert!(good && said.contains("system:serviceaccount:default:robot"), "{said}");
    assert!(with_token("get pods").0 && !with_token("get secrets").0);
    cluster.ok("delete sa robot");
    assert!(with_token("get pods").1.contains("must be logged in"), "the token ends with its account");
    // Nobody grants what he does not hold.
    cluster.ok("create clusterrole maker --verb=create,get --resource=roles.rbac.authorization.k8s.io");
    cluster.ok("create clusterrolebinding maker --clusterrole=maker --user=ann");
    cluster.eventually("auth can-i create roles.rbac.authorization.k8s.io --as=ann", "yes");
    let grant = "create role big --verb=get --resource=secrets --as=ann";
    cluster.fails(grant, "", "is attempting to grant RBAC permissions not currently held");
}

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat, shortNames: [bt]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.crew, statusReplicasPath: .status.crew}}
    additionalPrinterColumns:
    - {name: Crew, type: integer, jsonPath: .spec.crew}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [crew]
            properties:
              crew: {type: integer, minimum: 1, description: How many row.}
              name: {type: string, default: Nora}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

#[test]
fn custom_resources_live_by_their_definition() {
    let Some(cluster) = Cluster::start(false) else { return };
    cluster.ok_with("apply -f -", DEFINITION);
    cluster.ok("wait --for=condition=Established crd/boats.example.com --timeout=20s");
    let boat = |spec: &str| format!("apiVersion: example.com/v1\nkind: Boat\nmetadata: {{name: b}}\nspec: {spec}\n");
    cluster.ok_with("apply -f -", &boat("{crew: 3}"));
    assert_eq!(cluster.field("boat/b", ".spec.name"), "Nora");
    assert!(cluster.ok("get bt").contains("CREW"));
    assert!(cluster.ok("explain boat.spec").contains("How many row."));
    cluster.ok("scale --replicas=7 boat/b");
    assert_eq!(cluster.field("boat/b", ".spec.crew"), "7");
    cluster.fails(
        r#"patch boat b --type=merge -p {"spec":{"crew":0}}"#,
        "",
        "spec.crew in body should be greater than or equal to 1",
    );
    cluster.fails("create -f -", &boat("{crew: many}").replace("name: b", "name: c"), "must be of type integer");
    cluster.fails("apply -f -", &boat("{crew: 1, x: 1}"), "unknown field \"spec.x\"");
    cluster.ok(r#"patch boat b --subresource=status --type=merge -p {"status":{"x":1},"spec":{"crew":9}}"#);
    assert_eq!(cluster.field("boat/b", ".status.x"), "1");
    assert_eq!(cluster.field("boat/b", ".spec.crew"), "7");
    cluster.ok_with("apply --server-side --force-conflicts -f -", &boat("{crew: 4}"));
    cluster.ok("delete crd boats.example.com");
    cluster.eventually("get boats", "the server could not find the requested resource");
}

#[test]
fn every_creator_of_kubectl_finds_its_kind() {
    let Some(cluster) = Cluster::start(false) else { return };
    cluster.ok("create service nodeport np --tcp=80:8080");
    let port: u16 = cluster.field("svc/np", ".spec.ports[0].nodePort").parse().unwrap();
    assert!((30000..=32767).contains(&port));
    assert!(cluster.field("svc/np", ".spec.clusterIP").starts_with("10."));
    cluster.ok("create service clusterip headless --clusterip=None --tcp=1");
    cluster.ok("create service externalname out --external-name=example.com");
    cluster.ok("create deployment web --image=nginx --port=80");
    cluster.ok("expose deployment web");
    cluster.ok("create job j --image=busybox -- true");
    assert_eq!(cluster.field("job/j", ".spec.template.spec.restartPolicy"), "Never");
    cluster.ok("autoscale deployment web --max=3");
    cluster.ok("create quota q --hard=pods=3");
    cluster.ok("create ingress i --rule=a.b/c=svc:80");
    cluster.ok("create priorityclass pc --value=100");
    cluster.ok("create pdb p --selector=a=b --min-available=1");
    cluster.ok("create secret docker-registry d --docker-username=u --docker-password=p");
    let (good, said) = cluster.try_with(&["create", "cronjob", "cj", "--image=busybox", "--schedule=*/5 * * * *"], "");
    assert!(good, "{said}");
    let all = cluster.ok("get svc,deploy,job,cj,hpa,quota,ing,pc,pdb,secret -o name");
    for name in ["service/np", "job.batch/j", "cronjob.batch/cj", "ingress.networking.k8s.io/i", "secret/d"] {
        assert!(all.contains(name), "{all}");
    }
    cluster.ok("get svc,deploy,job,cj,hpa,quota,ing,pc,pdb,secret -o wide");
    cluster.ok("describe deploy,svc,job");
}

#[test]
fn discovery_and_explain_are_complete() {
    let Some(cluster) = Cluster::start(false) else { return };
    let resources = cluster.ok("api-resources --no-headers");
    assert!(resources.lines().count() >= 70, "{resources}");
    let names = cluster.ok("api-resources --verbs=create -o name");
    assert!(names.lines().count() > 70, "{names}");
    for name in names.lines() {
        // kubectl takes what follows the first dot of this one for a field.
        let asked = match name {
            "events.events.k8s.io" => "events --api-version=events.k8s.io/v1",
            name => name,
        };
        let said = cluster.ok(&format!("explain {asked} --recursive"));
        assert!(said.contains("FIELDS:") && said.contains("metadata\t<ObjectMeta>"), "{name}: {said}");
    }
    assert!(cluster.ok("explain pod.spec.containers.ports").contains("containerPort\t<integer> -required-"));
    assert!(cluster.ok("api-versions").contains("apps/v1"));
    assert!(cluster.ok("version").contains("Server Version: v1.36"));
    assert!(cluster.ok("get --raw /readyz?verbose").contains("readyz check passed"));
}

#[test]
fn everything_is_there_after_a_restart() {
    let Some(mut cluster) = Cluster::start(true) else { return };
    cluster.ok_with("apply -f -", DEFINITION);
    cluster.ok("wait --for=condition=Established crd/boats.example.com --timeout=20s");
    cluster.ok_with("create -f -", "apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: b}\nspec: {crew: 2}");
    let token = cluster.ok("create token default");
    let uid = cluster.field("ns/default", ".metadata.uid");
    cluster.restart();
    assert_eq!(cluster.field("ns/default", ".metadata.uid"), uid);
    assert_eq!(cluster.field("boat/b", ".spec.crew"), "2");
    cluster.ok(&format!("config set-credentials sa --token={token}"));
    assert!(cluster.ok("auth whoami --user=sa").contains("serviceaccount:default:default"));
}

#[test]
fn kustomizations_are_built_and_applied() {
    let Some(cluster) = Cluster::start(false) else { return };
    let write = |name: &str, text: &str| {
        let path = cluster.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("base/web.yaml", DEPLOYMENT);
    write("base/kustomization.yaml", "resources: [web.yaml]\nconfigMapGenerator: [{name: words, literals: [a=b]}]\n");
    write(
        "over/kustomization.yaml",
        "resources: [../base]\nnamePrefix: my-\nreplicas: [{name: web, count: 6}]\nimages: [{name: nginx, newTag: '3'}]\n",
    );
    let built = cluster.ok("kustomize over");
    assert!(built.contains("name: my-web") && built.contains("name: my-words-"), "{built}");
    cluster.ok("apply -k over");
    assert_eq!(cluster.field("deploy/my-web", ".spec.replicas"), "6");
    assert_eq!(cluster.field("deploy/my-web", ".spec.template.spec.containers[0].image"), "nginx:3");
    assert!(cluster.ok("diff -k over").is_empty());
    cluster.ok("delete -k over");
    cluster.fails("get deploy my-web", "", "not found");
}

#[test]
fn waits_end_and_rights_are_listed() {
    let Some(cluster) = Cluster::start(false) else { return };
    cluster.ok("create configmap a --from-literal=k=v");
    cluster.ok("wait --for=jsonpath={.data.k}=v configmap/a --timeout=20s");
    let mut gone = cluster.command(&["wait", "--for=delete", "configmap/a", "--timeout=30s"]).spawn().unwrap();
    cluster.ok("delete configmap a");
    assert!(gone.wait().unwrap().success());
    // Forced replacement makes it anew.
    cluster.ok_with("create -f -", DEPLOYMENT);
    let first = cluster.field("deploy/web", ".metadata.uid");
    cluster.ok_with("replace --force -f -", DEPLOYMENT);
    assert_ne!(cluster.field("deploy/web", ".metadata.uid"), first);
    cluster.ok("create sa robot");
    cluster.ok("create role reader --verb=get,list --resource=pods,pods/log --resource-name=one");
    cluster.ok("create rolebinding rb --role=reader --serviceaccount=default:robot");
    let who = "--as=system:serviceaccount:default:robot";
    cluster.eventually(&format!("auth can-i get pods/one {who}"), "yes");
    let listed = cluster.ok(&format!("auth can-i --list {who}"));
    let has = |words: &[&str]| {
        let same = |line: &str| line.split_whitespace().collect::<Vec<_>>() == words;
        assert!(listed.lines().any(same), "{words:?} in\n{listed}");
    };
    has(&["pods", "[]", "[one]", "[get", "list]"]);
    has(&["pods/log", "[]", "[one]", "[get", "list]"]);
    has(&["selfsubjectreviews.authentication.k8s.io", "[]", "[]", "[create]"]);
    assert!(!listed.contains("secrets"), "{listed}");
    assert!(cluster.ok("auth can-i --list").contains("*.*"), "the administrator may everything");
}

#[test]
fn a_namespace_that_gets_stricter_says_which_pods_would_not_fit() {
    let Some(cluster) = Cluster::start(false) else { return };
    for name in ["a", "b"] {
        cluster.ok(&format!("run {name} --image=busybox"));
    }
    cluster.ok_with(
        "create -f -",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: h}\nspec: {hostNetwork: true, containers: [{name: c, image: i}]}",
    );
    let said = cluster.ok("label ns default pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/enforce-version=v1.36");
    let rest = "allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile";
    for line in [
        "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"restricted:v1.36\""
            .to_owned(),
        format!("a (and 1 other pod): {rest}"),
        format!("h: host namespaces, {rest}"),
    ] {
        assert!(said.contains(&format!("Warning: {line}")), "{line}\n{said}");
    }
    cluster.fails(
        "label ns default pod-security.kubernetes.io/enforce-version=1.36 --overwrite",
        "",
        "must be \"latest\" or \"v1.x\"",
    );
    // Loosening says nothing.
    let said = cluster.ok("label ns default pod-security.kubernetes.io/enforce=baseline --overwrite");
    assert!(!said.contains("a (and"), "{said}");
}

#[test]
fn tests_notice_a_weakened_build() {
    weakened::check(&[("escalation", "access_is_by_roles")]);
}
