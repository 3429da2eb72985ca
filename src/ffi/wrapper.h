// What bindgen reads: see build/bindings.rs.
#include "llama.h"

#include "ggml-backend.h"
#include "ggml-rpc.h"
#include "gguf.h"
#include "mtmd.h"
#include "visipruner.h"
