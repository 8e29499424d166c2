{{/* Every label in this chart comes from here. */}}

{{- define "run.labels" -}}
app.kubernetes.io/name: aios-alignment
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: aios-alignment
app.kubernetes.io/managed-by: {{ .Release.Service }}
aios-alignment/run: {{ .Values.run.name }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* dict "root" $ "name" STEP */}}
{{- define "run.stepLabels" -}}
{{ include "run.labels" .root }}
app.kubernetes.io/component: {{ .name }}
aios-alignment/step: {{ .name }}
{{- end }}
