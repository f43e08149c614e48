"""Heads of the models of `timm` and of `segmentation_models_pytorch`, which is built on it."""

import importlib

from zoo import across, at_random, grid, head, last, normal, seen


@head("ViT", "timm.models.VisionTransformer", "patch_embed.proj", "Patchify(3, n, 2, 16)")
def vit(cls):
    model, image = (
        at_random(cls(img_size=(32, 48), embed_dim=8, depth=1, num_heads=2)),
        normal(1, 3, 32, 48),
    )
    return model, last(image), grid(model.patch_embed(image), 2, 3)


@head("NaFlexViT", "timm.models.NaFlexVit", "embeds.proj", "Patchify(3, n, 2, 16)")
def naflexvit(cls):
    config = importlib.import_module("timm.models.naflexvit").NaFlexVitCfg(
        embed_dim=8, depth=1, num_heads=2
    )
    model, image = at_random(cls(config)), normal(1, 3, 32, 48)
    _, tokens, _ = seen(model.embeds.proj, lambda: model.embeds(image))
    return model, last(image), grid(tokens, 2, 3)


@head("MLP-Mixer", "timm.models.mlp_mixer.MlpMixer", "stem.proj", "Patchify(3, n, 2, 16)")
def mixer(cls):
    model, image = at_random(cls(img_size=32, embed_dim=8, num_blocks=1)), normal(1, 3, 32, 32)
    return model, last(image), grid(model.stem(image), 2, 2)


@head("ConvNeXt, stem", "timm.models.ConvNeXt", "stem.0", "Patchify(3, n, 2, 4)")
@head(
    "ConvNeXt, between stages",
    "timm.models.ConvNeXt",
    "stages.1.downsample.1",
    "Patchify(None, n, 2, 2)",
)
def convnext(cls):
    model = at_random(cls(depths=(1, 1, 1, 1), dims=(4, 6, 8, 10)))
    return model, lambda: model(normal(1, 3, 32, 64))


@head(
    "DPT, reassembly",
    "segmentation_models_pytorch.DPT",
    "decoder.reassemble_blocks.0.upsample",
    "Unpatchify(None, n, 2, 4)",
)
def dpt(cls):
    channels = {"decoder_intermediate_channels": (4, 6, 8, 10), "decoder_fusion_channels": 4}
    model = at_random(cls("tu-test_vit", encoder_weights=None, dynamic_img_size=True, **channels))
    return model, lambda: model(normal(1, 3, 32, 64))


@head(
    "Swin V2, merging",
    "timm.models.SwinTransformerV2",
    "layers.1.downsample.reduction",
    "Patchify(None, n, 2, 2, bias=False)",
    load={"patch_order": (1, 0, 2)},
)
def swin2(cls):
    options = {
        "img_size": 32,
        "embed_dim": 8,
        "depths": (1, 1),
        "num_heads": (1, 1),
        "window_size": 2,
    }
    model, tokens = at_random(cls(**options)), normal(1, 4, 6, 8)
    merging = model.layers[1].downsample
    _, merged, _ = seen(merging.reduction, lambda: merging(tokens))
    return model, tokens, merged


@head(
    "ResNet, stem",
    "timm.models.ResNet",
    "conv1",
    "Patchify(3, n, 2, 7, stride=2, padding=3, bias=False)",
)
def resnet(cls):
    block = importlib.import_module("timm.models.resnet").BasicBlock
    model = at_random(cls(block, [1, 1, 1, 1], channels=(4, 6, 8, 10)))
    return model, lambda: model(normal(1, 3, 33, 47))


@head(
    "PVT v2",
    "timm.models.pvt_v2.PyramidVisionTransformerV2",
    "patch_embed.proj",
    "Patchify(3, n, 2, 7, stride=4, padding=3)",
)
def pvt(cls):
    model = at_random(cls(depths=(1, 1, 1, 1), embed_dims=(4, 6, 8, 10), num_heads=(1, 1, 1, 1)))
    return model, lambda: model(normal(1, 3, 64, 96))


@head(
    "LinkNet",
    "segmentation_models_pytorch.Linknet",
    "decoder.blocks.0.block.1.0",
    "Unpatchify(None, n, 2, 4, stride=2, padding=1)",
)
def linknet(cls):
    model = at_random(cls("resnet18", encoder_weights=None))
    return model, lambda: model(normal(1, 3, 64, 64))


@head(
    "TResNet, stem",
    "timm.models.TResNet",
    "body.conv1.conv",
    "Patchify(3, n, 2, 12, stride=4, padding=4, bias=False)",
    load={"patch_order": "channels_last"},
)
def tresnet(cls):
    model, image = at_random(cls([1, 1, 1, 1], width_factor=0.25)), normal(1, 3, 32, 48)
    _, tokens, _ = seen(model.body.conv1.conv, lambda: model(image))
    return model, last(image), last(tokens)


@head(
    "U-Net, last block",
    "segmentation_models_pytorch.Unet",
    "decoder.blocks.4.conv1.0",
    "Unpatchify(None, n, 2, 4, stride=2, padding=1, bias=False)",
    load={"resize": "nearest"},
)
def unet(cls):
    model = at_random(cls("resnet18", encoder_weights=None))
    block = model.decoder.blocks[4]
    return model, *across(block, block.conv1[0], lambda: model(normal(1, 3, 64, 96)))
