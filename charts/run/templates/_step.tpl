{{/* What of the claim a step sees: all of it, or, isolated, its own run's folders and what runs share, read-only. */}}
{{- define "run.workspaceMounts" -}}
{{- $workspace := .root.Values.workspace -}}{{- $run := .root.Values.run.name -}}
{{- if eq $workspace.isolation "run" -}}
- {name: own, mountPath: /workspace}
- {name: workspace, mountPath: /workspace/artifacts, subPath: isolated/{{ $run }}/artifacts}
- {name: workspace, mountPath: /workspace/training_data, subPath: isolated/{{ $run }}/training_data}
# Where `aios jobs submit --input` and `upload` put this run's exports.
- {name: workspace, mountPath: /workspace/training_data/exports/{{ $run }}, subPath: training_data/exports/{{ $run }}, readOnly: true}
{{- $name := .name }}
{{- range $workspace.shared }}
- {name: workspace, mountPath: /workspace/{{ . }}, subPath: {{ . }}{{ if ne $name "fetch-model" }}, readOnly: true{{ end }}}
{{- end }}
{{- else -}}
- {name: workspace, mountPath: /workspace}
{{- end -}}
{{- end }}

{{/*
One step as a Job; dict "root" $ "name" STEP "step" VALUES. All steps are this template.
It is suspended: the conductor releases it when the steps before it have succeeded.
*/}}
{{- define "run.stepJob" -}}
{{- $root := .root -}}{{- $name := .name -}}{{- $step := .step -}}
{{- $nodes := int ($step.nodes | default 1) -}}
{{- $shards := int ($step.shards | default 1) -}}
{{- $limits := dig "resources" "limits" dict $step -}}
{{- $gpu := false -}}
{{- range $key, $_ := $limits }}{{- if hasPrefix "nvidia.com/" $key }}{{- $gpu = true }}{{- end }}{{- end -}}
{{- $grace := int ($step.gracePeriodSeconds | default 30) -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "run.job" . }}
  labels:
    {{- include "run.stepLabels" . | nindent 4 }}
  annotations:
    aios-alignment/needs: {{ include "run.needs" . | fromJsonArray | join "," | quote }}
    aios-alignment/output: {{ include "run.output" . }}
    {{- with $root.Values.kueue.queue }}
    # The conductor turns this into Kueue's label when it releases the step: with the label from the start, Kueue
    # would start the steps out of order.
    aios-alignment/queue: {{ . }}
    {{- end }}
    {{- with $step.startupDeadlineSeconds }}
    aios-alignment/startup-deadline-s: {{ . | int64 | quote }}
    {{- end }}
    {{- if $root.Values.conductor.growMemory }}
    # A step that runs out of memory is suspended, given half as much again, and let go on, once.
    aios-alignment/grow-memory: "true"
    {{- end }}
    {{- with $root.Values.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  suspend: true
  {{- if gt $nodes 1 }}
  # A gang that crashes counts one failure for every pod of it.
  backoffLimit: {{ sub (mul (add1 (int $step.backoffLimit)) $nodes) 1 }}
  completionMode: Indexed
  completions: {{ $nodes }}
  parallelism: {{ $nodes }}
  successPolicy:
    rules: [{succeededIndexes: "0"}]   # rank 0 publishes; stragglers are ended
  {{- else if gt $shards 1 }}
  # Each pod takes its share of the rows; the last one to finish joins them.
  backoffLimitPerIndex: {{ $step.backoffLimit }}
  maxFailedIndexes: 0
  completionMode: Indexed
  completions: {{ $shards }}
  parallelism: {{ $shards }}
  {{- else }}
  backoffLimit: {{ $step.backoffLimit }}
  {{- end }}
  ttlSecondsAfterFinished: {{ $root.Values.ttlSecondsAfterFinished | int64 }}
  # A replacement starts when the old pod is gone: there are never two writers on one folder.
  podReplacementPolicy: Failed
  podFailurePolicy:
    rules:
      # Bad flags, settings, data, upstream, loss, credentials, environment: a second try would end the same way.
      - action: FailJob
        onExitCodes: {operator: In, values: [2, 3, 64, 65, 66, 71, 77, 78]}
      # Interrupted with a checkpoint saved, drained, preempted: no failure of ours.
      - action: Ignore
        onExitCodes: {operator: In, values: [75]}
      - action: Ignore
        onPodConditions: [{type: DisruptionTarget, status: "True"}]
  template:
    metadata:
      labels:
        {{- include "run.stepLabels" . | nindent 8 }}
        {{- with $step.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- if $step.hub }}
        aios-alignment/egress: internet
        {{- end }}
      {{- $annotations := deepCopy ($step.podAnnotations | default dict) }}
      {{- if $step.keepOnNode }}
      # Autoscalers that tidy up nodes would throw away hours of training.
      {{- $annotations = merge $annotations (dict "cluster-autoscaler.kubernetes.io/safe-to-evict" "false" "karpenter.sh/do-not-disrupt" "true") }}
      {{- end }}
      {{- with $annotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      restartPolicy: Never
      {{- with $step.activeDeadlineSeconds }}
      # On the pod, not on the Job: the Job's clock would also count waiting for a node.
      activeDeadlineSeconds: {{ . | int64 }}
      {{- end }}
      terminationGracePeriodSeconds: {{ $grace }}
      # Steps never talk to the API.
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with $root.Values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with $step.runtimeClassName }}
      runtimeClassName: {{ . }}
      {{- end }}
      {{- if gt $nodes 1 }}
      subdomain: {{ include "run.job" . }}
      {{- end }}
      {{- if not (kindIs "invalid" $root.Values.podSecurity.hostUsers) }}
      hostUsers: {{ $root.Values.podSecurity.hostUsers }}
      {{- end }}
      {{- with $root.Values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: {{ $root.Values.podSecurity.runAsUser | int64 }}
        runAsGroup: {{ $root.Values.podSecurity.runAsUser | int64 }}
        fsGroup: {{ $root.Values.podSecurity.fsGroup | int64 }}
        fsGroupChangePolicy: OnRootMismatch   # a volume with terabytes is not walked through at every start
        {{- with $root.Values.podSecurity.supplementalGroups }}
        supplementalGroups: {{ toJson . }}
        {{- end }}
        seccompProfile: {type: RuntimeDefault}
      {{- with $step.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- $affinity := deepCopy ($step.affinity | default dict) }}
      {{- with $step.gpuProducts }}
      {{- $term := dict "matchExpressions" (list (dict "key" "nvidia.com/gpu.product" "operator" "In" "values" .)) }}
      {{- $affinity = merge $affinity (dict "nodeAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" (list $term)))) }}
      {{- end }}
      {{- with $affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      tolerations:
        # The default of 300 s leaves a GPU idle for five minutes after its node was lost.
        - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 60}
        - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 60}
        {{- if $gpu }}
        - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
        {{- end }}
        {{- with $step.tolerations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      containers:
        - name: step
          image: {{ include "run.image" (dict "root" $root "image" $step.image) }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          # PID 1 is the image's supervisor; this is the command of the runbook.
          args: {{- include "run.command" . | fromJsonArray | toYaml | nindent 12 }}
          workingDir: /workspace
          env:
            - {name: AIOS_RUN, value: {{ $root.Values.run.name | quote }}}
            - {name: AIOS_STEP, value: {{ $name | quote }}}
            - {name: AIOS_OUTPUT, value: {{ include "run.manifestFolder" . | quote }}}
            - {name: AIOS_RELEASE, value: {{ $root.Release.Name | quote }}}
            - {name: AIOS_VALUES, value: /etc/aios/values.yaml}
            # Nothing outside is read or written, whatever links others plant on the volume.
            - {name: AIOS_WORKSPACE, value: /workspace}
            {{- with $step.secrets }}
            {{- $hidden := list }}{{ range . }}{{ $hidden = append $hidden .env }}{{ end }}
            # What these hold is hidden in logs, messages and reports.
            - {name: AIOS_SECRETS, value: {{ join "," $hidden | quote }}}
            {{- end }}
            - {name: AIOS_NPROC, value: {{ $step.processes | default 1 | int | quote }}}
            # torchrun kills its ranks after 30 s unless told how long the grace period is.
            - {name: TORCH_ELASTIC_SHUTDOWN_TIMEOUT, value: {{ max 5 (sub $grace 20) | quote }}}
            {{- with $step.onHang }}
            - {name: AIOS_ON_HANG, value: {{ . }}}
            {{- end }}
            {{- if $root.Values.conductor.growMemory }}
            - {name: AIOS_GROW_MEMORY, value: "1"}
            {{- end }}
            - {name: HF_HOME, value: /tmp/huggingface}
            {{- if not $step.hub }}
            - {name: HF_HUB_OFFLINE, value: "1"}
            {{- end }}
            {{- if $gpu }}
            - {name: NCCL_DEBUG, value: WARN}
            {{- else }}
            # Images with CUDA inside would otherwise see all GPUs of the node.
            - {name: NVIDIA_VISIBLE_DEVICES, value: void}
            {{- end }}
            {{- if gt $nodes 1 }}
            - {name: PET_NNODES, value: {{ $nodes | quote }}}
            - {name: PET_MASTER_ADDR, value: "{{ include "run.job" . }}-0.{{ include "run.job" . }}"}
            - {name: PET_MASTER_PORT, value: "29400"}
            - name: PET_NODE_RANK
              valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-completion-index']"}}
            {{- end }}
            {{- if gt $shards 1 }}
            - name: AIOS_SHARD
              valueFrom: {fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-completion-index']"}}
            {{- end }}
            {{- range $key, $value := $step.env }}
            - {name: {{ $key }}, value: {{ $value | quote }}}
            {{- end }}
            {{- range $step.secrets }}
            - name: {{ .env }}
              valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}}
            {{- end }}
          {{- with $step.resources }}
          resources:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          terminationMessagePolicy: FallbackToLogsOnError
          # Not for traffic: the supervisor writes the file when the step hangs, and the probe's words reach the conductor.
          readinessProbe:
            exec: {command: [/bin/sh, -c, "! cat /tmp/aios-hung"]}
            periodSeconds: 30
            timeoutSeconds: 10
            failureThreshold: 1
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          volumeMounts:
            {{- include "run.workspaceMounts" . | nindent 12 }}
            - {name: tmp, mountPath: /tmp}
            - {name: values, mountPath: /etc/aios, readOnly: true}
            {{- with $step.shmSize }}
            - {name: shm, mountPath: /dev/shm}
            {{- end }}
      volumes:
        - name: workspace
          persistentVolumeClaim: {claimName: {{ $root.Values.workspace.claim }}}
        {{- if eq $root.Values.workspace.isolation "run" }}
        - name: own
          emptyDir: {sizeLimit: 64Mi}
        {{- end }}
        # The values go to run.json on the volume, and what the conductor finds beside it: for the day when the release is gone.
        - name: values
          configMap: {name: {{ include "run.status" $root }}}
        - name: tmp
          emptyDir: {sizeLimit: {{ $step.tmpSize | default "4Gi" }}}
        {{- with $step.shmSize }}
        # The default of 64 MB is too small for NCCL and for data loaders; counts as memory of the pod.
        - name: shm
          emptyDir: {medium: Memory, sizeLimit: {{ . }}}
        {{- end }}
{{- end }}
