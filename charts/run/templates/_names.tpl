{{/* Every name in this chart comes from here. */}}

{{/* Objects carry the release's name; a resumed run is a new release (RUN-r2) on the folders of the same run. */}}
{{- define "run.job" -}}{{ printf "%s-%s" .root.Release.Name .name }}{{- end }}
{{- define "run.conductor" -}}{{ printf "%s-conductor" .Release.Name }}{{- end }}
{{- define "run.status" -}}{{ printf "%s-status" .Release.Name }}{{- end }}

{{/* registry/name:tag, or registry/name@digest; dict "root" $ "image" (step or conductor image) */}}
{{- define "run.image" -}}
{{- $default := .root.Values.image -}}
{{- $base := ternary .image.name (printf "%s/%s" $default.registry .image.name) (empty $default.registry) -}}
{{- if .image.digest -}}{{ $base }}@{{ .image.digest }}
{{- else -}}{{ $base }}:{{ .image.tag | default $default.tag }}
{{- end -}}
{{- end }}

{{/* The steps before this one that are enabled, as a JSON list. */}}
{{- define "run.needs" -}}
{{- $needs := list -}}
{{- range .step.needs -}}
{{- $other := index $.root.Values.steps . -}}
{{- if and $other $other.enabled -}}{{- $needs = append $needs . -}}{{- end -}}
{{- end -}}
{{- toJson $needs -}}
{{- end }}

{{/* The whole command of a step, as a JSON list: the settings in the order of `aios ... --help`. */}}
{{- define "run.command" -}}
{{- $known := index (.root.Files.Get "files/steps.json" | fromJson) .name -}}
{{- $command := concat (list "aios") $known.command -}}
{{- $args := .step.args | default dict -}}
{{- range $known.settings -}}
{{- $kind := .kind -}}{{- $flag := .flag -}}
{{- if hasKey $args .name -}}
{{- $value := index $args .name -}}
{{- if kindIs "invalid" $value -}}
{{- else if eq $kind "boolean" -}}
{{- $command = append $command (ternary $flag (printf "--no-%s" (trimPrefix "--" $flag)) $value) -}}
{{- else -}}
{{- range (ternary $value (list $value) (kindIs "slice" $value)) -}}
{{- /* Helm reads every number as a float: 2000000 would become 2e+06. */ -}}
{{- $command = concat $command (list $flag (ternary (. | int64 | toString) (. | toString) (eq $kind "integer"))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if gt (int (.step.shards | default 1)) 1 -}}
{{- $command = concat $command (list "--shard" (printf "$(AIOS_SHARD)/%d" (int .step.shards))) -}}
{{- end -}}
{{- toJson $command -}}
{{- end }}

{{/* The folder whose manifest proves the step's work; empty where it publishes a file. */}}
{{- define "run.manifestFolder" -}}
{{- if (index (.root.Files.Get "files/steps.json" | fromJson) .name).manifest }}{{ include "run.output" . }}{{ end -}}
{{- end }}

{{/* Where a step publishes, relative to the workspace. */}}
{{- define "run.output" -}}
{{- $known := index (.root.Files.Get "files/steps.json" | fromJson) .name -}}
{{- index .step.args $known.output | required (printf "steps.%s.args.%s is missing; `aios jobs render` fills it in" .name $known.output) -}}
{{- end }}
