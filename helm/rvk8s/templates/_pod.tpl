{{/*
What every pod of ours shares: security, environment, volumes. All pass the `restricted` pod
security standard and run on a read-only root file system.
*/}}

{{/* Must equal CONTRACT_VERSION of rvk8s/contract.py; a test compares them. */}}
{{- define "rvk8s.contract" -}}1{{- end }}

{{/* Where a run's project files lie; PROJECT_DIR of rvk8s/contract.py. */}}
{{- define "rvk8s.projectDir" -}}/workspace/project{{- end }}

{{- define "rvk8s.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.runAsUser }}
runAsUser: {{ int64 . }}
runAsGroup: {{ int64 . }}
fsGroup: {{ int64 . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "rvk8s.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end }}

{{/*
(dict "root" $ "pool" NAME "stage" NAME): annotations of a pod, those of its pool the strongest. The
proxy of a service mesh keeps a Job from ending, and a rendezvous from beginning. A stage that is
moved to save a node begins anew; the driver (no stage) goes on.
*/}}
{{- define "rvk8s.podAnnotations" -}}
{{- $annotations := dict "sidecar.istio.io/inject" "false" "linkerd.io/inject" "disabled" }}
{{- if .stage }}
{{- $_ := set $annotations "cluster-autoscaler.kubernetes.io/safe-to-evict" "false" }}
{{- $_ := set $annotations "karpenter.sh/do-not-disrupt" "true" }}
{{- end }}
{{- $pool := index .root.Values.pools .pool }}
{{- toYaml (merge (deepCopy ($pool.annotations | default dict)) $annotations) }}
{{- end }}

{{/* (dict "root" $ "pool" NAME): the image of a pool's stages. */}}
{{- define "rvk8s.image" -}}
{{- $pool := index .root.Values.pools .pool }}
{{- required "values.image.stage: no image says what the stages run in; give --image NAME:TAG" ($pool.image | default .root.Values.image.stage) }}
{{- end }}

{{/* The part sha256:... of an image's name; empty where it has none. */}}
{{- define "rvk8s.digest" -}}
{{- regexFind "@sha256:[0-9a-f]{64}$" . | trimPrefix "@" }}
{{- end }}

{{/*
Environment that reads S3, under boto3's names; each stage derives GDAL's from them. As a JSON object
of name -> value or valueFrom. Keys of a Secret are referenced, never copied.
*/}}
{{- define "rvk8s.storageEnv" -}}
{{- $storage := .Values.storage }}
{{- $env := dict }}
{{- with $storage.endpoint }}
{{- $_ := set $env "AWS_ENDPOINT_URL" (trimSuffix "/" .) }}
{{- end }}
{{- with $storage.region }}
{{- $_ := set $env "AWS_REGION" . }}
{{- $_ := set $env "AWS_DEFAULT_REGION" . }}
{{- end }}
{{- if not (kindIs "invalid" $storage.pathStyle) }}
{{- $_ := set $env "RVK8S_S3_PATH_STYLE" (ternary "1" "0" $storage.pathStyle) }}
{{- end }}
{{- if $storage.requesterPays }}{{ $_ := set $env "AWS_REQUEST_PAYER" "requester" }}{{ end }}
{{- if $storage.unsigned }}{{ $_ := set $env "AWS_NO_SIGN_REQUEST" "YES" }}{{ end }}
{{- with $storage.secretName }}
{{- $secret := . }}
{{- range $name := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
{{- $_ := set $env $name (dict "secretKeyRef" (dict "name" $secret "key" $name)) }}
{{- end }}
{{- $_ := set $env "AWS_SESSION_TOKEN" (dict "secretKeyRef" (dict "name" $secret "key" "AWS_SESSION_TOKEN" "optional" true)) }}
{{- end }}
{{- if $storage.caSecret }}{{ $_ := set $env "AWS_CA_BUNDLE" "/etc/rvk8s/ca/ca.crt" }}{{ end }}
{{- toJson $env }}
{{- end }}

{{/*
NVIDIA_VISIBLE_DEVICES of a pod that asks for no GPU: on a node where NVIDIA's runtime is the default
one, an image made from CUDA's gives it all of them, those of others too.
*/}}
{{- define "rvk8s.noGpus" -}}void{{- end }}

{{/* What every process of ours gets: nothing that it writes may go to the root file system. */}}
{{- define "rvk8s.commonEnv" -}}
{{- $env := fromJson (include "rvk8s.storageEnv" .) }}
{{- $_ := set $env "HOME" "/tmp" }}
{{- $_ := set $env "TMPDIR" "/tmp" }}
{{- $_ := set $env "PYTHONUNBUFFERED" "1" }}
{{- $_ := set $env "RVK8S_CONTRACT" (include "rvk8s.contract" .) }}
{{- toJson $env }}
{{- end }}

{{/* (list DICTS...): env entries as YAML, sorted, later dictionaries win. */}}
{{- define "rvk8s.env" -}}
{{- $all := dict }}
{{- range . }}{{ $all = merge (deepCopy (. | default dict)) $all }}{{ end }}
{{- range $name := keys $all | sortAlpha }}
{{- $value := index $all $name }}
- name: {{ $name }}
  {{- if kindIs "map" $value }}
  valueFrom: {{ toJson $value }}
  {{- else }}
  value: {{ include "rvk8s.plain" $value | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "stage" NAME "shape" SHAPE): the environment of a stage's container. */}}
{{- define "rvk8s.stageEnv" -}}
{{- $root := .root }}{{ $shape := .shape }}
{{- $pool := index $root.Values.pools $shape.pool }}
{{- $limits := (fromYaml (include "rvk8s.resources" .)).limits }}
{{- $id := include "rvk8s.runId" $root }}
{{- $ours := fromJson (include "rvk8s.commonEnv" $root) }}
{{- $_ := set $ours "RVK8S_RUN_ID" $id }}
{{- $_ := set $ours "RVK8S_RUN_URI" (printf "%s/%s" (include "rvk8s.rootUri" $root) $id) }}
{{- $_ := set $ours "RVK8S_SPLITS" (ternary 1 $shape.pods (eq .stage "train") | int64 | toString) }}
{{- $_ := set $ours "RVK8S_GPUS" ($shape.gpus | int64 | toString) }}
{{- with $limits.cpu }}{{ $_ := set $ours "RVK8S_THREADS" (include "rvk8s.threads" .) }}{{ end }}
{{- with include "rvk8s.digest" (include "rvk8s.image" (dict "root" $root "pool" $shape.pool)) }}
{{- $_ := set $ours "RVK8S_IMAGE_DIGEST" . }}
{{- end }}
{{- if eq .stage "train" }}
{{- $_ := set $ours "RVK8S_WORLD_SIZE" ($shape.ranks | int64 | toString) }}
{{- $_ := set $ours "RVK8S_RANKS_PER_NODE" ($shape.ranksPerNode | int64 | toString) }}
{{- /* The operator sets it too, and a name twice is an error of server-side apply. */}}
{{- if eq $root.Values.launcher "pytorchjob" }}{{ $_ := unset $ours "PYTHONUNBUFFERED" }}{{ end }}
{{- if eq $root.Values.launcher "job" }}
{{- $name := include "rvk8s.stageName" (dict "root" $root "stage" "train" "pods" $shape.pods) }}
{{- $_ := set $ours "PET_NNODES" (printf "%d:%d" (int64 $shape.nodes) (int64 $shape.nodes)) }}
{{- $_ := set $ours "PET_NPROC_PER_NODE" ($shape.ranksPerNode | int64 | toString) }}
{{- $_ := set $ours "PET_MAX_RESTARTS" "0" }}
{{- $_ := set $ours "PET_RDZV_BACKEND" "c10d" }}
{{- $_ := set $ours "PET_RDZV_ENDPOINT" (printf "%s-0.%s:29400" $name $name) }}
{{- $_ := set $ours "PET_RDZV_ID" $id }}
{{- $_ := set $ours "PET_RDZV_CONF" (include "rvk8s.rendezvous" .) }}
{{- end }}
{{- end }}
{{- $nccl := dict }}
{{- if and (eq .stage "train") (gt (int64 $shape.gpus) 0) }}
{{- range $name, $value := $pool.nccl }}{{ $_ := set $nccl (printf "NCCL_%s" $name) $value }}{{ end }}
{{- end }}
{{- $defaults := dict "PYTHONHASHSEED" "0" "NO_ALBUMENTATIONS_UPDATE" "1" "RVK8S_STORAGE_PATIENCE" "600" }}
{{- if not (gt (int64 $shape.gpus) 0) }}{{ $_ := set $defaults "NVIDIA_VISIBLE_DEVICES" (include "rvk8s.noGpus" .) }}{{ end }}
{{- include "rvk8s.env" (list $defaults $nccl $pool.env $ours) }}
{{- end }}

{{/*
Rendezvous: nodes of a training start minutes apart where one has to pull the image first.
*/}}
{{- define "rvk8s.rendezvous" -}}join_timeout=1800,timeout=900{{- end }}

{{/* (dict "root" $ "stage" NAME "shape" SHAPE "container" NAME "subdomain" NAME): a stage's pod. */}}
{{- define "rvk8s.stagePod" -}}
{{- $root := .root }}{{ $shape := .shape }}
{{- $pool := index $root.Values.pools $shape.pool }}
{{- $source := $root.Values.experiment.source | default dict }}
metadata:
  annotations:
    {{- include "rvk8s.podAnnotations" (dict "root" $root "pool" $shape.pool "stage" .stage) | nindent 4 }}
  labels:
    {{- include "rvk8s.stageLabels" . | nindent 4 }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  serviceAccountName: {{ quote $root.Values.serviceAccounts.stage }}
  restartPolicy: Never
  {{- with .subdomain }}
  subdomain: {{ quote . }}
  {{- end }}
  {{- include "rvk8s.placement" (dict "root" $root "pool" $shape.pool) | trim | nindent 2 }}
  {{- with include "rvk8s.oneZone" . | trim }}{{ nindent 2 . }}{{ end }}
  {{- with include "rvk8s.pullSecrets" $root }}{{ nindent 2 . }}{{ end }}
  securityContext:
    {{- include "rvk8s.podSecurity" $root | nindent 4 }}
  containers:
    - name: {{ .container }}
      image: {{ include "rvk8s.image" (dict "root" $root "pool" $shape.pool) | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [rvk8s-stage, {{ .stage }}]
      env:
        {{- include "rvk8s.stageEnv" . | trim | nindent 8 }}
      {{- /* Of a name in both, Kubernetes takes that of env. */}}
      {{- with $pool.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      resources:
        {{- include "rvk8s.resources" . | nindent 8 }}
      securityContext:
        {{- include "rvk8s.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: shm, mountPath: /dev/shm}
        - {name: project, mountPath: {{ include "rvk8s.projectDir" $root }}}
        {{- /* One mount each: the symbolic links of a whole volume have the pod's start in their
        targets, and imported files would lie elsewhere in each pod. */}}
        {{- range $path := keys $source | sortAlpha }}
        - {name: source, mountPath: {{ printf "%s/%s" (include "rvk8s.projectDir" $root) $path | quote }}, subPath: {{ include "rvk8s.sourceKey" $path }}, readOnly: true}
        {{- end }}
        {{- if $root.Values.storage.caSecret }}
        - {name: ca, mountPath: /etc/rvk8s/ca, readOnly: true}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {{ if $pool.ephemeralStorage }}{sizeLimit: {{ include "rvk8s.plain" $pool.ephemeralStorage | quote }}}{{ else }}{}{{ end }}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ (include "rvk8s.sizes" (dict "pool" $pool "name" $shape.pool "gpus" $shape.gpus) | fromJson).shm }}}
    - name: project
      emptyDir: {sizeLimit: 1Mi}
    {{- if $source }}
    - name: source
      configMap: {name: {{ include "rvk8s.mountedSource" $root }}}
    {{- end }}
    {{- with include "rvk8s.caVolume" $root }}{{ nindent 4 . }}{{ end }}
{{- end }}

{{- define "rvk8s.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ quote . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "rvk8s.caVolume" -}}
{{- with .Values.storage.caSecret -}}
- name: ca
  secret: {secretName: {{ quote . }}}
{{- end }}
{{- end }}
