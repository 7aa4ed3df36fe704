"""Tiny random pipelines, saved in the layout in which published ones are: a UNet's and a transformer's."""

import json
from pathlib import Path

import torch

VOCABULARY = ["<|startoftext|>", "<|endoftext|>", "a</w>", "red</w>", "heart</w>", "blue</w>", "star</w>"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tiny_tokenizer(folder: Path):
    """Return a CLIP tokenizer of letters and a few words, made without a download."""
    from transformers import CLIPTokenizer

    words = [*VOCABULARY[:2], *LETTERS, *(letter + "</w>" for letter in LETTERS)]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=16)


def tiny_text_encoder(vocabulary: int, *, projection: bool):
    """Return a random CLIP text encoder of width 32."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(vocab_size=vocabulary, hidden_size=32, intermediate_size=37, num_hidden_layers=2,
                            num_attention_heads=4, max_position_embeddings=16, projection_dim=32, bos_token_id=0,
                            eos_token_id=1, pad_token_id=1)
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def tiny_vae(latent_channels: int):
    """Return a random autoencoder that makes 2 x 2 pixels of a latent."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(block_out_channels=(32, 64), in_channels=3, out_channels=3, latent_channels=latent_channels,
                         down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                         norm_num_groups=8, shift_factor=0.0)


def save_unet_pipeline(folder: Path, **options) -> Path:
    """Save a StableDiffusionPipeline whose pictures have 32 pixels."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(folder.with_name(f"{folder.name}-words"))
    unet = UNet2DConditionModel(block_out_channels=(8, 16), layers_per_block=1, sample_size=16, in_channels=4,
                                out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=32,
                                norm_num_groups=4, attention_head_dim=4)
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True)
    pipeline = StableDiffusionPipeline(vae=tiny_vae(4), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
                                       text_encoder=tiny_text_encoder(len(tokenizer), projection=False),
                                       safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipeline.save_pretrained(folder, **options)
    return folder


def save_transformer_pipeline(folder: Path) -> Path:
    """Save a StableDiffusion3Pipeline without its T5, whose pictures have 32 pixels."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(folder.with_name(f"{folder.name}-words"))
    transformer = SD3Transformer2DModel(sample_size=16, patch_size=1, in_channels=4, num_layers=1,
                                        attention_head_dim=8, num_attention_heads=4, joint_attention_dim=64,
                                        caption_projection_dim=32, pooled_projection_dim=64, out_channels=4)
    encoders = [tiny_text_encoder(len(tokenizer), projection=True) for _ in range(2)]
    pipeline = StableDiffusion3Pipeline(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(),
                                        vae=tiny_vae(4), text_encoder=encoders[0], tokenizer=tokenizer,
                                        text_encoder_2=encoders[1], tokenizer_2=tokenizer, text_encoder_3=None,
                                        tokenizer_3=None)
    pipeline.save_pretrained(folder)
    return folder
