{{/* Names and labels: this file is the only place that makes them. */}}

{{- define "platform.labels" -}}
{{- $labels := deepCopy (.Values.labels | default dict) }}
{{- $_ := set $labels "app.kubernetes.io/name" "rvk8s-platform" }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service }}
{{- toYaml $labels }}
{{- end }}

{{/* The pods of all runs: helm/rvk8s labels them so. */}}
{{- define "platform.runPods" -}}
app.kubernetes.io/name: rvk8s
{{- end }}

{{- define "platform.tensorboardPods" -}}
app.kubernetes.io/name: rvk8s-platform
app.kubernetes.io/component: tensorboard
{{- end }}

{{- define "platform.driverRole" -}}rvk8s-driver{{- end }}
{{- define "platform.submitterRole" -}}rvk8s-submitter{{- end }}
{{- define "platform.tensorboard" -}}rvk8s-tensorboard{{- end }}

{{/* A scalar as text; whole numbers without an exponent, in which Helm writes large ones. */}}
{{- define "platform.plain" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}
