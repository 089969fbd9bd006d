{{/* The values in force. */}}
{{- define "cni.values" -}}
{{- include "ambit.values" (list . "cni") -}}
{{- end -}}

{{/* Labels of the agent's objects. Call: include "cni.labels" (list $ $values) */}}
{{- define "cni.labels" -}}
{{- $v := index . 1 -}}
app: istio-cni
app.kubernetes.io/name: "istio-cni"
istio.io/rev: {{ $v.revision | default "default" | quote }}
{{ include "ambit.labels" (index . 0) }}
{{- end -}}
