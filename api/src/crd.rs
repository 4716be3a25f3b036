//! The `CustomResourceDefinition`s as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::{Cluster, ClusterSlice, Gang, GpuModel, GpuNode, Site, SitePolicy, Supplier};

/// Every kind's definition, in the order of their names, ready to be applied.
///
/// Differs from what `crd()` of a kind returns in two ways: formats that the API server does not know (of unsigned
/// integers) are gone, since it warns about them, and no field is nullable, so that an explicit null means absent
/// before any rule sees it.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut definitions = vec![
        Cluster::crd(),
        ClusterSlice::crd(),
        Gang::crd(),
        GpuModel::crd(),
        GpuNode::crd(),
        Site::crd(),
        SitePolicy::crd(),
        Supplier::crd(),
    ];
    for definition in &mut definitions {
        for version in &mut definition.spec.versions {
            if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
                tidy(schema);
            }
        }
    }
    definitions.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    definitions
}

fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema.description.as_deref().is_some_and(|text| text.starts_with("Quantity is a fixed-point")) {
        schema.description = Some("An amount, such as \"500m\" or \"16Gi\".".to_owned());
    }
    if schema.format.as_deref().is_some_and(|format| format.starts_with("uint")) {
        schema.format = None;
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        tidy(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => tidy(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}
