"""Heads of the networks of `monai`."""

from zoo import at_random, grid, head, last, normal, seen


def unetr(cls, in_channels=1, **options):
    sizes = {"feature_size": 4, "hidden_size": 12, "mlp_dim": 8, "num_heads": 2}
    return at_random(
        cls(in_channels=in_channels, out_channels=3, img_size=(32, 32, 48), **sizes, **options)
    )


@head(
    "UNETR, convolution",
    "monai.networks.nets.UNETR",
    "vit.patch_embedding.patch_embeddings",
    "Patchify(1, n, 3, 16)",
)
def unetr_convolution(cls):
    model = unetr(cls, proj_type="conv")
    return model, lambda: model.vit.patch_embedding(normal(1, 1, 32, 32, 48))


@head(
    "UNETR, perceptron",
    "monai.networks.nets.UNETR",
    "vit.patch_embedding.patch_embeddings.1",
    "Patchify(2, n, 3, 16)",
)
def unetr_perceptron(cls):
    model, volume = unetr(cls, 2, proj_type="perceptron"), normal(1, 2, 32, 32, 48)
    return model, last(volume), grid(model.vit.patch_embedding.patch_embeddings(volume), 2, 2, 3)


@head(
    "UNETR, decoder",
    "monai.networks.nets.UNETR",
    "decoder5.transp_conv.conv",
    "Unpatchify(None, n, 3, 2, bias=False)",
)
@head(
    "UNETR, skip connection",
    "monai.networks.nets.UNETR",
    "encoder2.transp_conv_init.conv",
    "Unpatchify(None, n, 3, 2, bias=False)",
)
def unetr_up(cls):
    model = unetr(cls)
    return model, lambda: model(normal(1, 1, 32, 32, 48))


@head(
    "Swin UNETR, embedding",
    "monai.networks.nets.SwinUNETR",
    "swinViT.patch_embed.proj",
    "Patchify(2, n, 3, 2)",
)
@head(
    "Swin UNETR, decoder",
    "monai.networks.nets.SwinUNETR",
    "decoder1.transp_conv.conv",
    "Unpatchify(None, n, 3, 2, bias=False)",
)
def swin_unetr(cls):
    model = at_random(
        cls(
            in_channels=2,
            out_channels=3,
            feature_size=12,
            depths=(1, 1, 1, 1),
            num_heads=(1, 1, 1, 1),
        )
    )
    return model, lambda: model(normal(1, 2, 32, 32, 64))


@head(
    "nnU-Net (DynUNet)",
    "monai.networks.nets.DynUNet",
    "upsamples.1.transp_conv.conv",
    "Unpatchify(None, n, 3, (1, 2, 2), bias=False)",
)
def dynunet(cls):
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    sizes = {
        "kernel_size": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": strides,
        "filters": [4, 6, 8],
    }
    model = at_random(cls(3, 2, 3, upsample_kernel_size=strides[1:], **sizes))
    return model, lambda: model(normal(1, 2, 4, 8, 12))


@head(
    "UNet (BasicUNet)",
    "monai.networks.nets.BasicUNet",
    "upcat_4.upsample.deconv",
    "Unpatchify(None, n, 3, 2)",
)
def basic_unet(cls):
    model = at_random(cls(3, 2, 3, features=(4, 4, 6, 6, 8, 4)))
    return model, lambda: model(normal(1, 2, 32, 32, 48))


@head("V-Net", "monai.networks.nets.VNet", "up_tr32.up_conv", "Unpatchify(None, n, 3, 2)")
def vnet(cls):
    model = at_random(cls(3, in_channels=1, out_channels=2))
    return model, lambda: model.up_tr32(normal(1, 64, 2, 3, 4), normal(1, 16, 4, 6, 8))


@head(
    "ViT autoencoder, first",
    "monai.networks.nets.ViTAutoEnc",
    "conv3d_transpose",
    "Unpatchify(None, n, 3, 4)",
)
@head(
    "ViT autoencoder, second",
    "monai.networks.nets.ViTAutoEnc",
    "conv3d_transpose_1",
    "Unpatchify(None, n, 3, 4)",
)
def vit_autoencoder(cls):
    sizes = {
        "hidden_size": 12,
        "mlp_dim": 8,
        "num_layers": 1,
        "num_heads": 2,
        "deconv_chns": 4,
        "out_channels": 2,
    }
    model = at_random(cls(2, (32, 32, 32), (16, 16, 16), **sizes))
    return model, lambda: model(normal(1, 2, 32, 32, 32))


@head(
    "SegResNet, decoder",
    "monai.networks.nets.SegResNet",
    "up_samples.0.1.deconv",
    "Unpatchify(None, n, 3, 2)",
)
def segresnet(cls):
    model = at_random(cls(in_channels=2, init_filters=8, out_channels=3, upsample_mode="deconv"))
    return model, lambda: model(normal(1, 2, 16, 16, 24))


@head(
    "UNet",
    "monai.networks.nets.UNet",
    "model.2.conv",
    "Unpatchify(None, n, 3, 3, stride=2, padding=1)",
    call={"output_spatial_shape": (8, 8, 12)},
    edges="model",
)
def unet(cls):
    model = at_random(cls(3, 2, 3, channels=(4, 6, 8), strides=(2, 2)))
    return model, lambda: model(normal(1, 2, 8, 8, 12))


@head(
    "VISTA3D, upscaling",
    "monai.networks.nets.vista3d.PointMappingSAM",
    "output_upscaling.0",
    "Unpatchify(None, n, 3, 3, stride=2, padding=1)",
    call={"output_spatial_shape": (4, 6, 8)},
    edges="model",
)
def vista3d(cls):
    model = at_random(cls(feature_size=16, max_prompt=1))
    return model, lambda: model.output_upscaling(normal(1, 16, 2, 3, 4))


@head(
    "Swin UNETR, embedding, any size",
    "monai.networks.nets.SwinUNETR",
    "swinViT.patch_embed.proj",
    "Patchify(2, n, 3, 2, padding=((0, 1), (0, 1), (0, 1)))",
    edges="model",
)
def swin_unetr_any_size(cls):
    sizes = {"depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    model, volume = (
        at_random(cls(in_channels=2, out_channels=3, feature_size=12, **sizes)),
        normal(1, 2, 7, 9, 8),
    )
    return model, last(volume), last(model.swinViT.patch_embed(volume))


@head(
    "Restormer, up",
    "monai.networks.nets.restormer.Restormer",
    "upsamples.0.pixelshuffle.conv_block",
    'Unpatchify(None, n, 3, 6, stride=2, padding=2, bias="patch")',
)
def restormer(cls):
    sizes = {"dim": 4, "num_blocks": (1, 1), "heads": (1, 1), "num_refinement_blocks": 1}
    model = at_random(cls(3, 2, 3, bias=True, **sizes))
    x, y, _ = seen(model.upsamples[0], lambda: model(normal(1, 2, 4, 6, 8)))
    return model, last(x), last(y)


@head(
    "Latent diffusion's autoencoder, up",
    "monai.networks.nets.AutoencoderKL",
    "decoder.blocks.2.postconv.conv",
    "Unpatchify(None, n, 3, 4, stride=2, padding=1)",
    load={"resize": "nearest"},
)
def autoencoder(cls):
    blocks = {"channels": (4, 4), "attention_levels": (False, False), "num_res_blocks": (1, 1)}
    attention = {"with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False}
    model = at_random(cls(3, 2, 2, latent_channels=4, norm_num_groups=2, **blocks, **attention))
    x, y, _ = seen(model.decoder.blocks[2], lambda: model.decoder(normal(1, 4, 2, 3, 4)))
    return model, last(x), last(y)
