{{/* The driver: a small pod that makes one stage after the other and watches it. */}}

{{- define "rvk8s.driverJobSpec" -}}
{{- $pool := .Values.driver.pool }}
{{- include "rvk8s.checkPool" (dict "root" . "name" $pool "key" "driver.pool") }}
# A driver that is killed is started again and goes on; these exit codes are its verdict.
backoffLimit: 20
podReplacementPolicy: Failed
podFailurePolicy:
  rules:
    - action: Ignore
      onPodConditions:
        - {type: DisruptionTarget, status: "True"}
    - action: FailJob
      onExitCodes:
        containerName: driver
        operator: In
        values: [1, 2, 12, 28, 124, 130]
{{- if not (kindIs "invalid" .Values.driver.ttlSecondsAfterFinished) }}
ttlSecondsAfterFinished: {{ int64 .Values.driver.ttlSecondsAfterFinished }}
{{- end }}
template:
  metadata:
    annotations:
      {{- include "rvk8s.podAnnotations" (dict "root" . "pool" $pool) | nindent 6 }}
    labels:
      {{- include "rvk8s.labels" (dict "root" . "component" "driver") | nindent 6 }}
  spec:
    serviceAccountName: {{ quote .Values.serviceAccounts.driver }}
    automountServiceAccountToken: true
    enableServiceLinks: false
    restartPolicy: Never
    {{- include "rvk8s.placement" (dict "root" . "pool" $pool) | trim | nindent 4 }}
    {{- with include "rvk8s.pullSecrets" . }}{{ nindent 4 . }}{{ end }}
    securityContext:
      {{- include "rvk8s.podSecurity" . | nindent 6 }}
    containers:
      - name: driver
        image: {{ .Values.image.driver | default (include "rvk8s.image" (dict "root" . "pool" $pool)) | quote }}
        imagePullPolicy: {{ .Values.image.pullPolicy }}
        args: [rvk8s-driver]
        # Where it cannot write run.json, the end of its log says why.
        terminationMessagePolicy: FallbackToLogsOnError
        env:
          {{- $ours := fromJson (include "rvk8s.commonEnv" .) }}
          {{- $_ := set $ours "RVK8S_STAGES_DIR" "/etc/rvk8s/stages" }}
          {{- $fields := dict "RVK8S_RUN_ID" "metadata.labels['batch.kubernetes.io/job-name']" "RVK8S_NAMESPACE" "metadata.namespace" "RVK8S_POD" "metadata.name" }}
          {{- range $name, $path := $fields }}{{ $_ := set $ours $name (dict "fieldRef" (dict "fieldPath" $path)) }}{{ end }}
          {{- $patience := .Values.driver.patience }}
          {{- $_ := set $ours "RVK8S_START_PATIENCE" ($patience.start | int64 | toString) }}
          {{- $_ := set $ours "RVK8S_PENDING_DEADLINE" ($patience.pending | int64 | toString) }}
          {{- $_ := set $ours "RVK8S_PARTIAL_PATIENCE" ($patience.partial | int64 | toString) }}
          {{- $_ := set $ours "RVK8S_STORAGE_PATIENCE" ($patience.storage | int64 | toString) }}
          {{- $_ := set $ours "RVK8S_CLUSTER_PATIENCE" ($patience.cluster | int64 | toString) }}
          {{- if include "rvk8s.scheduled" . }}{{ $_ := set $ours "RVK8S_STAGES_COPY" (include "rvk8s.copyName" .) }}{{ end }}
          {{- with include "rvk8s.digest" .Values.image.stage }}{{ $_ := set $ours "RVK8S_IMAGE_DIGEST" . }}{{ end }}
          {{- $defaults := dict "NVIDIA_VISIBLE_DEVICES" (include "rvk8s.noGpus" .) }}
          {{- include "rvk8s.env" (list $defaults .Values.driver.env $ours) | trim | nindent 10 }}
        resources:
          {{- toYaml .Values.driver.resources | nindent 10 }}
        securityContext:
          {{- include "rvk8s.containerSecurity" . | nindent 10 }}
        volumeMounts:
          - {name: tmp, mountPath: /tmp}
          - {name: stages, mountPath: /etc/rvk8s/stages, readOnly: true}
          {{- if .Values.storage.caSecret }}
          - {name: ca, mountPath: /etc/rvk8s/ca, readOnly: true}
          {{- end }}
    volumes:
      - name: tmp
        emptyDir: {}
      - name: stages
        {{- if include "rvk8s.scheduled" . }}
        {{- /* A run's next driver has all in the copy that its first one made, and must not wait for
        a source that an upgrade of the schedule has taken away. */}}
        projected:
          sources:
            - configMap: {name: {{ include "rvk8s.stagesName" . }}}
            {{- if .Values.experiment.source }}
            - configMap: {name: {{ include "rvk8s.sourceName" . }}, optional: true}
            {{- end }}
        {{- else }}
        configMap: {name: {{ include "rvk8s.stagesName" . }}}
        {{- end }}
      {{- with include "rvk8s.caVolume" . }}{{ nindent 6 . }}{{ end }}
{{- end }}
