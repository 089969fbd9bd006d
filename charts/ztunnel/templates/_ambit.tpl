{{/*
The helpers that all charts share; the file is the same in each chart.

ambit.values gives the values in force as YAML: the chart's defaults, then the profile, then the
platform, then what the user set; later ones win. Keys below the given prefix (pilot, cni) count as
keys of the chart itself, so that one file of values can feed all charts.
Call: include "ambit.values" (list $ "cni") | fromYaml
*/}}
{{- define "ambit.values" -}}
{{- $root := index . 0 -}}
{{- $prefix := index . 1 -}}
{{- $user := omit $root.Values "_internal_defaults_do_not_set" -}}
{{- if hasKey $user "defaults" -}}
{{- fail "values must not be put below \"defaults\"; write them at the top" -}}
{{- end -}}
{{- $global := $user.global | default dict -}}
{{- $profile := coalesce $user.profile $global.profile "" -}}
{{- $platform := coalesce $user.platform $global.platform "" -}}
{{- $layers := list (index $root.Values "_internal_defaults_do_not_set") -}}
{{- if $profile -}}
{{- if not (has $profile (list "ambient")) -}}
{{- fail (printf "unknown profile %s; there is: ambient" $profile) -}}
{{- end -}}
{{- $layers = append $layers (include (printf "ambit.profile.%s" $profile) $root | fromYaml) -}}
{{- end -}}
{{- if $platform -}}
{{- if not (has $platform (list "aks" "eks" "gke" "k3d" "k3s" "kind" "microk8s" "minikube")) -}}
{{- fail (printf "unknown platform %s; there are: aks, eks, gke, k3d, k3s, kind, microk8s, minikube" $platform) -}}
{{- end -}}
{{- $layers = append $layers (include (printf "ambit.platform.%s" $platform) $root | fromYaml) -}}
{{- end -}}
{{- $layers = append $layers $user -}}
{{- $values := dict -}}
{{- range $layer := $layers -}}
{{- $values = mergeOverwrite (deepCopy $values) (deepCopy $layer) -}}
{{- if $prefix -}}
{{- $values = mergeOverwrite (deepCopy $values) (deepCopy (get $layer $prefix | default dict)) -}}
{{- end -}}
{{- end -}}
{{- $values | toYaml -}}
{{- end -}}

{{/* Labels of every object. Call: include "ambit.labels" $ */}}
{{- define "ambit.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/part-of: "istio"
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{/* An image reference. Call: include "ambit.image" (list $ $values) */}}
{{- define "ambit.image" -}}
{{- $root := index . 0 -}}
{{- $v := index . 1 -}}
{{- if contains "/" $v.image -}}
{{- $v.image -}}
{{- else -}}
{{- $hub := coalesce $v.hub $v.global.hub -}}
{{- $tag := coalesce $v.tag $v.global.tag $root.Chart.AppVersion -}}
{{- printf "%s/%s:%s" $hub $v.image (toString $tag) -}}
{{- end -}}
{{- end -}}

{{/* Pull settings of a pod. Call: include "ambit.pullSecrets" $values */}}
{{- define "ambit.pullSecrets" -}}
{{- range .global.imagePullSecrets }}
- name: {{ . }}
{{- end }}
{{- end -}}

{{/* A quota that admits critical pods, where a platform asks for one. Call: (list $ $values name) */}}
{{- define "ambit.resourceQuota" -}}
{{- $root := index . 0 -}}
{{- $v := index . 1 -}}
{{- if $v.resourceQuotas.enabled }}
apiVersion: v1
kind: ResourceQuota
metadata:
  name: {{ index . 2 }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "ambit.labels" $root | nindent 4 }}
spec:
  hard:
    pods: {{ $v.resourceQuotas.pods | quote }}
  scopeSelector:
    matchExpressions:
    - operator: In
      scopeName: PriorityClass
      values:
      - system-node-critical
{{- end }}
{{- end -}}
