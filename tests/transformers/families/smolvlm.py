"""SmolVLM: tiles with tokens that say where they are, then the whole picture."""

import transformers as tf

import vocabulary
from families.base import Family, llama_text, write_architectures
from weights import randomize

FAKE, GLOBAL = "<fake_token_around_image>", "<global-img>"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", FAKE, GLOBAL, "<image>",
            *[f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)]]
TILE, LONGEST_EDGE = 64, 128


class SmolVlm(Family):
    name = "smolvlm"
    pictures = ("64x64", "100x40", "40x128", "150x130")
    prompt = "<|im_start|>User:<image>What is this?<end_of_utterance>\nAssistant:"
    prompt_three = "<|im_start|>User:<image>and <image>and <image>What differs?<end_of_utterance>\nAssistant:"

    def make(self, converters):
        self.checkpoint.mkdir(parents=True)
        ids, _ = vocabulary.byte_pairs(self.checkpoint, 290, SPECIALS, eos="<end_of_utterance>")
        text = llama_text(len(ids), bos_token_id=ids["<|im_start|>"], eos_token_id=ids["<end_of_utterance>"],
                          pad_token_id=ids["<|endoftext|>"], model_type="llama")
        vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=TILE,
                      patch_size=16, model_type="smolvlm_vision")
        config = tf.SmolVLMConfig(text_config=text, vision_config=vision, scale_factor=2, image_token_id=ids["<image>"],
                                  pad_token_id=ids["<|endoftext|>"], tie_word_embeddings=False)
        randomize(tf.SmolVLMForConditionalGeneration(config), 4).save_pretrained(self.checkpoint)
        tf.Idefics3ImageProcessor(size={"longest_edge": LONGEST_EDGE}, max_image_size={"longest_edge": TILE},
                                  do_image_splitting=True, image_mean=[0.5] * 3, image_std=[0.5] * 3,
                                  resample=1).save_pretrained(self.checkpoint)
        write_architectures(self.checkpoint, "SmolVLMForConditionalGeneration", "VLlama3ForCausalLM")
        converters.model(self.checkpoint, self.folder / "model.gguf", pre="smollm")
        converters.projector(self.checkpoint, self.folder / "mmproj.gguf")

    def load(self):
        """transformers 4.57 gives each patch the position before its own (0, 0, 1, 2, … along a side), because it scales
        coordinates by 1 - 1e-6 before it looks for their place; earlier versions and the training have 0, 1, 2, …"""
        super().load()
        embeddings = self.model.model.vision_model.embeddings

        def forward(pixel_values, patch_attention_mask):
            assert patch_attention_mask.all()
            patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
            return patches + embeddings.position_embedding.weight[: patches.shape[1]]

        embeddings.forward = forward

    def process(self, images, **options):
        """Pictures with fewer tiles are filled up with black ones for the batch; the model passes over them."""
        inputs = self.processor(images=[images], return_tensors="pt", **options)
        return {"pixel_values": inputs["pixel_values"], "pixel_attention_mask": inputs["pixel_attention_mask"]}

    def grid(self, image):
        got = self.processor(images=[[image]], return_tensors="pt", return_row_col_info=True)
        return got["rows"][0][0], got["cols"][0][0]

    def details(self, image, tiles):
        rows, columns = self.grid(image)
        return {"columns": columns, "rows": rows, "overview": "last"}

    def picture_tokens(self, image):
        n_rows = (TILE // 16 // 2) ** 2
        rows, columns = self.grid(image)
        ids, is_vision = [], []
        for r in range(1, rows + 1):
            for c in range(1, columns + 1):
                self.append(ids, is_vision, self.span(n_rows, [FAKE, f"<row_{r}_col_{c}>"]))
            if r < rows:
                self.append(ids, is_vision, self.span(0, ["Ċ"]))
        self.append(ids, is_vision, self.span(n_rows, ["\n\n", FAKE, GLOBAL], [FAKE]))
        return ids, is_vision

    @staticmethod
    def append(ids, is_vision, more):
        ids += more[0]
        is_vision += more[1]

    def text_model(self):
        return self.model.model.text_model
