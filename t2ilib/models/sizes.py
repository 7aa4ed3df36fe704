"""Sizes of networks by name: what each class takes, for the shipped networks, for smaller ones, for published ones.

    ImagenUNet(**IMAGEN["base"])
    generator, critic = WGANGenerator(**WGAN["live"]["generator"]), WGANCritic(**WGAN["live"]["critic"])

Notebooks train these and benchmarks time these. What a checkpoint was trained with stands in its `config.json` too.
"""

from typing import Any

from ..diffusion import resolution_shift

Sizes = dict[str, dict[str, Any]]

_SMALL_IMAGEN = dict(memory_efficient=True, attn_heads=4, attn_dim_head=32, init_kernels=[3], final_resnet_block=False)
_BASE = _SMALL_IMAGEN | dict(dim=48, dim_mults=[1, 2, 4], cond_dim=192, layer_attns=[False, True, True],
                             layer_cross_attns=[False, True, True])
_SUPER_RESOLUTION = _SMALL_IMAGEN | dict(dim=16, dim_mults=[2, 4, 6], cond_dim=96, lowres_cond=True,
                                         layer_cross_attns=[False, False, True])
_LIVE = _BASE | dict(dim=32, dim_mults=[1, 2, 3])

# `models.imagen_unet.ImagenUNet`
IMAGEN: Sizes = {
    # of the checkpoints emoji-minimagen-*: from words to 32 pixels, from 32 to 64, from 64 to 128
    "base": _BASE,
    "sr64": _SUPER_RESOLUTION | dict(layer_attns=[False, False, True], residual_std=0.16,
                                     schedule_shift=resolution_shift(64, 32)),
    "sr128": _SUPER_RESOLUTION | dict(layer_attns=False, residual_std=0.12, schedule_shift=resolution_shift(128, 32)),
    # from 64 to 256 pixels, for pictures of one's own; wants a GPU
    "sr256": dict(dim=64, dim_mults=[1, 2, 4, 4], layer_attns=[False, False, False, True], num_resnet_blocks=2,
                  layer_cross_attns=[False, False, True, True], memory_efficient=True, lowres_cond=True),
    # a base of a third of the size, which learns in minutes
    "live": _LIVE,
    # the same from 16 pixels down with a level above, for 64 pixels without super-resolution
    "live64": _LIVE | dict(dim=16, dim_mults=[2, 2, 4, 6], layer_attns=[False, False, True, True],
                           layer_cross_attns=[False, False, True, True]),
    # of the public MinImagen package: its base, its super-resolution at half the width, and its default parameters
    "original": dict(dim=128, dim_mults=[1, 2, 4], num_resnet_blocks=2, layer_attns=[False, True, True],
                     layer_cross_attns=[False, True, True]),
    "original_super": dict(dim=64, dim_mults=[1, 2, 4, 4], num_resnet_blocks=[1, 2, 4, 4], memory_efficient=True,
                           layer_attns=[False, False, False, True], layer_cross_attns=[False, False, False, True],
                           lowres_cond=True),
    "original_default": dict(dim=512, dim_mults=[1, 2, 3, 4], num_resnet_blocks=3,
                             layer_attns=[False, True, True, True], layer_cross_attns=[False, True, True, True]),
}

# `models.latent_prior.LatentPrior`, which also takes the mean and the deviation of its latents
PRIOR: Sizes = {
    "shipped": dict(channels=48, channel_mults=[1, 2, 4], num_res_blocks=1, attention=[False, True, True]),
    "small": dict(channels=32, channel_mults=[1, 2, 2], num_res_blocks=1, attention=[False, True, True]),
}

# `models.text_transformer.TextTransformer`, which also takes `causal`, the text's form and the codebook's size
TEXT_TRANSFORMER: Sizes = {
    "medium": dict(dim=192, depth=6, heads=6),
    "small": dict(dim=128, depth=4, heads=4),
    "large": dict(dim=256, depth=6, heads=8),
    # squares of 2 x 2 codes are one place each, for masked networks
    "large_squares": dict(dim=256, depth=6, heads=8, merge=2),
}

_PORT = dict(kernel=5, res_blocks=4, heads=8, text_dim=0, embedding=False, sees_itself=False)

# `models.pixelsnail.PixelSNAIL`, which also takes the codebook's size and the grid
PIXELSNAIL: Sizes = {
    # narrow kernels, and attention after each: at equal time it learns more than kernels of 5 in two blocks of three
    "shipped": dict(channels=128, hidden=128, kernel=3, blocks=4, res_blocks=1, heads=4, plan_depth=2),
    "small": dict(channels=64, hidden=64, kernel=3, blocks=2, res_blocks=2, heads=4, plan_depth=1),
    # of the public port: half as wide for 16 x 16 places, and as it is for coarse codes of 32 x 32 places
    "port": _PORT | dict(channels=128, hidden=128, blocks=2),
    "original": _PORT | dict(channels=256, hidden=256, blocks=4),
}

# `models.vqvae2.VQVAE2`, for codes of PixelSNAIL
_LARGE_VQVAE = dict(ch=32, ch_mult=[1, 3], patch_size=2, n_embed=1024, embed_dim=8, gradient="rotation")
_SMALL_VQVAE = dict(ch=32, ch_mult=[1, 2], n_embed=256, embed_dim=8, gradient="rotation", patch_size=2)
VQVAE2: Sizes = {
    "one": _LARGE_VQVAE | dict(levels=1),
    "two": _LARGE_VQVAE | dict(levels=2),
    "small": _SMALL_VQVAE | dict(levels=1),
    "small_two": _SMALL_VQVAE | dict(levels=2),
}

# `models.vqgan.VQGAN`
VQGAN: Sizes = {
    "shipped": dict(embed_dim=8, n_embed=2048, z_channels=8, resolution=64, ch=16, ch_mult=[1, 3, 8],
                    num_res_blocks=1, attn_resolutions=[], norm_groups=8),
    "small": dict(embed_dim=8, n_embed=512, z_channels=8, resolution=64, ch=32, ch_mult=[1, 2], num_res_blocks=1,
                  attn_resolutions=[], norm_groups=8, patch_size=2),
    # published, with 1024 or 16384 codes (Esser et al. 2021)
    "f16": dict(embed_dim=256, n_embed=16384, z_channels=256, resolution=256, ch=128, ch_mult=[1, 1, 2, 2, 4],
                num_res_blocks=2, attn_resolutions=[16]),
}

# `models.wgan.WGANGenerator` and `WGANCritic`
WGAN: dict[str, Sizes] = {
    "shipped": {"generator": dict(image_size=64, ch=24, max_ch=192), "critic": dict(image_size=64, ch=48, max_ch=384)},
    "live": {"generator": dict(image_size=32, ch=24, max_ch=96), "critic": dict(image_size=32, ch=32, max_ch=128)},
}

# `models.digit_gans`: of `ConvGenerator` and `ConvCritic`; the linear pair has its defaults
DIGIT_GAN: Sizes = {"linear": {}, "convolutional": dict(ch=16)}

# `models.feed_forward.CodeGenerator`, which also takes the codebook's size, the styles and the rows of its memory
GENERATOR: Sizes = {
    "shipped": dict(draft_dim=192, text_hidden=384),
    "small": dict(draft_dim=64, text_hidden=128, dim=96, depth=1, heads=4, local_dim=32),
}

# `models.gigagan.GigaGenerator` and `GigaDiscriminator`
GIGAGAN: dict[str, Sizes] = {
    "shipped": {"generator": dict(image_size=64, widths=[96, 96, 128, 96, 48], attention=[8, 16], filters=4,
                                  draft_dim=256),
                "discriminator": dict(image_size=64, widths=[128, 128, 96, 48, 24], reads=[64, 32, 16], scores=[4, 8],
                                      attention=[8])},
    "live": {"generator": dict(image_size=32, widths=[96, 96, 64, 48], attention=[8], filters=2, text_depth=0),
             "discriminator": dict(image_size=32, widths=[96, 96, 64, 32], reads=[32, 16], scores=[4, 8],
                                   attention=[8])},
}
