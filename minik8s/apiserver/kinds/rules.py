"""What must hold of the kinds that have no module of their own: a table of rules, and what a change may not touch.

Pure and total. Must not know: HTTP, storage. Read next: `rule.py`, `rules_workloads.py` and its like, `validate.py`.
"""

from __future__ import annotations

from minik8s.apiserver.kinds import causes, rules_access, rules_storage, rules_traffic, rules_workloads
from minik8s.apiserver.kinds.definition_rules import definition, definition_change
from minik8s.apiserver.kinds.rule import Change, Rule, at_least, between, frozen, labels, named, one_of, only, required

REFERENCE = "cannot change roleRef"
SET_FIELDS = ("replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit", "minReadySeconds",
              "persistentVolumeClaimRetentionPolicy")
SET_WORDS = ("updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
             "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")
CLAIM_WORDS = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
RULES: dict[str, tuple[Rule, ...]] = {
    "StatefulSet": (
        rules_workloads.selects_its_template, one_of("spec.podManagementPolicy", "OrderedReady", "Parallel"),
        one_of("spec.updateStrategy.type", "OnDelete", "RollingUpdate"),
        at_least(0, "spec.replicas", "spec.revisionHistoryLimit", "spec.updateStrategy.rollingUpdate.partition"),
        rules_workloads.set_template,
    ),
    "ReplicationController": (
        required("spec.selector"), at_least(0, "spec.replicas"), rules_workloads.controls_its_template,
        rules_workloads.always_runs("spec", "template"),
    ),
    "PodTemplate": (rules_workloads.runs("template"),),
    "Job": (
        at_least(0, "spec.parallelism", "spec.completions", "spec.backoffLimit", "spec.activeDeadlineSeconds",
                 "spec.ttlSecondsAfterFinished"),
        one_of("spec.completionMode", "NonIndexed", "Indexed"),
        one_of("spec.podReplacementPolicy", "Failed", "TerminatingOrFailed"),
        rules_workloads.ends("spec", "template"),
    ),
    "CronJob": (
        required("spec.schedule"), rules_workloads.schedule, one_of("spec.concurrencyPolicy", "Allow", "Forbid", "Replace"),
        at_least(0, "spec.startingDeadlineSeconds", "spec.successfulJobsHistoryLimit", "spec.failedJobsHistoryLimit"),
        rules_workloads.ends("spec", "jobTemplate", "spec", "template"),
    ),
    "HorizontalPodAutoscaler": (
        required("spec.scaleTargetRef.kind", "spec.scaleTargetRef.name"), at_least(1, "spec.minReplicas", "spec.maxReplicas"),
        rules_workloads.range_of_replicas,
    ),
    "PodDisruptionBudget": (rules_workloads.one_bound,),
    "NetworkPolicy": (
        one_of("spec.ingress[].ports[].protocol", "TCP", "UDP", "SCTP"),
        one_of("spec.egress[].ports[].protocol", "TCP", "UDP", "SCTP"), labels("spec.podSelector.matchLabels"),
        rules_traffic.blocks,
    ),
    "Ingress": (rules_traffic.leads_somewhere, rules_traffic.paths),
    "IngressClass": (required("spec.controller"),),
    "IPAddress": (required("spec.parentRef", "spec.parentRef.resource", "spec.parentRef.name"),),
    "ServiceCIDR": (required("spec.cidrs"), rules_traffic.ranges),
    "PersistentVolumeClaim": (
        required("spec.accessModes", "spec.resources.requests"), rules_storage.modes, rules_storage.asks_for_storage,
        one_of("spec.volumeMode", "Block", "Filesystem"),
    ),
    "PersistentVolume": (
        required("spec.accessModes", "spec.capacity"), rules_storage.modes, rules_storage.one_source,
        one_of("spec.persistentVolumeReclaimPolicy", "Delete", "Recycle", "Retain"),
        one_of("spec.volumeMode", "Block", "Filesystem"),
    ),
    "StorageClass": (
        required("provisioner"), one_of("reclaimPolicy", "Delete", "Retain"),
        one_of("volumeBindingMode", "Immediate", "WaitForFirstConsumer"),
    ),
    "CSIStorageCapacity": (required("storageClassName"),),
    "CSIDriver": (one_of("spec.fsGroupPolicy", "ReadWriteOnceWithFSType", "File", "None"),),
    "VolumeAttachment": (required("spec.attacher", "spec.nodeName"),),
    "Secret": (rules_storage.keys_of_type,),
    "LimitRange": (required("spec.limits[].type"),),
    "ResourceQuota": (rules_storage.quantities,),
    "PriorityClass": (rules_workloads.priority, one_of("preemptionPolicy", "Never", "PreemptLowerPriority")),
    "RuntimeClass": (required("handler"), named("handler", causes.label_name)),
    "FlowSchema": (
        required("spec.priorityLevelConfiguration.name", "spec.rules[].subjects"),
        between(1, 10000, "spec.matchingPrecedence"), one_of("spec.distinguisherMethod.type", "ByNamespace", "ByUser"),
        one_of("spec.rules[].subjects[].kind", "Group", "ServiceAccount", "User"), rules_access.flow_rules,
    ),
    "PriorityLevelConfiguration": (
        required("spec.type"), one_of("spec.type", "Exempt", "Limited"), rules_access.priority_level,
        one_of("spec.limited.limitResponse.type", "Queue", "Reject"), at_least(0, "spec.limited.nominalConcurrencyShares"),
        between(0, 100, "spec.limited.lendablePercent", "spec.exempt.lendablePercent"),
    ),
    "Role": (rules_access.policy_rules,), "ClusterRole": (rules_access.policy_rules,),
    "RoleBinding": (rules_access.role_reference, rules_access.subjects),
    "ClusterRoleBinding": (rules_access.role_reference, rules_access.subjects),
    "CertificateSigningRequest": (required("spec.request", "spec.signerName", "spec.usages"),
                                  rules_access.certificate_request),
    "CustomResourceDefinition": (definition,),
    "MutatingWebhookConfiguration": (rules_access.webhooks,), "ValidatingWebhookConfiguration": (rules_access.webhooks,),
}
CHANGES: dict[str, tuple[Change, ...]] = {
    "CustomResourceDefinition": (definition_change,),
    "StatefulSet": (only("spec", SET_FIELDS, SET_WORDS),),
    "Job": (frozen("spec.selector", "spec.completionMode", "spec.podFailurePolicy", "spec.backoffLimitPerIndex"),
            rules_workloads.job_template),
    "RoleBinding": (frozen("roleRef", why=REFERENCE),), "ClusterRoleBinding": (frozen("roleRef", why=REFERENCE),),
    "IngressClass": (frozen("spec.controller"),), "IPAddress": (frozen("spec.parentRef"),),
    "ServiceCIDR": (frozen("spec.cidrs"),),
    "PersistentVolumeClaim": (rules_storage.claim_spec(CLAIM_WORDS),),
    "PersistentVolume": (rules_storage.volume_source, frozen("spec.volumeMode")),
    "StorageClass": (frozen("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"),),
    "CSIStorageCapacity": (frozen("nodeTopology", "storageClassName"),),
    "VolumeAttachment": (frozen("spec"),), "PriorityClass": (frozen("value", "preemptionPolicy"),),
    "RuntimeClass": (frozen("handler"),), "CertificateSigningRequest": (frozen("spec"),),
    "CSIDriver": (frozen("spec.attachRequired", "spec.volumeLifecycleModes"),),
}
