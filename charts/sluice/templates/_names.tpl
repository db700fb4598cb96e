{{/* <release>-sluice; suffixes must fit behind it. */}}
{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 33 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end }}

{{- define "sluice.operator" -}}
{{ include "sluice.fullname" . }}-operator
{{- end }}

{{- define "sluice.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "sluice.operator" .) -}}
{{- else -}}
{{- required "serviceAccount.name is missing: with serviceAccount.create=false name the ServiceAccount to use" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "sluice.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "sluice.signingKeySecret" -}}
{{- .Values.signingKey.existingSecret | default (printf "%s-signing-key" (include "sluice.fullname" .)) -}}
{{- end }}

{{/* The served namespaces, separated by commas; empty means all. */}}
{{- define "sluice.namespaces" -}}
{{- if eq .Values.scope "Namespaced" -}}
{{- .Values.namespaces | default (list .Release.Namespace) | uniq | join "," -}}
{{- end -}}
{{- end }}

{{/* Where the default pool and the test's query are. */}}
{{- define "sluice.firstNamespace" -}}
{{- $all := include "sluice.namespaces" . -}}
{{- splitList "," ($all | default .Release.Namespace) | first -}}
{{- end }}

{{/* Workers let pods in by the labels name and component: nothing else of the chart may have them. */}}
{{- define "sluice.selector" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "sluice.about" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: sluice
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
{{ include "sluice.about" . }}
{{- end }}

{{- define "sluice.jobLabels" -}}
app.kubernetes.io/name: sluice-jobs
app.kubernetes.io/instance: {{ .Release.Name }}
{{ include "sluice.about" . }}
{{- end }}
