//! The definitions' rules without an API server: bounds of the schema by a small checker, CEL by kube's evaluator.
//! `real_apiserver.rs` puts the same cases to a real one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeSet, HashMap};

use common::{BAD, Base, UPDATES, catalogue, documents, examples, placed_status};
use kube::core::cel::Validator;
use regex::Regex;
use serde_json::{Map, Value};

/// Schemas by kind.
struct Schemas(HashMap<String, Value>);

impl Schemas {
    fn new() -> Self {
        let schemas = atoll_api::crd::all().into_iter().map(|definition| {
            let schema = definition.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
            (definition.spec.names.kind, serde_json::to_value(schema).unwrap())
        });
        Self(schemas.collect())
    }

    /// Everything that is wrong, as the API server does it: rules only when the schema has nothing to say.
    fn errors(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let schema = &self.0[object["kind"].as_str().unwrap()];
        let mut errors = Vec::new();
        for part in ["spec", "status"] {
            if let Some(value) = object.get(part) {
                check(&schema["properties"][part], value, part, &mut errors);
            }
        }
        if !errors.is_empty() {
            return errors;
        }
        match Validator::new().validate(schema, object, old) {
            Ok(()) => errors,
            Err(found) => {
                found.into_vec().into_iter().map(|error| format!("{}: {}", error.field_path, error.message)).collect()
            }
        }
    }
}

/// Bounds of a structural schema.
fn check(schema: &Value, value: &Value, path: &str, errors: &mut Vec<String>) {
    let mut wrong = |text: String| errors.push(format!("{path}: {text}"));
    if !type_fits(schema, value) {
        return wrong(format!("not of type {}", schema["type"]));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        wrong(format!("not one of {allowed:?}"));
    }
    if let Some(number) = value.as_f64() {
        if schema["minimum"].as_f64().is_some_and(|least| number < least) {
            wrong("too low".to_owned());
        }
        if schema["maximum"].as_f64().is_some_and(|most| number > most) {
            wrong("too high".to_owned());
        }
    }
    if let Some(text) = value.as_str() {
        let length = text.chars().count() as u64;
        if schema["minLength"].as_u64().is_some_and(|least| length < least)
            || schema["maxLength"].as_u64().is_some_and(|most| length > most)
        {
            wrong(format!("{length} characters"));
        }
        if schema["pattern"].as_str().is_some_and(|pattern| !Regex::new(pattern).unwrap().is_match(text)) {
            wrong(format!("does not match {}", schema["pattern"]));
        }
    }
    match value {
        Value::Array(items) => check_list(schema, items, path, errors),
        Value::Object(map) => check_object(schema, map, path, errors),
        _ => {}
    }
}

fn type_fits(schema: &Value, value: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_i64() || value.is_string();
    }
    match schema["type"].as_str() {
        Some("integer") => value.is_i64(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    }
}

fn check_list(schema: &Value, items: &[Value], path: &str, errors: &mut Vec<String>) {
    let count = items.len() as u64;
    if schema["minItems"].as_u64().is_some_and(|least| count < least)
        || schema["maxItems"].as_u64().is_some_and(|most| count > most)
    {
        errors.push(format!("{path}: {count} items"));
    }
    let key = |item: &Value| match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => Some(item.to_string()),
        Some("map") => Some(item[schema["x-kubernetes-list-map-keys"][0].as_str().unwrap()].to_string()),
        _ => None,
    };
    let mut seen = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if key(item).is_some_and(|key| !seen.insert(key)) {
            errors.push(format!("{path}: duplicate"));
        }
        check(&schema["items"], item, &path, errors);
    }
}

fn check_object(schema: &Value, map: &Map<String, Value>, path: &str, errors: &mut Vec<String>) {
    if schema["maxProperties"].as_u64().is_some_and(|most| map.len() as u64 > most) {
        errors.push(format!("{path}: too many entries"));
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !map.contains_key(name) {
            errors.push(format!("{path}.{name}: required"));
        }
    }
    for (name, value) in map {
        let path = format!("{path}.{name}");
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            (Some(schema), _) | (None, Some(schema)) => check(schema, value, &path, errors),
            (None, None) => errors.push(format!("{path}: unknown field")),
        }
    }
}

#[test]
fn what_is_right_is_taken() {
    let schemas = Schemas::new();
    for base in Base::ALL {
        assert_eq!(schemas.errors(&base.object(), None), Vec::<String>::new(), "{base:?}");
    }
}

#[test]
fn what_can_never_be_right_is_refused_by_name_of_the_field() {
    let schemas = Schemas::new();
    let mut missed = Vec::new();
    for case in BAD {
        let errors = schemas.errors(&case.base.with(case.edits), None);
        if errors.is_empty() || !errors.iter().all(|error| error.contains(case.names)) {
            missed.push(format!("{}: expected {} in {errors:?}", case.what, case.names));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn no_case_is_there_twice() {
    let names: BTreeSet<_> = BAD.iter().map(|case| case.what).chain(UPDATES.iter().map(|case| case.what)).collect();
    assert_eq!(names.len(), BAD.len() + UPDATES.len());
}

#[test]
fn a_placed_cluster_changes_only_where_it_may() {
    let schemas = Schemas::new();
    let mut missed = Vec::new();
    for case in UPDATES {
        let mut old = case.base.with(case.before);
        if case.placed {
            old["status"] = placed_status();
        }
        let mut new = old.clone();
        common::apply(&mut new, case.edits);
        let errors = schemas.errors(&new, Some(&old));
        let fits = match case.refused {
            None => errors.is_empty(),
            Some(field) => !errors.is_empty() && errors.iter().all(|error| error.contains(field)),
        };
        if !fits {
            missed.push(format!("{}: {errors:?}", case.what));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn every_example_and_every_model_of_the_catalogue_is_right() {
    let schemas = Schemas::new();
    let mut objects = catalogue();
    objects.extend(examples().iter().flat_map(|path| documents(path)));
    for object in objects.iter().filter(|object| object["apiVersion"] == "atoll.dev/v1alpha1") {
        let name = &object["metadata"]["name"];
        assert_eq!(schemas.errors(object, None), Vec::<String>::new(), "{} {name}", object["kind"]);
    }
}

#[test]
fn definitions_are_small_and_say_what_each_field_is() {
    for definition in atoll_api::crd::all() {
        let kind = definition.spec.names.kind.clone();
        let text = serde_json::to_string(&definition).unwrap();
        assert!(text.len() < 200 * 1024, "{kind}: {} bytes", text.len());
        assert!(!text.contains("\"uint"), "{kind} has a format that the API server does not know");
        assert!(!text.contains("nullable"), "{kind} keeps explicit nulls");
        let schema = definition.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
        for (part, schema) in schema.properties.unwrap() {
            for (name, field) in schema.properties.unwrap_or_default() {
                assert!(field.description.is_some(), "{kind}.{part}.{name} has no description");
            }
        }
    }
}
