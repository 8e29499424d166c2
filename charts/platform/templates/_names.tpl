{{/* Every name in this chart comes from here; what is cluster-wide carries the namespace. */}}
{{- define "platform.global" -}}{{ printf "aios-alignment-%s" .Release.Namespace }}{{- end }}
{{- define "platform.panel" -}}aios-panel{{- end }}
{{/* registry/name:tag, or registry/name@digest; the values of the panel */}}
{{- define "platform.panelImage" -}}
{{- $base := ternary .image.name (printf "%s/%s" .image.registry .image.name) (empty .image.registry) -}}
{{- if .image.digest -}}{{ $base }}@{{ .image.digest }}{{- else -}}{{ $base }}:{{ .image.tag }}{{- end -}}
{{- end }}
