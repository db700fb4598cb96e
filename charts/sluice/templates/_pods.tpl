{{/* Pod Security "restricted": of a pod. */}}
{{- define "sluice.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* Pod Security "restricted": of a container. */}}
{{- define "sluice.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where every pod of the chart may run, and who pulls its image. */}}
{{- define "sluice.pod" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "sluice.podSecurity" . | nindent 2 }}
{{- end }}

{{- define "sluice.program" -}}
image: {{ include "sluice.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "sluice.containerSecurity" . | nindent 2 }}
{{- end }}

{{/*
A job that runs one command of sluice-operator: (dict "root" $ "name" .. "account" .. "args" (list ..) "configMap" .. "retries" ..).
*/}}
{{- define "sluice.jobSpec" -}}
backoffLimit: {{ .retries }}
activeDeadlineSeconds: {{ .root.Values.jobs.timeoutSeconds }}
# Helm deletes a job that succeeded. A failed job stays for an hour, for diagnosis.
ttlSecondsAfterFinished: 3600
template:
  metadata:
    labels:
      {{- include "sluice.jobLabels" .root | nindent 6 }}
  spec:
    serviceAccountName: {{ .account }}
    restartPolicy: Never
    {{- include "sluice.pod" .root | nindent 4 }}
    containers:
      - name: {{ .name }}
        {{- include "sluice.program" .root | nindent 8 }}
        command: [/usr/bin/sluice-operator]
        args:
          {{- toYaml .args | nindent 10 }}
        env:
          - name: RUST_LOG
            value: {{ .root.Values.logFilter | quote }}
          - name: SLUICE_LOG_FORMAT
            value: {{ .root.Values.logFormat }}
        resources:
          {{- toYaml .root.Values.jobs.resources | nindent 10 }}
        {{- with .configMap }}
        volumeMounts:
          - name: files
            mountPath: /etc/sluice/files
            readOnly: true
        {{- end }}
    {{- with .configMap }}
    volumes:
      - name: files
        configMap:
          name: {{ . }}
    {{- end }}
{{- end }}

{{/*
Lets the jobs of a namespace reach the API server where other policies deny that: (dict "root" $ "name" .. "namespace" .. "hook" ..).
*/}}
{{- define "sluice.jobPolicy" }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels:
    {{- include "sluice.jobLabels" .root | nindent 4 }}
  {{- with .hook }}
  annotations:
    helm.sh/hook: {{ . }}
    helm.sh/hook-weight: "-10"
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
  {{- end }}
spec:
  podSelector:
    matchLabels:
      app.kubernetes.io/name: sluice-jobs
      app.kubernetes.io/instance: {{ .root.Release.Name }}
  policyTypes: [Ingress, Egress]
  egress:
    - {}
{{- end }}
