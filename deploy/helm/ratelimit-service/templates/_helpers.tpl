{{- define "ratelimit.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "ratelimit.selector" -}}
app.kubernetes.io/name: ratelimit
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ratelimit.labels" -}}
{{ include "ratelimit.selector" . }}
{{ include "ratelimit.chartLabels" . }}
{{- end }}

{{- define "ratelimit.redis.selector" -}}
app.kubernetes.io/name: redis
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ratelimit.redis.labels" -}}
{{ include "ratelimit.redis.selector" . }}
app.kubernetes.io/part-of: ratelimit
{{ include "ratelimit.chartLabels" . }}
{{- end }}

{{- define "ratelimit.chartLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "ratelimit.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "ratelimit.fullname" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "ratelimit.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "ratelimit.redis.fullname" -}}
{{ include "ratelimit.fullname" . }}-redis
{{- end }}

{{- define "ratelimit.redis.url" -}}
{{- if .Values.redis.bundled.enabled }}{{ include "ratelimit.redis.fullname" . }}:6379
{{- else }}{{ .Values.redis.url }}{{ end }}
{{- end }}

{{- /* A value of an environment variable as text. Numbers come as doubles, of which a large one would be written 1e+06. */ -}}
{{- define "ratelimit.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ printf "%.0f" . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- /* Every variable of the service but those in extraEnv, by name, as JSON. */ -}}
{{- define "ratelimit.environment" -}}
{{- $env := dict "RUNTIME_ROOT" "/data" "RUNTIME_SUBDIRECTORY" "ratelimit" "RUNTIME_IGNOREDOTFILES" "true" "BACKEND_TYPE" .Values.store }}
{{- if eq .Values.store "redis" }}
{{- $_ := set $env "REDIS_URL" (include "ratelimit.redis.url" .) }}
{{- if ne .Values.redis.type "SINGLE" }}{{ $_ := set $env "REDIS_TYPE" .Values.redis.type }}{{ end }}
{{- if .Values.redis.tls }}{{ $_ := set $env "REDIS_TLS" "true" }}{{ end }}
{{- with .Values.redis.auth }}
{{- if .secretName }}
{{- $_ := set $env "REDIS_AUTH_FILE" (printf "/etc/ratelimit-redis/%s" .key) }}
{{- if .caKey }}{{ $_ := set $env "REDIS_TLS_CACERT" (printf "/etc/ratelimit-redis/%s" .caKey) }}{{ end }}
{{- end }}
{{- end }}
{{- else if .Values.memory.persistence.enabled }}
{{- $_ := set $env "MEMORY_SNAPSHOT_PATH" "/var/lib/ratelimit/counters" }}
{{- end }}
{{- if .Values.tls.enabled }}
{{- $_ := set $env "GRPC_SERVER_USE_TLS" "true" }}
{{- $_ := set $env "GRPC_SERVER_TLS_CERT" "/etc/ratelimit-tls/tls.crt" }}
{{- $_ := set $env "GRPC_SERVER_TLS_KEY" "/etc/ratelimit-tls/tls.key" }}
{{- with .Values.tls.plaintextPort }}{{ $_ := set $env "GRPC_PLAINTEXT_PORT" (include "ratelimit.text" .) }}{{ end }}
{{- with .Values.tls.clientCaKey }}{{ $_ := set $env "GRPC_CLIENT_TLS_CACERT" (printf "/etc/ratelimit-tls/%s" .) }}{{ end }}
{{- end }}
{{- range $name, $value := .Values.settings }}{{ if not (kindIs "invalid" $value) }}
{{- $_ := set $env $name (include "ratelimit.text" $value) }}
{{- end }}{{ end }}
{{- toJson $env }}
{{- end }}

{{- /* Refuse values that contradict each other, each with what would be right. */ -}}
{{- define "ratelimit.check" -}}
{{- $elsewhere := dict
    "RUNTIME_ROOT" "rules" "RUNTIME_SUBDIRECTORY" "rules" "RUNTIME_APPDIRECTORY" "rules" "RUNTIME_IGNOREDOTFILES" "rules"
    "CONFIG_PATH" "rules" "BACKEND_TYPE" "store" "MEMORY_SNAPSHOT_PATH" "memory.persistence"
    "REDIS_URL" "redis.url" "REDIS_TYPE" "redis.type" "REDIS_TLS" "redis.tls" "REDIS_TLS_CACERT" "redis.auth.caKey"
    "REDIS_AUTH" "redis.auth.secretName" "REDIS_AUTH_FILE" "redis.auth.secretName"
    "GRPC_SERVER_USE_TLS" "tls.enabled" "GRPC_SERVER_TLS_CERT" "tls.secretName" "GRPC_SERVER_TLS_KEY" "tls.secretName"
    "GRPC_CLIENT_TLS_CACERT" "tls.clientCaKey" "GRPC_PLAINTEXT_PORT" "tls.plaintextPort" }}
{{- $fixed := list "GRPC_PORT" "PORT" "PROMETHEUS_ADDR" "PROMETHEUS_PATH" "USE_PROMETHEUS" }}
{{- range $name, $value := .Values.settings }}
{{- if hasKey $elsewhere $name }}{{ fail (printf "settings.%s: set %s, which goes with what is mounted and probed" $name (get $elsewhere $name)) }}{{ end }}
{{- if has $name $fixed }}{{ fail (printf "settings.%s: the ports are those of the Service and the probes; remove it" $name) }}{{ end }}
{{- if hasSuffix "_AUTH" $name }}{{ fail (printf "settings.%s: it is a secret; use extraEnv with a secretKeyRef" $name) }}{{ end }}
{{- end }}
{{- if hasKey .Values.rules.more "config.yaml" }}{{ fail "rules.more: config.yaml is rules.config" }}{{ end }}
{{- $env := include "ratelimit.environment" . | fromJson }}
{{- range .Values.extraEnv }}
{{- if hasKey $env .name }}{{ fail (printf "extraEnv: %s is set already; in settings, null takes a default away" .name) }}{{ end }}
{{- end }}
{{- if and .Values.tls.enabled (not .Values.tls.secretName) }}{{ fail "tls.secretName: name the Secret with tls.crt and tls.key" }}{{ end }}
{{- if and .Values.tls.plaintextPort (not .Values.tls.enabled) }}{{ fail "tls.plaintextPort: without tls.enabled, the first port has no TLS either; remove it" }}{{ end }}
{{- if and (eq .Values.store "redis") (not .Values.redis.bundled.enabled) (not .Values.redis.url) }}{{ fail "redis.url: name a Redis, or set redis.bundled.enabled" }}{{ end }}
{{- if contains "@" .Values.redis.url }}{{ fail "redis.url: it has a password, which `kubectl describe` shows; use redis.auth.secretName" }}{{ end }}
{{- if and .Values.redis.bundled.enabled (or .Values.redis.tls .Values.redis.auth.secretName (ne .Values.redis.type "SINGLE")) }}{{ fail "redis.bundled: it has no TLS and no password, and is SINGLE; use redis.url for another" }}{{ end }}
{{- if and .Values.redis.bundled.enabled (not (has .Values.redis.url (list "" "redis:6379"))) }}{{ fail "redis.bundled: the counters would be in the bundled Redis and not at redis.url; remove one of them" }}{{ end }}
{{- if and .Values.redis.bundled.enabled (eq .Values.store "memory") }}{{ fail "redis.bundled: nothing counts in it with store: memory" }}{{ end }}
{{- if and .Values.redis.auth.caKey (not .Values.redis.auth.secretName) }}{{ fail "redis.auth.caKey: name the Secret that has it in redis.auth.secretName" }}{{ end }}
{{- end }}
