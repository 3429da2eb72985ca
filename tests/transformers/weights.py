"""Random weights that show every part of a model in its logits."""

import torch

# What a parameter's values are spread by, by a part of its name.
SPREADS = {"embed_tokens": None, "position": 0.7, "pos_embed": 0.7, "class_embedding": 0.7, "cls_token": 0.7,
           "image_newline": 0.5}


def randomize(model, seed, embedding_std=1.0, zero_centred_norms=()):
    """Fills a model with numbers that F16 holds too, so that a file in F16 has the same weights as one in F32.
    The weights of norms are near 1, or near 0 where the model adds 1 to them itself (`zero_centred_norms`: parts of names)."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            zero_centred = any(part in name for part in zero_centred_norms)
            mean = 1.0 if is_norm_weight(name, p) and not zero_centred else 0.0
            values = mean + spread(name, p, embedding_std) * torch.randn(p.shape, generator=rng)
            p.copy_(values.half().float())
    return model.eval()


def is_norm_weight(name, p):
    part = ".".join(name.split(".")[-2:])
    return p.dim() == 1 and name.endswith("weight") and any(word in part for word in ("norm", "ln_q", "layrnorm"))


def spread(name, p, embedding_std):
    for part, std in SPREADS.items():
        if part in name:
            return embedding_std if std is None else std
    return p[0].numel() ** -0.5 if p.dim() >= 2 else 0.1
