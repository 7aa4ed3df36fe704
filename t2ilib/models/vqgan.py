"""VQGAN: pictures as a grid of codes (Esser et al. 2021, section 3.1).

Encoder, decoder and quantisers are our own, made to be fast, with the parameter names of taming-transformers, so that
its checkpoints fit. Checked against: taming.modules.diffusionmodules.model and taming.modules.vqvae.quantize.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import taming_format
from .. import assets, runtime
from ..checkpoint import CONFIG, configurable, load_model, load_strict, save_model
from ..errors import BadParameter, CheckpointMismatch, MissingAsset, check_name, unknown_name
from ..layers.autoencoder import Decoder, Encoder
from ..layers.conv_blocks import use_explicit_attention
from ..layers.quantize import GumbelQuantizer, Quantized, VectorQuantizer, vector_quantize
from ..paths import checkpoints_dir

QUANTIZERS = ("vq", "gumbel")
WEIGHT_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")

# Published networks by name, and the arguments that their files must agree with, as far as they were published.
VQGAN_MODELS: dict[str, dict[str, Any]] = {
    name: asset.arguments for name, asset in assets.CATALOGUE.items() if asset.kind == "vqgan"
}


@configurable
class VQGAN(nn.Module):
    """Encoder, quantiser and decoder of a VQGAN.

    The defaults are those of the published f16 networks. The arguments from `z_channels` to `resamp_with_conv` carry
    the names of taming's `ddconfig`.

    Args:
        embed_dim: size D of a code's vector.
        n_embed: number of codes K.
        z_channels: channels between encoder or decoder and the 1x1 convolutions around the quantiser.
        resolution: side of the pictures it was trained on; decides only where attention sits.
        in_channels, out_ch: channels of a picture.
        ch: base width; every width `ch * ch_mult[i]` must be a multiple of norm_groups.
        ch_mult: width multipliers from the highest resolution to the lowest; the factor f is 2^(len(ch_mult) - 1).
        num_res_blocks: residual blocks on each level (one more in the decoder).
        attn_resolutions: sides at which attention follows the blocks.
        dropout: inside residual blocks, while training.
        resamp_with_conv: convolutions when changing resolution.
        mid_attention: attention between the two innermost blocks of encoder and decoder.
        quantizer: "vq" (nearest code) or "gumbel" (code of the largest logit; needs embed_dim = z_channels).
        beta: weight of the commitment term.
        norm_groups: groups of every GroupNorm.
        patch_size: side p of the pixel blocks that are folded into channels before the encoder and unfolded after the
            decoder; 1 as published. With 2, the costly full-resolution level is left out.

    The submodule `quantize` is the quantiser: `model.quantize(model.encode(x))` returns a `Quantized`, whose z_q is the
    code's value with a straight-through gradient.

    Shapes:
        x: (B, 3, H, W) in [-1, 1], H and W multiples of f -> reconstruction of the same shape, Quantized

    Raises:
        BadParameter, UnknownName: an argument is out of range.
    """

    def __init__(
        self, *, embed_dim: int = 256, n_embed: int = 1024, z_channels: int = 256, resolution: int = 256,
        in_channels: int = 3, out_ch: int = 3, ch: int = 128, ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2, attn_resolutions: Sequence[int] = (16,), double_z: bool = False, dropout: float = 0.0,
        resamp_with_conv: bool = True, mid_attention: bool = True, quantizer: str = "vq", beta: float = 0.25,
        norm_groups: int = 32, patch_size: int = 1,
    ):  # fmt: skip
        super().__init__()
        sizes = {"embed_dim": embed_dim, "n_embed": n_embed, "z_channels": z_channels, "len(ch_mult)": len(ch_mult),
                 "num_res_blocks": num_res_blocks, "patch_size": patch_size}  # fmt: skip
        _check_arguments(sizes, double_z, quantizer)
        self.patch_size = patch_size
        self.factor = patch_size * 2 ** (len(ch_mult) - 1)
        common = {
            "ch": ch, "ch_mult": tuple(ch_mult), "num_res_blocks": num_res_blocks, "z_channels": z_channels,
            "resolution": resolution // patch_size, "attn_resolutions": tuple(attn_resolutions),
            "dropout": dropout, "resamp_with_conv": resamp_with_conv, "mid_attention": mid_attention,
            "norm_groups": norm_groups,
        }  # fmt: skip
        self.encoder = Encoder(in_channels=in_channels * patch_size**2, **common)
        self.decoder = Decoder(out_ch=out_ch * patch_size**2, **common)
        if quantizer == "vq":
            self.quantize = VectorQuantizer(n_embed=n_embed, embed_dim=embed_dim, beta=beta)
        else:
            self.quantize = GumbelQuantizer(n_embed=n_embed, embed_dim=embed_dim, num_hiddens=z_channels)
        self.quant_conv = nn.Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)

    @property
    def codebook(self) -> Tensor:
        """The table of code vectors, (K, D)."""
        return self.quantize.table

    @property
    def codebooks(self) -> tuple[Tensor]:
        """The table of its one grid, as what has several grids offers it."""
        return (self.codebook,)

    @property
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weight, for `losses.adaptive_weight`."""
        return self.decoder.last_layer

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return (D, h, w) for pictures of this size; raise BadParameter unless both are multiples of the factor."""
        if height < 1 or width < 1 or height % self.factor or width % self.factor:
            near_height = max(1, round(height / self.factor)) * self.factor
            near_width = max(1, round(width / self.factor)) * self.factor
            raise BadParameter(
                f"picture size must be a multiple of the VQGAN's factor {self.factor}, got {height} x {width}; "
                f"use {near_height} x {near_width}"
            )
        return self.codebook.shape[1], height // self.factor, width // self.factor

    def encode(self, x: Tensor) -> Tensor:
        """Return what is to be quantised: (B, 3, H, W) in [-1, 1] -> z_e (B, D, H / f, W / f)."""
        self.latent_shape(*x.shape[-2:])  # refuses sizes that do not fit
        if self.patch_size > 1:
            x = F.pixel_unshuffle(x, self.patch_size)  # (B, 3 p^2, H / p, W / p)
        return self.quant_conv(self.encoder(x))

    def snap(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Move latents to the nearest code vectors, straight-through, as guidance does with the latent it optimises.

        For the "vq" quantiser this is `quantize` without the losses. A Gumbel network's `quantize` expects the
        encoder's features, while `snap` works among code vectors for both.

        Shapes:
            z: (B, D, h, w) -> z_q (B, D, h, w), codes (B, h, w)
        """
        return vector_quantize(z, self.codebook)

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Look up code vectors: codes (B, h, w), int64 -> z_q (B, D, h, w)."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    def decode(self, z_q: Tensor) -> Tensor:
        """Return pictures: (B, D, h, w) -> (B, 3, f h, f w), about [-1, 1] but not clamped."""
        x = self.decoder(self.post_quant_conv(z_q))
        if self.patch_size > 1:
            x = F.pixel_shuffle(x, self.patch_size)  # (B, 3, f h, f w)
        return x

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Return pictures for codes (B, h, w) -> (B, 3, f h, f w)."""
        return self.decode(self.embed_codes(codes))

    def encode_codes(self, x: Tensor) -> Tensor:
        """Return the codes of pictures: (B, 3, H, W) in [-1, 1] -> (B, h, w), int64."""
        return self.quantize(self.encode(x)).codes

    def forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        quantized = self.quantize(self.encode(x))
        return self.decode(quantized.z_q), quantized

    def use_explicit_attention(self, enabled: bool = True) -> "VQGAN":
        """Compute attention by plain matrix products (they have second derivatives), or fused again; return self."""
        use_explicit_attention(self, enabled)
        return self


def _check_arguments(sizes: dict[str, int], double_z: bool, quantizer: str) -> None:
    """Refuse constructor arguments that cannot work."""
    check_name("quantizer", quantizer, QUANTIZERS)
    if double_z:
        raise BadParameter("double_z=True describes a KL autoencoder, which has no codes; a VQGAN needs double_z=False")
    if quantizer == "gumbel" and sizes["embed_dim"] != sizes["z_channels"]:
        got = f"{sizes['embed_dim']} and {sizes['z_channels']}"
        raise BadParameter(f"a Gumbel VQGAN needs embed_dim = z_channels, got {got}")
    for name, value in sizes.items():
        if value < 1:
            raise BadParameter(f"{name} must be at least 1, got {value}")


def load_vqgan(name_or_path: str | Path, *, device: torch.device | str = "cpu") -> VQGAN:
    """Load a VQGAN in eval mode, without gradients for its weights.

    Args:
        name_or_path: a shipped checkpoint (`emoji-vqgan`), a published network (`vqgan-imagenet-f16-16384`, and those
            that `python -m t2ilib models` lists), a folder with `config.json` or with a taming `.yaml` and `.ckpt`, or
            a checkpoint file.
        device: where to put it.

    Raises:
        UnknownName: no shipped or published network has this name, and there is no such path.
        MissingAsset: a published network whose files are neither here nor to be had; it says where to put them.
        CheckpointMismatch: the weights do not fit their configuration, or their bytes are not the expected ones.
    """
    name = str(name_or_path)
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return _load_weights(path, device=device)
    for folder in (path, checkpoints_dir() / name):
        if folder.is_dir():
            return _load_folder(folder, device=device)
    if name in VQGAN_MODELS:
        return _load_published(name, device=device)
    shipped = {config.parent.name for config in checkpoints_dir().glob(f"*vqgan*/{CONFIG}")}
    known = shipped | set(VQGAN_MODELS)
    is_meant_as_path = len(path.parts) > 1 or path.suffix in (*WEIGHT_SUFFIXES, ".yaml")
    if is_meant_as_path:
        raise MissingAsset(f"no VQGAN at {path}; give an existing file or folder, or one of {', '.join(sorted(known))}")
    raise unknown_name("VQGAN", name, known)


def load_taming_checkpoint(
    config: str | Path | None, ckpt: str | Path, *, device: torch.device | str = "cpu", ema: bool = False
) -> VQGAN:
    """Load a checkpoint of taming-transformers, or of latent diffusion's first stage, with strictly checked keys.

    The file is opened by a restricted unpickler: nothing in it is executed, and Lightning need not be installed.

    Args:
        config: the yaml; with None the arguments are worked out from the tensors' shapes.
        ckpt: `.ckpt`, `.pt`, `.pth` or `.safetensors`.
        device: where to put it.
        ema: take the running average of the weights that the file has beside the last ones.

    Raises:
        MissingAsset: a file is absent.
        BadParameter, UnknownName: the yaml describes something else than a VQGAN.
        CheckpointMismatch: the file is damaged, or yaml and tensors disagree; the message names each difference.
    """
    state = taming_format.generator_state(taming_format.read_checkpoint(ckpt, ema=ema), source=str(ckpt))
    arguments = taming_format.infer_config(state) if config is None else taming_format.read_config(config)
    return _build(arguments, state, source=str(ckpt), device=device)


def codebook_digest(codebook: Tensor) -> str:
    """Return a SHA-256 of a table of code vectors (K, D), by which a network knows the codes that it was trained on."""
    table = codebook.detach().float().cpu().contiguous()
    return hashlib.sha256(table.numpy().tobytes()).hexdigest()


def convert_vqgan(name_or_path: str | Path, folder: str | Path) -> Path:
    """Write what `load_vqgan` loads as safetensors and `config.json`, and return the folder; bits are kept.

    Training state, losses and transformer are left out: of a 4 GB file 300 MB remain, which then load faster.

    Raises:
        BadParameter: the folder holds something already.
        and what `load_vqgan` raises.
    """
    name = str(name_or_path)
    folder = Path(folder).expanduser()
    is_empty_folder = folder.is_dir() and not any(folder.iterdir())
    if folder.exists() and not is_empty_folder:
        raise BadParameter(f"{folder} exists and is not an empty folder; give a new one")
    origin = {}
    asset = assets.CATALOGUE.get(name)
    if asset is not None:
        origin = {"licence": asset.licence, "source": asset.source, "data": asset.data}
    return save_model(folder, load_vqgan(name), converted_from=Path(name).name, **origin)


def _build(arguments: dict[str, Any], state: dict[str, Tensor], *, source: str, device: torch.device | str) -> VQGAN:
    taming_format.compare_configs(arguments, state, source=source)
    model = VQGAN(**arguments)
    load_strict(model, state, source=source)
    return model.to(device).eval().requires_grad_(False)


def _load_weights(path: Path, *, device: torch.device | str) -> VQGAN:
    """Load a checkpoint file, with the yaml beside it where there is exactly one or one of the same name."""
    if path.parent.joinpath(CONFIG).is_file() and path.suffix == ".safetensors":
        return load_model(VQGAN, path.parent, device=device)
    config = None
    same_name = path.with_suffix(".yaml")
    beside = sorted(path.parent.glob("*.yaml"))
    if same_name.is_file():
        config = same_name
    elif len(beside) == 1:
        config = beside[0]
    return load_taming_checkpoint(config, path, device=device)


def _load_folder(folder: Path, *, device: torch.device | str) -> VQGAN:
    if folder.joinpath(CONFIG).is_file():
        return load_model(VQGAN, folder, device=device)
    weights = sorted(file for file in folder.iterdir() if file.suffix in WEIGHT_SUFFIXES)
    if len(weights) != 1:
        got = ", ".join(file.name for file in weights) or "none"
        raise MissingAsset(f"{folder} must hold {CONFIG}, or exactly one of *{', *'.join(WEIGHT_SUFFIXES)}; got {got}")
    return _load_weights(weights[0], device=device)


def _load_published(name: str, *, device: torch.device | str) -> VQGAN:
    """Load a published network from the user's folder or the cache, downloaded into the cache if need be."""
    folder = assets.fetch(name, progress=runtime.progress)
    model = _load_folder(folder, device=device)
    differences = []
    for argument, expected in VQGAN_MODELS[name].items():
        found = model.config[argument]
        if found != expected:
            differences.append(f"{argument}={found} instead of {expected}")
    if differences:
        raise CheckpointMismatch(f"{folder} holds another network than {name}: {', '.join(differences)}; put the right "
                                 "file there")
    return model
