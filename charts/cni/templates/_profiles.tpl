{{/* Presets of values; the file is the same in each chart. */}}

{{- define "ambit.profile.ambient" -}}
meshConfig:
  defaultConfig:
    proxyMetadata:
      ISTIO_META_ENABLE_HBONE: "true"
  serviceScopeConfigs:
  - servicesSelector:
      matchExpressions:
      - key: istio.io/global
        operator: In
        values: ["true"]
    scope: GLOBAL
pilot:
  env:
    PILOT_ENABLE_AMBIENT: "true"
cni:
  ambient:
    enabled: true
{{- end -}}

{{- define "ambit.platform.aks" -}}
{{- end -}}

{{- define "ambit.platform.eks" -}}
{{- end -}}

{{- define "ambit.platform.kind" -}}
{{- end -}}

{{- define "ambit.platform.gke" -}}
cni:
  cniBinDir: /home/kubernetes/bin
resourceQuotas:
  enabled: true
{{- end -}}

{{- define "ambit.platform.k3d" -}}
cni:
  cniConfDir: /var/lib/rancher/k3s/agent/etc/cni/net.d
  cniBinDir: /bin
{{- end -}}

{{- define "ambit.platform.k3s" -}}
cni:
  cniConfDir: /var/lib/rancher/k3s/agent/etc/cni/net.d
  cniBinDir: /var/lib/rancher/k3s/data/cni
{{- end -}}

{{- define "ambit.platform.microk8s" -}}
cni:
  cniConfDir: /var/snap/microk8s/current/args/cni-network
  cniBinDir: /var/snap/microk8s/current/opt/cni/bin
{{- end -}}

{{- define "ambit.platform.minikube" -}}
cni:
  cniNetnsDir: /var/run/docker/netns
{{- end -}}
