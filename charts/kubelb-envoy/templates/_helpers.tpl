{{- /* Names do not depend on the release's: there is one of this in a cluster, and the other charts find it by name. */ -}}
{{- define "kubelb-envoy.name" -}}
{{- default .Chart.Name .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "kubelb-envoy.selectorLabels" -}}
app.kubernetes.io/name: {{ include "kubelb-envoy.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kubelb-envoy.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "kubelb-envoy.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: kubelb
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "kubelb-envoy.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "kubelb-envoy.name" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "kubelb-envoy.bootstrapImage" -}}
{{ .Values.bootstrap.image.repository }}:{{ .Values.bootstrap.image.tag | default .Chart.AppVersion }}
{{- end }}
