{{- /* Name of the InferencePool: the release's; in a parent chart with an alias, both, so that one release has several. */ -}}
{{- define "inferencepool.name" -}}
{{- if or .Chart.IsRoot (eq .Chart.Name "inferencepool") -}}{{ .Release.Name }}{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name }}{{- end -}}
{{- end -}}

{{- define "inferencepool.labels" -}}
app.kubernetes.io/part-of: forebay
app.kubernetes.io/instance: {{ include "inferencepool.name" . | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "inferencepool.picker" -}}
{{- printf "%s-epp" (include "inferencepool.name" .) -}}
{{- end -}}

{{- /* Namespace of the agents: the configured one, the one found in the cluster, or the default. Searched only if it is
not configured: it needs the right to list DaemonSets of all namespaces. */ -}}
{{- define "inferencepool.agents" -}}
{{- $found := "" -}}
{{- if not .Values.forebay.namespace -}}
{{- range (lookup "apps/v1" "DaemonSet" "" "").items -}}
{{- if eq (dig "labels" "app.kubernetes.io/name" "" .metadata) "forebay-agent" -}}{{- $found = .metadata.namespace -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- .Values.forebay.namespace | default $found | default "forebay-system" -}}
{{- end -}}

{{- /* DNS name in the picker's certificate. Gateways and agents check it. */ -}}
{{- define "inferencepool.certificateName" -}}
forebay-epp.{{ .Release.Namespace }}
{{- end -}}

{{- /* Secret with the picker's certificate. Empty: no TLS. */ -}}
{{- define "inferencepool.tls" -}}
{{- if .Values.forebay.tls.enabled -}}
{{- .Values.forebay.tls.secretName | default (printf "%s-tls" (include "inferencepool.picker" .)) -}}
{{- end -}}
{{- end -}}

{{- define "inferencepool.extProcPort" -}}
{{- .Values.inferenceExtension.extProcPort | default .Values.inferenceExtension.ports.extProc | int -}}
{{- end -}}

{{- /* File in pluginsCustomConfig with the picker's configuration. Empty: its policy. */ -}}
{{- define "inferencepool.pluginsFile" -}}
{{- $epp := .Values.inferenceExtension -}}
{{- if hasKey $epp.pluginsCustomConfig $epp.pluginsConfigFile -}}
{{- if $epp.policy -}}{{- fail "inferenceExtension.policy and inferenceExtension.pluginsCustomConfig exclude each other" -}}{{- end -}}
{{- $epp.pluginsConfigFile -}}
{{- else if $epp.pluginsCustomConfig -}}
{{- fail (printf "inferenceExtension.pluginsConfigFile is %q; inferenceExtension.pluginsCustomConfig has %s" $epp.pluginsConfigFile (keys $epp.pluginsCustomConfig | sortAlpha | join ", ")) -}}
{{- else if ne $epp.pluginsConfigFile "default-plugins.yaml" -}}
{{- fail (printf "inferenceExtension.pluginsConfigFile is %q, which is not in inferenceExtension.pluginsCustomConfig; set that, or inferenceExtension.policy" $epp.pluginsConfigFile) -}}
{{- end -}}
{{- end -}}
