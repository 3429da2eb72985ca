//! What a machine allows at best: a layer takes at least as long as it takes to read its weights once, and at least as long as
//! its rows take at the speed at which it computes many. Both are measured on the model itself, in the same rounds: decoding a
//! token reads all weights, a dense prefill computes many rows.
//!
//! Few rows are bound by reading: there fewer rows no longer save time, which rows times layers and FLOPs do not know.

/// The peaks of a machine, for the layers of one model.
#[derive(Debug, Clone, Copy)]
pub struct Roofline {
    /// Milliseconds for the weights of a layer.
    weights_ms: f64,
    /// Milliseconds for a row in a layer.
    row_ms: f64,
}

impl Roofline {
    /// From a dense run of `n_rows` rows through `n_layer` layers. `layer_share` is the share of the layers in the bytes that a
    /// token reads; the rest is the output head.
    pub fn of(
        (prefill_ms, n_rows): (f64, usize),
        decode_ms_per_token: f64,
        n_layer: usize,
        layer_share: f64,
    ) -> Self {
        let n_layer = n_layer as f64;
        Self {
            weights_ms: decode_ms_per_token * layer_share / n_layer,
            row_ms: prefill_ms / n_layer / n_rows as f64,
        }
    }

    /// Milliseconds at least, for so many rows in each layer.
    pub fn ms(&self, rows: &[usize]) -> f64 {
        let of_layer = |&n_rows: &usize| self.weights_ms.max(self.row_ms * n_rows as f64);
        rows.iter().map(of_layer).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_take_as_long_as_their_weights() {
        // 100 rows take 40 ms in 4 layers; a layer's weights take 2 ms, those of 20 rows
        let roofline = Roofline::of((40.0, 100), 10.0, 4, 0.8);
        assert_eq!(roofline.ms(&[100; 4]), 40.0);
        assert_eq!(roofline.ms(&[100, 20, 10, 1]), 10.0 + 3.0 * 2.0);
    }
}
