{{/* The plan and what the driver makes for each stage. */}}

{{- define "rvk8s.stageNames" -}}configure analyze chip train predict eval bundle{{- end }}

{{/* What rvk8s.plan.Plan.from_dict reads, as JSON. */}}
{{- define "rvk8s.plan" -}}
{{- $root := . }}
{{- $stages := list }}
{{- range $name := splitList " " (include "rvk8s.stageNames" .) }}
{{- $given := index $root.Values.stages $name | default dict }}
{{- $shape := include "rvk8s.shape" (dict "root" $root "stage" $name) | fromJson }}
{{- $train := eq $name "train" }}
{{- $gpus := ternary (int64 ($given.gpus | default 0)) (int64 $shape.gpus) $train }}
{{- $stage := dict "name" $name "gpus" $gpus "nodes" (int64 $shape.nodes) "ranks" (int64 $shape.ranks) }}
{{- $_ := set $stage "pool" $shape.pool }}
{{- $_ := set $stage "splits" (ternary 1 (int64 $shape.pods) $train) }}
{{- $_ := set $stage "retries" (int64 ($given.retries | default 0)) }}
{{- $_ := set $stage "deadlineSeconds" (ternary nil (int64 ($given.deadlineSeconds | default 0)) (not $given.deadlineSeconds)) }}
{{- $stages = append $stages $stage }}
{{- end }}
{{- /* What the values say of one run is not true of a schedule's. */}}
{{- $scheduled := eq (include "rvk8s.scheduled" .) "true" }}
{{- $plan := dict
  "runId" (include "rvk8s.runId" .)
  "experiment" (required "values.experiment.name: the experiment has no name; give one" .Values.experiment.name)
  "module" (required "values.experiment.module: nothing says what to run; give a .py file of experiment.source, or a dotted name of the image" .Values.experiment.module)
  "projectDir" (include "rvk8s.projectDir" .)
  "rootUri" (include "rvk8s.rootUri" .)
  "stages" $stages
  "image" (required "values.image.stage: no image says what the stages run in; give --image NAME:TAG" .Values.image.stage)
  "rerun" (.Values.run.rerun | default list)
  "fromStage" (.Values.run.fromStage | default nil)
  "created" (ternary "" (.Values.run.created | default "") $scheduled)
  "goOn" (ternary "" (.Values.run.goOn | default "") $scheduled)
  "values" dict
}}
{{- if and (hasSuffix ".py" $plan.module) (not (hasKey (.Values.experiment.source | default dict) $plan.module)) }}
{{- fail (printf "values.experiment.module: %s is not among the files of experiment.source; add it there" $plan.module) }}
{{- end }}
{{- $text := printf "{\n  \"args\": {%s\n  },\n%s" (include "rvk8s.arguments" .) (toPrettyJson $plan | trimPrefix "{\n") }}
{{- include "rvk8s.plainJson" $text }}
{{- end }}

{{/*
The members of the plan's args, a line each. Helm's numbers have 53 bits and no fraction of zero, so
what a number must keep comes as text, experiment.argsJson, and is written as it is.
*/}}
{{- define "rvk8s.arguments" -}}
{{- $texts := dict }}
{{- range $name, $value := .Values.experiment.args }}{{ $_ := set $texts $name (toJson $value) }}{{ end }}
{{- range $name, $text := .Values.experiment.argsJson }}
{{- if hasKey $texts $name }}
{{- fail (printf "values.experiment.argsJson: %s is one of experiment.args, too; give it once" $name) }}
{{- end }}
{{- $parsed := fromJson (printf "{\"value\": [%s]}" $text) }}
{{- if or (hasKey $parsed "Error") (ne (len $parsed.value) 1) }}
{{- fail (printf "values.experiment.argsJson: the text of %s is not JSON: %s; write a number as \"1.0\", a text in experiment.args" $name $text) }}
{{- end }}
{{- $_ := set $texts $name $text }}
{{- end }}
{{- $lines := list }}
{{- range $name := keys $texts | sortAlpha }}
{{- $lines = append $lines (printf "\n    %s: %s" (toJson $name) (index $texts $name)) }}
{{- end }}
{{- join "," $lines }}
{{- end }}

{{/*
JSON in which those characters of texts are escaped, too, that YAML's readers refuse, and NEL, which
they take for the end of a line.
*/}}
{{- define "rvk8s.plainJson" -}}
{{- $text := . }}
{{- range $code := concat (untilStep 127 160 1) (list 65534 65535) }}
{{- $text = $text | replace (printf "%c" $code) (printf "\\u%04x" $code) }}
{{- end }}
{{- $text }}
{{- end }}

{{/* (dict "root" $ "stage" NAME): the stage's manifests, a YAML stream. */}}
{{- define "rvk8s.stage" -}}
{{- $shape := include "rvk8s.shape" . | fromJson }}
{{- $name := include "rvk8s.stageName" (dict "root" .root "stage" .stage "pods" $shape.pods) }}
{{- $with := dict "root" .root "stage" .stage "shape" $shape "name" $name }}
{{- if ne .stage "train" }}
{{- include "rvk8s.splitJob" $with }}
{{- else if eq .root.Values.launcher "job" }}
{{- include "rvk8s.trainService" $with }}
---
{{ include "rvk8s.trainJob" $with }}
{{- else }}
{{- include "rvk8s.pytorchJob" $with }}
{{- end }}
{{- end }}

{{/* The metadata of a stage's object. */}}
{{- define "rvk8s.stageMetadata" -}}
metadata:
  name: {{ .name }}
  labels:
    {{- include "rvk8s.stageLabels" . | nindent 4 }}
    {{- if and .root.Values.queue (not .service) }}
    kueue.x-k8s.io/queue-name: {{ quote .root.Values.queue }}
    {{- end }}
{{- end }}

{{/*
Exit codes below 128 are final (rvk8s/contract.py): the same split would fail again, so the others
are ended. A node that goes away does not count as a failure.
*/}}
{{- define "rvk8s.splitJob" -}}
apiVersion: batch/v1
kind: Job
{{ include "rvk8s.stageMetadata" . }}
spec:
  completionMode: Indexed
  completions: {{ int64 .shape.pods }}
  parallelism: {{ int64 .shape.pods }}
  backoffLimitPerIndex: {{ int64 ((index .root.Values.stages .stage | default dict).retries | default 0) }}
  maxFailedIndexes: 0
  podReplacementPolicy: Failed
  podFailurePolicy:
    rules:
      - action: Ignore
        onPodConditions:
          - {type: DisruptionTarget, status: "True"}
      - action: FailJob
        onExitCodes:
          containerName: stage
          operator: In
          values: [{{ range $code := untilStep 1 128 1 }}{{ if gt $code 1 }}, {{ end }}{{ $code }}{{ end }}]
  template:
    {{- include "rvk8s.stagePod" (merge (dict "container" "stage") .) | trim | nindent 4 }}
{{- end }}

{{/*
Worker-only and elastic: with a Master the operator adds an init container that the `restricted`
standard refuses. The driver tries a training again as a whole, so nothing is restarted here.
cleanPodPolicy Running: by default the pods that are left keep their GPUs.
*/}}
{{- define "rvk8s.pytorchJob" -}}
apiVersion: kubeflow.org/v1
kind: PyTorchJob
{{ include "rvk8s.stageMetadata" . }}
spec:
  nprocPerNode: {{ int64 .shape.ranksPerNode | toString | quote }}
  runPolicy:
    backoffLimit: 0
    cleanPodPolicy: Running
  elasticPolicy:
    rdzvBackend: c10d
    rdzvId: {{ include "rvk8s.runId" .root | quote }}
    rdzvPort: 29400
    rdzvConf:
      {{- range $setting := include "rvk8s.rendezvous" . | splitList "," }}
      {{- $parts := splitList "=" $setting }}
      - {key: {{ first $parts }}, value: {{ last $parts | quote }}}
      {{- end }}
    minReplicas: {{ int64 .shape.nodes }}
    maxReplicas: {{ int64 .shape.nodes }}
    maxRestarts: 0
  pytorchReplicaSpecs:
    Worker:
      replicas: {{ int64 .shape.nodes }}
      restartPolicy: Never
      template:
        {{- include "rvk8s.stagePod" (merge (dict "container" "pytorch") .) | trim | nindent 8 }}
{{- end }}

{{/* Makes the name of node 0 known to the others, before it is ready. */}}
{{- define "rvk8s.trainService" -}}
apiVersion: v1
kind: Service
{{ include "rvk8s.stageMetadata" (merge (dict "service" true) .) }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "rvk8s.selector" .root | nindent 4 }}
    rvk8s.io/stage: train
    {{- if include "rvk8s.scheduled" .root }}
    rvk8s.io/run: {{ include "rvk8s.runId" .root | quote }}
    {{- end }}
  ports:
    - {name: rendezvous, port: 29400}
{{- end }}

{{/* Nodes that train together fail together: the driver makes the whole Job anew. */}}
{{- define "rvk8s.trainJob" -}}
apiVersion: batch/v1
kind: Job
{{ include "rvk8s.stageMetadata" . }}
spec:
  completionMode: Indexed
  completions: {{ int64 .shape.nodes }}
  parallelism: {{ int64 .shape.nodes }}
  backoffLimit: 0
  template:
    {{- include "rvk8s.stagePod" (merge (dict "container" "stage" "subdomain" .name) .) | trim | nindent 4 }}
{{- end }}
