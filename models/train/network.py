"""LLaVA-1.5 in JAX, operation for operation what llama.cpp computes from the exported GGUFs.

Tower: CLIP's vision transformer (class token first, pre-LN, quick GELU, no post-LN); the features
are the patches' rows of the last layer. Projector: linear, GELU (tanh), linear. LLM: llama.
Weights are stored [in, out]; the export transposes them.
"""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vocabulary import BOS, N_VOCAB, encode
from world import GRID, N_PATCHES, PATCH

IMAGE_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
IMAGE_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
PREFIX_TOKENS = [BOS] + encode("USER: ")          # what stands before the picture
N_TEXT_BEFORE = len(PREFIX_TOKENS)
N_PREFIX = N_TEXT_BEFORE + N_PATCHES              # rows up to the end of the picture
HIDDEN = -1e9                                     # score of a key that must not be seen


@dataclasses.dataclass(frozen=True)
class Sizes:
    tower_width: int = 128
    tower_ffn: int = 512
    tower_layers: int = 4
    tower_heads: int = 4
    tower_eps: float = 1e-5
    width: int = 192
    ffn: int = 384
    layers: int = 10
    heads: int = 6
    eps: float = 1e-5
    rope_base: float = 10000.0


SIZES = Sizes()


class Initializer:
    """Hands out normally distributed float32 arrays from one key."""

    def __init__(self, key):
        self.key = key

    def __call__(self, shape, scale):
        self.key, sub = jax.random.split(self.key)
        return scale * jax.random.normal(sub, shape, jnp.float32)


def init_tower(key, s=SIZES):
    normal = Initializer(key)
    d, f = s.tower_width, s.tower_ffn
    zeros, ones = lambda n: jnp.zeros(n, jnp.float32), lambda n: jnp.ones(n, jnp.float32)
    layer = lambda: dict(
        ln1_w=ones(d), ln1_b=zeros(d), ln2_w=ones(d), ln2_b=zeros(d),
        wq=normal((d, d), d ** -0.5), bq=zeros(d), wk=normal((d, d), d ** -0.5), bk=zeros(d),
        wv=normal((d, d), d ** -0.5), bv=zeros(d), wo=normal((d, d), 0.4 * d ** -0.5), bo=zeros(d),
        w_up=normal((d, f), d ** -0.5), b_up=zeros(f),
        w_down=normal((f, d), 0.4 * f ** -0.5), b_down=zeros(d))
    return dict(patch=normal((PATCH * PATCH * 3, d), 0.03), cls=normal((d,), 0.02),
                pos=normal((N_PATCHES + 1, d), 0.02), pre_w=ones(d), pre_b=zeros(d),
                layers=[layer() for _ in range(s.tower_layers)])


def init_projector(key, s=SIZES):
    normal = Initializer(key)
    return dict(project0=normal((s.tower_width, s.width), s.tower_width ** -0.5),
                bias0=jnp.zeros(s.width),
                project2=normal((s.width, s.width), s.width ** -0.5), bias2=jnp.zeros(s.width))


def init_llm(key, s=SIZES):
    normal = Initializer(key)
    d, f = s.width, s.ffn
    layer = lambda: dict(
        norm1=jnp.ones(d), norm2=jnp.ones(d),
        wq=normal((d, d), d ** -0.5), wk=normal((d, d), d ** -0.5), wv=normal((d, d), d ** -0.5),
        wo=normal((d, d), 0.3 * d ** -0.5), w_gate=normal((d, f), d ** -0.5),
        w_up=normal((d, f), d ** -0.5), w_down=normal((f, d), 0.3 * f ** -0.5))
    return dict(embedding=normal((N_VOCAB, d), 0.5), output=normal((d, N_VOCAB), 0.5 * d ** -0.5),
                norm=jnp.ones(d), layers=[layer() for _ in range(s.layers)])


# ---------------------------------------------------------------------------- vision tower

def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred ** 2).mean(-1, keepdims=True) + eps) * weight + bias


def quick_gelu(x):
    return x * jax.nn.sigmoid(1.702 * x)


def patches(pictures):
    """uint8 [B, 112, 112, 3] -> normalized float32 [B, 64, 14*14*3], a patch as (row, column, channel)."""
    x = (pictures.astype(jnp.float32) / 255.0 - IMAGE_MEAN) / IMAGE_STD
    x = x.reshape(-1, GRID, PATCH, GRID, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, N_PATCHES, PATCH * PATCH * 3)


def tower_layer(x, layer, s):
    """One pre-LN transformer layer; x [B, rows, width]."""
    n_batch, n_rows, width = x.shape
    h = layer_norm(x, layer["ln1_w"], layer["ln1_b"], s.tower_eps)
    heads = lambda name: (h @ layer["w" + name] + layer["b" + name]).reshape(
        n_batch, n_rows, s.tower_heads, width // s.tower_heads).transpose(0, 2, 1, 3)
    q, k, v = heads("q"), heads("k"), heads("v")
    weights = jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) * (width // s.tower_heads) ** -0.5, -1)
    attended = (weights @ v).transpose(0, 2, 1, 3).reshape(n_batch, n_rows, width)
    x = x + attended @ layer["wo"] + layer["bo"]
    h = layer_norm(x, layer["ln2_w"], layer["ln2_b"], s.tower_eps)
    return x + quick_gelu(h @ layer["w_up"] + layer["b_up"]) @ layer["w_down"] + layer["b_down"]


def see(tower, pictures, s=SIZES):
    """uint8 [B, 112, 112, 3] -> features [B, 64, tower_width]: row 0 (the class token) is dropped."""
    x = patches(pictures) @ tower["patch"]
    cls = jnp.broadcast_to(tower["cls"], (x.shape[0], 1, s.tower_width))
    x = jnp.concatenate([cls, x], 1) + tower["pos"]
    x = layer_norm(x, tower["pre_w"], tower["pre_b"], s.tower_eps)
    for layer in tower["layers"]:
        x = tower_layer(x, layer, s)
    return x[:, 1:]


def project(projector, features):
    """[B, 64, tower_width] -> the LLM's input rows [B, 64, width]."""
    h = jax.nn.gelu(features @ projector["project0"] + projector["bias0"], approximate=True)
    return h @ projector["project2"] + projector["bias2"]


# ---------------------------------------------------------------------------- language model

def rms_norm(x, weight, eps):
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rope(x, positions, base):
    """Rotates neighbouring pairs (llama's layout); x [B, heads, rows, head], positions [rows]."""
    head = x.shape[-1]
    angle = np.asarray(positions)[:, None] * base ** (-np.arange(0, head, 2) / head)
    cos, sin = jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32)
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


def llm_layer(prefix, blocks, layer, visible, s=SIZES, prune_prefix=False):
    """One llama layer on the shared prefix and the questions that follow it.

    prefix   [B, N_PREFIX, width]: BOS, "USER:", the picture
    blocks   [B, M, L, width]: M independent questions; each sees the prefix and itself, so that
             one picture serves M questions at the price of one prefix
    visible  bool, broadcastable to [B, M, 64]: the vision rows that a question sees
    prune_prefix: hidden vision rows are hidden from the picture's own rows as well, which is what
             dropping them does (M must be 1, since the prefix is shared)
    Returns (prefix, blocks, attention), attention holding what the policy's statistic needs:
    weights [B, heads, M, L, 64] on the vision rows, their values [B, heads, 64, head] and the
    attention output [B, heads, M, L, head].
    """
    n_batch, n_blocks, length, width = blocks.shape
    head = width // s.heads
    visible = jnp.broadcast_to(visible, (n_batch, n_blocks, N_PATCHES))

    def heads(x, name, positions=None):
        y = (rms_norm(x, layer["norm1"], s.eps) @ layer[name]).reshape(n_batch, -1, s.heads, head)
        y = y.transpose(0, 2, 1, 3)
        return y if positions is None else rope(y, positions, s.rope_base)

    prefix_positions = np.arange(N_PREFIX)
    block_positions = np.tile(np.arange(N_PREFIX, N_PREFIX + length), n_blocks)
    flat = blocks.reshape(n_batch, n_blocks * length, width)
    by_block = lambda x: x.reshape(n_batch, s.heads, n_blocks, length, -1)
    q1, k1, v1 = (heads(prefix, "wq", prefix_positions) * head ** -0.5,
                  heads(prefix, "wk", prefix_positions), heads(prefix, "wv"))
    q2, k2, v2 = (heads(flat, "wq", block_positions) * head ** -0.5,
                  heads(flat, "wk", block_positions), heads(flat, "wv"))

    may_see = jnp.tril(jnp.ones((N_PREFIX, N_PREFIX), bool))[None]
    if prune_prefix:
        column = jnp.concatenate([jnp.ones((n_batch, N_TEXT_BEFORE), bool), visible[:, 0]], 1)
        may_see = may_see & (column[:, None, :] | jnp.eye(N_PREFIX, dtype=bool))
    scores = jnp.where(may_see[:, None], q1 @ k1.transpose(0, 1, 3, 2), HIDDEN)
    prefix_out = jax.nn.softmax(scores, -1) @ v1

    column = jnp.concatenate([jnp.ones((n_batch, n_blocks, N_TEXT_BEFORE), bool), visible], 2)
    to_prefix = jnp.where(column[:, None, :, None], by_block(q2 @ k1.transpose(0, 1, 3, 2)), HIDDEN)
    to_self = jnp.where(jnp.tril(jnp.ones((length, length), bool)),
                        by_block(q2) @ by_block(k2).swapaxes(-1, -2), HIDDEN)
    weights = jax.nn.softmax(jnp.concatenate([to_prefix, to_self], -1), -1)
    from_prefix = weights[..., :N_PREFIX].reshape(n_batch, s.heads, -1, N_PREFIX) @ v1
    block_out = by_block(from_prefix) + weights[..., N_PREFIX:] @ by_block(v2)
    attention = weights[..., N_TEXT_BEFORE:N_PREFIX], v1[:, :, N_TEXT_BEFORE:], block_out

    def finish(x, out):
        x = x + out.transpose(0, 2, 1, 3).reshape(n_batch, -1, width) @ layer["wo"]
        h = rms_norm(x, layer["norm2"], s.eps)
        return x + (jax.nn.silu(h @ layer["w_gate"]) * (h @ layer["w_up"])) @ layer["w_down"]

    flat = finish(flat, block_out.reshape(n_batch, s.heads, -1, head))
    return finish(prefix, prefix_out), flat.reshape(blocks.shape), attention


def embed(llm, vision, tokens):
    """(prefix, blocks): the LLM's input rows for vision [B, 64, width] and tokens [B, M, L]."""
    before = jnp.broadcast_to(llm["embedding"][jnp.array(PREFIX_TOKENS)],
                              (vision.shape[0], N_TEXT_BEFORE, vision.shape[-1]))
    return jnp.concatenate([before, vision], 1), llm["embedding"][tokens]


def head_logits(llm, blocks, s=SIZES):
    return rms_norm(blocks, llm["norm"], s.eps) @ llm["output"]


def answer_logits(llm, vision, tokens, visible=None, tap=None, s=SIZES):
    """Logits [B, M, L, N_VOCAB] of question blocks, and the blocks' rows after layer `tap` - 1.

    visible: None, or per layer what `llm_layer` takes, e.g. bool [n_layer, B, 1, 1].
    """
    prefix, blocks = embed(llm, vision, tokens)
    tapped = None
    for il, layer in enumerate(llm["layers"]):
        if il == tap:
            tapped = blocks
        prefix, blocks, _ = llm_layer(prefix, blocks, layer, True if visible is None else visible[il], s)
    return head_logits(llm, blocks, s), tapped
