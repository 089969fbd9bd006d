{{/* The values in force. */}}
{{- define "istiod.values" -}}
{{- include "ambit.values" (list . "pilot") -}}
{{- end -}}

{{/* istiod, or istiod-<revision>. Call: include "istiod.name" $values */}}
{{- define "istiod.name" -}}
{{- if .revision }}istiod-{{ .revision }}{{ else }}istiod{{ end -}}
{{- end -}}

{{- define "istiod.suffix" -}}
{{- if .revision }}-{{ .revision }}{{ end -}}
{{- end -}}

{{/* Labels of the control plane's objects. Call: include "istiod.labels" (list $ $values) */}}
{{- define "istiod.labels" -}}
{{- $v := index . 1 -}}
app: istiod
app.kubernetes.io/name: "istiod"
istio.io/rev: {{ $v.revision | default "default" | quote }}
{{ include "ambit.labels" (index . 0) }}
{{- end -}}
