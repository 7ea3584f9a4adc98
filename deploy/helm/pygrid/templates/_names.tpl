{{- define "pygrid.labels" -}}
app.kubernetes.io/name: pygrid
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "pygrid.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}-pygrid
{{- end }}

{{- define "pygrid.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "pygrid.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "pygrid.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "pygrid.environment" -}}
env:
  - {name: NODE_ID, value: {{ required "name: the name of the Domain" .Values.name | quote }}}
  - {name: ADDRESS, value: {{ required "address: where clients reach the Domain, such as https://grid.example" .Values.address | quote }}}
  - {name: PORT, value: "5000"}
  - {name: PYGRID_STORE, value: {{ required "store: the bucket, such as s3://hospital/pygrid" .Values.store | quote }}}
  - {name: PYGRID_S3_ENDPOINT, value: {{ .Values.s3.endpoint | quote }}}
  - {name: PYGRID_S3_REGION, value: {{ .Values.s3.region | quote }}}
  - {name: PYGRID_S3_PATH_STYLE, value: {{ ternary "1" "0" .Values.s3.pathStyle | quote }}}
  - {name: PYGRID_CACHE_MB, value: {{ .Values.cacheMb | int | quote }}}
  - {name: PYGRID_TRUSTED_PROXIES, value: {{ .Values.trustedProxies | quote }}}
  - {name: PYGRID_DRAIN_S, value: {{ .Values.drainS | quote }}}
  - {name: PYGRID_SHUTDOWN_S, value: {{ .Values.shutdownS | quote }}}
  {{- if .Values.metricsFrom }}
  # The NetworkPolicy of the replicas names who can read them.
  - {name: PYGRID_METRICS_FROM, value: "0.0.0.0/0,::/0"}
  {{- end }}
  {{- range $name, $value := .Values.settings }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
envFrom:
  - secretRef: {name: {{ required "secretName: a Secret with DATABASE_URL and SECRET_KEY" .Values.secretName }}}
{{- end }}
