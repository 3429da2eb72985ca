//! Metadata values of a GGUF.

macro_rules! value_types {
    ($($variant:ident($rust:ty) = $id:literal, $name:literal;)*) => {
        /// A metadata value.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Value {
            $(
                #[doc = concat!("A value of GGUF type `", $name, "`.")]
                $variant($rust),
            )*
            /// An array of one type.
            Array(Array),
        }

        /// An array of metadata values, all of one type.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Array {
            $(
                #[doc = concat!("Elements of GGUF type `", $name, "`.")]
                $variant(Vec<$rust>),
            )*
        }

        impl Value {
            /// The name of the value's type in the GGUF specification, lower case.
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Value::$variant(_) => $name,)*
                    Value::Array(_) => "array",
                }
            }

            /// The number by which a GGUF names the value's type.
            pub(super) fn type_id(&self) -> u32 {
                match self {
                    $(Value::$variant(_) => $id,)*
                    Value::Array(_) => ARRAY_ID,
                }
            }
        }

        impl Array {
            /// The number of elements.
            pub fn len(&self) -> usize {
                match self {
                    $(Array::$variant(elements) => elements.len(),)*
                }
            }

            /// The name of the elements' type in the GGUF specification, lower case.
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Array::$variant(_) => $name,)*
                }
            }

            /// The number by which a GGUF names the elements' type.
            pub(super) fn type_id(&self) -> u32 {
                match self {
                    $(Array::$variant(_) => $id,)*
                }
            }
        }

        $(
            impl From<$rust> for Value {
                fn from(value: $rust) -> Value {
                    Value::$variant(value)
                }
            }

            impl From<Vec<$rust>> for Value {
                fn from(elements: Vec<$rust>) -> Value {
                    Value::Array(Array::$variant(elements))
                }
            }
        )*
    };
}

/// The number by which a GGUF names arrays.
pub(super) const ARRAY_ID: u32 = 9;

value_types! {
    U8(u8) = 0, "uint8";
    I8(i8) = 1, "int8";
    U16(u16) = 2, "uint16";
    I16(i16) = 3, "int16";
    U32(u32) = 4, "uint32";
    I32(i32) = 5, "int32";
    F32(f32) = 6, "float32";
    Bool(bool) = 7, "bool";
    String(String) = 8, "string";
    U64(u64) = 10, "uint64";
    I64(i64) = 11, "int64";
    F64(f64) = 12, "float64";
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

impl Value {
    /// The value of any integer type, widened.
    pub fn as_integer(&self) -> Option<i128> {
        let value = match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        };
        Some(value)
    }

    /// The value of either float type, as F64.
    pub fn as_float(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => None,
        }
    }
}

impl Array {
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements of an array of any integer type, widened.
    pub fn as_integers(&self) -> Option<Vec<i128>> {
        fn widen<T: Copy + Into<i128>>(elements: &[T]) -> Option<Vec<i128>> {
            Some(elements.iter().map(|&e| e.into()).collect())
        }
        match self {
            Array::U8(e) => widen(e),
            Array::I8(e) => widen(e),
            Array::U16(e) => widen(e),
            Array::I16(e) => widen(e),
            Array::U32(e) => widen(e),
            Array::I32(e) => widen(e),
            Array::U64(e) => widen(e),
            Array::I64(e) => widen(e),
            _ => None,
        }
    }
}
