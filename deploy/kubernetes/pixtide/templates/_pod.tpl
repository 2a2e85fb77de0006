{{/*
The pod of every process: without root, on a read-only file system, its secrets as files.
  root, component, user (its principal on Kafka), args, port (of its probes), of (its values);
  generation and gpu where it has them; once: true for a job
*/}}
{{- define "pixtide.pod" -}}
{{- $values := .root.Values -}}
{{- $secured := include "pixtide.secured" .root -}}
{{- $ca := include "pixtide.caSecret" .root -}}
metadata:
  labels:
    {{- include "pixtide.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
    {{- with .generation }}
    pixtide/generation: {{ . }}
    {{- end }}
  annotations:
    checksum/settings: {{ include (print .root.Template.BasePath "/settings.yaml") .root | sha256sum }}
spec:
  # Kubernetes would set PIXTIDE_WEB_PORT and the like, for services of these names.
  enableServiceLinks: false
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: {{ .of.gracePeriodSeconds }}
  {{- if .once }}
  restartPolicy: OnFailure
  {{- else }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "pixtide.selector" . | nindent 10 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: {type: RuntimeDefault}
  {{- with $values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .of.nodeSelector }}
  nodeSelector: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- with .of.tolerations }}
  tolerations: {{ toYaml . | nindent 4 }}
  {{- end }}
  {{- if and .gpu $values.ingest.gpuRuntimeClass }}
  runtimeClassName: {{ $values.ingest.gpuRuntimeClass }}
  {{- end }}
  containers:
    - name: {{ .component }}
      image: "{{ $values.image.repository }}:{{ ternary $values.image.gpuTag $values.image.tag (gt (int .gpu) 0) }}"
      imagePullPolicy: {{ $values.image.pullPolicy }}
      {{- with .command }}
      command: {{ toYaml . | nindent 8 }}
      {{- end }}
      args: {{ toYaml .args | nindent 8 }}
      envFrom:
        - configMapRef: {name: {{ .root.Release.Name }}-settings}
        {{- with $values.environmentSecret }}
        - secretRef: {name: {{ . }}}
        {{- end }}
      env:
        - {name: PIXTIDE_DEVICE, value: {{ ternary "cuda" "cpu" (gt (int .gpu) 0) }}}
        # HOME is read-only; what is worth keeping of a run is in the model cache.
        - {name: XDG_CACHE_HOME, value: /var/lib/pixtide/models/cache}
        {{- if $secured }}
        - {name: PIXTIDE_KAFKA_USERNAME, value: {{ .root.Release.Name }}-{{ .user }}}
        - {name: PIXTIDE_KAFKA_PASSWORD_FILE, value: /etc/pixtide/kafka/password}
        {{- end }}
        {{- if $values.weaviate.apiKeySecret }}
        - {name: PIXTIDE_WEAVIATE_API_KEY_FILE, value: /etc/pixtide/weaviate/api-key}
        {{- end }}
        {{- if and (eq .component "web") $values.web.tokenSecret }}
        - {name: PIXTIDE_WEB_TOKEN_FILE, value: /etc/pixtide/web/token}
        {{- end }}
      {{- if not .once }}
      ports:
        - {name: health, containerPort: {{ .port }}}
      # Live while it starts, too: a model may take minutes. There is no startup probe, since one on
      # /ready would restart a worker because its index is away.
      livenessProbe:
        httpGet: {path: /live, port: health}
        periodSeconds: 20
        timeoutSeconds: 5
        initialDelaySeconds: 60
      readinessProbe:
        httpGet: {path: /ready, port: health}
        periodSeconds: 5
        timeoutSeconds: 4
      {{- end }}
      resources:
        requests: {{ toYaml .of.resources.requests | nindent 10 }}
        limits:
          {{- toYaml .of.resources.limits | nindent 10 }}
          {{- if gt (int .gpu) 0 }}
          nvidia.com/gpu: {{ .gpu }}
          {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: models, mountPath: /var/lib/pixtide/models}
        {{- if not $values.originals.url }}
        - {name: originals, mountPath: /var/lib/pixtide/originals}
        {{- end }}
        {{- if $secured }}
        - {name: kafka, mountPath: /etc/pixtide/kafka, readOnly: true}
        {{- end }}
        {{- if $ca }}
        - {name: kafka-ca, mountPath: /etc/pixtide/kafka-ca, readOnly: true}
        {{- end }}
        {{- if $values.weaviate.apiKeySecret }}
        - {name: weaviate, mountPath: /etc/pixtide/weaviate, readOnly: true}
        {{- end }}
        {{- if $values.weaviate.caSecret }}
        - {name: weaviate-ca, mountPath: /etc/pixtide/weaviate-ca, readOnly: true}
        {{- end }}
        {{- if and (eq .component "web") $values.web.tokenSecret }}
        - {name: web, mountPath: /etc/pixtide/web, readOnly: true}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {sizeLimit: 2Gi}
    - name: models
      {{- if $values.models.claim }}
      persistentVolumeClaim: {claimName: {{ $values.models.claim }}}
      {{- else }}
      emptyDir: {sizeLimit: {{ $values.models.size }}}
      {{- end }}
    {{- if not $values.originals.url }}
    - name: originals
      persistentVolumeClaim: {claimName: {{ .root.Release.Name }}-originals}
    {{- end }}
    {{- if $secured }}
    - name: kafka
      secret:
        secretName: {{ .root.Release.Name }}-{{ .user }}
        items: [{key: password, path: password}]
    {{- end }}
    {{- with $ca }}
    - name: kafka-ca
      secret:
        secretName: {{ . }}
        items: [{key: ca.crt, path: ca.crt}]
    {{- end }}
    {{- with $values.weaviate.apiKeySecret }}
    - name: weaviate
      secret:
        secretName: {{ . }}
        items: [{key: api-key, path: api-key}]
    {{- end }}
    {{- with $values.weaviate.caSecret }}
    - name: weaviate-ca
      secret:
        secretName: {{ . }}
        items: [{key: ca.crt, path: ca.crt}]
    {{- end }}
    {{- if and (eq .component "web") $values.web.tokenSecret }}
    - name: web
      secret:
        secretName: {{ $values.web.tokenSecret }}
        items: [{key: token, path: token}]
    {{- end }}
{{- end }}
