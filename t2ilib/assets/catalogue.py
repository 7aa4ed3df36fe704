"""The catalogue of published weights: where each file lies, how large it is, its licence, and what network it holds.

Addresses, sizes and hashes are those that the authors or keepers of mirrors have published; what nobody has published
is left out and learned from the file. Checkpoints of a whole transformer are used for their first stage alone.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import check_name
from ..paths import cache_dir, user_data_dir


@dataclass(frozen=True)
class AssetFile:
    """One file: its name in the asset's folder, mirrors in the order of asking, and what is known of its bytes.

    `about_mb` and `sha256` are what was published of the file under its final name, None where nothing was. With
    `member` the mirrors hold a zip archive, out of which this member is taken. `headers` are what a mirror wants to be
    asked with, by its address. An asset works without its optional files.
    """

    name: str
    urls: tuple[str, ...]
    about_mb: float | None = None
    sha256: str | None = None
    optional: bool = False
    member: str | None = None
    headers: dict[str, dict[str, str]] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Asset:
    """A named set of files; `kind` is the folder it lies in, below T2I_DATA or the cache.

    `data` is what it was trained on; `arguments` are the arguments of the network that the file must agree with, as
    far as they were published.
    """

    name: str
    kind: str
    data: str
    licence: str
    source: str
    files: tuple[AssetFile, ...]
    arguments: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def about_mb(self) -> float | None:
        """Size of all files together in MB, None if that of a file which is always needed is not known."""
        known = [f.about_mb for f in self.files if f.about_mb or not f.optional]
        return None if None in known else sum(known)

    def folders(self) -> list[Path]:
        """Return where it may lie, in the order of looking; the last one is where a download goes."""
        return [base / self.kind / self.name for base in (user_data_dir(), cache_dir()) if base is not None]


def get(name: str) -> Asset:
    """Return the catalogue's entry; a misspelt name is answered with the nearest ones (UnknownName)."""
    check_name("asset", name, CATALOGUE)
    return CATALOGUE[name]


# --- VQGANs -----------------------------------------------------------------------------------------------------------


_HEIBOX = "https://heibox.uni-heidelberg.de"  # the authors' own shares
_KEPT = "https://huggingface.co/Somnai/pytti-vqgan-checkpoints/resolve/debc22c8f285c7734980c464ff992d335dde6e9a"
_KEPT_TOO = "https://huggingface.co/pxlpshr/pytti-models/resolve/main/vqgan"  # both publish the SHA-256 of their files
_LDM = "https://ommer-lab.com/files/latent-diffusion"
_TAMING = "https://github.com/CompVis/taming-transformers"
_LATENT = "https://github.com/CompVis/latent-diffusion"

_F16 = {"embed_dim": 256, "z_channels": 256, "resolution": 256, "ch": 128, "ch_mult": [1, 1, 2, 2, 4],
        "num_res_blocks": 2, "attn_resolutions": [16], "mid_attention": True, "in_channels": 3, "out_ch": 3,
        "quantizer": "vq"}
_GUMBEL_F8 = {**_F16, "n_embed": 8192, "ch_mult": [1, 1, 2, 4], "attn_resolutions": [32], "quantizer": "gumbel"}
_LDM_F4 = {**_F16, "embed_dim": 3, "z_channels": 3, "n_embed": 8192, "ch_mult": [1, 2, 4], "attn_resolutions": []}
_LDM_F8 = {**_F16, "embed_dim": 4, "z_channels": 4, "ch_mult": [1, 2, 2, 4], "attn_resolutions": [32]}
_LDM_F16 = {**_F16, "embed_dim": 8, "z_channels": 8, "n_embed": 16384}


def _vqgan(name: str, data: str, arguments: dict[str, Any], *files: AssetFile, terms: str = "",
           licence: str = "MIT", source: str = _TAMING) -> Asset:
    return Asset(name, "vqgan", data, licence + (f"; {terms}" if terms else ""), source, files, arguments)


def _shared(share: str, ckpt: str, yaml: str, *mirrors: str, about_mb: float,
            sha256: str | None = None) -> tuple[AssetFile, AssetFile]:
    """Describe configuration and weights that the authors publish each by itself and within a shared folder."""
    at = f"{_HEIBOX}/d/{share}/files/?p=%2F"
    return (AssetFile("model.yaml", (f"{_HEIBOX}/f/{yaml}/?dl=1", f"{at}configs%2Fmodel.yaml&dl=1"), optional=True),
            AssetFile("last.ckpt", (f"{_HEIBOX}/f/{ckpt}/?dl=1", f"{at}ckpts%2Flast.ckpt&dl=1", *mirrors),
                      about_mb=about_mb, sha256=sha256))


def _koofr(share: str, folder: str, *mirrors: str, about_mb: float | None = None,
           sha256: str | None = None) -> AssetFile:
    """Describe weights in a share that serves only those who come from its page; mirrors are asked first."""
    url = (f"https://app.koofr.net/content/links/{share}/files/get/last.ckpt?path=%2F{folder}"
           "%2Fcheckpoints%2Flast.ckpt")
    return AssetFile("last.ckpt", (*mirrors, url), about_mb=about_mb, sha256=sha256,
                     headers={url: {"Referer": f"https://app.koofr.net/links/{share}"}})


def _zipped(*urls: str, about_mb: float | None = None, sha256: str | None = None) -> AssetFile:
    return AssetFile("model.ckpt", urls, about_mb=about_mb, sha256=sha256, member="model.ckpt")


_RESEARCH = "data for non-commercial research"
_VQGANS = (
    _vqgan("vqgan-imagenet-f16-1024", "ImageNet", {**_F16, "n_embed": 1024},
           *_shared("8088892a516d4e3baf92", "140747ba53464f49b476", "6ecf2af6c658432c8298",
                    "https://github.com/ieee8023/latentshift/releases/download/weights/vqgan_imagenet_f16_1024.ckpt",
                    about_mb=958), terms=_RESEARCH),
    _vqgan("vqgan-imagenet-f16-16384", "ImageNet", {**_F16, "n_embed": 16384},
           *_shared("a7530b09fed84f80a887", "867b05fc8c4841768640", "274fb24ed38341bfa753",
                    f"{_KEPT}/imagenet/imagenet.ckpt", f"{_KEPT_TOO}/imagenet.ckpt",
                    about_mb=980, sha256="845a68805098cb666420d5db93df53f3a3b6dd443e6dd85c05759c5b998cd663"),
           terms=_RESEARCH),
    _vqgan("vqgan-gumbel-f8-8192", "OpenImages", _GUMBEL_F8,
           *_shared("2e5662443a6b4307b470", "34a747d5765840b5a99d", "b24d14998a8d4f19a34f",
                    f"{_KEPT}/openimages/openimages.ckpt", f"{_KEPT_TOO}/openimages.ckpt",
                    about_mb=377, sha256="5cd6c74810ab97e00e942c25403f73afc081e8b19987b31ec0d9ff5b68e7ab14")),
    _vqgan("vqgan-faceshq-f16-1024", "CelebA-HQ, FFHQ", {**_F16, "n_embed": 1024},
           _koofr("a04deec9-0c59-4673-8b37-3d696fe63a5d", "2020-11-13T21-41-45_faceshq_transformer",
                  f"{_KEPT}/faceshq/faceshq.ckpt",
                  sha256="3274bba51bd565c90990bbcf7bb5dad0b9b95a6a77011980afc4c3cfc4d1cad1"), terms=_RESEARCH),
    _vqgan("vqgan-celebahq-f16-1024", "CelebA-HQ", {**_F16, "n_embed": 1024},
           _koofr("6dddf083-40c8-470a-9360-a9dab2a94e96", "2021-04-23T18-11-19_celebahq_transformer"), terms=_RESEARCH),
    _vqgan("vqgan-ffhq-f16-1024", "FFHQ", {**_F16, "n_embed": 1024},
           _koofr("0fc005bf-3dca-4079-9d40-cdf38d42cd7a", "2021-04-23T18-19-01_ffhq_transformer"),
           terms="data CC BY-NC-SA 4.0"),
    _vqgan("vqgan-ade20k-f16", "ADE20K", _F16,  # the number of codes stands in the file alone
           _koofr("0f65c2cd-7102-4550-a2bd-07fd383aac9e", "2020-11-20T21-45-44_ade20k_transformer"), terms=_RESEARCH),
    _vqgan("vqgan-sflckr-f16-1024", "S-FLCKR", {**_F16, "n_embed": 1024},
           AssetFile("last.ckpt", (f"{_HEIBOX}/d/73487ab6e5314cb5adba/files/?p=%2Fcheckpoints%2Flast.ckpt&dl=1",
                                   f"{_KEPT}/sflickr/sflickr.ckpt", f"{_KEPT_TOO}/sflckr.ckpt"), about_mb=4264,
                     sha256="8a8adea3da8dab412675772831370dd948e0aa97bb11a9488a2f328b58dbc929"),
           terms="pictures from Flickr and Reddit"),
    _vqgan("vqgan-coco-f16-8192", "COCO-Stuff", {**_F16, "n_embed": 8192},  # cut out of the 8 GB transformer
           AssetFile("last.ckpt", (f"{_KEPT}/coco/coco.ckpt", f"{_KEPT_TOO}/coco_first_stage.ckpt",
                                   "https://batbot.ai/models/VQGAN/coco_first_stage.ckpt"), about_mb=296,
                     sha256="106cc20fde571df14afc4349d62218d8213cf47177c682ecaa78a8c28b12f9de"),
           terms="pictures from Flickr"),
    _vqgan("vqgan-drin-f16-1024", "ImageNet", {**_F16, "n_embed": 1024},
           _koofr("028f1ba8-404d-42c4-a866-9a8a4eebb40c", "2020-11-20T12-54-32_drin_transformer",
                  "https://huggingface.co/shanetx/2020-11-20T12-54-32_drin_transformer/resolve/main/checkpoints/"
                  "last.ckpt", about_mb=4260), terms=_RESEARCH),
    _vqgan("vqgan-wikiart-f16-1024", "WikiArt", {**_F16, "n_embed": 1024},
           AssetFile("last.ckpt", ("https://github.com/pixray/pixray/releases/download/v1.7.1/vqgan_wikiart_1024.ckpt",
                                   "https://github.com/Eleiber/VQGAN-Mirrors/releases/download/0.0.1/"
                                   "wikiart_1024.ckpt"), about_mb=958),
           licence="not stated", source="https://github.com/pixray/pixray"),
    _vqgan("vqgan-wikiart-f16-16384", "WikiArt", {**_F16, "n_embed": 16384},
           AssetFile("last.ckpt", (f"{_KEPT}/wikiart/wikiart.ckpt", f"{_KEPT_TOO}/wikiart.ckpt",
                                   "https://github.com/pixray/pixray/releases/download/v1.7.1/"
                                   "vqgan_wikiart_16384.ckpt"), about_mb=1005,
                     sha256="bd08bb46301f98be1712bb2be9f8868cea30b53137cd985d4d6e8da8b3e02c36"),
           licence="not stated", source="https://github.com/pixray/pixray"),
    _vqgan("ldm-vq-f4", "OpenImages", _LDM_F4,
           _zipped(f"{_LDM}/vq-f4.zip", about_mb=756,
                   sha256="aacf13951f4b18f5af9b47febdc696cf9559305d6de0821084abeaf342439251"), source=_LATENT),
    _vqgan("ldm-vq-f4-noattn", "OpenImages", {**_LDM_F4, "mid_attention": False},
           _zipped(f"{_HEIBOX}/f/9c6681f64bb94338a069/?dl=1", f"{_LDM}/vq-f4-noattn.zip"), source=_LATENT),
    _vqgan("ldm-vq-f8", "OpenImages", {**_LDM_F8, "n_embed": 16384}, _zipped(f"{_LDM}/vq-f8.zip"), source=_LATENT),
    _vqgan("ldm-vq-f8-n256", "OpenImages", {**_LDM_F8, "n_embed": 256}, _zipped(f"{_LDM}/vq-f8-n256.zip"),
           source=_LATENT),
    _vqgan("ldm-vq-f16", "OpenImages", _LDM_F16,
           _zipped(f"{_HEIBOX}/f/0e42b04e2e904890a9b6/?dl=1", f"{_LDM}/vq-f16.zip"), source=_LATENT),
)
CATALOGUE: dict[str, Asset] = {asset.name: asset for asset in _VQGANS}
