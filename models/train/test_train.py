"""Checks of the training code against slow, literal versions: `python -m unittest` in this folder."""
import random
import unittest

import jax
import jax.numpy as jnp
import numpy as np

from network import N_PREFIX, N_TEXT_BEFORE, SIZES, embed, head_logits, init_llm, llm_layer, rms_norm, rope
from questions import CATEGORIES, LAYOUTS, MAX_LENGTH, ask_many, block_ids, mention_token
from simulate_policy import statistic
from vocabulary import PIECES, SPACE, WORDS, decode, encode
from world import N_PATCHES, random_scene


class Vocabulary(unittest.TestCase):
    def test_every_word_is_one_token(self):
        for word in WORDS:
            self.assertEqual([PIECES[i] for i in encode(word)], [SPACE + word])

    def test_text_survives(self):
        for text in ["\nIs the red circle left of the blue star? ASSISTANT:", "naïve — 日本"]:
            self.assertEqual(decode(encode(text)), " " + text)


class Questions(unittest.TestCase):
    def test_blocks_fit_and_mentions_point_at_their_words(self):
        rng = random.Random("test")
        for _ in range(50):
            scene = random_scene(rng)
            for question in ask_many(rng, scene, 12, dict.fromkeys(CATEGORIES, 1)):
                for layout in LAYOUTS:
                    prompt, answer = block_ids(question, layout)
                    self.assertLessEqual(len(prompt) + len(answer) - 1, MAX_LENGTH)
                    for mention in question.mentions:
                        piece = PIECES[prompt[mention_token(question, mention, layout)]]
                        self.assertTrue(question.text[:mention.end].endswith(piece.strip(SPACE)))


def plain_llama(llm, rows, positions):
    """Logits of all rows [n, width] at the given positions: one causal sequence, nothing shared."""
    head = SIZES.width // SIZES.heads
    causal = jnp.tril(jnp.ones((len(rows), len(rows)), bool))
    x = rows[None]
    for layer in llm["layers"]:
        h = rms_norm(x, layer["norm1"], SIZES.eps)
        q, k, v = [(h @ layer[w]).reshape(1, -1, SIZES.heads, head).transpose(0, 2, 1, 3)
                   for w in ("wq", "wk", "wv")]
        q, k = rope(q, positions, SIZES.rope_base), rope(k, positions, SIZES.rope_base)
        scores = jnp.where(causal, q @ k.transpose(0, 1, 3, 2) * head ** -0.5, -jnp.inf)
        out = (jax.nn.softmax(scores, -1) @ v).transpose(0, 2, 1, 3).reshape(1, -1, SIZES.width)
        x = x + out @ layer["wo"]
        h = rms_norm(x, layer["norm2"], SIZES.eps)
        x = x + (jax.nn.silu(h @ layer["w_gate"]) * (h @ layer["w_up"])) @ layer["w_down"]
    return head_logits(llm, x)[0]


class Network(unittest.TestCase):
    def setUp(self):
        key = jax.random.PRNGKey(3)
        self.llm = init_llm(key)
        self.vision = jax.random.normal(key, (1, N_PATCHES, SIZES.width))
        self.tokens = np.array([[encode("What is left of the ring?"), encode("What is the red star of?")]])
        self.prefix, self.blocks = embed(self.llm, self.vision, self.tokens)

    def run_blocks(self, blocks, visible, prune_prefix):
        prefix = self.prefix
        for layer in self.llm["layers"]:
            prefix, blocks, _ = llm_layer(prefix, blocks, layer, visible, prune_prefix=prune_prefix)
        return head_logits(self.llm, blocks)[0]

    def test_questions_that_share_a_picture_do_not_see_each_other(self):
        shared = self.run_blocks(self.blocks, True, False)
        for m in range(2):
            rows = jnp.concatenate([self.prefix[0], self.blocks[0, m]])
            alone = plain_llama(self.llm, rows, np.arange(len(rows)))[N_PREFIX:]
            np.testing.assert_allclose(shared[m], alone, atol=2e-4)

    def test_hiding_rows_everywhere_is_dropping_them(self):
        keep = np.zeros(N_PATCHES, bool)
        keep[[3, 17, 40]] = True
        hidden = self.run_blocks(self.blocks[:, :1], keep[None, None], True)[0]
        kept = np.concatenate([np.ones(N_TEXT_BEFORE, bool), keep, np.ones(self.blocks.shape[2], bool)])
        rows = jnp.concatenate([self.prefix[0], self.blocks[0, 0]])
        dropped = plain_llama(self.llm, rows[kept], np.flatnonzero(kept))[-self.blocks.shape[2]:]
        np.testing.assert_allclose(hidden, dropped, atol=2e-4)


class Statistic(unittest.TestCase):
    def test_closed_form_is_the_definition(self):
        rng = np.random.default_rng(0)
        weights = rng.random((1, 6, 1, 5, N_PATCHES)) / 80
        values = rng.normal(size=(1, 6, N_PATCHES, 32))
        out = rng.normal(size=(1, 6, 1, 5, 32)) * 0.2
        cos, norm = statistic((jnp.array(weights), jnp.array(values), jnp.array(out)), jnp.array([2]))
        o = out[0, :, 0, 2].reshape(-1)
        for j in (0, 9, 63):
            c = (weights[0, :, 0, 2, j, None] * values[0, :, j]).reshape(-1)
            wanted = (o - c) @ o / np.linalg.norm(o - c) / np.linalg.norm(o)
            self.assertAlmostEqual(float(cos[0, j]), wanted, places=5)
            self.assertAlmostEqual(float(norm[0, j]), np.linalg.norm(c) / np.linalg.norm(o), places=5)


if __name__ == "__main__":
    unittest.main()
