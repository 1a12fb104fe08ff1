"""Networks and layouts that several test files of this room share."""

import re

import timm
import torch
from timm.models import register_model

HF_BLOCK = {
    "vit": {
        "attn.proj": "attention.output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    },
    "dinov2": {
        "attn.proj": "attention.output.dense",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    },
}
DINOV3_BLOCK = {
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
    "gamma_1": "layer_scale1.lambda1",
    "gamma_2": "layer_scale2.lambda1",
}


@register_model
def tiny_dinov3(pretrained=False, **options):
    """A DINOv3 of 3 blocks, 64 channels and 2 heads."""
    return timm.create_model("vit_small_patch16_dinov3_qkvb", depth=3, embed_dim=64, num_heads=2, **options)


def tiny(name, seed=0, **options):
    """timm's ``name`` with random weights, none of them zero."""
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.requires_grad_(False)


def as_hugging_face(state, family):
    """timm's ``state`` under the names that transformers gives to ``family``, queries, keys and values apart."""
    rotary = family == "dinov3"
    table = DINOV3_BLOCK if rotary else HF_BLOCK[family]
    names = ("q_proj", "k_proj", "v_proj") if rotary else ("attention.query", "attention.key", "attention.value")
    final = "norm" if rotary else "layernorm"
    patch = "embeddings.patch_embeddings" + ("" if rotary else ".projection")
    found = {}
    for name, tensor in state.items():
        if match := re.match(r"blocks\.(\d+)\.(.*)", name):
            layer = f"layer.{match[1]}." if rotary else f"encoder.layer.{match[1]}."
            rest = match[2]
            if rest.startswith("attn.qkv."):
                kind = rest.removeprefix("attn.qkv.")
                for part, piece in zip(names, tensor.chunk(3), strict=True):
                    found[f"{layer}attention.{part}.{kind}"] = piece.contiguous()
            elif rest in ("attn.q_bias", "attn.v_bias"):
                found[f"{layer}attention.{rest[5]}_proj.bias"] = tensor
            else:
                for ours, theirs in table.items():
                    rest = re.sub(rf"^{re.escape(ours)}\b", theirs, rest)
                found[layer + rest] = tensor
        else:
            for ours, theirs in (("patch_embed.proj", patch), ("norm", final)):
                name = re.sub(rf"^{re.escape(ours)}\b", theirs, name)
            tokens = {"pos_embed": "position_embeddings", "cls_token": "cls_token", "reg_token": "register_tokens"}
            found[f"embeddings.{tokens[name]}" if name in tokens else name] = tensor
    return found
