"""Heads of the models of `transformers`."""

import importlib

import torch

from zoo import across, at_random, grid, head, last, normal, seen

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def build(cls, **config):
    """A model of a small configuration."""
    return at_random(cls(cls.config_class(**{**SMALL, **config})))


# --- patches to tokens ---


@head(
    "ViT",
    "transformers.ViTModel",
    "embeddings.patch_embeddings.projection",
    "Patchify(3, n, 2, 16)",
)
def vit(cls):
    model, image = build(cls, image_size=(32, 48)), normal(2, 3, 32, 48)
    return model, last(image), grid(model.embeddings.patch_embeddings(image), 2, 3)


@head(
    "CLIP",
    "transformers.CLIPVisionModel",
    "embeddings.patch_embedding",
    "Patchify(3, n, 2, 32, bias=False)",
)
def clip(cls):
    model, image = build(cls, image_size=64), normal(1, 3, 64, 64)
    return model, lambda: model(image)


@head(
    "DINOv2",
    "transformers.Dinov2Model",
    "embeddings.patch_embeddings.projection",
    "Patchify(3, n, 2, 14)",
)
def dinov2(cls):
    model, image = build(cls), normal(1, 3, 28, 42)
    return model, last(image), grid(model.embeddings.patch_embeddings(image), 2, 3)


@head(
    "SigLIP 2",
    "transformers.Siglip2VisionModel",
    "embeddings.patch_embedding",
    "Patchify(3, n, 2, 16)",
)
def siglip2(cls):
    model, image = build(cls, num_patches=16), normal(3, 32, 48)
    processing = importlib.import_module("transformers.models.siglip2.image_processing_siglip2")
    patches = processing.convert_image_to_patches(image, 16)[None]
    return model, last(image[None]), grid(model.embeddings.patch_embedding(patches), 2, 3)


@head(
    "Pix2Struct",
    "transformers.Pix2StructVisionModel",
    "embeddings.patch_projection",
    "Patchify(3, n, 2, 16)",
)
def pix2struct(cls):
    model, image = build(cls, patch_embed_hidden_size=768, d_kv=4, d_ff=8), normal(1, 3, 32, 48)
    processing = importlib.import_module(
        "transformers.models.pix2struct.image_processing_pix2struct"
    )
    return (
        model,
        last(image),
        model.embeddings.patch_projection(processing.torch_extract_patches(image, 16, 16)),
    )


@head(
    "Llama 4",
    "transformers.Llama4VisionModel",
    "patch_embedding.linear",
    "Patchify(3, n, 2, 14, bias=False)",
    load={"patch_order": "channels_first"},
)
def llama4(cls):
    model, image = (
        build(cls, image_size=28, projector_input_dim=8, projector_output_dim=8),
        normal(1, 3, 28, 42),
    )
    return model, last(image), grid(model.patch_embedding(image), 2, 3)


@head(
    "RADIO",
    "transformers.RadioModel",
    "embeddings.patch_projection",
    "Patchify(3, n, 2, 16, bias=False)",
    load={"patch_order": "channels_first"},
)
def radio(cls):
    model, image = build(cls, max_img_size=64), normal(1, 3, 32, 48)
    _, tokens, _ = seen(model.embeddings.patch_projection, lambda: model.embeddings(image))
    return model, last(image), grid(tokens, 2, 3)


@head(
    "Audio Spectrogram Transformer",
    "transformers.ASTModel",
    "embeddings.patch_embeddings.projection",
    "Patchify(1, n, 2, 16, stride=10)",
)
def ast(cls):
    model, mel = build(cls, num_mel_bins=36, max_length=56), normal(2, 56, 36)
    tokens = model.embeddings.patch_embeddings(mel)
    return model, mel.mT[..., None], grid(tokens, 3, 5)


@head(
    "ViViT",
    "transformers.VivitModel",
    "embeddings.patch_embeddings.projection",
    "Patchify(3, n, 3, (2, 16, 16))",
)
def vivit(cls):
    model, video = build(cls, image_size=(32, 48), num_frames=8), normal(1, 8, 3, 32, 48)
    return (
        model,
        last(video.transpose(1, 2)),
        grid(model.embeddings.patch_embeddings(video), 4, 2, 3),
    )


@head(
    "VideoMAE",
    "transformers.VideoMAEModel",
    "embeddings.patch_embeddings.projection",
    "Patchify(3, n, 3, (2, 16, 16))",
)
def videomae(cls):
    model, video = build(cls, image_size=(32, 48), num_frames=4), normal(1, 4, 3, 32, 48)
    return (
        model,
        last(video.transpose(1, 2)),
        grid(model.embeddings.patch_embeddings(video), 2, 2, 3),
    )


@head(
    "V-JEPA 2",
    "transformers.VJEPA2Model",
    "encoder.embeddings.patch_embeddings.proj",
    "Patchify(3, n, 3, (2, 16, 16))",
)
def vjepa2(cls):
    model = build(
        cls,
        crop_size=32,
        frames_per_clip=4,
        pred_hidden_size=8,
        pred_num_hidden_layers=1,
        pred_num_attention_heads=2,
    )
    video = normal(1, 3, 4, 32, 48)
    return model, last(video), grid(model.encoder.embeddings.patch_embeddings(video), 2, 2, 3)


@head(
    "Qwen2-VL, each patch",
    "transformers.Qwen2VLForConditionalGeneration",
    "model.visual.patch_embed.proj",
    "Patchify(3, n, 3, (2, 14, 14), bias=False)",
)
def qwen2_vl(cls):
    vision = {"depth": 1, "embed_dim": 8, "num_heads": 2, "hidden_size": 8, "mlp_ratio": 1}
    text = {**SMALL, "vocab_size": 16, "num_key_value_heads": 2}
    model = at_random(cls(cls.config_class(vision_config=vision, text_config=text)))
    patches = normal(5, 3, 2, 14, 14)
    tokens = model.model.visual.patch_embed(patches.flatten(1))
    return model, last(patches), tokens[:, None, None, None]


@head(
    "TimeSformer",
    "transformers.TimesformerModel",
    "embeddings.patch_embeddings.projection",
    "Patchify(3, n, 2, 16)",
)
def timesformer(cls):
    model, video = build(cls, image_size=32, num_frames=4), normal(1, 4, 3, 32, 48)
    tokens, *_ = model.embeddings.patch_embeddings(video)
    return model, last(video[0]), grid(tokens, 2, 3)


@head(
    "Swin",
    "transformers.SwinModel",
    "embeddings.patch_embeddings.projection",
    "Patchify(3, n, 2, 4)",
)
def swin(cls):
    model, image = (
        at_random(cls(cls.config_class(image_size=32, embed_dim=8, depths=[1], num_heads=[1]))),
        normal(1, 3, 16, 20),
    )
    tokens, sizes = model.embeddings.patch_embeddings(image)
    return model, last(image), grid(tokens, *sizes)


@head(
    "ConvNeXt, stem",
    "transformers.ConvNextModel",
    "embeddings.patch_embeddings",
    "Patchify(3, n, 2, 4)",
)
@head(
    "ConvNeXt, between stages",
    "transformers.ConvNextModel",
    "encoder.stages.1.downsampling_layer.1",
    "Patchify(None, n, 2, 2)",
)
def convnext(cls):
    model = at_random(cls(cls.config_class(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2)))
    return model, lambda: model(normal(1, 3, 16, 24))


@head(
    "Mistral 3, merging",
    "transformers.Mistral3ForConditionalGeneration",
    "model.multi_modal_projector.patch_merger.merging_layer",
    "Patchify(None, n, 2, 2, bias=False)",
    load={"patch_order": "channels_first"},
)
def mistral3(cls):
    vision = {"model_type": "pixtral", "image_size": 28, "patch_size": 14, "head_dim": 4, **SMALL}
    text = {
        "model_type": "mistral",
        "vocab_size": 16,
        "num_key_value_heads": 2,
        "head_dim": 4,
        **SMALL,
    }
    model = at_random(
        cls(cls.config_class(vision_config=vision, text_config=text, image_token_index=1))
    )
    tokens = normal(4 * 6, 8)
    merger = model.model.multi_modal_projector.patch_merger
    merged = merger(tokens, torch.tensor([[4 * 14, 6 * 14]]))
    return model, grid(tokens[None], 4, 6), grid(merged[None], 2, 3)


@head(
    "Idefics 3, pixel shuffle",
    "transformers.Idefics3ForConditionalGeneration",
    "model.connector.modality_projection.proj",
    "Patchify(None, n, 2, 2, bias=False)",
)
def idefics3(cls):
    text = {
        "model_type": "llama",
        "vocab_size": 16,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        **SMALL,
    }
    vision = {"image_size": 32, "patch_size": 8, **SMALL}
    model = at_random(
        cls(
            cls.config_class(
                vision_config=vision, text_config=text, image_token_id=1, pad_token_id=0
            )
        )
    )
    tokens = normal(1, 4 * 4, 8)
    return model, grid(tokens, 4, 4), grid(model.model.connector(tokens), 2, 2)


@head(
    "wav2vec 2.0, first of seven",
    "transformers.Wav2Vec2Model",
    "feature_extractor.conv_layers.0.conv",
    "Patchify(1, n, 1, 10, stride=5, bias=False)",
)
@head(
    "wav2vec 2.0, second of seven",
    "transformers.Wav2Vec2Model",
    "feature_extractor.conv_layers.1.conv",
    "Patchify(None, n, 1, 3, stride=2, bias=False)",
)
def wav2vec2(cls):
    convolutions = {
        "conv_dim": [8, 12],
        "conv_kernel": [10, 3],
        "conv_stride": [5, 2],
        "num_feat_extract_layers": 2,
    }
    positions = {"num_conv_pos_embeddings": 2, "num_conv_pos_embedding_groups": 1}
    model, wave = build(cls, **convolutions, **positions), normal(2, 77)
    return model, lambda: model.feature_extractor(wave)


@head(
    "PatchTST, embedding",
    "transformers.PatchTSTModel",
    "encoder.embedder.input_embedding",
    "Patchify(1, n, 1, 12, stride=6)",
)
def patchtst(cls):
    config = {
        "context_length": 48,
        "patch_length": 12,
        "patch_stride": 6,
        "d_model": 8,
        "num_input_channels": 2,
    }
    model, series = build(cls, ffn_dim=8, **config), normal(2, 48, 2)
    tokens = model.encoder.embedder(model.patchifier(series))
    return model, each_channel(series), tokens.flatten(0, 1)


@head(
    "PatchTSMixer, embedding",
    "transformers.PatchTSMixerModel",
    "encoder.patcher",
    "Patchify(1, n, 1, 8)",
)
def patchtsmixer(cls):
    model = build(
        cls, context_length=32, patch_length=8, patch_stride=8, d_model=8, num_input_channels=2
    )
    series = normal(2, 32, 2)
    return model, each_channel(series), model.encoder.patcher(model.patching(series)).flatten(0, 1)


def each_channel(series):
    """The channels of a series `(batch, time, channels)` as series of one channel."""
    return series.mT.flatten(0, 1)[..., None]


# --- tokens to patches ---


@head(
    "MAE",
    "transformers.ViTMAEForPreTraining",
    "decoder.decoder_pred",
    'Unpatchify(None, 3, 2, 16, bias="patch")',
)
def mae(cls):
    decoder = {
        "decoder_hidden_size": 12,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
    }
    model, tokens = (
        build(cls, image_size=32, decoder_intermediate_size=8, **decoder),
        normal(2, 2 * 3, 12),
    )
    image = model.unpatchify(model.decoder.decoder_pred(tokens), (32, 48))
    return model, grid(tokens, 2, 3), last(image)


@head(
    "SegGPT",
    "transformers.SegGptForImageSegmentation",
    "decoder.decoder_embed",
    'Unpatchify(None, n, 2, 16, bias="patch")',
)
def seggpt(cls):
    features = {
        "intermediate_hidden_state_indices": [0],
        "merge_index": 0,
        "decoder_hidden_size": 6,
    }
    model, tokens = build(cls, image_size=(64, 32), mlp_dim=8, **features), normal(1, 2, 3, 8)
    image, _, _ = seen(model.decoder.decoder_pred, lambda: model.decoder(tokens))
    return model, tokens, last(image)


@head(
    "Hiera MAE",
    "transformers.HieraForPreTraining",
    "decoder.decoder_pred",
    'Unpatchify(None, 3, 2, 32, bias="patch")',
    load={"patch_order": "channels_first"},
)
def hiera(cls):
    config = {
        "image_size": (64, 64),
        "embed_dim": 4,
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 1, 1, 1),
    }
    decoder = {
        "decoder_hidden_size": 8,
        "decoder_depth": 1,
        "decoder_num_heads": 2,
        "normalize_pixel_loss": False,
    }
    model, tokens = at_random(cls(cls.config_class(**config, **decoder))), normal(1, 2 * 2, 8)
    pixels, everywhere = (
        torch.arange(3 * 64 * 64).reshape(1, 3, 64, 64),
        torch.ones(1, 2 * 2, dtype=torch.bool),
    )
    labels = model.get_pixel_label_2d(
        pixels, everywhere
    )  # which pixel each output of the head stands for
    image = torch.zeros(1, 3, 64, 64)
    image.view(-1)[labels.flatten()] = model.decoder.decoder_pred(tokens).flatten()
    return model, grid(tokens, 2, 2), last(image)


def asked_at_a_point(cls, vision, prompt):
    """A small model of the SAM family, and its answer for a point of an image."""
    prompt = {"hidden_size": 16, "image_size": 64, "mask_input_channels": 4, **prompt}
    mask = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "mlp_dim": 8,
        "num_hidden_layers": 1,
        "iou_head_hidden_dim": 8,
    }
    config = cls.config_class(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=mask
    )
    model, image, points = at_random(cls(config)), normal(1, 3, 64, 64), normal(1, 1, 2, 2)
    return model, lambda: model(image, input_points=points)


@head(
    "SAM, first upscaling",
    "transformers.SamModel",
    "mask_decoder.upscale_conv1",
    "Unpatchify(None, n, 2, 2)",
)
@head(
    "SAM, second upscaling",
    "transformers.SamModel",
    "mask_decoder.upscale_conv2",
    "Unpatchify(None, n, 2, 2)",
)
def sam(cls):
    vision = {
        **SMALL,
        "image_size": 64,
        "output_channels": 16,
        "global_attn_indexes": [0],
        "mlp_dim": 8,
        "num_pos_feats": 8,
    }
    return asked_at_a_point(cls, vision, {"image_embedding_size": 4})


@head(
    "DPT, reassembly to a quarter",
    "transformers.DPTForDepthEstimation",
    "neck.reassemble_stage.layers.0.resize",
    "Unpatchify(None, n, 2, 4)",
)
@head(
    "DPT, reassembly to an eighth",
    "transformers.DPTForDepthEstimation",
    "neck.reassemble_stage.layers.1.resize",
    "Unpatchify(None, n, 2, 2)",
)
def dpt(cls):
    sizes = {
        "neck_hidden_sizes": [4, 6, 8, 10],
        "fusion_hidden_size": 4,
        "backbone_out_indices": [0, 1, 2, 3],
    }
    model, image = build(cls, num_hidden_layers=4, image_size=64, **sizes), normal(1, 3, 64, 64)
    return model, lambda: model(image)


@head(
    "Depth Anything, reassembly",
    "transformers.DepthAnythingForDepthEstimation",
    "neck.reassemble_stage.layers.0.resize",
    "Unpatchify(None, n, 2, 4)",
)
def depth_anything(cls):
    backbone = {
        "model_type": "dinov2",
        "out_indices": [1, 2, 3, 4],
        "image_size": 28,
        "patch_size": 14,
        "reshape_hidden_states": False,
        **SMALL,
        "num_hidden_layers": 4,
    }
    sizes = {
        "neck_hidden_sizes": [4, 6, 8, 10],
        "fusion_hidden_size": 4,
        "reassemble_hidden_size": 8,
    }
    model = at_random(
        cls(cls.config_class(backbone_config=backbone, patch_size=14, head_hidden_size=4, **sizes))
    )
    return model, lambda: model(normal(1, 3, 28, 42))


@head(
    "CLIPSeg",
    "transformers.CLIPSegForImageSegmentation",
    "decoder.transposed_convolution",
    "Unpatchify(None, 1, 2, 16)",
)
def clipseg(cls):
    model, (tokens, condition) = clipseg_decoder(cls), (normal(1, 1 + 4, 8), normal(1, 8))
    x, _, output = seen(
        model.decoder.transposed_convolution, lambda: model.decoder((tokens,), condition)
    )
    return model, last(x), output.logits[..., None]


@head(
    "CLIPSeg refined, first",
    "transformers.CLIPSegForImageSegmentation",
    "decoder.transposed_convolution.2",
    "Unpatchify(None, n, 2, 4)",
)
@head(
    "CLIPSeg refined, second",
    "transformers.CLIPSegForImageSegmentation",
    "decoder.transposed_convolution.4",
    "Unpatchify(None, 1, 2, 4)",
)
def clipseg_refined(cls):
    model = clipseg_decoder(cls, use_complex_transposed_convolution=True)
    return model, lambda: model.decoder((normal(1, 1 + 4, 8),), normal(1, 8))


def clipseg_decoder(cls, **config):
    text, vision = (
        {**SMALL, "vocab_size": 16, "eos_token_id": 1, "bos_token_id": 0},
        {**SMALL, "patch_size": 16},
    )
    decoder = {
        "reduce_dim": 8,
        "extract_layers": [0],
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 8,
    }
    config = {
        "text_config": text,
        "vision_config": vision,
        "projection_dim": 8,
        **decoder,
        **config,
    }
    return at_random(cls(cls.config_class(**config)))


@head(
    "BEiT, pyramid",
    "transformers.BeitForSemanticSegmentation",
    "fpn.fpn1.conv_transpose2",
    "Unpatchify(None, n, 2, 2)",
)
def beit(cls):
    model = build(
        cls, image_size=32, num_hidden_layers=4, out_indices=[1, 2, 3, 4], pool_scales=[1]
    )
    return model, lambda: model.fpn([normal(1, 8, 2, 3)] * 4)


@head(
    "EoMT, upscaling",
    "transformers.EomtForUniversalSegmentation",
    "upscale_block.block.0.conv1",
    "Unpatchify(None, n, 2, 2)",
)
def eomt(cls):
    model = build(cls, image_size=32, num_queries=2, num_blocks=1)
    return model, lambda: model.upscale_block(normal(1, 8, 2, 3))


@head(
    "LW-DETR, projector",
    "transformers.LwDetrForObjectDetection",
    "model.backbone.projector.scale_layers.0.sampling_layers.0.layers.0",
    "Unpatchify(None, n, 2, 2)",
)
def lw_detr(cls):
    backbone = {**SMALL, "model_type": "lw_detr_vit", "image_size": 64, "window_block_indices": [0]}
    detector = {
        "d_model": 8,
        "num_queries": 2,
        "decoder_layers": 1,
        "decoder_self_attention_heads": 2,
        "decoder_cross_attention_heads": 2,
        "projector_scale_factors": [2.0],
    }
    model = at_random(cls(cls.config_class(backbone_config=backbone, **detector)))
    return model, lambda: model.model.backbone.projector([normal(1, 8, 4, 6)])


@head(
    "PatchTST, pretraining",
    "transformers.PatchTSTForPretraining",
    "head.linear",
    'Unpatchify(None, 1, 1, 12, bias="patch")',
)
def patchtst_pretraining(cls):
    config = {
        "context_length": 48,
        "patch_length": 12,
        "patch_stride": 12,
        "d_model": 8,
        "num_input_channels": 2,
    }
    model = build(cls, ffn_dim=8, **config)
    positions = torch.arange(2 * 48 * 2.0).reshape(2, 48, 2)
    return model, *series_of(model.head, normal(2, 2, 4, 8), model.model.patchifier(positions))


@head(
    "PatchTSMixer, pretraining",
    "transformers.PatchTSMixerForPretraining",
    "head.base_pt_block",
    'Unpatchify(None, 1, 1, 8, bias="patch")',
)
def patchtsmixer_pretraining(cls):
    model = build(
        cls, context_length=32, patch_length=8, patch_stride=8, d_model=8, num_input_channels=2
    )
    positions = torch.arange(2 * 32 * 2.0).reshape(2, 32, 2)
    return model, *series_of(model.head, normal(2, 2, 4, 8), model.model.patching(positions))


def series_of(head, tokens, positions):
    """Tokens of each channel, and what the head says of each position of the series."""
    series = torch.zeros(positions.numel())
    series[positions.long().flatten()] = head(tokens).flatten()
    batch, channels = tokens.shape[:2]
    return tokens.flatten(0, 1), each_channel(series.reshape(batch, -1, channels))


# --- overlapping patches whose edges are padded or cropped ---


@head(
    "SegFormer, first stage",
    "transformers.SegformerModel",
    "stages.0.patch_embeddings.proj",
    "Patchify(3, n, 2, 7, stride=4, padding=3)",
)
@head(
    "SegFormer, further stages",
    "transformers.SegformerModel",
    "stages.1.patch_embeddings.proj",
    "Patchify(None, n, 2, 3, stride=2, padding=1)",
)
def segformer(cls):
    sizes = {"hidden_sizes": [4, 6, 8, 10], "depths": [1] * 4, "num_attention_heads": [1] * 4}
    model = at_random(cls(cls.config_class(**sizes)))
    return model, lambda: model(normal(1, 3, 64, 96))


@head(
    "Hiera",
    "transformers.HieraModel",
    "embeddings.patch_embeddings.projection",
    "Patchify(3, n, 2, 7, stride=4, padding=3)",
)
def hiera_embedding(cls):
    sizes = {
        "image_size": (64, 64),
        "embed_dim": 4,
        "depths": (1, 1, 1, 1),
        "num_heads": (1, 1, 1, 1),
    }
    model = at_random(cls(cls.config_class(**sizes)))
    return model, lambda: model(normal(1, 3, 64, 64))


@head(
    "PoolFormer",
    "transformers.PoolFormerModel",
    "encoder.patch_embeddings.0.projection",
    "Patchify(3, n, 2, 7, stride=4, padding=2)",
)
def poolformer(cls):
    model = at_random(cls(cls.config_class(hidden_sizes=[4, 6, 8, 10], depths=[1] * 4)))
    return model, lambda: model(normal(1, 3, 64, 96))


@head(
    "Swin, any size",
    "transformers.SwinModel",
    "embeddings.patch_embeddings.projection",
    "Patchify(3, n, 2, 4, padding=((0, 3), (0, 3)))",
    edges="model",
)
def swin_any_size(cls):
    config = {"image_size": 32, "embed_dim": 8, "depths": [1], "num_heads": [1]}
    model, image = at_random(cls(cls.config_class(**config))), normal(1, 3, 17, 23)
    tokens, sizes = model.embeddings.patch_embeddings(image)
    return model, last(image), grid(tokens, *sizes)


@head(
    "Swin V2, merging",
    "transformers.Swinv2Model",
    "encoder.layers.0.downsample.reduction",
    "Patchify(None, n, 2, 2, bias=False)",
    load={"patch_order": (1, 0, 2)},
)
def swin2(cls):
    config = {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]}
    model, tokens = at_random(cls(cls.config_class(**config))), normal(1, 4 * 6, 8)
    merging = model.encoder.layers[0].downsample
    _, merged, _ = seen(merging.reduction, lambda: merging(tokens, (4, 6)))
    return model, grid(tokens, 4, 6), grid(merged, 2, 3)


@head(
    "Whisper, second of two",
    "transformers.WhisperModel",
    "encoder.conv2",
    "Patchify(None, n, 1, 3, stride=2, padding=1)",
)
def whisper(cls):
    sizes = {
        "d_model": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "num_mel_bins": 6,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 8,
        "decoder_ffn_dim": 8,
        "max_source_positions": 8,
        "max_target_positions": 8,
        "vocab_size": 16,
        "pad_token_id": 0,
    }
    model = at_random(cls(cls.config_class(**sizes)))
    return model, lambda: model.encoder(normal(1, 6, 16))


@head(
    "DPT, reassembly to a thirty-second",
    "transformers.DPTForDepthEstimation",
    "neck.reassemble_stage.layers.3.resize",
    "Patchify(None, n, 2, 3, stride=2, padding=1)",
)
def dpt_down(cls):
    return dpt(cls)


@head(
    "ViTPose, first",
    "transformers.VitPoseForPoseEstimation",
    "head.deconv1",
    "Unpatchify(None, n, 2, 4, stride=2, padding=1, bias=False)",
)
@head(
    "ViTPose, second",
    "transformers.VitPoseForPoseEstimation",
    "head.deconv2",
    "Unpatchify(None, n, 2, 4, stride=2, padding=1, bias=False)",
)
def vitpose(cls):
    backbone = {
        "model_type": "vitpose_backbone",
        "image_size": [32, 48],
        "patch_size": [16, 16],
        **SMALL,
    }
    model = at_random(cls(cls.config_class(backbone_config=backbone, use_simple_decoder=False)))
    return model, lambda: model.head(normal(1, 8, 2, 3))


@head(
    "Descript Audio Codec",
    "transformers.DacModel",
    "decoder.block.0.conv_t1",
    "Unpatchify(None, n, 1, 16, stride=8, padding=4)",
)
def dac(cls):
    model = at_random(
        cls(cls.config_class(encoder_hidden_size=2, decoder_hidden_size=32, n_codebooks=1))
    )
    return model, lambda: model.decoder(normal(1, model.config.hidden_size, 5))


@head(
    "HiFi-GAN (SpeechT5)",
    "transformers.SpeechT5HifiGan",
    "upsampler.0",
    "Unpatchify(None, n, 1, 8, stride=4, padding=2)",
)
def hifigan(cls):
    model = at_random(cls(cls.config_class(model_in_dim=8, upsample_initial_channel=32)))
    return model, lambda: model(normal(1, 5, 8))


@head(
    "HiFi-GAN (SpeechT5), normalised",
    "transformers.SpeechT5HifiGan",
    "upsampler.0",
    "Unpatchify(None, n, 1, 8, stride=4, padding=2)",
)
def hifigan_normalised(cls):
    model = cls(cls.config_class(model_in_dim=8, upsample_initial_channel=32))
    model.apply_weight_norm()
    at_random(model)
    return model, lambda: model(normal(1, 5, 8))


@head(
    "VITS, vocoder",
    "transformers.VitsModel",
    "decoder.upsampler.0",
    "Unpatchify(None, n, 1, 16, stride=8, padding=4)",
)
def vits(cls):
    sizes = {
        "flow_size": 8,
        "upsample_initial_channel": 32,
        "vocab_size": 16,
        "ffn_dim": 8,
        "spectrogram_bins": 5,
        "prior_encoder_num_wavenet_layers": 1,
        "posterior_encoder_num_wavenet_layers": 1,
    }
    model = build(cls, **sizes)
    return model, lambda: model.decoder(normal(1, 8, 5))


@head(
    "EnCodec, decoder",
    "transformers.EncodecModel",
    "decoder.layers.3.conv",
    "Unpatchify(None, n, 1, 16, stride=8, padding=((0, 8),))",
    edges="model",
)
def encodec(cls):
    model = at_random(cls(cls.config_class(num_filters=2, hidden_size=8, codebook_size=4)))
    x, y, _ = seen(model.decoder.layers[3], lambda: model.decoder(normal(1, 8, 5)))
    return model, last(x), last(y)


@head(
    "Chameleon, between resolutions",
    "transformers.ChameleonVQVAE",
    "encoder.down.0.downsample.conv",
    "Patchify(None, n, 2, 3, stride=2, padding=((0, 1), (0, 1)))",
    edges="model",
)
def chameleon(cls):
    sizes = {
        "base_channels": 32,
        "channel_multiplier": [1, 1],
        "resolution": 16,
        "num_embeddings": 4,
        "embed_dim": 4,
    }
    model = at_random(cls(cls.config_class(num_res_blocks=1, latent_channels=4, **sizes)))
    x, y, _ = seen(model.encoder.down[0].downsample, lambda: model.encoder(normal(1, 3, 16, 24)))
    return model, last(x), last(y)


# --- a rearrangement beside a convolution of one position, and activations ---


@head(
    "SimMIM (ViT)",
    "transformers.ViTForMaskedImageModeling",
    "decoder.0",
    'Unpatchify(None, 3, 2, 16, bias="patch")',
)
def simmim(cls):
    model = build(cls, image_size=32)
    x, _, result = seen(model.decoder, lambda: model(normal(1, 3, 32, 32)))
    return model, last(x), last(result.reconstruction)


@head(
    "SimMIM (Swin)",
    "transformers.SwinForMaskedImageModeling",
    "decoder.0",
    'Unpatchify(None, 3, 2, 32, bias="patch")',
)
def simmim_swin(cls):
    config = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "encoder_stride": 32}
    model = at_random(cls(cls.config_class(image_size=56, **config)))
    x, _, result = seen(model.decoder, lambda: model(normal(1, 3, 56, 56)))
    return model, last(x), last(result.reconstruction)


@head(
    "PP-OCRv5, probability map",
    "transformers.PPOCRV5MobileDetForObjectDetection",
    "head.conv_final",
    'Unpatchify(None, 1, 2, 2, activation="sigmoid")',
)
def ppocr(cls):
    model = at_random(cls(cls.config_class(neck_out_channels=24)))
    x, _, map = seen(model.head.conv_final, lambda: model.head(normal(1, 24, 3, 4)))
    return model, last(x), last(map)


@head(
    "wav2vec 2.0, second, with its GELU",
    "transformers.Wav2Vec2Model",
    "feature_extractor.conv_layers.1.conv",
    'Patchify(None, n, 1, 3, stride=2, bias=False, activation="gelu")',
)
def wav2vec2_gelu(cls):
    model, forward = wav2vec2(cls)
    x, y, _ = seen(model.feature_extractor.conv_layers[1], forward)
    return model, last(x), last(y)


# --- newer models ---


@head(
    "DINOv3",
    "transformers.DINOv3ViTModel",
    "embeddings.patch_embeddings",
    "Patchify(3, n, 2, 16)",
)
def dinov3(cls):
    model, image = build(cls, num_register_tokens=2), normal(1, 3, 32, 48)
    return model, lambda: model(image)


@head(
    "Qwen3-VL, each patch",
    "transformers.Qwen3VLVisionModel",
    "patch_embed.proj",
    "Patchify(3, n, 3, (2, 16, 16))",
)
def qwen3_vl(cls):
    sizes = {"depth": 1, "hidden_size": 8, "num_heads": 2, "intermediate_size": 8}
    model = at_random(cls(cls.config_class(out_hidden_size=8, **sizes)))
    patches = normal(5, 3, 2, 16, 16)
    tokens = model.patch_embed(patches.flatten(1))
    return model, last(patches), tokens[:, None, None, None]


@head(
    "Gemma 4",
    "transformers.Gemma4VisionModel",
    "patch_embedder.input_proj",
    "Patchify(3, n, 2, 16, bias=False)",
)
def gemma4(cls):
    model = build(cls, num_key_value_heads=2, head_dim=4, position_embedding_size=4)
    image, embedder = normal(1, 3, 32, 48), model.patch_embedder
    processing = importlib.import_module("transformers.models.gemma4.image_processing_gemma4")
    patches = processing.convert_image_to_patches(image[0] / 2 + 0.5, 16)[None]
    places = torch.zeros(1, 6, 2, dtype=torch.int64), torch.zeros(1, 6, dtype=torch.bool)
    _, tokens, _ = seen(embedder.input_proj, lambda: embedder(patches, *places))
    return model, last(image), grid(tokens, 2, 3)


@head(
    "SAM 2, first upscaling",
    "transformers.Sam2Model",
    "mask_decoder.upscale_conv1",
    "Unpatchify(None, n, 2, 2)",
)
def sam2(cls):
    stages = {"blocks_per_stage": [1, 1, 1, 1], "embed_dim_per_stage": [4, 8, 16, 32]}
    windows = {"window_size_per_stage": [4, 4, 4, 4], "global_attention_blocks": []}
    sizes = {"hidden_size": 4, "image_size": [64, 64], "num_attention_heads_per_stage": [1] * 4}
    backbone = {"model_type": "sam2_hiera_det_model", **stages, **windows, **sizes}
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [32, 16, 8, 4],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 16,
    }
    return asked_at_a_point(cls, vision, {})


@head(
    "SAM 3, neck",
    "transformers.Sam3VisionModel",
    "neck.fpn_layers.0.scale_layers.0",
    "Unpatchify(None, n, 2, 2)",
)
def sam3(cls):
    backbone = {"model_type": "sam3_vit_model", "image_size": 56, "window_size": 2, **SMALL}
    config = cls.config_class(backbone_config=backbone, fpn_hidden_size=8)
    model = at_random(cls(config))
    return model, lambda: model.neck(normal(1, 8, 2, 3))


@head(
    "Depth Pro, head",
    "transformers.DepthProForDepthEstimation",
    "head.layers.1",
    "Unpatchify(None, n, 2, 2)",
)
def depth_pro(cls):
    encoder = {"model_type": "dinov2", "image_size": 16, "patch_size": 8, **SMALL}
    encoders = {f"{name}_model_config": encoder for name in ("image", "patch", "fov")}
    features = {"scaled_images_feature_dims": [4, 4, 4], "intermediate_feature_dims": [4, 4]}
    hooks = {"patch_size": 16, "intermediate_hook_ids": [0, 0], "fusion_hidden_size": 4}
    model = at_random(cls(cls.config_class(**encoders, **features, **hooks)))
    return model, lambda: model.head(normal(1, 4, 3, 5))


@head(
    "Qwen3-Omni, to a wave",
    "transformers.Qwen3OmniMoeCode2Wav",
    "decoder.1.block.1.conv",
    "Unpatchify(None, n, 1, 16, stride=8, padding=8)",
    edges="model",
)
def qwen3_omni(cls):
    model = build(cls, num_key_value_heads=2, codebook_size=4, num_quantizers=2, decoder_dim=32)
    upsampler = model.decoder[1].block[1]
    x, y, _ = seen(upsampler, lambda: model(torch.zeros(1, 2, 3, dtype=torch.int64)))
    return model, last(x), last(y)


# --- a convolution before a pixel shuffle, and one behind a nearest resize ---


def swin2sr(cls, **options):
    sizes = {"image_size": 16, "embed_dim": 8, "depths": [1], "num_heads": [1], "window_size": 4}
    model = at_random(cls(cls.config_class(**sizes, **options)))
    return model, lambda: model(normal(1, 3, 8, 12))


@head(
    "Swin2SR",
    "transformers.Swin2SRForImageSuperResolution",
    "upsample.upsample.convolution_0",
    'Unpatchify(None, n, 2, 6, stride=2, padding=2, bias="patch")',
)
def swin2sr_classical(cls):
    model, forward = swin2sr(cls)
    x, y, _ = seen(model.upsample.upsample, forward)
    return model, last(x), last(y)


@head(
    "Swin2SR, lightweight",
    "transformers.Swin2SRForImageSuperResolution",
    "upsample.conv",
    'Unpatchify(None, 3, 2, 12, stride=4, padding=4, bias="patch")',
)
def swin2sr_lightweight(cls):
    model, forward = swin2sr(cls, upscale=4, upsampler="pixelshuffledirect")
    x, y, _ = seen(model.upsample, forward)
    return model, last(x), last(y)


@head(
    "Swin2SR, real-world, first of two",
    "transformers.Swin2SRForImageSuperResolution",
    "upsample.conv_up1",
    "Unpatchify(None, n, 2, 4, stride=2, padding=1)",
    load={"resize": "nearest"},
)
def swin2sr_real_world(cls):
    model, forward = swin2sr(cls, upscale=4, upsampler="nearest+conv")
    _, x, _ = seen(model.upsample.activation, forward)
    _, y, _ = seen(model.upsample.conv_up1, forward)
    return model, last(x), last(y)


@head(
    "Sapiens 2, normals",
    "transformers.Sapiens2ForNormalEstimation",
    "decode_head.upsample_layers.0.convolution",
    'Unpatchify(None, n, 2, 6, stride=2, padding=2, bias="patch")',
)
def sapiens2(cls):
    head = {
        "use_pixel_shuffle": True,
        "upsample_out_channels": [4],
        "upsample_kernel_sizes": [3],
        "conv_out_channels": [4],
    }
    model = build(cls, image_size=32, num_register_tokens=2, head_config=head)
    upsampler = model.get_submodule("decode_head.upsample_layers.0")
    return model, *across(upsampler, upsampler.pixel_shuffle, lambda: model(normal(1, 3, 32, 48)))
