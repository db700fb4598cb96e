{{/* What the operator may do in a namespace that it serves. */}}
{{- define "sluice.rules" -}}
# Queries: read, deleted when their time to live is over. Their authors write them, not the operator.
- apiGroups: [sluice.dev]
  resources: [shufflequeries]
  verbs: [get, list, watch, delete]
# Pools: those of users are read; a query's inline workers are a pool that the operator writes.
- apiGroups: [sluice.dev]
  resources: [workerpools]
  verbs: [get, list, watch, create, patch, delete]
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
# A pool's parts, a query's input, and the SQL of sqlFrom.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
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
