//! HorizontalPodAutoscalers: kept as `autoscaling/v2` has them, shown as `v1` does to who asks for that.

use serde_json::{Value, json};

use super::super::object::{as_map, default_to, field_mut, items, text};

/// What only the newer form has, carried in annotations of the older one: field, annotation.
const CARRIED: [(&str, &str, &str); 3] = [
    ("spec", "metrics", "autoscaling.alpha.kubernetes.io/metrics"),
    ("spec", "behavior", "autoscaling.alpha.kubernetes.io/behavior"),
    ("status", "conditions", "autoscaling.alpha.kubernetes.io/conditions"),
];
const PERCENTAGE: &str = "targetCPUUtilizationPercentage";
const CURRENT_PERCENTAGE: &str = "currentCPUUtilizationPercentage";
const DEFAULT_PERCENTAGE: i64 = 80;

fn cpu(percentage: &Value) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": percentage});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

fn is_cpu(metric: &Value) -> bool {
    text(metric, "/resource/name") == "cpu" && text(metric, "/resource/target/type") == "Utilization"
}

/// What is filled in where nothing was said.
pub(super) fn default(object: &mut Value) {
    let spec = field_mut(object, "spec");
    default_to(spec, "minReplicas", 1);
    let metrics = spec.entry("metrics").or_insert(json!([]));
    if let Some(metrics) = metrics.as_array_mut()
        && metrics.is_empty()
    {
        metrics.push(cpu(&json!(DEFAULT_PERCENTAGE)));
    }
}

/// From `v1` to what is kept.
pub(crate) fn to_stored(object: &mut Value) {
    as_map(object).insert("apiVersion".to_owned(), Value::from("autoscaling/v2"));
    for (part, field, annotation) in CARRIED {
        let carried = object
            .pointer_mut("/metadata/annotations")
            .and_then(Value::as_object_mut)
            .and_then(|annotations| annotations.remove(annotation));
        let carried = carried.as_ref().and_then(Value::as_str);
        if let Some(value) = carried.and_then(|text| serde_json::from_str(text).ok()) {
            field_mut(object, part).insert(field.to_owned(), value);
        }
    }
    let percentage = object.get_mut("spec").and_then(Value::as_object_mut);
    if let Some(percentage) = percentage.and_then(|spec| spec.remove(PERCENTAGE)) {
        let metrics = field_mut(object, "spec").entry("metrics").or_insert(json!([]));
        if let Some(metrics) = metrics.as_array_mut() {
            metrics.insert(0, cpu(&percentage));
        }
    }
    let current = object.get_mut("status").and_then(Value::as_object_mut);
    if let Some(current) = current.and_then(|status| status.remove(CURRENT_PERCENTAGE)) {
        let metric = json!({"name": "cpu", "current": {"averageUtilization": current}});
        let metrics = json!([{"type": "Resource", "resource": metric}]);
        field_mut(object, "status").insert("currentMetrics".to_owned(), metrics);
    }
}

/// From what is kept to `v1`.
pub(crate) fn from_stored(object: &mut Value) {
    as_map(object).insert("apiVersion".to_owned(), Value::from("autoscaling/v1"));
    let metrics = items(object, "/spec/metrics");
    let percentage = metrics.iter().find(|metric| is_cpu(metric));
    let percentage = percentage.and_then(|metric| metric.pointer("/resource/target/averageUtilization"));
    let percentage = percentage.cloned();
    let others: Vec<Value> = metrics.iter().filter(|metric| !is_cpu(metric)).cloned().collect();
    let current = items(object, "/status/currentMetrics").iter();
    let current = current
        .filter(|metric| text(metric, "/resource/name") == "cpu")
        .find_map(|metric| metric.pointer("/resource/current/averageUtilization"))
        .cloned();
    if object.get("spec").is_some() {
        let spec = field_mut(object, "spec");
        spec.remove("metrics");
        if !others.is_empty() {
            spec.insert("metrics".to_owned(), Value::Array(others));
        }
        if let Some(percentage) = percentage {
            spec.insert(PERCENTAGE.to_owned(), percentage);
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("currentMetrics");
        if let Some(current) = current {
            status.insert(CURRENT_PERCENTAGE.to_owned(), current);
        }
    }
    for (part, field, annotation) in CARRIED {
        let value = object.get_mut(part).and_then(Value::as_object_mut);
        let value = value
            .and_then(|part| part.remove(field))
            .filter(|value| !value.is_null());
        if let Some(value) = value {
            let annotations = as_map(
                field_mut(object, "metadata")
                    .entry("annotations")
                    .or_insert(Value::Null),
            );
            annotations.insert(annotation.to_owned(), Value::from(value.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_form_shows_a_percentage_and_loses_nothing() {
        let kept = json!({
            "apiVersion": "autoscaling/v2",
            "metadata": {"name": "h"},
            "spec": {
                "maxReplicas": 3,
                "metrics": [cpu(&json!(50)), {"type": "Resource", "resource": {"name": "memory"}}],
                "behavior": {"scaleUp": {}},
            },
            "status": {"conditions": [{"type": "ScalingActive"}]},
        });
        let mut shown = kept.clone();
        from_stored(&mut shown);
        assert_eq!(shown["apiVersion"], "autoscaling/v1");
        assert_eq!(
            shown["spec"],
            json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 50})
        );
        let mut back = shown;
        to_stored(&mut back);
        as_map(
            field_mut(&mut back, "metadata")
                .entry("annotations")
                .or_insert(Value::Null),
        );
        field_mut(&mut back, "metadata").remove("annotations");
        assert_eq!(back, kept);
    }
}
