{{/*
Shapes: nodes x GPUs, CPU, memory, /dev/shm, node pool. This file is the only place that decides
them; a shape that cannot be made fails with the nearest ones that can.
*/}}

{{/* (dict "root" $ "stage" NAME): the name of the stage's pool. */}}
{{- define "rvk8s.poolName" -}}
{{- $stage := index .root.Values.stages .stage | default dict }}
{{- $name := $stage.pool | default (ternary "gpu" "cpu" (gt (int64 ($stage.gpus | default 0)) 0)) }}
{{- include "rvk8s.checkPool" (dict "root" .root "name" $name "key" (printf "stages.%s.pool" .stage)) }}
{{- $name }}
{{- end }}

{{/* (dict "root" $ "name" POOL "key" KEY): fails where there is no such pool. */}}
{{- define "rvk8s.checkPool" -}}
{{- if not (hasKey .root.Values.pools .name) }}
{{- fail (printf "values.%s: there is no pool %s; there are %s" .key .name (keys .root.Values.pools | sortAlpha | join ", ")) }}
{{- end }}
{{- end }}

{{/*
(dict "root" $ "stage" NAME) -> JSON: pool (name), pods (nodes of train, splits of others), gpus (of
a pod), nodes, ranks (over all pods), ranksPerNode.
*/}}
{{- define "rvk8s.shape" -}}
{{- $stage := index .root.Values.stages .stage | default dict }}
{{- $pool := include "rvk8s.poolName" . }}
{{- if eq .stage "train" }}
{{- include "rvk8s.trainShape" (dict "stage" $stage "poolName" $pool "pool" (index .root.Values.pools $pool)) }}
{{- else }}
{{- $gpus := int64 ($stage.gpus | default 0) }}
{{- if gt $gpus 0 }}
{{- $_ := include "rvk8s.gpusPerNode" (dict "key" (printf "stages.%s.gpus" .stage) "poolName" $pool "pool" (index .root.Values.pools $pool)) }}
{{- end }}
{{- dict "pool" $pool "pods" (int64 ($stage.splits | default 1)) "gpus" $gpus "nodes" 1 "ranks" 1 "ranksPerNode" 1 | toJson }}
{{- end }}
{{- end }}

{{/* (dict "key" KEY "poolName" NAME "pool" POOL): GPUs of the pool's nodes, at least 1. */}}
{{- define "rvk8s.gpusPerNode" -}}
{{- $count := int64 (.pool.gpusPerNode | default 0) }}
{{- if lt $count 1 }}
{{- fail (printf "values.%s: pool %s has no GPUs; name another pool, or set pools.%s.gpusPerNode" .key .poolName .poolName) }}
{{- end }}
{{- $count }}
{{- end }}

{{/* (dict "stage" VALUES "poolName" NAME "pool" POOL) -> the JSON of rvk8s.shape. */}}
{{- define "rvk8s.trainShape" -}}
{{- $gpus := int64 (.stage.gpus | default 0) }}
{{- $nodes := int64 (.stage.nodes | default 0) }}
{{- $each := int64 (.stage.gpusPerNode | default 0) }}
{{- $ranks := int64 (.stage.ranks | default 0) }}
{{- if gt $gpus 0 }}
{{- $most := include "rvk8s.gpusPerNode" (dict "key" "stages.train.gpus" "poolName" .poolName "pool" .pool) | int64 }}
{{- if and $nodes $each }}
{{- if ne (mul $nodes $each) $gpus }}
{{- fail (printf "values.stages.train.gpus: %d nodes of %d GPUs are not %d GPUs; give --gpus %d, or leave --nodes or --gpus-per-node out" $nodes $each $gpus (mul $nodes $each)) }}
{{- end }}
{{- else if $nodes }}
{{- if mod $gpus $nodes }}
{{- fail (printf "values.stages.train.nodes: %d GPUs cannot be shared out evenly over %d nodes; give --gpus %s, or --nodes 1" $gpus $nodes (include "rvk8s.nearest" (list $gpus $nodes))) }}
{{- end }}
{{- $each = div $gpus $nodes }}
{{- else if $each }}
{{- if mod $gpus $each }}
{{- fail (printf "values.stages.train.gpusPerNode: %d GPUs do not fill whole nodes of %d; give --gpus %s" $gpus $each (include "rvk8s.nearest" (list $gpus $each))) }}
{{- end }}
{{- $nodes = div $gpus $each }}
{{- else if le $gpus $most }}
{{- $nodes = 1 }}{{ $each = $gpus }}
{{- else if mod $gpus $most }}
{{- fail (printf "values.stages.train.gpus: %d GPUs do not fill whole nodes of %d (pool %s); give --gpus %s, or --gpus-per-node 1 for %d nodes with one each" $gpus $most .poolName (include "rvk8s.nearest" (list $gpus $most)) $gpus) }}
{{- else }}
{{- $nodes = div $gpus $most }}{{ $each = $most }}
{{- end }}
{{- if gt $each $most }}
{{- fail (printf "values.stages.train.gpusPerNode: %d GPUs on one node, but nodes of pool %s have %d; give --gpus-per-node %d or less, or another --pool" $each .poolName $most $most) }}
{{- end }}
{{- if and $ranks (ne $ranks $gpus) }}
{{- fail (printf "values.stages.train.ranks: %d ranks on %d GPUs; each GPU trains one rank: leave --ranks out, or give --gpus %d" $ranks $gpus $ranks) }}
{{- end }}
{{- $ranks = $gpus }}
{{- else }}
{{- if $each }}
{{- fail (printf "values.stages.train.gpusPerNode: %d GPUs on each node, but no GPUs are asked for; give --gpus, or leave --gpus-per-node out" $each) }}
{{- end }}
{{- $nodes = $nodes | default 1 }}
{{- $ranks = $ranks | default $nodes }}
{{- if mod $ranks $nodes }}
{{- fail (printf "values.stages.train.ranks: %d ranks cannot be shared out evenly over %d nodes; give --ranks %s" $ranks $nodes (include "rvk8s.nearest" (list $ranks $nodes))) }}
{{- end }}
{{- end }}
{{- $limit := int64 (.pool.maxNodes | default 0) }}
{{- if and $limit (gt $nodes $limit) }}
{{- $fix := printf "give --nodes %d" $limit }}
{{- if $gpus }}{{ $fix = printf "give --gpus %d" (mul $limit (int64 .pool.gpusPerNode)) }}{{ end }}
{{- fail (printf "values.stages.train: %d nodes, but pool %s has %d; %s or less" $nodes .poolName $limit $fix) }}
{{- end }}
{{- dict "pool" .poolName "pods" $nodes "gpus" $each "nodes" $nodes "ranks" $ranks "ranksPerNode" (div $ranks $nodes) | toJson }}
{{- end }}

{{/* (list COUNT STEP): the multiples of STEP around COUNT, such as "4 or 6". */}}
{{- define "rvk8s.nearest" -}}
{{- $count := int64 (index . 0) }}{{ $step := int64 (index . 1) }}
{{- $below := mul (div $count $step) $step }}
{{- if $below }}{{ $below }} or {{ end }}{{ add $below $step }}
{{- end }}

{{/* A scalar as text; whole numbers without an exponent, in which Helm writes large ones. */}}
{{- define "rvk8s.plain" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* (list QUANTITY COUNT): a Kubernetes quantity of a whole number, times COUNT. */}}
{{- define "rvk8s.times" -}}
{{- $quantity := include "rvk8s.plain" (index . 0) }}
{{- $digits := regexFind "^[0-9]+" $quantity }}
{{- mul (int64 $digits) (int64 (index . 1)) }}{{ trimPrefix $digits $quantity }}
{{- end }}

{{/* (dict "pool" POOL "name" NAME "gpus" COUNT) -> JSON: cpu, memory, shm of a pod. */}}
{{- define "rvk8s.sizes" -}}
{{- $sizes := dict }}
{{- $pool := .pool }}{{ $name := .name }}{{ $gpus := .gpus }}
{{- range $key, $default := dict "cpu" "" "memory" "" "shm" "1Gi" }}
{{- $perGpu := index $pool (printf "%sPerGpu" $key) }}
{{- $flat := index $pool $key }}
{{- if and $perGpu (or (gt (int64 $gpus) 0) (not $flat)) }}
{{- $_ := set $sizes $key (include "rvk8s.times" (list $perGpu (max 1 (int64 $gpus)))) }}
{{- else if or $flat $default }}
{{- $_ := set $sizes $key (include "rvk8s.plain" ($flat | default $default)) }}
{{- else }}
{{- fail (printf "values.pools.%s.%s: is not given; give what a pod may use, or %sPerGpu" $name $key $key) }}
{{- end }}
{{- end }}
{{- toJson $sizes }}
{{- end }}

{{/*
(dict "root" $ "stage" NAME "shape" SHAPE) -> YAML of a stage container's resources. Requests equal
limits, so that a node's pressure evicts others first and threads are not more than processors; a
stage may ask for less, and a limit of its own is its request, too, where it gives none.
*/}}
{{- define "rvk8s.resources" -}}
{{- $pool := index .root.Values.pools .shape.pool }}
{{- $sizes := include "rvk8s.sizes" (dict "pool" $pool "name" .shape.pool "gpus" .shape.gpus) | fromJson }}
{{- $all := dict "cpu" $sizes.cpu "memory" $sizes.memory }}
{{- with $pool.ephemeralStorage }}{{ $_ := set $all "ephemeral-storage" (include "rvk8s.plain" .) }}{{ end }}
{{- if gt (int64 .shape.gpus) 0 }}
{{- $_ := set $all ($pool.gpuResource | default "nvidia.com/gpu") (int64 .shape.gpus | toString) }}
{{- end }}
{{- if and (gt (int64 .shape.gpus) 0) (gt (int64 .shape.nodes) 1) }}
{{- range $name, $count := $pool.extraResources }}{{ $_ := set $all $name (include "rvk8s.plain" $count) }}{{ end }}
{{- end }}
{{- $given := (index .root.Values.stages .stage | default dict).resources | default dict }}
{{- $resources := dict "limits" (deepCopy $all) "requests" (deepCopy $all) }}
{{- range $name, $amount := $given.limits }}
{{- $_ := set $resources.limits $name (include "rvk8s.plain" $amount) }}
{{- $_ := set $resources.requests $name (include "rvk8s.plain" $amount) }}
{{- end }}
{{- range $name, $amount := $given.requests }}
{{- $_ := set $resources.requests $name (include "rvk8s.plain" $amount) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/*
(dict "root" $ "stage" NAME "shape" SHAPE): keeps the nodes of a training in one zone: what each of
its steps sends to other zones is slow and costs money, and networks such as EFA end at a zone's. A
pod that matches its own term and finds no other one may be placed anywhere, so the first one is.
*/}}
{{- define "rvk8s.oneZone" -}}
{{- $pool := index .root.Values.pools .shape.pool }}
{{- $wish := ternary $pool.oneZone "preferred" (hasKey $pool "oneZone") }}
{{- if and $wish (gt (int64 .shape.nodes) 1) }}
{{- $labels := pick (fromYaml (include "rvk8s.stageLabels" .)) "rvk8s.io/run" "rvk8s.io/stage" }}
{{- $term := dict "topologyKey" "topology.kubernetes.io/zone" "labelSelector" (dict "matchLabels" $labels) }}
affinity:
  podAffinity:
    {{- if eq $wish "required" }}
    requiredDuringSchedulingIgnoredDuringExecution:
      {{- list $term | toYaml | nindent 6 }}
    {{- else }}
    preferredDuringSchedulingIgnoredDuringExecution:
      {{- list (dict "weight" 100 "podAffinityTerm" $term) | toYaml | nindent 6 }}
    {{- end }}
{{- end }}
{{- end }}

{{/* The whole processors of a CPU quantity, at least 1. */}}
{{- define "rvk8s.threads" -}}
{{- $cpu := toString . }}
{{- if hasSuffix "m" $cpu }}{{ max 1 (div (trimSuffix "m" $cpu | int64) 1000) }}{{ else }}{{ max 1 (int64 (float64 $cpu)) }}{{ end }}
{{- end }}

{{/*
(dict "root" $ "pool" NAME): where pods of a pool run: selectors, tolerations, classes, grace.
Spot nodes go away 15 to 120 s after they say so; a pod must not plan with more.
*/}}
{{- define "rvk8s.placement" -}}
{{- $pool := index .root.Values.pools .pool }}
{{- $selector := merge (deepCopy ($pool.nodeSelector | default dict)) (dict "kubernetes.io/os" "linux") }}
{{- $tolerations := $pool.tolerations | default list }}
{{- if $pool.spot }}
{{- $selector = mergeOverwrite $selector (deepCopy ($pool.spotNodeSelector | default dict)) }}
{{- $tolerations = concat $tolerations ($pool.spotTolerations | default list) }}
{{- end }}
{{- /* null takes a label of a preset away; Helm does so itself with its own defaults alone. */}}
{{- range $key := keys $selector }}
{{- if kindIs "invalid" (index $selector $key) }}{{ $_ := unset $selector $key }}{{ end }}
{{- end }}
terminationGracePeriodSeconds: {{ ternary 15 60 (default false $pool.spot) }}
{{- with $selector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pool.runtimeClassName }}
runtimeClassName: {{ quote . }}
{{- end }}
{{- with $pool.priorityClassName | default .root.Values.priorityClassName }}
priorityClassName: {{ quote . }}
{{- end }}
{{- end }}
