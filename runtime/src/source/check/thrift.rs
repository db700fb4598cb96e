//! Walks Thrift's compact protocol, in which Parquet describes itself. The decoder makes room for a list as long as its
//! first byte says; here every length is held against the bytes that are there.

/// Deepest nesting of structs and lists that is followed.
const MAX_DEPTH: u32 = 64;

/// Why bytes are no Thrift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ThriftError {
    /// They end too early, or a length in them goes beyond their end.
    Short,
    /// No such type, or nested too deeply.
    Malformed,
}

type Walk<T> = Result<T, ThriftError>;

/// A type of a field or of a list's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    /// In a field the type itself is the value.
    Bool,
    Byte,
    Integer,
    Double,
    Binary,
    List,
    Map,
    Struct,
    Uuid,
}

impl Type {
    fn of(code: u8) -> Walk<Self> {
        Ok(match code {
            1 | 2 => Self::Bool,
            3 => Self::Byte,
            4..=6 => Self::Integer,
            7 => Self::Double,
            8 => Self::Binary,
            9 | 10 => Self::List,
            11 => Self::Map,
            12 => Self::Struct,
            13 => Self::Uuid,
            _ => return Err(ThriftError::Malformed),
        })
    }
}

/// A place in bytes.
pub(super) struct Compact<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Compact<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            len: bytes.len(),
        }
    }

    /// How many bytes were walked.
    pub(super) fn walked(&self) -> usize {
        self.len - self.rest.len()
    }

    /// Walks over one struct.
    pub(super) fn skip_struct(&mut self) -> Walk<()> {
        self.fields(0, &mut |_| None, &mut |_, _| {})
    }

    /// Walks over one struct; `integer` is told the integers among its fields, and those of the structs in the fields
    /// that `inner` gives a number by which they are told: `integer(field or number + inner field, value)`.
    pub(super) fn integers(
        &mut self,
        inner: &mut impl FnMut(i64) -> Option<i64>,
        integer: &mut impl FnMut(i64, i64),
    ) -> Walk<()> {
        self.fields(0, inner, integer)
    }

    fn fields(
        &mut self,
        depth: u32,
        inner: &mut dyn FnMut(i64) -> Option<i64>,
        integer: &mut dyn FnMut(i64, i64),
    ) -> Walk<()> {
        if depth > MAX_DEPTH {
            return Err(ThriftError::Malformed);
        }
        let mut field = 0_i64;
        loop {
            let head = self.byte()?;
            if head & 0x0f == 0 {
                return Ok(());
            }
            field = match i64::from(head >> 4) {
                0 => self.integer()?,
                delta => field.saturating_add(delta),
            };
            match Type::of(head & 0x0f)? {
                Type::Bool => {}
                Type::Integer => {
                    let value = self.integer()?;
                    integer(field, value);
                }
                Type::Struct => match inner(field) {
                    Some(number) => self.fields(depth + 1, &mut |_| None, &mut |field, value| {
                        integer(number.saturating_add(field), value);
                    })?,
                    None => self.fields(depth + 1, &mut |_| None, &mut |_, _| {})?,
                },
                other => self.skip(other, depth + 1)?,
            }
        }
    }

    fn skip(&mut self, of: Type, depth: u32) -> Walk<()> {
        if depth > MAX_DEPTH {
            return Err(ThriftError::Malformed);
        }
        match of {
            // As an element of a list or a map.
            Type::Bool | Type::Byte => self.take(1),
            Type::Integer => self.integer().map(|_| ()),
            Type::Double => self.take(8),
            Type::Uuid => self.take(16),
            Type::Binary => {
                let length = self.varint()?;
                self.take(length)
            }
            Type::List => {
                let head = self.byte()?;
                // How some writers say that there is none.
                if head == 0 {
                    return Ok(());
                }
                let elements = match u64::from(head >> 4) {
                    15 => self.varint()?,
                    few => few,
                };
                let of = Type::of(head & 0x0f)?;
                self.elements(elements, 1)?;
                (0..elements).try_for_each(|_| self.skip(of, depth + 1))
            }
            Type::Map => {
                let entries = self.varint()?;
                if entries == 0 {
                    return Ok(());
                }
                let types = self.byte()?;
                let (key, value) = (Type::of(types >> 4)?, Type::of(types & 0x0f)?);
                self.elements(entries, 2)?;
                (0..entries).try_for_each(|_| {
                    self.skip(key, depth + 1)?;
                    self.skip(value, depth + 1)
                })
            }
            Type::Struct => self.fields(depth + 1, &mut |_| None, &mut |_, _| {}),
        }
    }

    /// Each element has at least `least` bytes.
    fn elements(&self, count: u64, least: u64) -> Walk<()> {
        let there = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        if count.saturating_mul(least) <= there {
            Ok(())
        } else {
            Err(ThriftError::Short)
        }
    }

    fn byte(&mut self) -> Walk<u8> {
        let (first, rest) = self.rest.split_first().ok_or(ThriftError::Short)?;
        self.rest = rest;
        Ok(*first)
    }

    fn take(&mut self, count: u64) -> Walk<()> {
        let count = usize::try_from(count).map_err(|_| ThriftError::Short)?;
        self.rest = self.rest.get(count..).ok_or(ThriftError::Short)?;
        Ok(())
    }

    fn varint(&mut self) -> Walk<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ThriftError::Malformed)
    }

    fn integer(&mut self) -> Walk<i64> {
        let folded = self.varint()?;
        let half = i64::try_from(folded >> 1).unwrap_or(i64::MAX);
        Ok(if folded & 1 == 0 { half } else { !half })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_struct_is_walked_to_its_end() {
        // 1: i32 -2, 2: true, 5: "ab", 6: list of 2 i32, 7: struct {1: i32 3}, 9: map {1: 2}, stop; then another byte.
        let bytes = [
            0x15, 0x03, 0x11, 0x38, 2, b'a', b'b', 0x19, 0x25, 2, 4, 0x1c, 0x15, 6, 0, 0x2b, 1, 0x55, 2, 4,
            0, 9,
        ];
        let mut walk = Compact::new(&bytes);
        let mut seen = Vec::new();
        let mut inner = |field| (field == 7).then_some(100);
        walk.integers(&mut inner, &mut |field, value| seen.push((field, value)))
            .unwrap();
        assert_eq!(walk.walked(), bytes.len() - 1);
        assert_eq!(seen, [(1, -2), (101, 3)]);
        for end in 0..bytes.len() - 1 {
            assert_eq!(
                Compact::new(&bytes[..end]).skip_struct(),
                Err(ThriftError::Short),
                "{end}"
            );
        }
    }

    #[test]
    fn lengths_beyond_the_end_are_found_before_anything_is_made() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0x07];
        for head in [&[0x18][..], &[0x19, 0xfc], &[0x19, 0xf5], &[0x1b]] {
            let bytes = [head, &huge[..], &[0x11; 40][..]].concat();
            assert_eq!(
                Compact::new(&bytes).skip_struct(),
                Err(ThriftError::Short),
                "{head:?}"
            );
        }
        assert_eq!(Compact::new(&[0x1e]).skip_struct(), Err(ThriftError::Malformed));
        assert_eq!(
            Compact::new(&[0x1c; 200]).skip_struct(),
            Err(ThriftError::Malformed),
            "too deep"
        );
        assert_eq!(
            Compact::new(&[0x18, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]).skip_struct(),
            Err(ThriftError::Malformed),
            "a number of more than 64 bits"
        );
    }
}
