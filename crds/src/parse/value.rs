//! YAML into JSON values, within a budget: aliases let a small text stand for a huge value. YAML that JSON cannot
//! say (tags, field names that are no text, NaN) is refused, as in a cluster. The YAML reader adds path, line and
//! column to the messages.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::MAX_EXPANDED_BYTES;
use crate::text::excerpt;

/// Reads one value; all values of a file share the budget, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Bounded<'a> {
    /// What may still be read.
    pub budget: &'a Cell<usize>,
}

impl Bounded<'_> {
    fn charge<E: de::Error>(self, bytes: usize) -> Result<(), E> {
        match self.budget.get().checked_sub(bytes.saturating_add(1)) {
            Some(rest) => {
                self.budget.set(rest);
                Ok(())
            }
            None => Err(E::custom(format!(
                "the file has more than {MAX_EXPANDED_BYTES} bytes with its aliases expanded: use fewer aliases"
            ))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fields, a list, a text, a number, true or false")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.charge(0)?;
        Ok(Value::Null)
    }

    // An empty document.
    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.charge(0)?;
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.charge(0)?;
        Ok(value.into())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.charge(0)?;
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.charge(0)?;
        let number = Number::from_f64(value).map(Value::Number);
        number.ok_or_else(|| E::custom(format!("{value} is not a finite number")))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.charge(text.len())?;
        Ok(Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.charge(0)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        self.charge(0)?;
        let mut object = Map::new();
        while let Some(name) = fields.next_key_seed(FieldName(self))? {
            if object.contains_key(&name) {
                return Err(de::Error::custom(format!(
                    "the field `{}` is written twice",
                    excerpt(&name)
                )));
            }
            let value = fields.next_value_seed(self)?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }

    // The YAML reader shows a tagged value as an enum.
    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value, A::Error> {
        Err(de::Error::custom(
            "a YAML tag (`!name`) has no meaning here: remove it",
        ))
    }
}

/// The name of a field. Only a text will do: `1: x` and `true: x` would be other names in a cluster.
struct FieldName<'a>(Bounded<'a>);

impl<'de> DeserializeSeed<'de> for FieldName<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for FieldName<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name in quotes")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<String, E> {
        self.0.charge(name.len())?;
        Ok(name.to_owned())
    }
}
