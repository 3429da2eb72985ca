//! Quantizations of whole files, which have a type for each kind of tensor.

use super::GgmlType;

macro_rules! file_types {
    ($($variant:ident = $id:literal, $base:ident;)*) => {
        /// A quantization of a whole file that can be made without an importance matrix, as llama.cpp names them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[allow(non_camel_case_types, reason = "they are called so")]
        #[allow(missing_docs, reason = "the names say all there is")]
        pub enum FileType {
            $($variant = $id,)*
        }

        impl FileType {
            /// All of them, by and large the largest first.
            pub const ALL: &'static [FileType] = &[$(FileType::$variant),*];

            /// The type of most matrices, where their rows are whole blocks of it
            /// (`llama-quant.cpp: llama_ftype_get_default_type` of llama-cpp-sys-2 0.1.161).
            pub fn base(self) -> GgmlType {
                match self {
                    $(FileType::$variant => GgmlType::$base,)*
                }
            }
        }
    };
}

file_types! {
    F32 = 0, F32;
    F16 = 1, F16;
    BF16 = 32, BF16;
    Q8_0 = 7, Q8_0;
    Q6_K = 18, Q6_K;
    Q5_1 = 9, Q5_1;
    Q5_K_M = 17, Q5_K;
    Q5_K_S = 16, Q5_K;
    Q5_0 = 8, Q5_0;
    Q4_1 = 3, Q4_1;
    Q4_K_M = 15, Q4_K;
    Q4_K_S = 14, Q4_K;
    IQ4_NL = 25, IQ4_NL;
    Q4_0 = 2, Q4_0;
    IQ4_XS = 30, IQ4_XS;
    Q3_K_L = 13, Q3_K;
    Q3_K_M = 12, Q3_K;
    Q3_K_S = 11, Q3_K;
    Q2_K = 10, Q2_K;
}

impl FileType {
    /// `general.file_type`
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Its name, such as `Q4_K_M`.
    pub fn name(self) -> &'static str {
        file_type_name(self.id()).unwrap_or("unknown")
    }

    /// The quantization called `name` in capital or small letters, or `None`.
    pub fn named(name: &str) -> Option<FileType> {
        let mut all = FileType::ALL.iter().copied();
        all.find(|ty| ty.name().eq_ignore_ascii_case(name))
    }
}

/// What llama.cpp calls a `general.file_type` (`llama.h: enum llama_ftype` of llama-cpp-sys-2 0.1.161), such
/// as `Q4_K_M`, or `None` for a number it does not know.
pub fn file_type_name(file_type: u32) -> Option<&'static str> {
    let name = match file_type {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        39 => "NVFP4",
        40 => "Q1_0",
        41 => "Q2_0",
        _ => return None,
    };
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_numbers() {
        for &ty in FileType::ALL {
            assert_eq!(ty.name(), format!("{ty:?}"));
            assert_eq!(FileType::named(&ty.name().to_lowercase()), Some(ty));
        }
        assert_eq!(FileType::Q4_K_M.id(), 15);
        assert_eq!(FileType::named("IQ2_XS"), None, "it needs an importance matrix");
        assert_eq!(FileType::named("unknown"), None);
    }

    #[test]
    fn most_matrices_get_the_type_that_the_name_begins_with() {
        for &ty in FileType::ALL {
            let base = ty.base().name().to_uppercase();
            assert!(ty.name().starts_with(&base), "{ty:?}: {base}");
        }
    }
}
