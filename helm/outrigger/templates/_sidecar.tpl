{{/*
The sidecar, as three lists and a manifest that a chart of an application puts into its own:

  outrigger.container  the first entry of `initContainers`
  outrigger.mounts     for `volumeMounts` of every container that reads the files
  outrigger.volumes    for `volumes`
  outrigger.configmap  the manifest with the descriptors; nothing when there are none

Each is called with the root context. Why the parts are as they are:

- `restartPolicy: Always` among the init containers makes it a native sidecar: started before the application, ended after it,
  no hindrance to a Job. The startup probe is the gate: the next container starts when every required file is in place.
- All preStop hooks run at once when the pod's end begins; the signal comes to a sidecar only when the application is gone. So
  the registration is taken out by the hook, while the application still serves those who have not heard of it.
- No readiness probe: a sidecar's readiness is the pod's, and a registry that is away must not take pods out of Services.
- The admin socket changes things; it lies in a volume that no other container mounts. The kubelet asks the reading listener
  over the pod's address, because Pod Security refuses a probe with a `host`.
- An empty directory lies where a ServiceAccount's token would: the sidecar needs none, whatever the application is given.
*/}}

{{- define "outrigger.container" -}}
{{- $v := .Values.outrigger -}}
{{- include "outrigger.checked" . -}}
name: outrigger
image: {{ include "outrigger.image" . | quote }}
imagePullPolicy: {{ $v.image.pullPolicy }}
restartPolicy: Always
command: [{{ $v.image.binary | quote }}, run]
env:
  - { name: POD_NAME, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
  - { name: POD_NAMESPACE, valueFrom: { fieldRef: { fieldPath: metadata.namespace } } }
  - { name: POD_IP, valueFrom: { fieldRef: { fieldPath: status.podIP } } }
  - { name: NODE_NAME, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }
{{- range $name, $value := include "outrigger.settings" . | fromYaml }}
  - { name: {{ $name }}, value: {{ $value | quote }} }
{{- end }}
{{- with $v.extraEnv }}
{{ toYaml . | indent 2 }}
{{- end }}
ports:
  - { name: http-outrigger, containerPort: {{ $v.admin.port }} }
startupProbe:
  httpGet: { path: /startupz, port: http-outrigger }
  periodSeconds: 1
  timeoutSeconds: 3
  failureThreshold: {{ $v.startupSeconds }}
livenessProbe:
  httpGet: { path: /livez, port: http-outrigger }
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
lifecycle:
  preStop:
    exec:
      command: [{{ $v.image.binary | quote }}, drain, "--timeout={{ $v.drainSeconds }}s"]
resources: {{ toJson $v.resources }}
securityContext:
  runAsNonRoot: true
  {{- with $v.runAsUser }}
  runAsUser: {{ int64 . }}
  {{- end }}
  {{- with $v.runAsGroup }}
  runAsGroup: {{ int64 . }}
  {{- end }}
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
  seccompProfile: { type: RuntimeDefault }
volumeMounts:
  - { name: outrigger-private, mountPath: /run/outrigger }
  - { name: outrigger-no-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true }
  - { name: outrigger-files, mountPath: {{ $v.files.mountPath | quote }} }
{{- if include "outrigger.descriptorsName" . }}
  - { name: outrigger-descriptors, mountPath: /etc/outrigger/conf.d, readOnly: true }
{{- end }}
{{- if $v.registry.auth.passwordSecret.name }}
  - { name: outrigger-password, mountPath: /etc/outrigger/password, readOnly: true }
{{- end }}
{{- if $v.registry.tls.caConfigMap.name }}
  - { name: outrigger-ca, mountPath: /etc/outrigger/ca, readOnly: true }
{{- end }}
{{- with $v.extraVolumeMounts }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- end }}

{{- define "outrigger.mounts" -}}
- { name: outrigger-files, mountPath: {{ .Values.outrigger.files.mountPath | quote }}, readOnly: true }
{{- end }}

{{- define "outrigger.volumes" -}}
{{- $v := .Values.outrigger -}}
- name: outrigger-private
  emptyDir: { medium: Memory, sizeLimit: {{ $v.private.sizeLimit }} }
- name: outrigger-no-token
  emptyDir: { medium: Memory, sizeLimit: 4Ki }
- name: outrigger-files
  emptyDir: { {{ with $v.files.medium }}medium: {{ . }}, {{ end }}sizeLimit: {{ $v.files.sizeLimit }} }
{{- with include "outrigger.descriptorsName" . }}
- name: outrigger-descriptors
  configMap: { name: {{ . }} }
{{- end }}
{{- with $v.registry.auth.passwordSecret }}{{ if .name }}
- name: outrigger-password
  secret: { secretName: {{ .name }}, items: [{ key: {{ .key }}, path: password }] }
{{- end }}{{ end }}
{{- with $v.registry.tls.caConfigMap }}{{ if .name }}
- name: outrigger-ca
  configMap: { name: {{ .name }}, items: [{ key: {{ .key }}, path: ca.crt }] }
{{- end }}{{ end }}
{{- end }}

{{- define "outrigger.configmap" -}}
{{- with .Values.outrigger.descriptors -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "outrigger.descriptorsName" $ }}
data:
  {{- range $name, $descriptor := . }}
  {{ $name }}.yaml: |
    {{- toYaml $descriptor | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end }}
