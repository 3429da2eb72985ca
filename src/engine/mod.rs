pub mod prefill;
