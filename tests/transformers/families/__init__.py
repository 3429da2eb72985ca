"""Every family of models: how a small one is made, and what transformers makes of pictures for it."""

from families.gemma import Gemma3
from families.internvl import InternVl
from families.llava import Llava15, Llava16, MobileVlm1, MobileVlm2
from families.pixtral import Pixtral
from families.qwen import Qwen2Vl, Qwen3Vl, Qwen25Vl
from families.smolvlm import SmolVlm

FAMILIES = {family.name: family for family in (
    Gemma3, Qwen2Vl, Qwen25Vl, Qwen3Vl, Llava15, Llava16, InternVl, MobileVlm2, MobileVlm1, SmolVlm, Pixtral)}
