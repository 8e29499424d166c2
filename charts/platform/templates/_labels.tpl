{{/* Every label in this chart comes from here. */}}
{{- define "platform.labels" -}}
app.kubernetes.io/name: aios-alignment
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: aios-alignment
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
{{- define "platform.panelSelector" -}}
app.kubernetes.io/name: aios-alignment
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: panel
{{- end }}
{{- define "platform.panelLabels" -}}
{{ include "platform.labels" . }}
app.kubernetes.io/component: panel
{{- end }}
