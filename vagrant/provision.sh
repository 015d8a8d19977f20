#!/bin/bash
# In a machine, as root, by Vagrant: installs the packages of /srv/flanneld-py and makes the machine the control plane or a node.
# Given again it changes what differs. The last machine ends with a Service fetched from the pod of every node.
set -euo pipefail
FROM=/srv/flanneld-py
ADMIN=/etc/kubernetes/admin.kubeconfig
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 NEEDRESTART_SUSPEND=1

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }

# until_good SECONDS WHAT COMMAND...: try it until it succeeds; when it does not, show what it said last.
until_good() {
  local end=$((SECONDS + $1)) what=$2 said; shift 2
  until said=$("$@" 2>&1); do
    if ((SECONDS > end)); then printf '%s\n' "$said" >&2; say "$what: not in time" >&2; exit 1; fi
    sleep 2
  done
  [[ -z $said ]] || printf '%s\n' "$said"
  say "$what"
}

# A name and the private network's address for this machine, for good; a box that Vagrant knows has them already.
identity() {
  local network="[Match]\nName=eth1\n[Network]\nDHCP=no\nLinkLocalAddressing=ipv6\nAddress=$ADDRESS/24\n"
  if [[ $(hostname) != "$NAME" ]]; then
    echo "$NAME" >/etc/hostname && hostname "$NAME"
    printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$NAME" >/etc/hosts
  fi
  if ! cmp -s /etc/systemd/network/20-eth1.network <(printf '%b' "$network"); then
    printf '%b' "$network" >/etc/systemd/network/20-eth1.network
    networkctl reload
  fi
}

packages() {
  local deb fresh=()
  for deb in "$FROM"/*.deb; do
    [[ ! /var/lib/flanneld-py-vm/${deb##*/} -nt $deb && ! /var/lib/flanneld-py-vm/${deb##*/} -ot $deb ]] || fresh+=("$deb")
  done
  if ((${#fresh[@]})); then
    # A box made by box/build.sh has all they depend on; another one gets it from its distribution.
    # The first time nothing runs that systemd would have to be told of, once for each package.
    if [[ ! -d /var/lib/flanneld-py-vm ]]; then export SYSTEMD_OFFLINE=1; fi
    dpkg --force-unsafe-io --install "${fresh[@]}" >/dev/null 2>&1 || { apt-get update -q; apt-get install -qy --no-install-recommends --fix-broken \
      etcd-server containerd containernetworking-plugins kubernetes-client nftables iptables ipset conntrack curl; }
    unset SYSTEMD_OFFLINE
    systemctl disable --quiet --now etcd 2>/dev/null || true # minik8s-etcd has its port
    mkdir -p /var/lib/flanneld-py-vm
    for deb in "${fresh[@]}"; do touch --reference="$deb" "/var/lib/flanneld-py-vm/${deb##*/}"; done
  fi
  say "${#fresh[@]} packages installed"
}

# The images are files: no registry is asked. A pod's own one has the name that this containerd looks for.
images() {
  local pause
  systemctl enable --quiet --now containerd
  pause=$(containerd config dump | sed -n 's/.*sandbox_image = "\(.*\)"/\1/p')
  until_good 120 "images imported" bash -c "ctr --namespace k8s.io images import $FROM/images.tar >/dev/null"
  ctr --namespace k8s.io images tag --force lab.local/pause:1 "$pause" >/dev/null
}

# A machine in software that has to share its processors may renew no Lease for half a minute, and nobody waits for it to lapse.
long_leases() {
  local part
  for part in controllers scheduler; do
    install -d "/etc/systemd/system/minik8s-$part.service.d"
    printf '[Service]\nEnvironment=MINIK8S_%s_LEADER_ELECT_LEASE_DURATION=120s\n' "${part^^}" >"/etc/systemd/system/minik8s-$part.service.d/vagrant.conf"
  done
}

# Whether flannel's tunnels are IPsec's; charon, which makes them, is a service of its own.
ipsec() { [[ $BACKEND == *'"ipsec"'* ]]; }

server() {
  long_leases
  if [[ ! -e /etc/kubernetes/pki/ca.key ]]; then
    (umask 077; mkdir -p /etc/kubernetes/pki; echo "$CA_KEY" >/etc/kubernetes/pki/ca.key)
    echo "$CA" >/etc/kubernetes/pki/ca.crt && chmod 755 /etc/kubernetes /etc/kubernetes/pki && chmod 644 /etc/kubernetes/pki/ca.crt
  fi
  until_good 300 "the control plane serves" minik8s install server --node-ip "$ADDRESS" --backend "$BACKEND" --proxy-mode "$PROXY_MODE"
  minik8s token create --ttl 0s "$TOKEN" >/dev/null && say "others can join" &
  until_good 120 "pods and a Service are asked for" kubectl --kubeconfig "$ADMIN" apply --validate=false -f "$FROM/hello.yaml"
  wait $!
  install -d -m 700 /root/.kube && ln -sf "$ADMIN" /root/.kube/config
}

agent() {
  until_good 600 "the API of $SERVER listens" bash -c "echo >/dev/tcp/$SERVER/6443"
  until_good 300 "this machine has joined" minik8s install agent "$SERVER:6443" --token "$TOKEN" \
    --discovery-token-ca-cert-hash "$PIN" --backend "$BACKEND" --proxy-mode "$PROXY_MODE"
}

# Fetch the Service until the pod of every node has answered.
everybody_answers() {
  local page service=10.96.88.88 source=()
  if ipsec; then source=(--interface "$(sed -n "s,^FLANNEL_SUBNET=\(.*\)/.*,\1,p" /run/flannel/subnet.env)"); fi # its own is in no tunnel
  for _ in $(seq 20); do
    page=$(curl -fsS --max-time 5 "${source[@]}" "http://$service/") || return 1
    page=${page#*node=}; seen[${page%% *}]=1
    ((${#seen[@]} < NODES)) || return 0
  done
  echo "only ${!seen[*]} answered"
  return 1
}

[[ ! $NAME ]] || identity
packages
images
! ipsec || systemctl enable --quiet --now strongswan-starter
"$ROLE"
if [[ $LAST ]]; then
  declare -A seen=()
  end=$((SECONDS + 600))
  until everybody_answers >/dev/null 2>&1; do
    if ((SECONDS > end)); then everybody_answers; exit 1; fi
    sleep 1
  done
  say "the Service hello was answered by the pods of ${!seen[*]}"
fi
