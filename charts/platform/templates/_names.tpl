{{/* Every name in this chart comes from here; what is cluster-wide carries the namespace. */}}
{{- define "platform.global" -}}{{ printf "aios-alignment-%s" .Release.Namespace }}{{- end }}
