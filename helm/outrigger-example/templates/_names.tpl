{{- define "example.name" -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "example.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "example.labels" -}}
{{ include "example.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What a schema cannot see: that there is something to do, and time to do it. */}}
{{- define "example.checked" -}}
{{- $o := .Values.outrigger -}}
{{- if not (or $o.service.name $o.descriptors $o.descriptorsConfigMap) -}}
{{- fail "nothing to do: set outrigger.service.name and port, outrigger.descriptors or outrigger.descriptorsConfigMap" -}}
{{- end -}}
{{- $needed := add (max .Values.app.preStopSeconds $o.drainSeconds) $o.shutdownSeconds -}}
{{- if lt (int64 .Values.terminationGracePeriodSeconds) $needed -}}
{{- fail (printf "terminationGracePeriodSeconds is %v, but preStop and the sidecar's end may take %d: give more, or lower app.preStopSeconds, outrigger.drainSeconds, outrigger.shutdownSeconds" .Values.terminationGracePeriodSeconds $needed) -}}
{{- end -}}
{{- end }}
