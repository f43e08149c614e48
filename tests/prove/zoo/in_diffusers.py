"""Heads of the models of `diffusers`."""

import torch

from zoo import at_random, grid, head, last, normal, seen

SMALL = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}
TIME = torch.tensor([3])


def build(cls, **config):
    """A model of a small configuration."""
    return at_random(cls(**config))


def unpatched(model, name, sizes, *inputs, **options):
    """What the last Linear gets, a grid of these sizes, and the sample that the model returns."""
    tokens, _, result = seen(model.get_submodule(name), lambda: model(*inputs, **options))
    return model, grid(tokens, *sizes), last(result.sample)


# --- patches to tokens ---


@head(
    "AuraFlow, in",
    "diffusers.AuraFlowTransformer2DModel",
    "pos_embed.proj",
    "Patchify(4, n, 2, 2)",
    load={"patch_order": "channels_first"},
)
def aura_in(cls):
    return embedded(auraflow(cls), lambda model, image: model.pos_embed(image), "pos_embed.proj")


@head(
    "Lumina-Next, in",
    "diffusers.LuminaNextDiT2DModel",
    "patch_embedder.proj",
    "Patchify(4, n, 2, 2)",
    load={"patch_order": "channels_first"},
)
def lumina_in(cls):
    rotary = torch.zeros(384, 384, 4)
    return embedded(
        lumina(cls), lambda model, image: model.patch_embedder(image, rotary), "patch_embedder.proj"
    )


@head(
    "CogView4, in",
    "diffusers.CogView4Transformer2DModel",
    "patch_embed.proj",
    "Patchify(16, n, 2, 2)",
    load={"patch_order": "channels_first"},
)
def cogview4_in(cls):
    return embedded(
        cogview4(cls),
        lambda model, image: model.patch_embed(image, normal(1, 3, 8)),
        "patch_embed.proj",
        channels=16,
    )


def embedded(model, forward, name, channels=4):
    """A latent, and the tokens that the Linear of that name makes of its patches."""
    image = normal(1, channels, 4, 6)
    _, tokens, _ = seen(model.get_submodule(name), lambda: forward(model, image))
    return model, last(image), tokens.reshape(1, 2, 3, -1)


@head("SD3, in", "diffusers.SD3Transformer2DModel", "pos_embed.proj", "Patchify(16, n, 2, 2)")
def sd3_in(cls):
    model = sd3(cls)
    return model, lambda: model.pos_embed(normal(1, 16, 4, 6))


@head(
    "Wan, in", "diffusers.WanTransformer3DModel", "patch_embedding", "Patchify(16, n, 3, (1, 2, 2))"
)
def wan_in(cls):
    model = wan(cls)
    return model, lambda: model(normal(1, 16, 3, 4, 6), TIME, normal(1, 5, 8))


@head(
    "HunyuanVideo, in",
    "diffusers.HunyuanVideoTransformer3DModel",
    "x_embedder.proj",
    "Patchify(16, n, 3, (1, 2, 2))",
)
def hunyuan_video_in(cls):
    model, video = hunyuan_video(cls), normal(1, 16, 3, 4, 6)
    return model, last(video), grid(model.x_embedder(video), 3, 2, 3)


@head(
    "Cosmos, in",
    "diffusers.CosmosTransformer3DModel",
    "patch_embed.proj",
    "Patchify(16, n, 3, (1, 2, 2), bias=False)",
    load={"patch_order": "channels_first"},
)
def cosmos_in(cls):
    model, video = cosmos(cls, (1, 2, 2)), normal(1, 16, 3, 4, 6)
    return model, last(video), model.patch_embed(video)


@head(
    "Kandinsky 5, in",
    "diffusers.Kandinsky5Transformer3DModel",
    "visual_embeddings.in_layer",
    "Patchify(4, n, 3, (1, 2, 2))",
)
def kandinsky_in(cls):
    model, video = kandinsky(cls), normal(1, 3, 4, 6, 4)
    return model, video, model.visual_embeddings(video)


@head(
    "CogVideoX 1.0, in",
    "diffusers.CogVideoXTransformer3DModel",
    "patch_embed.proj",
    "Patchify(16, n, 2, 2)",
)
def cogvideox_in(cls):
    model, video = cogvideox(cls), normal(1, 3, 16, 4, 6)
    return model, lambda: model.patch_embed(normal(1, 5, 8), video)


@head(
    "CogVideoX 1.5, in",
    "diffusers.CogVideoXTransformer3DModel",
    "patch_embed.proj",
    "Patchify(16, n, 3, 2)",
    load={"patch_order": "channels_first"},
)
def cogvideox15_in(cls):
    model, video = (
        cogvideox(cls, patch_size_t=2, use_rotary_positional_embeddings=True),
        normal(1, 4, 16, 4, 6),
    )
    _, tokens, _ = seen(model.patch_embed.proj, lambda: model.patch_embed(normal(1, 5, 8), video))
    return model, last(video.transpose(1, 2)), grid(tokens, 2, 2, 3)


@head(
    "FLUX, in",
    "diffusers.FluxTransformer2DModel",
    "x_embedder",
    "Patchify(16, n, 2, 2)",
    load={"patch_order": "channels_first"},
)
def flux_in(cls):
    from diffusers import FluxPipeline

    model, image = flux(cls), normal(1, 16, 4, 6)
    patches = FluxPipeline._pack_latents(image, 1, 16, 4, 6)
    return model, last(image), grid(model.x_embedder(patches), 2, 3)


# --- tokens to patches ---


@head(
    "DiT",
    "diffusers.DiTTransformer2DModel",
    "proj_out_2",
    'Unpatchify(None, 8, 2, 2, bias="patch")',
)
def dit(cls):
    model = build(
        cls, **SMALL, out_channels=8, norm_num_groups=1, sample_size=8, num_embeds_ada_norm=10
    )
    return unpatched(model, "proj_out_2", (3, 3), normal(1, 4, 6, 6), TIME, TIME)


def sd3(cls):
    text = {"joint_attention_dim": 8, "caption_projection_dim": 16, "pooled_projection_dim": 8}
    return build(
        cls, **SMALL, sample_size=8, in_channels=16, out_channels=16, pos_embed_max_size=8, **text
    )


@head(
    "SD3", "diffusers.SD3Transformer2DModel", "proj_out", 'Unpatchify(None, 16, 2, 2, bias="patch")'
)
def sd3_out(cls):
    model = sd3(cls)
    return unpatched(
        model, "proj_out", (2, 3), normal(1, 16, 4, 6), normal(1, 5, 8), normal(1, 8), TIME
    )


@head(
    "PixArt",
    "diffusers.PixArtTransformer2DModel",
    "proj_out",
    'Unpatchify(None, 8, 2, 2, bias="patch")',
)
def pixart(cls):
    text = {"cross_attention_dim": 16, "caption_channels": 8}
    model = build(
        cls, **SMALL, norm_num_groups=1, sample_size=8, use_additional_conditions=False, **text
    )
    sizes = {"resolution": None, "aspect_ratio": None}
    return unpatched(
        model,
        "proj_out",
        (2, 3),
        normal(1, 4, 4, 6),
        normal(1, 5, 8),
        TIME,
        added_cond_kwargs=sizes,
    )


@head(
    "Sana, of patches of 2",
    "diffusers.SanaTransformer2DModel",
    "proj_out",
    'Unpatchify(None, 32, 2, 2, bias="patch")',
)
def sana(cls):
    text = {
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
    }
    model = build(
        cls,
        **SMALL,
        in_channels=32,
        out_channels=32,
        caption_channels=8,
        sample_size=8,
        patch_size=2,
        **text,
    )
    return unpatched(model, "proj_out", (2, 3), normal(1, 32, 4, 6), normal(1, 5, 8), TIME)


@head(
    "HunyuanDiT",
    "diffusers.HunyuanDiT2DModel",
    "proj_out",
    'Unpatchify(None, 8, 2, 2, bias="patch")',
)
def hunyuan_dit(cls):
    text = {
        "cross_attention_dim": 8,
        "cross_attention_dim_t5": 8,
        "pooled_projection_dim": 8,
        "text_len": 3,
    }
    options = {
        "sample_size": 8,
        "hidden_size": 16,
        "use_style_cond_and_image_meta_size": False,
        "text_len_t5": 3,
    }
    model = build(cls, **SMALL, in_channels=4, patch_size=2, **text, **options)
    words, mask = normal(1, 3, 8), torch.ones(1, 3)
    rotary = (torch.ones(6, 8), torch.ones(6, 8))

    return unpatched(
        model,
        "proj_out",
        (2, 3),
        normal(1, 4, 4, 6),
        TIME / 1,
        words,
        mask,
        words,
        mask,
        image_rotary_emb=rotary,
    )


def auraflow(cls):
    text = {"joint_attention_dim": 8, "caption_projection_dim": 16}
    layers = {
        "num_mmdit_layers": 1,
        "num_single_dit_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
    }
    return build(cls, sample_size=8, pos_embed_max_size=64, **layers, **text)


@head(
    "AuraFlow, out",
    "diffusers.AuraFlowTransformer2DModel",
    "proj_out",
    "Unpatchify(None, 4, 2, 2, bias=False)",
)
def aura_out(cls):
    model = auraflow(cls)
    return unpatched(model, "proj_out", (2, 3), normal(1, 4, 4, 6), normal(1, 5, 8), TIME / 10)


def lumina(cls):
    heads = {
        "num_layers": 1,
        "num_attention_heads": 2,
        "num_kv_heads": 2,
        "hidden_size": 16,
        "multiple_of": 8,
    }
    return build(cls, sample_size=8, cross_attention_dim=8, learn_sigma=True, **heads)


@head(
    "Lumina-Next, out",
    "diffusers.LuminaNextDiT2DModel",
    "norm_out.linear_2",
    'Unpatchify(None, 8, 2, 2, bias="patch")',
)
def lumina_out(cls):
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    model, rotary = lumina(cls), get_2d_rotary_pos_embed_lumina(8, 384, 384)
    words, mask = normal(1, 5, 8), torch.ones(1, 5, dtype=torch.int64)
    return unpatched(
        model, "norm_out.linear_2", (2, 3), normal(1, 4, 4, 6), TIME / 10, words, mask, rotary, {}
    )


def lumina2(cls):
    layers = {"num_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 2}
    sizes = {"hidden_size": 16, "multiple_of": 8, "cap_feat_dim": 8, "axes_dim_rope": (4, 2, 2)}
    model = build(cls, sample_size=8, in_channels=16, axes_lens=(32, 32, 32), **layers, **sizes)
    image, words, mask = normal(1, 16, 4, 6), normal(1, 5, 8), torch.ones(1, 5, dtype=torch.bool)
    return model, image, lambda: model(image, TIME / 10, words, mask)


@head("Lumina 2, in", "diffusers.Lumina2Transformer2DModel", "x_embedder", "Patchify(16, n, 2, 2)")
def lumina2_in(cls):
    model, image, forward = lumina2(cls)
    _, tokens, _ = seen(model.x_embedder, forward)
    return model, last(image), grid(tokens, 2, 3)


@head(
    "Lumina 2, out",
    "diffusers.Lumina2Transformer2DModel",
    "norm_out.linear_2",
    'Unpatchify(None, 16, 2, 2, bias="patch")',
)
def lumina2_out(cls):
    model, _, forward = lumina2(cls)
    tokens, _, result = seen(model.norm_out.linear_2, forward)
    return model, grid(tokens[:, 5:], 2, 3), last(result.sample)


def cogview4(cls):
    options = {
        "text_embed_dim": 8,
        "time_embed_dim": 8,
        "condition_dim": 4,
        "rope_axes_dim": (8, 8),
    }
    return build(cls, **SMALL, in_channels=16, out_channels=16, sample_size=8, **options)


@head(
    "CogView4, out",
    "diffusers.CogView4Transformer2DModel",
    "proj_out",
    'Unpatchify(None, 16, 2, 2, bias="patch")',
    load={"patch_order": "channels_first"},
)
def cogview4_out(cls):
    model, size = cogview4(cls), torch.tensor([[4, 6]])
    return unpatched(
        model, "proj_out", (2, 3), normal(1, 16, 4, 6), normal(1, 5, 8), TIME, size, size, size
    )


def flux(cls):
    text = {"joint_attention_dim": 8, "pooled_projection_dim": 8}
    return build(
        cls, **SMALL, in_channels=64, num_single_layers=1, axes_dims_rope=(2, 2, 4), **text
    )


@head(
    "FLUX, out",
    "diffusers.FluxTransformer2DModel",
    "proj_out",
    'Unpatchify(None, 16, 2, 2, bias="patch")',
    load={"patch_order": "channels_first"},
)
def flux_out(cls):
    from diffusers import FluxPipeline

    model, patches, rotary = (
        flux(cls),
        normal(1, 6, 64),
        {"img_ids": torch.zeros(6, 3), "txt_ids": torch.zeros(5, 3)},
    )
    tokens, _, result = seen(
        model.proj_out, lambda: model(patches, normal(1, 5, 8), normal(1, 8), TIME, **rotary)
    )
    image = FluxPipeline._unpack_latents(result.sample, 4, 6, vae_scale_factor=1)
    return model, grid(tokens, 2, 3), last(image)


@head(
    "Latte",
    "diffusers.LatteTransformer3DModel",
    "proj_out",
    'Unpatchify(None, 8, 2, 2, bias="patch")',
)
def latte(cls):
    text = {"cross_attention_dim": 16, "caption_channels": 8, "norm_type": "ada_norm_single"}
    model = build(
        cls,
        **SMALL,
        **text,
        in_channels=4,
        out_channels=8,
        sample_size=8,
        patch_size=2,
        video_length=3,
    )
    tokens, _, result = seen(
        model.proj_out, lambda: model(normal(1, 4, 3, 4, 6), TIME, normal(1, 5, 8))
    )
    return model, grid(tokens, 2, 3), last(result.sample.transpose(1, 2).flatten(0, 1))


def cogvideox(cls, **options):
    sizes = {"sample_width": 6, "sample_height": 4, "sample_frames": 9, "max_text_seq_length": 5}
    return build(
        cls,
        **SMALL,
        in_channels=16,
        out_channels=16,
        text_embed_dim=8,
        time_embed_dim=8,
        **sizes,
        **options,
    )


@head(
    "CogVideoX 1.0, out",
    "diffusers.CogVideoXTransformer3DModel",
    "proj_out",
    'Unpatchify(None, 16, 2, 2, bias="patch")',
    load={"patch_order": "channels_first"},
)
def cogvideox_out(cls):
    model = cogvideox(cls)
    tokens, _, result = seen(
        model.proj_out, lambda: model(normal(1, 3, 16, 4, 6), normal(1, 5, 8), TIME)
    )
    return model, tokens.reshape(3, 2, 3, -1), last(result.sample[0])


@head(
    "CogVideoX 1.5, out",
    "diffusers.CogVideoXTransformer3DModel",
    "proj_out",
    'Unpatchify(None, 16, 3, 2, bias="patch")',
    load={"patch_order": "channels_first"},
)
def cogvideox15_out(cls):
    model = cogvideox(cls, patch_size_t=2, use_rotary_positional_embeddings=True)
    tokens, _, result = seen(
        model.proj_out, lambda: model(normal(1, 4, 16, 4, 6), normal(1, 5, 8), TIME)
    )
    return model, grid(tokens, 2, 2, 3), last(result.sample.transpose(1, 2))


def hunyuan_video(cls):
    layers = {
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "rope_axes_dim": (2, 4, 2),
        "guidance_embeds": False,
    }
    return build(
        cls,
        **SMALL,
        **layers,
        in_channels=16,
        out_channels=16,
        text_embed_dim=8,
        pooled_projection_dim=8,
    )


@head(
    "HunyuanVideo, out",
    "diffusers.HunyuanVideoTransformer3DModel",
    "proj_out",
    'Unpatchify(None, 16, 3, (1, 2, 2), bias="patch")',
    load={"patch_order": "channels_first"},
)
def hunyuan_video_out(cls):
    model, mask = hunyuan_video(cls), torch.ones(1, 5, dtype=torch.bool)
    return unpatched(
        model,
        "proj_out",
        (3, 2, 3),
        normal(1, 16, 3, 4, 6),
        TIME,
        normal(1, 5, 8),
        mask,
        normal(1, 8),
    )


def wan(cls):
    return build(cls, **SMALL, in_channels=16, out_channels=16, text_dim=8, freq_dim=8, ffn_dim=8)


@head(
    "Wan, out",
    "diffusers.WanTransformer3DModel",
    "proj_out",
    'Unpatchify(None, 16, 3, (1, 2, 2), bias="patch")',
)
def wan_out(cls):
    model = wan(cls)
    return unpatched(model, "proj_out", (3, 2, 3), normal(1, 16, 3, 4, 6), TIME, normal(1, 5, 8))


@head(
    "Allegro",
    "diffusers.AllegroTransformer3DModel",
    "proj_out",
    'Unpatchify(None, 4, 3, (1, 2, 2), bias="patch")',
)
def allegro(cls):
    text = {"cross_attention_dim": 24, "caption_channels": 8}
    model = build(cls, **{**SMALL, "attention_head_dim": 12}, **text)
    rotary = [
        [(torch.ones(1, 4), torch.ones(1, 4))] * 3,
        [torch.zeros(1, 18, dtype=torch.int64)] * 3,
    ]
    return unpatched(
        model,
        "proj_out",
        (3, 2, 3),
        normal(1, 4, 3, 4, 6),
        normal(1, 5, 8),
        TIME,
        image_rotary_emb=rotary,
    )


@head(
    "Mochi",
    "diffusers.MochiTransformer3DModel",
    "proj_out",
    'Unpatchify(None, 12, 2, 2, bias="patch")',
)
def mochi(cls):
    text = {"text_embed_dim": 8, "pooled_projection_dim": 16, "time_embed_dim": 16}
    model, mask = build(cls, **SMALL, **text, in_channels=12), torch.ones(1, 5)
    tokens, _, result = seen(
        model.proj_out, lambda: model(normal(1, 12, 3, 4, 6), normal(1, 5, 8), TIME, mask)
    )
    return model, tokens.reshape(3, 2, 3, -1), last(result.sample[0].transpose(0, 1))


def cosmos(cls, patch_size):
    options = {
        "text_embed_dim": 8,
        "adaln_lora_dim": 4,
        "max_size": (8, 8, 8),
        "concat_padding_mask": False,
    }
    return build(
        cls,
        **{**SMALL, "attention_head_dim": 12},
        in_channels=16,
        out_channels=16,
        patch_size=patch_size,
        **options,
    )


@head(
    "Cosmos, out",
    "diffusers.CosmosTransformer3DModel",
    "proj_out",
    "Unpatchify(None, 16, 3, (1, 2, 2), bias=False)",
)
def cosmos_out(cls):
    model = cosmos(cls, (1, 2, 2))
    return unpatched(
        model, "proj_out", (3, 2, 3), normal(1, 16, 3, 4, 6), TIME, normal(1, 5, 8), fps=8
    )


def kandinsky(cls):
    text = {"in_text_dim": 8, "in_text_dim2": 8, "num_text_blocks": 1, "num_visual_blocks": 1}
    return build(cls, **text, time_dim=8, model_dim=16, ff_dim=8, axes_dims=(4, 2, 2))


@head(
    "Kandinsky 5, out",
    "diffusers.Kandinsky5Transformer3DModel",
    "out_layer.out_layer",
    'Unpatchify(None, 4, 3, (1, 2, 2), bias="patch")',
    load={"patch_order": "channels_first"},
)
def kandinsky_out(cls):
    model, tokens = kandinsky(cls), normal(1, 3, 2, 3, 16)
    x, _, video = seen(
        model.out_layer.out_layer, lambda: model.out_layer(tokens, None, normal(1, 8))
    )
    return model, x, video


@head(
    "Kandinsky 3, upsampling",
    "diffusers.models.unets.unet_kandinsky3.Kandinsky3Block",
    "up_sample",
    "Unpatchify(None, n, 2, 2)",
)
def kandinsky3_up(cls):
    block = build(
        cls, in_channels=8, out_channels=4, time_embed_dim=8, norm_groups=2, up_resolution=True
    )
    return block, lambda: block(normal(1, 8, 3, 4), normal(1, 8))


@head(
    "Kandinsky 3, downsampling",
    "diffusers.models.unets.unet_kandinsky3.Kandinsky3Block",
    "down_sample",
    "Patchify(None, n, 2, 2)",
)
def kandinsky3_down(cls):
    block = build(
        cls, in_channels=8, out_channels=4, time_embed_dim=8, norm_groups=2, up_resolution=False
    )
    return block, lambda: block(normal(1, 8, 6, 4), normal(1, 8))


def z_image(cls):
    options = {
        "n_layers": 1,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 8,
    }
    return build(cls, in_channels=16, dim=16, axes_dims=[4, 2, 2], axes_lens=[8, 8, 8], **options)


@head(
    "Z-Image, in",
    "diffusers.ZImageTransformer2DModel",
    "all_x_embedder.2-1",
    "Patchify(16, n, 2, 2)",
)
def z_image_in(cls):
    model, image = z_image(cls), normal(16, 1, 4, 6)
    tokens = model.all_x_embedder["2-1"](model._patchify_image(image, 2, 1)[0])
    return model, last(image.transpose(0, 1)), grid(tokens[None], 2, 3)


@head(
    "Z-Image, out",
    "diffusers.ZImageTransformer2DModel",
    "all_final_layer.2-1.linear",
    'Unpatchify(None, 16, 2, 2, bias="patch")',
)
def z_image_out(cls):
    model, tokens = z_image(cls), normal(6, 16)
    (image,) = model.unpatchify([model.all_final_layer["2-1"].linear(tokens)], [(1, 4, 6)], 2, 1)
    return model, grid(tokens[None], 2, 3), last(image.transpose(0, 1))


@head(
    "HiDream, out",
    "diffusers.HiDreamImageTransformer2DModel",
    "final_layer.linear",
    'Unpatchify(None, 16, 2, 2, bias="patch")',
)
def hidream_out(cls):
    llama = {
        "caption_channels": [8, 8],
        "text_emb_dim": 8,
        "llama_layers": [0],
        "num_single_layers": 1,
    }
    model = build(
        cls,
        **SMALL,
        patch_size=2,
        in_channels=16,
        axes_dims_rope=(4, 4),
        max_resolution=(8, 8),
        **llama,
    )
    tokens = normal(1, 6, 16)
    image = model.unpatchify(model.final_layer.linear(tokens), [(2, 3)], is_training=False)
    return model, grid(tokens, 2, 3), last(image)


@head(
    "RAE, decoder",
    "diffusers.models.autoencoders.autoencoder_rae.RAEDecoder",
    "decoder_pred",
    'Unpatchify(None, 3, 2, 16, bias="patch")',
)
def rae(cls):
    options = {
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 8,
    }
    model = build(
        cls, hidden_size=8, decoder_hidden_size=12, num_patches=4, image_size=32, **options
    )
    tokens = normal(1, 6, 12)
    return model, grid(tokens, 2, 3), last(model.unpatchify(model.decoder_pred(tokens), (32, 48)))


@head(
    "ACE-Step, in", "diffusers.AceStepTransformer1DModel", "proj_in_conv", "Patchify(None, n, 1, 2)"
)
@head(
    "ACE-Step, out",
    "diffusers.AceStepTransformer1DModel",
    "proj_out_conv",
    "Unpatchify(None, n, 1, 2)",
)
def ace_step(cls):
    heads = {
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 4,
    }
    model = build(
        cls,
        **heads,
        hidden_size=8,
        intermediate_size=8,
        in_channels=12,
        audio_acoustic_hidden_dim=4,
    )
    audio, context = normal(1, 6, 4), normal(1, 6, 8)
    return model, lambda: model(audio, TIME / 10, TIME / 10, normal(1, 5, 8), context)


@head(
    "Cosmos, out, of two frames",
    "diffusers.CosmosTransformer3DModel",
    "proj_out",
    "Unpatchify(None, 16, 3, 2, bias=False)",
    load={"patch_order": (1, 2, 0, 3)},
)
def cosmos_out_of_frames(cls):
    model, video = cosmos(cls, (2, 2, 2)), normal(1, 16, 4, 4, 6)
    return unpatched(model, "proj_out", (2, 2, 3), video, TIME, normal(1, 5, 8), fps=8)


@head(
    "Stable Cascade, in",
    "diffusers.StableCascadeUNet",
    "embedding.1",
    "Patchify(3, n, 2, 2)",
)
def cascade_in(cls):
    model, image = cascade(cls), normal(1, 3, 4, 6)
    _, tokens, _ = seen(model.embedding[1], lambda: model.embedding(image))
    return model, last(image), last(tokens)


@head(
    "Stable Cascade, out",
    "diffusers.StableCascadeUNet",
    "clf.1",
    'Unpatchify(None, 3, 2, 2, bias="patch")',
)
def cascade_out(cls):
    model = cascade(cls)
    tokens, _, image = seen(model.clf[1], lambda: model.clf(normal(1, 8, 2, 3)))
    return model, last(tokens), last(image)


def cascade(cls):
    blocks = {
        "block_out_channels": (8, 8),
        "num_attention_heads": (2, 2),
        "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1),
    }
    sizes = {"conditioning_dim": 8, "clip_text_in_channels": 8, "clip_text_pooled_in_channels": 8}
    return build(
        cls,
        in_channels=3,
        out_channels=3,
        patch_size=2,
        clip_image_in_channels=8,
        **blocks,
        **sizes,
    )


@head(
    "Stable Diffusion's autoencoder, down",
    "diffusers.AutoencoderKL",
    "encoder.down_blocks.0.downsamplers.0.conv",
    "Patchify(None, n, 2, 3, stride=2, padding=((0, 1), (0, 1)))",
    edges="model",
)
def autoencoder(cls):
    blocks = {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }
    model = build(cls, block_out_channels=[8, 8], norm_num_groups=2, **blocks)
    downsampler = model.encoder.down_blocks[0].downsamplers[0]
    x, y, _ = seen(downsampler, lambda: model.encoder(normal(1, 3, 8, 12)))
    return model, last(x), last(y)


@head(
    "UNet2D, down",
    "diffusers.UNet2DModel",
    "down_blocks.0.downsamplers.0.conv",
    "Patchify(None, n, 2, 3, stride=2, padding=1)",
)
def unet_down(cls):
    blocks = {
        "down_block_types": ["DownBlock2D"] * 2,
        "up_block_types": ["UpBlock2D"] * 2,
        "layers_per_block": 1,
    }
    model = build(cls, sample_size=8, block_out_channels=(8, 8), norm_num_groups=2, **blocks)
    return model, lambda: model(normal(1, 3, 8, 12), TIME)


@head(
    "Stable Audio's autoencoder, up",
    "diffusers.AutoencoderOobleck",
    "decoder.block.0.conv_t1",
    "Unpatchify(None, n, 1, 16, stride=8, padding=4)",
)
def oobleck(cls):
    model = build(cls, encoder_hidden_size=4, decoder_channels=4, decoder_input_channels=4)
    return model, lambda: model.decoder(normal(1, 4, 5))


@head(
    "CogView3-Plus, out",
    "diffusers.CogView3PlusTransformer2DModel",
    "proj_out",
    'Unpatchify(None, 16, 2, 2, bias="patch")',
    load={"patch_order": "channels_first"},
)
def cogview3(cls):
    sizes = {"text_embed_dim": 8, "time_embed_dim": 8, "condition_dim": 4, "pos_embed_max_size": 8}
    model, size = build(cls, **SMALL, sample_size=8, **sizes), torch.tensor([[4, 6]])
    image, words = normal(1, 16, 4, 6), normal(1, 5, 8)
    return unpatched(model, "proj_out", (2, 3), image, words, TIME, size, size, size)


@head(
    "OmniGen, out",
    "diffusers.OmniGenTransformer2DModel",
    "proj_out",
    'Unpatchify(None, 4, 2, 2, bias="patch")',
)
def omnigen(cls):
    sizes = {"hidden_size": 16, "intermediate_size": 8, "pos_embed_max_size": 8}
    heads = {"num_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    words = {"vocab_size": 4, "pad_token_id": 0, "time_step_dim": 8}
    rotary = {"short_factor": [1] * 4, "long_factor": [1] * 4}
    model = build(cls, rope_scaling=rotary, **sizes, **heads, **words)
    order = torch.arange(1 + 6)[None]
    return unpatched(model, "proj_out", (2, 3), normal(1, 4, 4, 6), TIME, None, [], {}, None, order)


def prx(cls):
    sizes = {"context_in_dim": 8, "hidden_size": 16, "num_heads": 2, "depth": 1, "axes_dim": [4, 4]}
    model, image = build(cls, **sizes), normal(1, 16, 4, 6)
    return model, image, lambda: model(image, TIME / 10, normal(1, 5, 8))


@head(
    "PRX, in",
    "diffusers.PRXTransformer2DModel",
    "img_in",
    "Patchify(16, n, 2, 2)",
    load={"patch_order": "channels_first"},
)
def prx_in(cls):
    model, image, forward = prx(cls)
    _, tokens, _ = seen(model.img_in, forward)
    return model, last(image), grid(tokens, 2, 3)


@head(
    "PRX, out",
    "diffusers.PRXTransformer2DModel",
    "final_layer.linear",
    'Unpatchify(None, 16, 2, 2, bias="patch")',
    load={"patch_order": "channels_first"},
)
def prx_out(cls):
    model, _, forward = prx(cls)
    tokens, _, result = seen(model.final_layer.linear, forward)
    return model, grid(tokens, 2, 3), last(result.sample)


def qwen_image(cls):
    return build(cls, **SMALL, in_channels=64, joint_attention_dim=8, axes_dims_rope=(2, 2, 4))


@head(
    "Qwen-Image, in",
    "diffusers.QwenImageTransformer2DModel",
    "img_in",
    "Patchify(16, n, 2, 2)",
    load={"patch_order": "channels_first"},
)
def qwen_image_in(cls):
    from diffusers import QwenImagePipeline

    model, image = qwen_image(cls), normal(1, 16, 4, 6)
    patches = QwenImagePipeline._pack_latents(image, 1, 16, 4, 6)
    return model, last(image), grid(model.img_in(patches), 2, 3)


@head(
    "Qwen-Image, out",
    "diffusers.QwenImageTransformer2DModel",
    "proj_out",
    'Unpatchify(None, 16, 2, 2, bias="patch")',
    load={"patch_order": "channels_first"},
)
def qwen_image_out(cls):
    from diffusers import QwenImagePipeline

    model, tokens = qwen_image(cls), normal(1, 6, 16)
    image = QwenImagePipeline._unpack_latents(model.proj_out(tokens), 4, 6, vae_scale_factor=1)
    return model, grid(tokens, 2, 3), last(image[:, :, 0])


@head(
    "GLM-Image, out",
    "diffusers.GlmImageTransformer2DModel",
    "proj_out",
    'Unpatchify(None, 16, 2, 2, bias="patch")',
    load={"patch_order": "channels_first"},
)
def glm_image(cls):
    sizes = {"text_embed_dim": 8, "time_embed_dim": 8, "condition_dim": 4}
    model = build(cls, **SMALL, prior_vq_quantizer_codebook_size=4, **sizes)
    prior, dropped = torch.zeros(1, 6, dtype=torch.int64), torch.zeros(1, 6, dtype=torch.bool)
    image, words, size = normal(1, 16, 4, 6), normal(1, 5, 8), torch.tensor([[4, 6]])
    return unpatched(model, "proj_out", (2, 3), image, words, prior, dropped, TIME, size, size)


def cosmos3(cls):
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    sizes = {"head_dim": 8, "hidden_size": 16, "intermediate_size": 8, "vocab_size": 4}
    return build(cls, rope_axes_dim=(2, 1, 1), **heads, **sizes)


@head(
    "Cosmos 3, in, any size",
    "diffusers.Cosmos3OmniTransformer",
    "proj_in",
    "Patchify(48, n, 3, (1, 2, 2), padding=((0, 0), (0, 1), (0, 1)))",
)
def cosmos3_in(cls):
    model, video = cosmos3(cls), normal(1, 48, 3, 5, 7)
    patches, _ = model._patchify_and_pack_latents([video])
    return model, last(video), grid(model.proj_in(patches)[None], 3, 3, 4)


@head(
    "Cosmos 3, out, any size",
    "diffusers.Cosmos3OmniTransformer",
    "proj_out",
    'Unpatchify(None, 48, 3, (1, 2, 2), padding=((0, 0), (0, 1), (0, 1)), bias="patch")',
)
def cosmos3_out(cls):
    model, tokens = cosmos3(cls), normal(3 * 3 * 4, 16)
    (video,) = model._unpatchify_and_unpack_latents(
        model.proj_out(tokens), [(3, 3, 4)], [torch.arange(3)], [(3, 5, 7)]
    )
    return model, grid(tokens[None], 3, 3, 4), last(video)


def kandinsky6(cls):
    sizes = {"time_dim": 8, "model_dim": 16, "ff_dim": 8, "axes_dims": (4, 2, 2)}
    text = {"in_text_dim": 8, "in_text_dim2": 8, "num_text_blocks": 1, "num_visual_blocks": 1}
    return build(cls, visual_cond=False, **sizes, **text)


@head(
    "Kandinsky 6, in",
    "diffusers.Kandinsky6Transformer3DModel",
    "visual_embeddings.in_layer",
    "Patchify(16, n, 3, (1, 2, 2))",
)
def kandinsky6_in(cls):
    model, video = kandinsky6(cls), normal(1, 3, 4, 6, 16)
    return model, video, model.visual_embeddings(video)


@head(
    "Kandinsky 6, out",
    "diffusers.Kandinsky6Transformer3DModel",
    "out_layer.out_layer",
    'Unpatchify(None, 16, 3, (1, 2, 2), bias="patch")',
    load={"patch_order": "channels_first"},
)
def kandinsky6_out(cls):
    model, tokens = kandinsky6(cls), normal(1, 3, 2, 3, 16)
    x, _, video = seen(model.out_layer.out_layer, lambda: model.out_layer(tokens, normal(1, 8)))
    return model, x, video


@head(
    "Motif-Video, out",
    "diffusers.MotifVideoTransformer3DModel",
    "proj_out",
    'Unpatchify(None, 16, 3, (1, 2, 2), bias="patch")',
    load={"patch_order": "channels_first"},
)
def motif_video(cls):
    model = build(cls, **SMALL, num_single_layers=1, text_embed_dim=8, rope_axes_dim=(2, 4, 2))
    return unpatched(model, "proj_out", (3, 2, 3), normal(1, 33, 3, 4, 6), TIME, normal(1, 5, 8))


@head(
    "Helios, long history",
    "diffusers.HeliosTransformer3DModel",
    "patch_long",
    "Patchify(16, n, 3, (4, 8, 8))",
)
def helios(cls):
    sizes = {"text_dim": 8, "freq_dim": 8, "ffn_dim": 8, "rope_dim": (4, 2, 2)}
    model, frames = build(cls, **SMALL, **sizes), torch.arange(4)[None]
    short = {"latents_history_short": normal(1, 16, 4, 8, 16)}
    long = {"latents_history_long": normal(1, 16, 4, 8, 16)}
    indices = {f"indices_{name}": frames for name in (*short, *long)}
    video, words = normal(1, 16, 3, 8, 16), normal(1, 5, 8)
    return model, lambda: model(video, TIME, words, **indices, **short, **long)


@head(
    "MiniMax H3's autoencoder, out",
    "diffusers.AutoencoderKLMiniMaxH3",
    "decoder.proj_out",
    'Unpatchify(None, 3, 3, (4, 16, 16), bias="patch")',
    load={"patch_order": "channels_first"},
)
def minimax(cls):
    factors = {"spatial_downsample_factors": (4, 4), "temporal_downsample_factors": (2, 2)}
    sizes = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 2}
    heads = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}
    decoder = {f"decoder_{name}": size for name, size in heads.items()}
    model = build(cls, **factors, **sizes, **decoder)
    decoder, latent = model.decoder, normal(1, 24, 2, 2, 3)
    tokens, _, video = seen(decoder.proj_out, lambda: decoder(latent))
    return model, grid(tokens[:, : 2 * 2 * 3], 2, 2, 3), last(video)


@head(
    "Mochi's autoencoder, up",
    "diffusers.models.autoencoders.autoencoder_kl_mochi.MochiUpBlock3D",
    "proj",
    'Unpatchify(None, n, 3, (3, 2, 2), bias="patch")',
    load={"patch_order": "channels_first"},
)
def mochi_up(cls):
    block = at_random(cls(32, 8, temporal_expansion=3, spatial_expansion=2))
    tokens, _, (video, _) = seen(block.proj, lambda: block(normal(1, 32, 3, 4, 5)))
    return block, tokens, last(video)


# --- a rearrangement beside a convolution of several positions ---


def autoencoder_dc(cls, **options):
    sides = ("encoder", "decoder")
    layers = {f"{side}_layers_per_block": (0, 1) for side in sides}
    channels = {f"{side}_block_out_channels": (8, 8) for side in sides}
    scales = {f"{side}_qkv_multiscales": ((), ()) for side in sides}
    return build(cls, latent_channels=4, **layers, **channels, **scales, **options)


@head(
    "DC-AE, out",
    "diffusers.AutoencoderDC",
    "decoder.conv_out.conv",
    'Unpatchify(None, 3, 2, 6, stride=2, padding=2, bias="patch")',
)
def dc_ae(cls):
    model = autoencoder_dc(cls)
    x, _, image = seen(model.decoder.conv_out, lambda: model.decoder(normal(1, 4, 3, 5)))
    return model, last(x), last(image)


@head(
    "Hunyuan Image's autoencoder, up",
    "diffusers.AutoencoderKLHunyuanImage",
    "decoder.up_blocks.2.conv",
    'Unpatchify(None, n, 2, 6, stride=2, padding=2, bias="patch")',
    load={"patch_order": "channels_last"},
)
def hunyuan_image(cls):
    model = build(
        cls,
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=8,
    )
    block, x = model.decoder.up_blocks[2], normal(1, 32, 3, 5)
    nothing = {name: torch.zeros_like(weight) for name, weight in block.named_parameters()}
    shortcut = torch.func.functional_call(block, nothing, (x,))
    return model, last(x), last(block(x) - shortcut)


@head(
    "LTX-Video, larger latents",
    "diffusers.pipelines.ltx.modeling_latent_upsampler.LTXLatentUpsamplerModel",
    "upsampler.0",
    'Unpatchify(None, n, 2, 6, stride=2, padding=2, bias="patch")',
)
def ltx_larger(cls, **options):
    model = build(cls, in_channels=4, mid_channels=32, num_blocks_per_stage=1, **options)
    x, y, _ = seen(model.upsampler, lambda: model(normal(1, 4, 3, 4, 5)))
    return model, last(x), last(y)


@head(
    "LTX-Video, longer latents",
    "diffusers.pipelines.ltx.modeling_latent_upsampler.LTXLatentUpsamplerModel",
    "upsampler.0",
    'Unpatchify(None, n, 3, (6, 3, 3), stride=(2, 1, 1), padding=(2, 1, 1), bias="patch")',
)
def ltx_longer(cls):
    return ltx_larger(cls, spatial_upsample=False, temporal_upsample=True)


@head(
    "T2I-Adapter",
    "diffusers.T2IAdapter",
    "adapter.conv_in",
    "Patchify(3, n, 2, 24, stride=8, padding=8)",
)
def adapter(cls):
    model, image = build(cls, channels=[8, 8], num_res_blocks=1), normal(1, 3, 32, 48)
    _, tokens, _ = seen(model.adapter.conv_in, lambda: model(image))
    return model, last(image), last(tokens)


# --- a convolution behind a nearest resize ---


@head(
    "DC-AE, out, resized",
    "diffusers.AutoencoderDC",
    "decoder.conv_out.conv",
    "Unpatchify(None, 3, 2, 4, stride=2, padding=1)",
    load={"resize": "nearest"},
)
def dc_ae_resized(cls):
    model = autoencoder_dc(cls, upsample_block_type="interpolate")
    x, _, image = seen(model.decoder.conv_out, lambda: model.decoder(normal(1, 4, 3, 5)))
    return model, last(x), last(image)


@head(
    "Stable Diffusion's autoencoder, up",
    "diffusers.AutoencoderKL",
    "decoder.up_blocks.0.upsamplers.0.conv",
    "Unpatchify(None, n, 2, 4, stride=2, padding=1)",
    load={"resize": "nearest"},
)
def autoencoder_up(cls):
    model, _, _ = autoencoder(cls)
    upsampler = model.decoder.up_blocks[0].upsamplers[0]
    x, y, _ = seen(upsampler, lambda: model.decoder(normal(1, 4, 3, 5)))
    return model, last(x), last(y)


@head(
    "UNet2D, up",
    "diffusers.UNet2DModel",
    "up_blocks.0.upsamplers.0.conv",
    "Unpatchify(None, n, 2, 4, stride=2, padding=1)",
    load={"resize": "nearest"},
)
def unet_up(cls):
    model, forward = unet_down(cls)
    x, y, _ = seen(model.up_blocks[0].upsamplers[0], forward)
    return model, last(x), last(y)


@head(
    "Wan's autoencoder, up",
    "diffusers.AutoencoderKLWan",
    "decoder.up_blocks.0.upsamplers.0.resample.1",
    "Unpatchify(None, n, 2, 4, stride=2, padding=1)",
    load={"resize": "nearest"},
)
def wan_up(cls):
    sizes = {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 2], "temperal_downsample": [False]}
    model, frames = build(cls, num_res_blocks=1, **sizes), normal(3, 8, 3, 5)
    resample = model.decoder.up_blocks[0].upsamplers[0].resample
    return model, last(frames), last(resample(frames))
