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

{{/* What the agent is configured with. Arguments: the root, the values. Pods start anew when it changes. */}}
{{- define "cni.config" -}}
{{- $top := index . 0 -}}
{{- $v := index . 1 -}}
AMBIENT_ENABLED: {{ $v.ambient.enabled | quote }}
AMBIENT_ENABLEMENT_SELECTOR: |-
  {{- $v.ambient.enablementSelectors | toYaml | nindent 2 }}
AMBIENT_DNS_CAPTURE: {{ $v.ambient.dnsCapture | quote }}
AMBIENT_IPV6: {{ $v.ambient.ipv6 | quote }}
AMBIENT_RECONCILE_POD_RULES_ON_STARTUP: {{ $v.ambient.reconcileIptablesOnStartup | quote }}
CHAINED_CNI_PLUGIN: {{ $v.chained | quote }}
CNI_CONF_NAME: {{ $v.cniConfFileName | quote }}
CURRENT_AGENT_VERSION: {{ coalesce $v.tag $v.global.tag $top.Chart.AppVersion | quote }}
EXCLUDE_NAMESPACES: {{ $v.excludeNamespaces | join "," | quote }}
ISTIO_OWNED_CNI_CONFIG: {{ $v.istioOwnedCNIConfig | quote }}
ISTIO_OWNED_CNI_CONF_FILENAME: {{ $v.istioOwnedCNIConfigFileName | quote }}
{{- range $name, $value := $v.env }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end -}}
