{{/*
What the values say to the agent: its OUTRIGGER_* variables by name, its image, the name of its ConfigMap; and the mistakes that
a schema cannot see.
*/}}

{{- define "outrigger.settings" -}}
{{- $v := .Values.outrigger -}}
{{- $all := dict
  "OUTRIGGER_REGISTRY_SERVERS" (join "," $v.registry.servers)
  "OUTRIGGER_REGISTRY_NAMESPACE" $v.registry.namespace
  "OUTRIGGER_REGISTRY_AUTH_USERNAME" $v.registry.auth.username
  "OUTRIGGER_REGISTRY_AUTH_PASSWORD_FILE" (ternary "/etc/outrigger/password/password" "" (not (empty $v.registry.auth.passwordSecret.name)))
  "OUTRIGGER_REGISTRY_TLS_CA" (ternary "/etc/outrigger/ca/ca.crt" "" (not (empty $v.registry.tls.caConfigMap.name)))
  "OUTRIGGER_SERVICE" $v.service.name
  "OUTRIGGER_PORT" $v.service.port
  "OUTRIGGER_GROUP" $v.service.group
  "OUTRIGGER_CLUSTER" $v.service.cluster
  "OUTRIGGER_WEIGHT" $v.service.weight
  "OUTRIGGER_METADATA" (include "outrigger.pairs" $v.service.metadata)
  "OUTRIGGER_ADMIN_LISTEN" (printf "%s:%v" (ternary (printf "[%s]" $v.admin.address) $v.admin.address (contains ":" $v.admin.address)) $v.admin.port)
  "OUTRIGGER_ADMIN_SOCKET" "/run/outrigger/admin.sock"
  "OUTRIGGER_STATE_DIR" "/run/outrigger/state"
  "OUTRIGGER_SHUTDOWN_TIMEOUT" (printf "%vs" $v.shutdownSeconds)
  "OUTRIGGER_LOG_LEVEL" $v.log.level
  "OUTRIGGER_LOG_FORMAT" $v.log.format -}}
{{- $set := dict -}}
{{- range $name, $value := $all -}}
{{- /* An empty text and a number that is not there are not set; the number 0 is. */ -}}
{{- $text := ternary "" (toString $value) (kindIs "invalid" $value) -}}
{{- if $text }}{{ $_ := set $set $name $text }}{{ end -}}
{{- end -}}
{{- toYaml $set -}}
{{- end }}

{{- define "outrigger.pairs" -}}
{{- $pairs := list -}}
{{- range $key, $value := . }}{{ $pairs = append $pairs (printf "%s=%v" $key $value) }}{{ end -}}
{{- join "," $pairs -}}
{{- end }}

{{- define "outrigger.image" -}}
{{- with .Values.outrigger.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default (index $.Subcharts "outrigger").Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "outrigger.descriptorsName" -}}
{{- if .Values.outrigger.descriptors -}}
{{ .Release.Name | trunc 53 | trimSuffix "-" }}-outrigger
{{- else -}}
{{ .Values.outrigger.descriptorsConfigMap }}
{{- end -}}
{{- end }}

{{- define "outrigger.checked" -}}
{{- $v := .Values.outrigger -}}
{{- if and $v.descriptors $v.descriptorsConfigMap -}}
{{- fail "outrigger.descriptors and outrigger.descriptorsConfigMap exclude each other: keep one of them" -}}
{{- end -}}
{{- if and $v.service.name (kindIs "invalid" $v.service.port) -}}
{{- fail (printf "outrigger.service.port is missing: which port does %s listen on?" $v.service.name) -}}
{{- end -}}
{{- if not $v.service.name -}}
{{- range $key, $value := omit $v.service "name" }}{{ if not (empty $value) -}}
{{- fail (printf "outrigger.service.%s means nothing without outrigger.service.name" $key) -}}
{{- end }}{{ end -}}
{{- end -}}
{{- if ne (empty $v.registry.auth.username) (empty $v.registry.auth.passwordSecret.name) -}}
{{- fail "outrigger.registry.auth: username and passwordSecret.name belong together" -}}
{{- end -}}
{{- $ours := keys (include "outrigger.settings" . | fromYaml) -}}
{{- range $v.extraEnv }}{{ if has .name $ours -}}
{{- fail (printf "outrigger.extraEnv: %s is set by another value of this chart already" .name) -}}
{{- end }}{{ end -}}
{{- end }}
