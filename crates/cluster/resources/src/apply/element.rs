//! One step of a field path, and its text forms.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

/// One step of a field path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// `f:name`
    Field(String),
    /// `k:{"name":"x"}`: the item of a list that has these fields, sorted by field.
    Key(Vec<(String, Value)>),
    /// `v:"x"`: the item of a set with this value.
    Item(Value),
    /// `i:0`
    Index(usize),
}

impl Element {
    pub fn field(name: impl Into<String>) -> Self {
        Self::Field(name.into())
    }

    /// The form in FieldsV1.
    pub fn serialized(&self) -> String {
        match self {
            Self::Field(name) => Self::serialized_field(name),
            Self::Key(fields) => {
                let mut text = b"k:{".to_vec();
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        text.push(b',');
                    }
                    let written = serde_json::to_writer(&mut text, name);
                    text.push(b':');
                    written.and_then(|()| serde_json::to_writer(&mut text, value)).expect("values always encode");
                }
                text.push(b'}');
                String::from_utf8(text).expect("JSON is text")
            }
            Self::Item(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    pub(super) fn serialized_field(name: &str) -> String {
        ["f:", name].concat()
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self::Field(rest.to_owned())),
            "k" => match serde_json::from_str(rest).ok()? {
                Value::Object(map) => Some(Self::Key(map.into_iter().collect())),
                _ => None,
            },
            "v" => serde_json::from_str(rest).ok().map(Self::Item),
            "i" => rest.parse().ok().map(Self::Index),
            _ => None,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Item(_) => 2,
            Self::Index(_) => 3,
        }
    }
}

/// The form in messages: `.name`, `[name="x"]`, `[="x"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", fields.join(","))
            }
            Self::Item(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            (Self::Item(a), Self::Item(b)) => order(a, b),
            (Self::Key(a), Self::Key(b)) => {
                let pairs = a.iter().zip(b).map(|(a, b)| a.0.cmp(&b.0).then_with(|| order(&a.1, &b.1)));
                pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Some total order of values, so that they can be keys.
fn order(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.cmp(b),
        _ => a.to_string().cmp(&b.to_string()),
    }
}
