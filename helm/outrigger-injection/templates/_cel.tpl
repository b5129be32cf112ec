{{/*
The library's YAML as CEL, so that an injected sidecar is the one of every other chart and cannot become another.

A value is written as a literal; a map with the one key `$cel` is an expression that the API server evaluates. What a map holds is
wrapped in dyn(), because CEL wants one type for all values of a map. Plain maps and not `Object.spec…{}`: those may not be put
into lists on 1.36 (kubernetes#142181 ends the request there).
*/}}
{{- define "injection.cel" -}}
{{- if kindIs "map" . -}}
{{- if hasKey . "$cel" -}}
{{ index . "$cel" }}
{{- else -}}
{
{{- range $i, $key := keys . | sortAlpha }}{{ if $i }},{{ end }}
  {{ toJson $key }}: dyn({{ include "injection.cel" (index $ $key) | indent 2 | trim }})
{{- end }}}
{{- end -}}
{{- else if kindIs "slice" . -}}
[{{ range $i, $value := . }}{{ if $i }}, {{ end }}{{ include "injection.cel" $value }}{{ end }}]
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end }}

{{/* The sidecar as a value: the library's, with what the pod's annotations decide as expressions. */}}
{{- define "injection.container" -}}
{{- $container := include "outrigger.container" . | fromYaml -}}
{{- $env := list -}}
{{- range $container.env }}{{ if not (has .name (list "OUTRIGGER_REGISTRY_SERVERS" "OUTRIGGER_REGISTRY_NAMESPACE")) }}{{ $env = append $env . }}{{ end }}{{ end -}}
{{- range $name, $variable := dict
  "OUTRIGGER_REGISTRY_SERVERS" "servers"
  "OUTRIGGER_REGISTRY_NAMESPACE" "registryNamespace"
  "OUTRIGGER_SERVICE" "service"
  "OUTRIGGER_PORT" "port" -}}
{{- /* An empty variable counts as not set. */ -}}
{{- $env = append $env (dict "name" $name "value" (dict "$cel" (printf "variables.%s" $variable))) -}}
{{- end -}}
{{- $descriptors := list (dict "name" "outrigger-descriptors" "mountPath" "/etc/outrigger/conf.d" "readOnly" true) -}}
{{- $mounts := printf "%s + (variables.descriptors == '' ? [] : %s)" (include "injection.cel" $container.volumeMounts) (include "injection.cel" $descriptors) -}}
{{- include "injection.cel" (merge (dict "env" $env "volumeMounts" (dict "$cel" $mounts)) $container) -}}
{{- end }}

{{- define "injection.checked" -}}
{{- range $key, $what := dict "descriptors" "a pod's annotation outrigger.io/descriptors" "descriptorsConfigMap" "a pod's annotation outrigger.io/descriptors" "extraVolumeMounts" "a pod of its own sidecar" -}}
{{- if index $.Values.outrigger $key }}{{ fail (printf "outrigger.%s is of one application; here it is %s" $key $what) }}{{ end -}}
{{- end -}}
{{- if .Values.outrigger.service.name }}{{ fail "outrigger.service is of one application; here it comes from a pod's annotations and labels" }}{{ end -}}
{{- end }}

{{/* Who is asked about: pods that ask, and pods that say nothing in a namespace that asks; no pod is in both. */}}
{{- define "injection.pods" -}}
objectSelector: { matchLabels: { outrigger.io/inject: "true" } }
{{- end }}
{{- define "injection.namespaces" -}}
namespaceSelector: { matchLabels: { outrigger.io/inject: "true" } }
objectSelector: { matchExpressions: [{ key: outrigger.io/inject, operator: NotIn, values: ["true", "false"] }] }
{{- end }}
