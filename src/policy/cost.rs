//! FLOPs and KV bytes.
