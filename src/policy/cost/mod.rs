//! FLOPs and KV bytes of a prefill, and of the same prefill without pruning.
//!
//! Three counts, each with its own definition; none of them is measured:
//!
//! - **paper**: the formula of the paper's tables, [`paper_layer_ops`]. Vision tokens only, multiply-adds.
//! - **model**: what runs. All rows of all layers, grouped queries, the output head for one row, and the vision
//!   encoder with its projector; 2 FLOPs per multiply-add. Masked weights are counted, because the rows run.
//! - **vision attention**: the part of attention that concerns vision, as far as the masks of the shallow stage leave
//!   it; 2 FLOPs per multiply-add. A pair of a query and a key that it may see counts if either is a vision token.
//!   Its score costs `n_embd_head_k` multiply-adds per query head, its share of the output `n_embd_head_v`. A weight
//!   masked before softmax needs neither; one zeroed after softmax still needs the score; merged weights need all
//!   scores, but only one value per query.
//!
//! Normalisation, softmax, rotary positions and embedding lookup are left out, as usual. Generated tokens are not
//! part of these counts.

mod flops;
mod kv;
mod pairs;

pub use flops::{DenseActual, Flops, encoder_flops, paper_layer_ops, prefill_flops};
pub use kv::KvBytes;

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "a list of image spans, of which there is one"
)]
mod tests;
