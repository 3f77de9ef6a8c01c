//! The shape of an object's tree and how its parts merge: what all machinery is driven by.

use std::sync::Arc;

use serde_json::Value;

use crate::facts;

/// What stands at one position of a tree.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    String,
    /// base64 in JSON.
    Bytes,
    Int32,
    Int64,
    Bool,
    Double,
    Quantity,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    IntOrString,
    /// Any JSON value.
    Any,
    /// Any JSON object.
    Raw,
    List(Box<Node>),
    Map(Box<Node>),
    Struct(StructRef),
}

/// A struct of the table of facts, or one of a custom resource definition.
#[derive(Debug, Clone, PartialEq)]
pub enum StructRef {
    Builtin(u32),
    Inline(Arc<StructDef>),
}

impl StructRef {
    pub fn def(&self) -> &StructDef {
        match self {
            Self::Builtin(id) => facts::facts().struct_def(*id),
            Self::Inline(def) => def,
        }
    }
}

/// How writers share a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListType {
    /// One writer owns the whole list.
    #[default]
    Atomic,
    /// Each scalar item has its owner.
    Set,
    /// Each item has its owner and is known by these fields.
    Map(Vec<String>),
}

/// How a strategic merge patch treats a list or map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    pub merge: bool,
    pub replace: bool,
    pub retain_keys: bool,
    pub merge_key: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub shape: Shape,
    pub list: ListType,
    /// A map or struct that one writer owns as a whole.
    pub atomic: bool,
    /// A map or struct that stays granular although its type says atomic.
    pub granular: bool,
    pub patch: PatchStrategy,
    /// Field numbers in protobuf: one, or several when the field lies in messages that JSON writes inline. Empty when
    /// not known.
    pub tag: Vec<u32>,
    pub nullable: bool,
    pub default: Option<Value>,
    /// What a custom resource definition asks beyond the shape.
    pub rules: Option<Arc<Rules>>,
}

impl Node {
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            list: ListType::Atomic,
            atomic: false,
            granular: false,
            patch: PatchStrategy::default(),
            tag: Vec::new(),
            nullable: false,
            default: None,
            rules: None,
        }
    }

    /// The struct that stands here, if one does.
    pub fn struct_def(&self) -> Option<&StructDef> {
        match &self.shape {
            Shape::Struct(reference) => Some(reference.def()),
            _ => None,
        }
    }

    /// One writer owns the map or struct here as a whole.
    pub fn is_atomic(&self) -> bool {
        self.atomic || (!self.granular && self.struct_def().is_some_and(|def| def.atomic))
    }

    /// The node at a field or map key below this one.
    pub fn child(&self, name: &str) -> Option<&Node> {
        match &self.shape {
            Shape::Struct(reference) => {
                let def = reference.def();
                def.field(name).map(|field| &field.node).or(def.additional.as_deref())
            }
            Shape::Map(node) => Some(node),
            _ => None,
        }
    }

    pub fn item(&self) -> Option<&Node> {
        match &self.shape {
            Shape::List(node) => Some(node),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct StructDef {
    /// Short name for a built-in type (see `facts`), empty for a custom one.
    pub name: String,
    pub atomic: bool,
    /// `group/version/kind` if this is the type of a kind.
    pub gvk: Option<String>,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// Unknown fields are kept.
    pub open: bool,
    /// What unknown fields are judged by, where a custom resource definition says so.
    pub additional: Option<Box<Node>>,
}

impl StructDef {
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|field| field.name.as_str().cmp(name)).ok().map(|at| &self.fields[at])
    }

    /// The type's name without package: `Pod`.
    pub fn go_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }

    /// The type's name with the last parts of its package, as Go's errors write it: `v1.Pod`.
    pub fn go_type(&self) -> String {
        let mut parts = self.name.rsplit('.');
        match (parts.next(), parts.next()) {
            (Some(name), Some(package)) => format!("{package}.{name}"),
            _ => self.name.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub required: bool,
    pub node: Node,
}

/// Value rules of a custom resource definition (OpenAPI v3 schema, the structural subset).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// `integer` and `number` keep JSON's distinction, which [`Shape`] does not carry for custom resources.
    pub type_name: String,
    pub format: String,
    pub enumeration: Vec<Value>,
    pub pattern: Option<String>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub exclusive_minimum: bool,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub length_min: Option<u64>,
    pub length_max: Option<u64>,
    pub items_min: Option<u64>,
    pub items_max: Option<u64>,
    pub properties_min: Option<u64>,
    pub properties_max: Option<u64>,
    pub unique_items: bool,
    /// `x-kubernetes-embedded-resource`.
    pub embedded: bool,
    pub description: String,
    /// Junctors and everything else, kept for publishing.
    pub all_of: Vec<Value>,
    pub any_of: Vec<Value>,
    pub one_of: Vec<Value>,
    pub not: Option<Value>,
    /// `x-kubernetes-validations`, compiled.
    pub expressions: Vec<crate::crd::Expression>,
}
