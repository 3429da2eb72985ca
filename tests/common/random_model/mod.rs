//! Small models with random weights, as GGUF files that llama.cpp loads: architectures that differ in what their
//! layers do, and LLaVA-1.5's kind of projector.
//!
//! The weights are scaled so that the models behave: attention is neither uniform nor one-hot, every layer
//! changes the hidden rows by about half of their size, logits have a standard deviation of about 2, and the
//! end-of-sequence token is never the most likely one.

mod llm;
mod plan;
mod projector;
mod tokenizer;

pub use llm::{Arch, RandomLlm};
pub use projector::RandomProjector;
pub use tokenizer::EOS;
