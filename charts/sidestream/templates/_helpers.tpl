{{- /* The operator's objects have fixed names: sidecars look it up in DNS, and there is one in a cluster. */ -}}
{{- define "sidestream.operator" -}}sidestream-operator{{- end }}

{{- define "sidestream.tag" -}}{{ .Values.images.tag | default .Chart.AppVersion }}{{- end }}

{{- define "sidestream.selector" -}}
app.kubernetes.io/name: {{ include "sidestream.operator" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sidestream.labels" -}}
{{ include "sidestream.selector" . }}
app.kubernetes.io/part-of: sidestream
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "sidestream.metadata" -}}
name: {{ include "sidestream.operator" . }}
namespace: {{ .Release.Namespace }}
labels: {{- include "sidestream.labels" . | nindent 2 }}
{{- end }}
