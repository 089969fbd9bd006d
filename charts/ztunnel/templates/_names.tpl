{{/* The values in force. */}}
{{- define "ztunnel.values" -}}
{{- include "ambit.values" (list . "") -}}
{{- end -}}

{{/* Labels of the node proxy's objects. Call: include "ztunnel.labels" (list $ $values) */}}
{{- define "ztunnel.labels" -}}
{{- $v := index . 1 -}}
app: ztunnel
app.kubernetes.io/name: "ztunnel"
{{ include "ambit.labels" (index . 0) }}
{{- with $v.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Address of the control plane. Call: include "ztunnel.controlPlane" $values */}}
{{- define "ztunnel.controlPlane" -}}
{{- $suffix := "" -}}
{{- if .revision }}{{ $suffix = printf "-%s" .revision }}{{ end -}}
https://istiod{{ $suffix }}.{{ coalesce .istioNamespace .global.istioNamespace }}.svc:15012
{{- end -}}
