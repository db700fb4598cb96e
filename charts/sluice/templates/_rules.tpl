{{/* What the operator may do in a namespace that it serves. */}}
{{- define "sluice.rules" -}}
# Queries: read, deleted when their time to live is over. Their authors write them, not the operator.
- apiGroups: [sluice.dev]
  resources: [shufflequeries]
  verbs: [get, list, watch, delete]
# Pools: those of users are read; a query's inline workers are a pool that the operator makes and removes.
- apiGroups: [sluice.dev]
  resources: [workerpools]
  verbs: [get, list, watch, create, delete]
- apiGroups: [sluice.dev]
  resources: [shufflequeries/status, workerpools/status]
  verbs: [patch]
# Owner references that block the owner's deletion, where the cluster checks who may set them.
- apiGroups: [sluice.dev]
  resources: [shufflequeries/finalizers, workerpools/finalizers]
  verbs: [update]
# Workers and coordinators; patched to tell them their zone.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, patch, delete]
# A pool's parts. They go with their owners: Kubernetes deletes them.
- apiGroups: [""]
  resources: [serviceaccounts, services]
  verbs: [get, list, watch, create, patch]
# A pool's key, a query's input, which is deleted when the query has ended, and the SQL of sqlFrom.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
# The queries' tokens: written, never read.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
# Claims that pools mount.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* What it may read of the cluster, whatever it serves. */}}
{{- define "sluice.clusterRules" -}}
# Where the data is: the volumes of claims, and the zones of nodes.
- apiGroups: [""]
  resources: [nodes, persistentvolumes]
  verbs: [get, list, watch]
{{- end }}

{{/*
Refuses to serve namespaces that another release serves: one for the whole cluster beside those for namespaces. Their
operators would act on the same objects with different keys. (Two of a kind are refused by the names of their roles.)
*/}}
{{- define "sluice.refuseOthers" -}}
{{- $kind := ternary "sluice-operator" "sluice-operator:" (eq .Values.scope "Namespaced") }}
{{- range (lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" "").items }}
{{- $of := .metadata.annotations | default dict }}
{{- $ours := and (eq (get $of "meta.helm.sh/release-name") $.Release.Name) (eq (get $of "meta.helm.sh/release-namespace") $.Release.Namespace) }}
{{- $other := or (eq .metadata.name $kind) (and (eq $.Values.scope "Cluster") (hasPrefix $kind .metadata.name)) }}
{{- if and $other (not $ours) }}
{{- fail (printf "scope: %s is refused, as another Sluice serves some of the same namespaces (ClusterRole %s): uninstall it, or use scope: Namespaced for all" $.Values.scope .metadata.name) }}
{{- end }}
{{- end }}
{{- end }}
