//! Tensors and where their elements come from.

use std::collections::HashMap;
use std::path::Path;

use visipruner::gguf::{GgmlType, GgufWriter};

use super::super::rng::Rng;

/// Where a tensor's elements come from.
#[derive(Debug, Clone)]
pub struct Init {
    mean: f64,
    std: f64,
    zero_rows: Vec<usize>,
}

impl Init {
    pub fn normal(std: f64) -> Init {
        Init {
            mean: 0.0,
            std,
            zero_rows: Vec::new(),
        }
    }
}

/// A file that is about to be written.
pub struct Plan {
    seed: u64,
    ty: GgmlType,
    pub writer: GgufWriter,
    inits: HashMap<String, Init>,
}

impl Plan {
    pub fn new(seed: u64, ty: GgmlType) -> Plan {
        Plan {
            seed,
            ty,
            writer: GgufWriter::new(),
            inits: HashMap::new(),
        }
    }

    pub fn tensor(&mut self, name: impl Into<String>, dims: &[usize], ty: GgmlType, init: Init) {
        let name = name.into();
        self.writer.tensor(&name, dims, ty);
        self.inits.insert(name, init);
    }

    pub fn vector(&mut self, name: impl Into<String>, n: usize, mean: f64, std: f64) {
        self.tensor(
            name,
            &[n],
            GgmlType::F32,
            Init {
                mean,
                std,
                zero_rows: Vec::new(),
            },
        );
    }

    pub fn matrix(
        &mut self,
        name: impl Into<String>,
        n_in: usize,
        n_out: usize,
        std: f64,
        zero_rows: &[usize],
    ) {
        let init = Init {
            zero_rows: zero_rows.to_vec(),
            ..Init::normal(std)
        };
        self.tensor(name, &[n_in, n_out], self.ty, init);
    }

    pub fn layer_norm(&mut self, name: &str, n: usize) {
        self.vector(format!("{name}.weight"), n, 1.0, 0.1);
        self.vector(format!("{name}.bias"), n, 0.0, 0.1);
    }

    pub fn linear(&mut self, name: &str, n_in: usize, n_out: usize) {
        let std = 1.0 / (n_in as f64).sqrt();
        self.matrix(format!("{name}.weight"), n_in, n_out, std, &[]);
        self.vector(format!("{name}.bias"), n_out, 0.0, 0.1);
    }

    pub fn write(self, path: &Path) {
        let written = self.writer.write_file(path, |tensor| {
            let init = &self.inits[&tensor.name];
            let mut rng = Rng::named(self.seed, &tensor.name);
            let mut values: Vec<f32> = (0..tensor.n_elements())
                .map(|_| (init.mean + init.std * rng.normal()) as f32)
                .collect();
            for row in &init.zero_rows {
                values[row * tensor.dims[0]..][..tensor.dims[0]].fill(0.0);
            }
            values
        });
        written.expect("a random model can be written");
    }
}

pub fn file_type(ty: GgmlType) -> u32 {
    match ty {
        GgmlType::F32 => 0,
        GgmlType::F16 => 1,
        GgmlType::Q8_0 => 7,
        other => panic!(
            "random models are written as F32, F16 or Q8_0, not {}",
            other.name()
        ),
    }
}
