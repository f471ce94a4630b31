//! Rules of CustomResourceDefinitions (`x-kubernetes-validations`): compiled when the definition is written, evaluated
//! when an object is.
//!
//! A rule that can't be evaluated here rejects the definition: a rule that never fires would be worse than none.

mod format;
mod network;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cel::objects::{Key, Map};
use cel::{Context, Env, Program, Value as Cel, extensions};
use serde_json::Value;

use super::schema::Shape;
use super::status::Cause;

/// Functions beyond those of the language and its extensions that a rule may call.
const OWN_FUNCTIONS: &[&str] = &["isURL"];

/// Why a rule can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RuleError {
    #[error("compilation failed: {0}")]
    Syntax(String),
    #[error("undeclared reference to '{0}'")]
    Unknown(String),
}

/// All rules of a schema, by their text.
pub(crate) struct Rules {
    env: Arc<Env>,
    programs: BTreeMap<String, Program>,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.programs.keys()).finish()
    }
}

impl Rules {
    /// Compiles the rules in `schema`; each failure comes with the path of its node.
    ///
    /// # Errors
    /// The rules that can't be evaluated.
    pub(crate) fn compile(schema: &Value) -> Result<Self, Vec<(String, RuleError)>> {
        let mut env = Env::stdlib();
        // Registering an extension twice is the only failure there is.
        drop(env.add_extension(extensions::strings));
        drop(env.add_extension(extensions::lists));
        let mut rules = Self {
            env: Arc::new(env),
            programs: BTreeMap::new(),
        };
        let mut failed = Vec::new();
        rules.add(schema, "", &mut failed);
        if failed.is_empty() { Ok(rules) } else { Err(failed) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.programs.is_empty()
    }

    fn add(&mut self, node: &Value, path: &str, failed: &mut Vec<(String, RuleError)>) {
        for (index, rule) in rules_of(node).enumerate() {
            for key in ["rule", "messageExpression"] {
                let Some(text) = rule.get(key).and_then(Value::as_str) else {
                    continue;
                };
                match self.program(text) {
                    Ok(program) => {
                        self.programs.insert(text.to_owned(), program);
                    }
                    Err(error) => failed.push((format!("{path}.x-kubernetes-validations[{index}].{key}"), error)),
                }
            }
        }
        if let Some(properties) = node.get("properties").and_then(Value::as_object) {
            for (name, child) in properties {
                self.add(child, &format!("{path}.properties[{name}]"), failed);
            }
        }
        for key in ["items", "additionalProperties"] {
            if let Some(child) = node.get(key) {
                self.add(child, &format!("{path}.{key}"), failed);
            }
        }
    }

    fn program(&self, text: &str) -> Result<Program, RuleError> {
        let program = self
            .env
            .compile(text)
            .map_err(|error| RuleError::Syntax(error.to_string()))?;
        let references = program.references();
        let unknown = references
            .functions()
            .into_iter()
            .find(|function| !self.knows(function))
            .or_else(|| {
                let known = ["self", "oldSelf", format::NAMESPACE];
                let variables = references.variables().into_iter();
                // Variables of macros are among them; they have no way to leave their macro.
                variables
                    .filter(|name| !known.contains(name) && !text.contains(&format!("({name},")))
                    .find(|name| !self.is_type(name))
            })
            .map(str::to_owned);
        match unknown {
            Some(name) => Err(RuleError::Unknown(name)),
            None => Ok(program),
        }
    }

    fn is_type(&self, name: &str) -> bool {
        name.starts_with('@')
            || [
                "int",
                "uint",
                "double",
                "bool",
                "string",
                "bytes",
                "list",
                "map",
                "null_type",
                "type",
                "optional",
                "math",
                "strings",
            ]
            .contains(&name)
    }

    fn knows(&self, function: &str) -> bool {
        // Operators are functions with names that no one can write.
        let operator = function.contains('_') || function.starts_with('@') || function.starts_with('!');
        operator
            || OWN_FUNCTIONS.contains(&function)
            || network::FUNCTIONS.contains(&function)
            || format::FUNCTIONS.contains(&function)
            || STANDARD.contains(&function)
    }

    /// Evaluates every rule below `shape` on `value`; `old` is what was there before.
    pub(crate) fn check(
        &self,
        shape: Shape<'_>,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        causes: &mut Vec<Cause>,
    ) {
        let Some(node) = shape.outer() else {
            return;
        };
        for rule in rules_of(node) {
            if let Some(cause) = self.check_rule(rule, value, old, path) {
                causes.push(cause);
            }
        }
        match value {
            Value::Object(map) => {
                for (name, child) in map {
                    if let Some(inner) = shape.known_field(name) {
                        let old = old.and_then(|old| old.get(name));
                        self.check(inner, child, old, &join(path, name), causes);
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    // Items of an atomic list have no identity, so nothing to compare with.
                    self.check(shape.items(), item, None, &format!("{path}[{index}]"), causes);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn check_rule(&self, rule: &Value, value: &Value, old: Option<&Value>, path: &str) -> Option<Cause> {
        let text = rule.get("rule")?.as_str()?;
        let program = self.programs.get(text)?;
        let compares = program.references().has_variable("oldSelf");
        if compares && old.is_none() {
            return None;
        }
        let context = self.context(value, old);
        let why = match program.execute(&context) {
            Ok(Cel::Bool(true)) => return None,
            Ok(Cel::Bool(false)) => self.message(rule, text, &context),
            Ok(other) => format!("rule {text}: evaluates to {other:?} instead of a bool"),
            Err(error) => format!("rule evaluation error: {error}"),
        };
        let field = match rule.get("fieldPath").and_then(Value::as_str) {
            Some(below) => format!("{path}{below}").trim_start_matches('.').to_owned(),
            None if path.is_empty() => "<nil>".to_owned(),
            None => path.to_owned(),
        };
        Some(match rule.get("reason").and_then(Value::as_str) {
            Some("FieldValueForbidden") => Cause::forbidden(field, &why),
            Some("FieldValueRequired") => Cause::required(field, &why),
            Some("FieldValueDuplicate") => Cause::duplicate(field, value),
            _ => Cause::rule(field, &why),
        })
    }

    fn message(&self, rule: &Value, text: &str, context: &Context<'_, '_>) -> String {
        let computed = rule
            .get("messageExpression")
            .and_then(Value::as_str)
            .and_then(|expression| self.programs.get(expression))
            .and_then(|program| program.execute(context).ok());
        if let Some(Cel::String(message)) = computed {
            return message.to_string();
        }
        match rule.get("message").and_then(Value::as_str) {
            Some(message) => message.to_owned(),
            None => format!("failed rule: {text}"),
        }
    }

    fn context(&self, value: &Value, old: Option<&Value>) -> Context<'static, 'static> {
        let mut context = Context::with_env(Arc::clone(&self.env));
        context.add_variable_from_value("self", to_cel(value));
        if let Some(old) = old {
            context.add_variable_from_value("oldSelf", to_cel(old));
        }
        network::add(&mut context);
        format::add(&mut context);
        drop(context.add_function("isURL", |text: Arc<String>| is_url(&text)));
        context
    }
}

#[rustfmt::skip]
const STANDARD: &[&str] = &[
    // The language.
    "size", "contains", "startsWith", "endsWith", "matches", "has", "all", "exists", "exists_one", "map", "filter",
    "int", "uint", "double", "string", "bytes", "bool", "dyn", "type", "duration", "timestamp", "min", "max",
    "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours", "getMinutes",
    "getSeconds", "getMilliseconds", "hasValue", "value", "orValue", "or", "optMap", "optFlatMap", "optional.of",
    "optional.none", "of", "none", "ofNonZeroValue", "optional.ofNonZeroValue",
    // Its extensions for strings and lists.
    "charAt", "indexOf", "lastIndexOf", "join", "lowerAscii", "upperAscii", "trim", "replace", "split", "substring",
    "format", "quote", "reverse", "distinct", "flatten", "slice", "sort", "lists.range",
];

fn rules_of(node: &Value) -> impl Iterator<Item = &Value> {
    node.get("x-kubernetes-validations")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// `a.b`, or `b` at the top.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn to_cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(is) => Cel::Bool(*is),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Cel::Int(whole),
            (None, Some(real)) => Cel::Float(real),
            (None, None) => Cel::Null,
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(map) => {
            let map: HashMap<Key, Cel> = map
                .iter()
                .map(|(key, value)| (Key::from(key.as_str()), to_cel(value)))
                .collect();
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}

fn is_url(text: &str) -> bool {
    text.parse::<hyper::Uri>()
        .is_ok_and(|uri| uri.scheme().is_some() && uri.authority().is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::schema::Definitions;
    use super::*;

    fn check(rule: &str, value: &Value, old: Option<&Value>) -> Vec<Cause> {
        let schema = json!({"type": "object", "x-kubernetes-validations": [{"rule": rule, "message": "no"}]});
        let rules = Rules::compile(&schema).unwrap();
        let definitions = Definitions::builtin();
        let mut causes = Vec::new();
        rules.check(Shape::at(&definitions, &schema), value, old, "spec", &mut causes);
        causes
    }

    #[test]
    fn rules_see_the_object_and_what_it_was() {
        assert!(check("self.port != 666", &json!({"port": 80}), None).is_empty());
        assert_eq!(check("self.port != 666", &json!({"port": 666}), None).len(), 1);
        let same = "self.name == oldSelf.name";
        assert!(check(same, &json!({"name": "a"}), None).is_empty());
        assert_eq!(check(same, &json!({"name": "a"}), Some(&json!({"name": "b"}))).len(), 1);
        assert!(check("!has(self.x) || self.x.all(y, y > 1)", &json!({}), None).is_empty());
        assert_eq!(
            check("self.x.all(y, isIP(y))", &json!({"x": ["::1", "z"]}), None).len(),
            1
        );
        let global = "!isIP(self) || ip(self).isGlobalUnicast()";
        assert!(check(global, &json!("10.0.0.1"), None).is_empty());
        assert_eq!(check(global, &json!("127.0.0.1"), None).len(), 1);
        assert!(check("cidr('10.0.0.0/8').containsIP(self)", &json!("10.1.2.3"), None).is_empty());
        assert_eq!(check("ip(self).family() == 6", &json!("10.1.2.3"), None).len(), 1);
        assert!(check("duration(self) >= duration('1s')", &json!("1500ms"), None).is_empty());
        // Nothing is not null: a rule that takes it for null never holds, here as on a real server.
        for (rule, text, holds) in [
            ("!format.dns1123Label().validate(self).hasValue()", "web", true),
            ("!format.dns1123Label().validate(self).hasValue()", "Web!", false),
            (
                "size(self) == 0 || format.dns1123Label().validate(self) == null",
                "",
                true,
            ),
            (
                "size(self) == 0 || format.dns1123Label().validate(self) == null",
                "web",
                false,
            ),
            ("!format.named('uuid').value().validate(self).hasValue()", "web", false),
        ] {
            assert_eq!(check(rule, &json!(text), None).is_empty(), holds, "{rule} of {text:?}");
        }
        assert_eq!(check("self.size() <= 1", &json!({"a": 1, "b": 2}), None).len(), 1);
    }

    #[test]
    fn a_rule_that_can_not_be_evaluated_is_refused() {
        for rule in ["self.port !=", "frobnicate(self)", "other.port == 1"] {
            let schema = json!({"type": "object", "x-kubernetes-validations": [{"rule": rule}]});
            assert!(Rules::compile(&schema).is_err(), "{rule}");
        }
    }
}
