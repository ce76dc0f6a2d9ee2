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

{{- /* DNS names in the picker's certificate, with commas: one for each namespace with pools that it serves. Gateways check
it. */ -}}
{{- define "inferencepool.certificateNames" -}}
{{- $names := list (printf "forebay-epp.%s" .Release.Namespace) -}}
{{- if .Values.sharedPicker.enabled -}}
{{- range .Values.sharedPicker.namespaces -}}{{- $names = append $names (printf "forebay-epp.%s" .) -}}{{- end -}}
{{- end -}}
{{- $names | uniq | join "," -}}
{{- end -}}

{{- /* Secret with the picker's certificate. Empty: no TLS. */ -}}
{{- define "inferencepool.tls" -}}
{{- if .Values.forebay.tls.enabled -}}
{{- .Values.forebay.tls.secretName | default (printf "%s-tls" (include "inferencepool.picker" .)) -}}
{{- end -}}
{{- end -}}

{{- /* Whether this release deploys a picker. Empty: no. */ -}}
{{- define "inferencepool.deploysPicker" -}}
{{- if .Values.sharedPicker.enabled -}}
{{- if .Values.inferenceExtension.shared.name -}}{{- fail "sharedPicker.enabled and inferenceExtension.shared.name exclude each other: a release deploys a shared picker, or has a pool that uses one" -}}{{- end -}}
{{- if .Values.inferencePool.modelServers.matchLabels -}}{{- fail "sharedPicker.enabled and inferencePool.modelServers.matchLabels exclude each other: a release that deploys a shared picker has no pool; install the pool as another release, with inferenceExtension.shared.name" -}}{{- end -}}
{{- if or .Values.httpRoute.enabled .Values.experimentalHttpRoute.enabled -}}{{- fail "sharedPicker.enabled and httpRoute.enabled exclude each other: a release that deploys a shared picker has no pool" -}}{{- end -}}
true
{{- else if and .Values.inferenceExtension.enabled (not .Values.inferenceExtension.shared.name) -}}true{{- end -}}
{{- end -}}

{{- define "inferencepool.extProcPort" -}}
{{- if .Values.inferenceExtension.shared.name -}}{{ .Values.inferenceExtension.shared.port | int }}{{- else -}}
{{- .Values.inferenceExtension.extProcPort | default .Values.inferenceExtension.ports.extProc | int -}}
{{- end -}}
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
