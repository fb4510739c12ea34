//! Checks limits of JSON from outside before it becomes a tree: a few bytes of text may take hundreds in memory.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// Limits of a JSON text.
#[derive(Clone, Copy, Debug)]
pub struct JsonLimits {
    /// Most values, counted by the commas and opening brackets outside strings.
    pub values: usize,
    /// Most objects. Each becomes a map or a structure and takes hundreds of bytes.
    pub objects: usize,
}

/// Deepest nesting of lists and objects. `serde_json` has the same limit.
const MAX_DEPTH: usize = 128;

/// A JSON text exceeds a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonLimitError {
    /// The text has more than this number of values.
    #[error("it has more than {0} values")]
    Values(usize),
    /// The text has more than this number of objects.
    #[error("it has more than {0} objects")]
    Objects(usize),
    /// Lists and objects are nested too deeply.
    #[error("it has more than {MAX_DEPTH} lists and objects in each other")]
    Depth,
}

impl JsonLimits {
    /// Checks the limits in one pass, without building values. A text that is not JSON may pass, because its parser
    /// refuses it.
    ///
    /// # Errors
    /// The first limit that is exceeded.
    pub fn check(self, text: &[u8]) -> Result<(), JsonLimitError> {
        let (mut values, mut objects, mut depth) = (0_usize, 0_usize, 0_usize);
        let (mut in_string, mut escaped) = (false, false);
        for byte in text {
            if in_string {
                in_string = escaped || *byte != b'"';
                escaped = !escaped && *byte == b'\\';
                continue;
            }
            match byte {
                b'"' => in_string = true,
                b'[' | b'{' => {
                    depth += 1;
                    values += 1;
                    objects += usize::from(*byte == b'{');
                }
                b']' | b'}' => depth = depth.saturating_sub(1),
                b',' => values += 1,
                _ => continue,
            }
            if depth > MAX_DEPTH {
                return Err(JsonLimitError::Depth);
            }
            if values > self.values {
                return Err(JsonLimitError::Values(self.values));
            }
            if objects > self.objects {
                return Err(JsonLimitError::Objects(self.objects));
            }
        }
        Ok(())
    }
}

/// Reads a list of at most `MOST` items, for `#[serde(deserialize_with)]`. A longer list is refused at the first item
/// that is too many.
///
/// # Errors
/// The list has more items, or an item is not a `T`.
pub fn at_most<'de, D, T, const MOST: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct AtMost<T, const MOST: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for AtMost<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST} items")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = list.next_element()? {
                if items.len() == MOST {
                    return Err(A::Error::invalid_length(MOST.saturating_add(1), &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }
    deserializer.deserialize_seq(AtMost::<T, MOST>(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: JsonLimits = JsonLimits { values: 10, objects: 3 };

    #[test]
    fn what_is_within_the_limits_passes_whatever_its_strings_hold() {
        for text in
            [r#"{"a":[1,2],"b":{"c":"[[[[[[[[[[,,,,,,\"{{{{{"}}"#, "", "7", "[", r#""\\"[]"#]
        {
            assert_eq!(LIMITS.check(text.as_bytes()), Ok(()), "{text}");
        }
    }

    #[test]
    fn values_objects_and_depth_are_limited() {
        let check = |text: &str| LIMITS.check(text.as_bytes());
        assert_eq!(check("[0,0,0,0,0,0,0,0,0,0,0,0]"), Err(JsonLimitError::Values(10)));
        assert_eq!(check("[{},{},{},{}]"), Err(JsonLimitError::Objects(3)));
        let deep = JsonLimits { values: 1000, objects: 1000 };
        assert_eq!(deep.check(&[b'['; 128]), Ok(()));
        assert_eq!(deep.check(&[b'['; 129]), Err(JsonLimitError::Depth));
    }

    #[test]
    fn a_list_ends_at_its_limit() {
        #[derive(Debug, Deserialize)]
        struct Page {
            #[serde(deserialize_with = "at_most::<_, _, 3>")]
            data: Vec<u8>,
        }
        let read = |text: &str| serde_json::from_str::<Page>(text);
        assert_eq!(read(r#"{"data":[1,2,3]}"#).unwrap().data, [1, 2, 3]);
        let error = read(r#"{"data":[1,2,3,4]}"#).unwrap_err().to_string();
        assert!(error.contains("a list of at most 3 items"), "{error}");
        assert!(read(r#"{"data":{}}"#).is_err());
    }
}
