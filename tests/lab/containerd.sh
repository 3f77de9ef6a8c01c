# Runs inside of the lab (see bench/lab), in namespaces of its own: a cloud whose pods run with containerd, their network made by plugins.
# /lab has `knarr`, `kubectl` and `cni` (plugins). Says what it expects and does not find, and fails.
set -eu
export KUBECONFIG=/run/k/kubeconfig HOME=/root PATH=/lab:$PATH
k() { knarr --root /tmp/k --run /run/k "$@"; }
fail() { echo "FAILED: $*" >&2; tail -n 20 /run/k/up.log /tmp/containerd.log >&2 || true; kubectl describe pods >&2 || true; exit 1; }
wait_for() { for _ in $(seq 300); do [ "$(eval "$2" 2>/dev/null)" = "$3" ] && return; sleep 0.1; done; fail "$1: $(eval "$2" 2>&1), expected $3"; }
expect() { local got; got=$(eval "$2" 2>&1) || true; [ "$got" = "$3" ] || fail "$1: $got, expected $3"; }

# A way out, so that the machine has an address.
ip link add out type veth peer name far; ip address add 192.0.2.9/24 dev out; ip link set out up; ip link set far up
ip route add default dev out

mkdir -p /tmp/net.d /run/cd
cat > /tmp/net.d/10-net.conflist <<'X'
{"cniVersion": "1.0.0", "name": "lab", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
  "ipam": {"type": "host-local", "dataDir": "/tmp/leases", "ranges": [[{"subnet": "10.99.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
X
cat > /tmp/containerd.toml <<'X'
version = 3
root = "/tmp/containerd"
state = "/run/cd"
[grpc]
  address = "/run/cd/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "docker.io/library/pause:1"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/lab/cni"]
  conf_dir = "/tmp/net.d"
X
containerd --config /tmp/containerd.toml > /tmp/containerd.log 2>&1 &
wait_for "containerd answers" 'ctr -a /run/cd/containerd.sock version > /dev/null && echo yes' yes

# Images, by our own builder.
knarr --root /tmp/b --run /run/b engine > /tmp/engine.log 2>&1 & engine=$!
wait_for "the engine answers" '[ -S /run/b/docker.sock ] && echo yes' yes
mkdir /tmp/image && cp /bin/busybox /tmp/image/
printf 'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n' > /tmp/image/Dockerfile
knarr --root /tmp/b --run /run/b build -q -t busybox /tmp/image > /dev/null
printf 'FROM busybox\nCMD ["sleep", "1000000"]\n' > /tmp/image/Dockerfile
knarr --root /tmp/b --run /run/b build -q -t pause:1 /tmp/image > /dev/null
knarr --root /tmp/b --run /run/b save -o /tmp/images.tar busybox pause:1
kill $engine; wait $engine || true
ctr -a /run/cd/containerd.sock -n k8s.io images import /tmp/images.tar > /dev/null

k up --port 0 --node-name node --node-ip 192.0.2.9 --kubeconfig $KUBECONFIG --container-runtime-endpoint unix:///run/cd/containerd.sock > /dev/null
kubectl get node node -o 'jsonpath={.status.nodeInfo.containerRuntimeVersion}' | grep -q '^containerd://' || fail "the runtime's name"
kubectl apply -f - > /dev/null <<'X'
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: busybox
        imagePullPolicy: Never
        command: [sh, -c, 'mkdir /www && hostname > /www/index.html && echo begun && exec busybox httpd -f -p 8080 -h /www']
        readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1}
        livenessProbe: {exec: {command: [cat, /www/index.html]}, periodSeconds: 1, failureThreshold: 1}
        resources: {requests: {cpu: 10m}, limits: {memory: 64Mi}}
X
kubectl rollout status deployment/web --timeout=60s > /dev/null || fail "the deployment is not ready"
value() { kubectl get pods -o "jsonpath={$1}"; }
one=$(value .items[0].metadata.name) other=$(value .items[1].metadata.name) address=$(value .items[1].status.podIP)
expect "the log" "kubectl logs $one" begun
expect "an exit code" "kubectl exec $one -- sh -c 'exit 7' > /dev/null 2>&1 || echo \$?" 7
expect "standard input" "echo piped | kubectl exec -i $one -- wc -c" 6
expect "the pods' network" "kubectl exec $one -- sh -c \"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $address 8080 | tail -n 1\"" "$other"
kubectl port-forward "$one" 18080:8080 > /tmp/forward.log 2>&1 & forward=$!
wait_for "a forwarded port" "curl -s http://127.0.0.1:18080/" "$one"
kill $forward
kubectl get --raw /api/v1/nodes/node/proxy/stats/summary | grep -q workingSetBytes || fail "no figures"
kubectl exec "$one" -- rm /www/index.html
wait_for "a sick container is made anew" "kubectl get pod $one -o 'jsonpath={.status.containerStatuses[0].restartCount}{.status.containerStatuses[0].ready}'" 1true
expect "the log before" "kubectl logs -p $one" begun
kubectl delete deployment web --wait=false > /dev/null
wait_for "the pods go" "kubectl get pods -o name" ""
wait_for "no container is left" "ctr -a /run/cd/containerd.sock -n k8s.io containers ls -q" ""
wait_for "no address is left" "ls /tmp/leases/lab | grep -c '^10\.' || true" 0
wait_for "no file is left" "ls /run/k/foreign/pods /tmp/k/log/pods | grep -c - || true" 0
k down > /dev/null
echo "containerd: all is well"
