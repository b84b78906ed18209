{{/*
The names and labels of all objects: this file is the only place that makes them. Python knows the
label keys (rvk8s/contract.py) and finds objects by them.

Limits: a label's value, an object's DNS label and a pod's host name have at most 63 letters. A Job
adds -<index> to its pods' host names, the training operator -worker-<index>, a CronJob -<minutes
since 1970>, 8 digits. Names that would get too long are cut, and get 8 digits of the whole name's
SHA-256 so that they stay different.
*/}}

{{/* The token that the driver replaces by the run's id in a schedule's objects. */}}
{{- define "rvk8s.token" -}}rvk8s-run-id{{- end }}

{{/* "true" for a schedule, empty for one run. */}}
{{- define "rvk8s.scheduled" -}}
{{- if .Values.schedule.cron }}true{{ end }}
{{- end }}

{{/* The id of the run, or of the schedule: the name of the driver's Job or of the CronJob. */}}
{{- define "rvk8s.fullname" -}}
{{- $name := .Values.run.id | default .Release.Name }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "values.run.id: %s is not the name of a run; give lower case letters, digits and '-', starting with a letter" $name) }}
{{- end }}
{{- if include "rvk8s.scheduled" . }}
{{- include "rvk8s.cut" (list $name "" 36) }}
{{- else }}
{{- if gt (len $name) 63 }}
{{- fail (printf "values.run.id: %s has %d letters; give at most 63" $name (len $name)) }}
{{- end }}
{{- $name }}
{{- end }}
{{- end }}

{{/* What stands for the run's id in stage objects and in the plan. */}}
{{- define "rvk8s.runId" -}}
{{- if include "rvk8s.scheduled" . }}{{ include "rvk8s.token" . }}{{ else }}{{ include "rvk8s.fullname" . }}{{ end }}
{{- end }}

{{/* (list NAME SUFFIX LIMIT): NAME and SUFFIX, together at most LIMIT letters. */}}
{{- define "rvk8s.cut" -}}
{{- $name := index . 0 }}{{ $suffix := index . 1 }}{{ $limit := int (index . 2) }}
{{- if le (add (len $name) (len $suffix)) $limit }}
{{- $name }}{{ $suffix }}
{{- else }}
{{- $room := int (sub $limit (add (len $suffix) 9)) }}
{{- trunc $room $name | trimSuffix "-" }}-{{ sha256sum $name | trunc 8 }}{{ $suffix }}
{{- end }}
{{- end }}

{{- define "rvk8s.stagesName" -}}
{{- include "rvk8s.cut" (list (include "rvk8s.fullname" .) "-stages" 63) }}
{{- end }}

{{- define "rvk8s.sourceName" -}}
{{- include "rvk8s.cut" (list (include "rvk8s.fullname" .) "-source" 63) }}
{{- end }}

{{/*
Of a schedule's run: what the driver copies the stages and the source to as it begins. Stages mount
that, so that a run is not changed by an upgrade of its schedule.
*/}}
{{- define "rvk8s.copyName" -}}{{ include "rvk8s.token" . }}-stages{{- end }}

{{/* The ConfigMap from which stages mount the project's files. */}}
{{- define "rvk8s.mountedSource" -}}
{{- if include "rvk8s.scheduled" . }}{{ include "rvk8s.copyName" . }}{{ else }}{{ include "rvk8s.sourceName" . }}{{ end }}
{{- end }}

{{/*
(dict "root" $ "stage" NAME "pods" COUNT): the name of a stage's objects, with room for what its
pods add. A schedule's token is replaced by 45 letters at most, which leave room for any number.
*/}}
{{- define "rvk8s.stageName" -}}
{{- $suffix := printf "-%s" .stage }}
{{- $room := len (printf "-%d" (int (sub .pods 1))) }}
{{- if eq .stage "train" }}{{ $room = add $room (len "-worker") }}{{ end }}
{{- include "rvk8s.cut" (list (include "rvk8s.runId" .root) $suffix (sub 63 $room)) }}
{{- end }}

{{/* The key of a file of the project in its ConfigMap: keys have no slashes. */}}
{{- define "rvk8s.sourceKey" -}}
{{- sha256sum . | trunc 12 }}-{{ regexReplaceAll "[^-._a-zA-Z0-9]" (base .) "_" | trunc 200 }}
{{- end }}

{{/* (dict "root" $ "component" driver|stage|run "managedBy" NAME): labels as YAML. */}}
{{- define "rvk8s.labels" -}}
{{- $labels := deepCopy (.root.Values.labels | default dict) }}
{{- $_ := set $labels "app.kubernetes.io/name" "rvk8s" }}
{{- $_ := set $labels "app.kubernetes.io/component" .component }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" (.managedBy | default .root.Release.Service) }}
{{- $_ := set $labels "rvk8s.io/experiment" .root.Values.experiment.name }}
{{- if include "rvk8s.scheduled" .root }}
{{- $_ := set $labels "rvk8s.io/schedule" (include "rvk8s.fullname" .root) }}
{{- else }}
{{- $_ := set $labels "rvk8s.io/run" (include "rvk8s.runId" .root) }}
{{- end }}
{{- toYaml $labels }}
{{- end }}

{{/* (dict "root" $ "stage" NAME): labels of a stage's objects and pods as YAML. */}}
{{- define "rvk8s.stageLabels" -}}
{{- $labels := fromYaml (include "rvk8s.labels" (dict "root" .root "component" "stage" "managedBy" "rvk8s")) }}
{{- $_ := set $labels "rvk8s.io/run" (include "rvk8s.runId" .root) }}
{{- $_ := set $labels "rvk8s.io/stage" .stage }}
{{- toYaml $labels }}
{{- end }}

{{/* The labels by which the pods of a run, or of a schedule's runs, find each other. */}}
{{- define "rvk8s.selector" -}}
app.kubernetes.io/name: rvk8s
{{- if include "rvk8s.scheduled" . }}
rvk8s.io/schedule: {{ include "rvk8s.fullname" . | quote }}
{{- else }}
rvk8s.io/run: {{ include "rvk8s.runId" . | quote }}
{{- end }}
{{- end }}

{{/* Labels of the driver's Job; its pod must not have the queue's. */}}
{{- define "rvk8s.driverLabels" -}}
{{- include "rvk8s.labels" (dict "root" . "component" "driver") }}
{{- with .Values.driver.queue }}
kueue.x-k8s.io/queue-name: {{ quote . }}
{{- end }}
{{- end }}

{{/* Annotations of the driver's Job. */}}
{{- define "rvk8s.driverAnnotations" -}}
rvk8s.io/root-uri: {{ include "rvk8s.rootUri" . | quote }}
{{- end }}

{{- define "rvk8s.rootUri" -}}
{{- required "values.rootUri: nothing says where runs are written; give s3://bucket/prefix" .Values.rootUri | trimSuffix "/" }}
{{- end }}
