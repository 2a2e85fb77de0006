{{- define "pixtide.labels" -}}
app.kubernetes.io/part-of: pixtide
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Those of one component's pods, without what changes: component, and generation if it has one. */}}
{{- define "pixtide.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .generation }}
pixtide/generation: {{ . }}
{{- end }}
{{- end }}

{{- define "pixtide.kafka" -}}
{{ .Values.kafka.cluster | default (printf "%s-kafka" .Release.Name) }}
{{- end }}

{{- define "pixtide.bootstrap" -}}
{{- if .Values.kafka.create -}}
{{ include "pixtide.kafka" . }}-kafka-bootstrap:9093
{{- else -}}
{{ required "kafka.address: where is it? (or kafka.create=true)" .Values.kafka.address }}
{{- end }}
{{- end }}

{{- define "pixtide.secured" -}}
{{ if or .Values.kafka.create (eq .Values.kafka.security "sasl_ssl") }}true{{ end }}
{{- end }}

{{- define "pixtide.caSecret" -}}
{{- if .Values.kafka.create }}{{ include "pixtide.kafka" . }}-cluster-ca-cert{{ else }}{{ .Values.kafka.caSecret }}{{ end }}
{{- end }}

{{/* A generation with the defaults that it doesn't override, as YAML. */}}
{{- define "pixtide.generation" -}}
{{- $defaults := pick .root.Values.ingest "gpu" "minReplicas" "maxReplicas" "lagPerReplica" "resources" -}}
{{ mergeOverwrite (deepCopy $defaults) .generation | toYaml }}
{{- end }}
