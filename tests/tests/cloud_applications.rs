//! Applications from manifests as people write them for any cluster, on a cloud of one node: a guestbook with Redis, a database with claims
//! in a StatefulSet, a CronJob, a DaemonSet that collects logs, a sidecar that shares a volume, a web service that is scaled by its load.

use blackbox::image::Entry;
use blackbox::{Cloud, Traffic, eventually, fetch, image};

/// A guestbook's frontend: busybox serves a form's answers by a script that speaks Redis' protocol.
fn frontend() -> image::Image {
    const SCRIPT: &str = "#!/bin/sh
echo Content-type: text/plain
echo
host=redis-follower
command='LRANGE guestbook 0 -1'
case \"$QUERY_STRING\" in
  cmd=set*) host=redis-leader; command=\"RPUSH guestbook ${QUERY_STRING##*value=}\" ;;
esac
printf '%s\\r\\nQUIT\\r\\n' \"$command\" | nc -w 3 $host 6379 | tr -d '\\r' | grep -v '^[*$+:]'
";
    let mut image = image::busybox();
    image.tags = vec!["gb-frontend:v5".into()];
    let mut layer = std::collections::BTreeMap::new();
    for dir in ["www", "www/cgi-bin"] {
        layer.insert(dir.to_owned(), Entry::Dir { mode: 0o755 });
    }
    layer.insert("www/cgi-bin/guestbook".into(), Entry::File { mode: 0o755, data: SCRIPT.into() });
    image.layers.push(layer);
    image.config["Cmd"] = serde_json::json!(["httpd", "-f", "-p", "80", "-h", "/www"]);
    image.config["ExposedPorts"] = serde_json::json!({"80/tcp": {}});
    // A first process without a handler would not hear anything else.
    image.config["StopSignal"] = "SIGKILL".into();
    image
}

const GUESTBOOK: &str = "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: redis-leader
  labels: {app: redis, role: leader, tier: backend}
spec:
  replicas: 1
  selector: {matchLabels: {app: redis, role: leader}}
  template:
    metadata:
      labels: {app: redis, role: leader, tier: backend}
    spec:
      containers:
      - name: leader
        image: redis
        imagePullPolicy: IfNotPresent
        resources: {requests: {cpu: 100m, memory: 100Mi}}
        ports: [{containerPort: 6379}]
---
apiVersion: v1
kind: Service
metadata:
  name: redis-leader
  labels: {app: redis, role: leader, tier: backend}
spec:
  ports: [{port: 6379, targetPort: 6379}]
  selector: {app: redis, role: leader, tier: backend}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: redis-follower
  labels: {app: redis, role: follower, tier: backend}
spec:
  replicas: 2
  selector: {matchLabels: {app: redis, role: follower}}
  template:
    metadata:
      labels: {app: redis, role: follower, tier: backend}
    spec:
      containers:
      - name: follower
        image: redis
        imagePullPolicy: IfNotPresent
        command: [redis-server, --protected-mode, 'no', --replicaof, redis-leader, '6379']
        resources: {requests: {cpu: 100m, memory: 100Mi}}
        ports: [{containerPort: 6379}]
        readinessProbe:
          exec: {command: [sh, -c, 'redis-cli info replication | grep -q master_link_status:up']}
          periodSeconds: 1
---
apiVersion: v1
kind: Service
metadata:
  name: redis-follower
  labels: {app: redis, role: follower, tier: backend}
spec:
  ports: [{port: 6379}]
  selector: {app: redis, role: follower, tier: backend}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: frontend}
spec:
  replicas: 3
  selector: {matchLabels: {app: guestbook, tier: frontend}}
  template:
    metadata:
      labels: {app: guestbook, tier: frontend}
    spec:
      containers:
      - name: guestbook
        image: gb-frontend:v5
        env: [{name: GET_HOSTS_FROM, value: dns}]
        resources: {requests: {cpu: 100m, memory: 100Mi}}
        ports: [{containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata:
  name: frontend
  labels: {app: guestbook, tier: frontend}
spec:
  type: LoadBalancer
  ports: [{port: 80}]
  selector: {app: guestbook, tier: frontend}
";

/// A page of a service from a pod.
fn page(cloud: &Cloud, pod: &str, host: &str, path: &str) -> String {
    cloud.run_in(pod, &format!("wget -q -O - 'http://{host}{path}' 2>&1")).text()
}

#[test]
fn a_guestbook_keeps_its_entries_in_redis() {
    let Some(redis) = image::redis() else { return };
    let Some(cloud) = Cloud::start() else { return };
    cloud.world.load(&redis);
    cloud.world.load(&frontend());
    cloud.apply(GUESTBOOK);
    for deployment in ["redis-leader", "redis-follower", "frontend"] {
        cloud.kubectl(&format!("rollout status deployment/{deployment} --timeout=120s")).success();
    }
    cloud.wait_for("service/frontend", "{.status.loadBalancer.ingress[0].ip}", &{
        let mut ip = String::new();
        eventually("the service has a balancer's address", || {
            ip = cloud.value("service/frontend", "{.status.loadBalancer.ingress[0].ip}");
            !ip.is_empty()
        });
        ip
    });
    let pods = cloud.kubectl("get pods -l app=guestbook -o jsonpath={.items[*].metadata.name}").success().text();
    let pods: Vec<&str> = pods.split_whitespace().collect();
    // Written through one frontend, read by followers through another.
    let address = cloud.value("service/frontend", "{.spec.clusterIP}");
    let set = |text: &str| get(&address, &format!("/cgi-bin/guestbook?cmd=set&key=guestbook&value={text}"));
    let all = || get(&address, "/cgi-bin/guestbook?cmd=get&key=guestbook");
    eventually("an entry is taken", || set("hello").is_ok());
    eventually("every frontend shows it", || {
        pods.iter().all(|pod| page(&cloud, pod, "127.0.0.1", "/cgi-bin/guestbook").contains("hello"))
    });
    // The leader moves to another pod; followers follow by its name, and entries go on.
    cloud.kubectl("delete pod -l app=redis,role=follower").success();
    cloud.kubectl("rollout status deployment/redis-follower --timeout=120s").success();
    set("again").expect("the leader is the same");
    eventually("new followers show both", || all().is_ok_and(|text| text.contains("hello") && text.contains("again")));
    // As the tutorial ends.
    cloud.kubectl("delete deployment -l app=redis").success();
    cloud.kubectl("delete service -l app=redis").success();
    cloud.kubectl("delete deployment frontend").success();
    cloud.kubectl("delete service frontend").success();
    eventually("nothing is left", || cloud.kubectl("get pods -o name").success().text().is_empty());
}

/// A page by address; anything but a good answer is an error.
fn get(address: &str, path: &str) -> Result<String, String> {
    use std::io::{Read, Write};
    let asked = std::net::TcpStream::connect((address, 80)).and_then(|mut stream| {
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    });
    match asked {
        Ok(text) if text.contains(" 200 ") => Ok(text),
        Ok(text) => Err(text),
        Err(error) => Err(error.to_string()),
    }
}

const DATABASE: &str = "
apiVersion: v1
kind: Service
metadata: {name: db, labels: {app: db}}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: redis, port: 6379}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: redis
        image: redis
        imagePullPolicy: IfNotPresent
        ports: [{name: redis, containerPort: 6379}]
        readinessProbe: {exec: {command: [redis-cli, ping]}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 10Mi}}
";

#[test]
fn a_database_keeps_its_claims_over_pods_and_scales() {
    let Some(redis) = image::redis() else { return };
    let Some(cloud) = Cloud::start() else { return };
    cloud.world.load(&redis);
    cloud.apply(DATABASE);
    cloud.kubectl("rollout status statefulset/db --timeout=120s").success();
    // Each has a name and data of its own.
    for (pod, word) in [("db-0", "zero"), ("db-1", "one")] {
        cloud.run_in(pod, &format!("redis-cli set name {word}")).success().stdout("OK\n");
    }
    let ask = |from: &str, of: &str| cloud.run_in(from, &format!("redis-cli -h {of}.db get name")).text();
    assert_eq!((ask("db-0", "db-1"), ask("db-1", "db-0")), ("one".into(), "zero".into()));
    let volume = |claim: &str| cloud.value(&format!("pvc/{claim}"), "{.spec.volumeName}");
    let (uid, kept) = (cloud.value("pod/db-1", "{.metadata.uid}"), volume("data-db-1"));
    assert!(!kept.is_empty());
    cloud.kubectl("delete pod db-1").success();
    eventually("another pod of the same name is ready", || {
        let now = cloud.value("pod/db-1", "{.metadata.uid}");
        let ready = cloud.value("pod/db-1", "{.status.conditions[?(@.type=='Ready')].status}");
        !now.is_empty() && now != uid && ready == "True"
    });
    assert_eq!(cloud.run_in("db-1", "redis-cli get name").text(), "one", "the data has stayed");
    // Down and up again: the claim waits.
    cloud.kubectl("scale statefulset/db --replicas=1").success();
    eventually("the last one goes", || cloud.value("pod/db-1", "{.metadata.uid}").is_empty());
    cloud.kubectl("scale statefulset/db --replicas=2").success();
    cloud.kubectl("rollout status statefulset/db --timeout=120s").success();
    assert_eq!((ask("db-0", "db-1"), volume("data-db-1")), ("one".into(), kept));
    cloud.kubectl("delete statefulset,service,pvc --all").success();
    eventually("volumes go with their claims", || cloud.kubectl("get pv -o name").success().text().is_empty());
}

const CHORES: &str = "
apiVersion: batch/v1
kind: CronJob
metadata: {name: hello}
spec:
  schedule: '* * * * *'
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers:
          - {name: hello, image: busybox, imagePullPolicy: IfNotPresent, command: [/bin/sh, -c, 'date; echo Hello from the Kubernetes cluster']}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: counter}
spec:
  replicas: 2
  selector: {matchLabels: {app: counter}}
  template:
    metadata: {labels: {app: counter}}
    spec:
      terminationGracePeriodSeconds: 0
      volumes: [{name: logs, hostPath: {path: LOGS, type: DirectoryOrCreate}}]
      containers:
      - name: count
        image: busybox
        command: [sh, -c, 'i=0; while :; do i=$((i+1)); echo \"$HOSTNAME counts $i\" >> /logs/$HOSTNAME.log; sleep 0.2; done']
        volumeMounts: [{name: logs, mountPath: /logs}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: collector, namespace: kube-system, labels: {k8s-app: collector}}
spec:
  selector: {matchLabels: {name: collector}}
  template:
    metadata: {labels: {name: collector}}
    spec:
      tolerations:
      - {key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}
      terminationGracePeriodSeconds: 0
      containers:
      - name: collector
        image: busybox
        command: [sh, -c, 'set -- LOGS/*.log; until [ $# -ge 2 ]; do sleep 0.1; set -- LOGS/*.log; done; exec tail -F \"$@\"']
        resources: {limits: {memory: 200Mi}, requests: {cpu: 100m, memory: 20Mi}}
        volumeMounts: [{name: varlog, mountPath: /var/log, readOnly: true}]
      volumes: [{name: varlog, hostPath: {path: /var/log}}]
---
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: content, emptyDir: {}}]
  initContainers:
  - name: fetcher
    image: busybox
    restartPolicy: Always
    command: [sh, -c, 'i=0; while :; do i=$((i+1)); echo \"edition $i\" > /content/new; mv /content/new /content/index.html; sleep 0.2; done']
    startupProbe: {exec: {command: [test, -e, /content/index.html]}, periodSeconds: 1}
    volumeMounts: [{name: content, mountPath: /content}]
  containers:
  - name: web
    image: busybox
    command: [httpd, -f, -p, '80', -h, /content]
    volumeMounts: [{name: content, mountPath: /content, readOnly: true}]
    readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
";

/// A directory below `/var/log` of this test's own.
struct Logs(String);

impl Drop for Logs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn chores_run_by_the_clock_logs_are_collected_and_sidecars_share_a_volume() {
    let logs = Logs(format!("/var/log/knarr-test-{}", std::process::id()));
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(&CHORES.replace("LOGS", &logs.0));
    cloud.kubectl("wait --for=condition=Ready pod/app --timeout=120s").success();
    cloud.kubectl("rollout status deployment/counter --timeout=120s").success();
    cloud.kubectl("rollout status daemonset/collector -n kube-system --timeout=120s").success();
    // The collector, one on each node, has what others write.
    let pods = cloud.kubectl("get pods -l app=counter -o jsonpath={.items[*].metadata.name}").success().text();
    assert_eq!(pods.split_whitespace().count(), 2);
    eventually("all logs are collected", || {
        let collected = cloud.kubectl("logs -n kube-system -l name=collector --tail=-1").text();
        pods.split_whitespace().all(|pod| collected.contains(&format!("{pod} counts 3\n")))
    });
    cloud.kubectl("exec -n kube-system daemonset/collector -- touch /var/log/x").exits(1).stderr_has("Read-only");
    // The sidecar goes on beside the server that shows what it writes.
    let address = format!("{}:80", cloud.value("pod/app", "{.status.podIP}"));
    let edition = || fetch(&address).ok()?.strip_prefix("edition ")?.parse::<u64>().ok();
    let first = edition().expect("an edition");
    eventually("editions go on", || edition().is_some_and(|now| now > first));
    // A job from the schedule, and one in between.
    cloud.kubectl("create job --from=cronjob/hello now").success();
    cloud.kubectl("wait --for=condition=Complete job/now --timeout=60s").success();
    cloud.kubectl("logs job/now").success().stdout_has("Hello from the Kubernetes cluster");
    // A minute may pass before it comes.
    for _ in 0..2 {
        let seen = || !cloud.value("cronjob/hello", "{.status.lastSuccessfulTime}").is_empty();
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| eventually("the clock strikes", seen))).is_ok() {
            break;
        }
    }
    assert!(!cloud.value("cronjob/hello", "{.status.lastSuccessfulTime}").is_empty());
    cloud.kubectl("delete cronjob,deployment,pod --all").success();
    cloud.kubectl("delete daemonset collector -n kube-system").success();
    eventually("no pod is left", || cloud.kubectl("get pods -A -o name").success().text().is_empty());
}

const SCALED: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: php-apache}
spec:
  selector: {matchLabels: {run: php-apache}}
  template:
    metadata: {labels: {run: php-apache}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: php-apache
        image: busybox
        command:
        - sh
        - -c
        - |
          mkdir -p /www/cgi-bin
          printf '#!/bin/sh\\necho Content-type: text/plain\\necho\\ni=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo OK\\n' > /www/cgi-bin/index.cgi
          chmod +x /www/cgi-bin/index.cgi
          exec httpd -f -p 80 -h /www
        ports: [{containerPort: 80}]
        resources: {limits: {cpu: 200m}, requests: {cpu: 50m}}
        readinessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: php-apache, labels: {run: php-apache}}
spec:
  ports: [{port: 80}]
  selector: {run: php-apache}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: php-apache}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: php-apache}
  minReplicas: 1
  maxReplicas: 3
  metrics:
  - type: Resource
    resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}
  behavior:
    scaleDown: {stabilizationWindowSeconds: 0}
";

#[test]
fn a_web_service_is_scaled_by_its_load_up_and_down() {
    let Some(cloud) = Cloud::start() else { return };
    cloud.apply(SCALED);
    cloud.kubectl("rollout status deployment/php-apache --timeout=120s").success();
    let address = format!("{}:80", cloud.value("service/php-apache", "{.spec.clusterIP}"));
    let (machine, replicas) = (std::path::PathBuf::new(), || cloud.value("deployment/php-apache", "{.spec.replicas}"));
    eventually("it answers", || get(address.trim_end_matches(":80"), "/cgi-bin/index.cgi").is_ok());
    let load = Traffic::start_at(&address, "/cgi-bin/index.cgi", &[machine.clone(), machine]);
    // Readings come every fifteen seconds, and so do decisions.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(180);
    let wait = |wanted: &str| {
        while replicas() != wanted {
            let shown = cloud.kubectl("describe hpa php-apache").text();
            assert!(std::time::Instant::now() < deadline, "not {wanted} but {}: {shown}", replicas());
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    };
    wait("3");
    cloud.kubectl("rollout status deployment/php-apache --timeout=60s").success();
    assert!(load.answers().keys().all(|answer| answer.ends_with("OK")));
    let failures = load.failures();
    assert!(failures.is_empty(), "{failures:#?}");
    drop(load);
    wait("1");
    let events = cloud.kubectl("get events --field-selector involvedObject.kind=HorizontalPodAutoscaler").text();
    assert!(events.contains("SuccessfulRescale"), "{events}");
    cloud.kubectl("delete hpa,deployment,service php-apache").success();
    eventually("no pod is left", || cloud.kubectl("get pods -o name").success().text().is_empty());
}
