# The first process of a real node, in mount and PID namespaces of its own: places that only this
# node sees, then containerd, kube-proxy and kubelet. Its end ends all of them.
set -eu
files=$1 kubernetes=$2 images=$3 name=$4 ip=$5
shift 5

# Volumes of pods and what the mesh's agent mounts must reach the containers.
mount --make-rshared /
for place in "$@"; do
  mkdir -p "$files$place"
  mount --bind "$files$place" "$place"
done
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/lock
cp /usr/lib/cni/* /opt/cni/bin/
cp "$files/pods.conflist" /etc/cni/net.d/10-pods.conflist

containerd --config "$files/containerd.toml" > "$files/containerd.log" 2>&1 &
tries=0
until ctr version > /dev/null 2>&1; do
  tries=$((tries + 1))
  [ $tries -lt 300 ] || { echo "containerd does not answer"; exit 1; }
  sleep 0.1
done
ctr --namespace k8s.io images import "$images" > "$files/import.log" 2>&1

"$kubernetes/kube-proxy" --proxy-mode=nftables --kubeconfig="$files/proxy.conf" \
  --hostname-override="$name" --conntrack-max-per-core=0 --cluster-cidr=10.244.0.0/16 \
  > "$files/kube-proxy.log" 2>&1 &
# Not by exec: process 1 has to collect the ones that containers leave behind.
"$kubernetes/kubelet" --config="$files/kubelet.yaml" --kubeconfig="$files/kubelet.conf" \
  --hostname-override="$name" --node-ip="$ip" --root-dir=/var/lib/kubelet \
  > "$files/kubelet.log" 2>&1 &
wait $!
