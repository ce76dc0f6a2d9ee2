{{- define "inferencepool.labels" -}}
app.kubernetes.io/part-of: forebay
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "inferencepool.picker" -}}
{{- printf "%s-epp" .Release.Name -}}
{{- end -}}

{{- /* Namespace of the agents: the configured one, the one found in the cluster, or the default. */ -}}
{{- define "inferencepool.agents" -}}
{{- $found := "" -}}
{{- range (lookup "apps/v1" "DaemonSet" "" "").items -}}
{{- if eq (dig "labels" "app.kubernetes.io/name" "" .metadata) "forebay-agent" -}}{{- $found = .metadata.namespace -}}{{- end -}}
{{- end -}}
{{- .Values.forebay.namespace | default $found | default "forebay-system" -}}
{{- end -}}

{{- /* Whether the picker gets a certificate: only if the CA of the forebay chart exists or cert-manager is used. */ -}}
{{- define "inferencepool.tls" -}}
{{- if .Values.forebay.tls.enabled -}}
{{- if or .Values.forebay.tls.certManager.enabled (lookup "v1" "Secret" (include "inferencepool.agents" .) "forebay-ca") -}}true{{- end -}}
{{- end -}}
{{- end -}}
