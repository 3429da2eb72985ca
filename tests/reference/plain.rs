//! A plain causal transformer, written differently: row by row through all layers, softmax in one pass over
//! the keys, RoPE as a product of complex numbers, every matrix entry looked up where it is needed.

use std::path::Path;

use visipruner::gguf::{Gguf, LlmShape};

use crate::common::reference::Input;

pub struct Plain {
    gguf: Gguf,
    shape: LlmShape,
    /// `[n_layer]`: key and value of every row so far.
    cache: Vec<Vec<KeyAndValue>>,
}

type KeyAndValue = (Vec<f64>, Vec<f64>);

impl Plain {
    pub fn load(path: &Path) -> Plain {
        let gguf = Gguf::open(path).unwrap();
        let shape = LlmShape::from_gguf(&gguf).unwrap();
        let cache = vec![Vec::new(); shape.n_layer as usize];
        Plain { gguf, shape, cache }
    }

    fn product(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let w = self.gguf.read_tensor_f32(name).unwrap();
        let n_out = w.len() / x.len();
        let mut y = vec![0.0; n_out];
        for (i, x) in x.iter().enumerate() {
            for (o, y) in y.iter_mut().enumerate() {
                *y += f64::from(w[o * (w.len() / n_out) + i]) * x;
            }
        }
        y
    }

    fn normed(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let w = self.gguf.read_tensor_f32(name).unwrap();
        let mean: f64 = x.iter().map(|x| x.powi(2)).sum::<f64>() / x.len() as f64;
        let eps = f64::from(self.gguf.f32("llama.attention.layer_norm_rms_epsilon").unwrap());
        x.iter()
            .zip(w)
            .map(|(x, w)| x / (mean + eps).sqrt() * f64::from(w))
            .collect()
    }

    fn turned(&self, x: &[f64], pos: usize) -> Vec<f64> {
        let d = self.shape.head_dim_k as usize;
        let mut y = x.to_vec();
        for i in (0..x.len()).step_by(2) {
            let turn = pos as f64 / 10_000f64.powf((i % d) as f64 / d as f64);
            let (re, im) = (turn.cos(), turn.sin());
            y[i] = x[i] * re - x[i + 1] * im;
            y[i + 1] = x[i] * im + x[i + 1] * re;
        }
        y
    }

    fn attention(&self, il: usize, q: &[f64]) -> Vec<f64> {
        let d = self.shape.head_dim_k as usize;
        let per_group = (self.shape.n_head[0] / self.shape.n_head_kv[0]) as usize;
        let mut o = vec![0.0; q.len()];
        for h in 0..q.len() / d {
            let g = h / per_group;
            let (mut max, mut sum, mut acc) = (f64::MIN, 0.0, vec![0.0; d]);
            for (k, v) in &self.cache[il] {
                let score: f64 = (0..d).map(|e| q[h * d + e] * k[g * d + e]).sum::<f64>() / (d as f64).sqrt();
                let new_max = score.max(max);
                let (shrink, weight) = ((max - new_max).exp(), (score - new_max).exp());
                max = new_max;
                sum = sum * shrink + weight;
                for e in 0..d {
                    acc[e] = acc[e] * shrink + weight * v[g * d + e];
                }
            }
            for e in 0..d {
                o[h * d + e] = acc[e] / sum;
            }
        }
        o
    }

    /// Feeds the next row, returns its logits.
    pub fn feed(&mut self, input: &Input, pos: usize) -> Vec<f64> {
        let mut x = match input {
            Input::Embedding(row) => row.clone(),
            Input::Token(token) => {
                let n = self.shape.n_embd as usize;
                let table = self.gguf.read_tensor_f32("token_embd.weight").unwrap();
                table[token * n..][..n].iter().copied().map(f64::from).collect()
            }
        };
        for il in 0..self.shape.n_layer as usize {
            let name = |suffix: &str| format!("blk.{il}.{suffix}.weight");
            let h = self.normed(&name("attn_norm"), &x);
            let q = self.turned(&self.product(&name("attn_q"), &h), pos);
            let k = self.turned(&self.product(&name("attn_k"), &h), pos);
            let v = self.product(&name("attn_v"), &h);
            self.cache[il].push((k, v));
            let a = self.product(&name("attn_output"), &self.attention(il, &q));
            x.iter_mut().zip(a).for_each(|(x, a)| *x += a);
            let h = self.normed(&name("ffn_norm"), &x);
            let gate = self.product(&name("ffn_gate"), &h);
            let up = self.product(&name("ffn_up"), &h);
            let inner: Vec<f64> = gate
                .iter()
                .zip(up)
                .map(|(g, u)| g * u * (0.5 + 0.5 * (g / 2.0).tanh()))
                .collect();
            let f = self.product(&name("ffn_down"), &inner);
            x.iter_mut().zip(f).for_each(|(x, f)| *x += f);
        }
        let h = self.normed("output_norm.weight", &x);
        let has_output = self.gguf.tensor("output.weight").is_some();
        self.product(
            if has_output {
                "output.weight"
            } else {
                "token_embd.weight"
            },
            &h,
        )
    }
}
