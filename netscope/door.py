"""The command line that starts an agent on a node: as `--via` says, by ssh, or through the cluster's own authentication.

`kubectl` stands for `kubectl exec` into the node's pod of examples/netscope.yaml, which starts netscope on the node itself;
kubectl finds the cluster as it always does (KUBECONFIG). Pure. Read next: `nodes.py`, `capture/recording.py`.
"""

from __future__ import annotations

import shlex

KUBECTL = """sh -c 'pod=$(kubectl get pods -n netscope -l app=netscope --field-selector spec.nodeName=$0 -o name) || exit 1
[ "$pod" ] || { echo "no pod of netscope runs there: kubectl apply -f examples/netscope.yaml" >&2; exit 1; }
exec kubectl exec -i -n netscope "${pod%%[[:space:]]*}" -- sh -c "exec \\$NETSCOPE $1"' {node} agent"""


def words_of(via: str, node: str, part: str = "agent") -> list[str]:
    """The words for that node; `part` is what is started there in place of the last one."""
    words = [word.replace("{node}", node) for word in shlex.split(KUBECTL if via == "kubectl" else via)]
    return words if part == "agent" else [*words[:-1], part]
