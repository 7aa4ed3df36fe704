"""Pictures in and out: loading, masks, value ranges, contact sheets; `png` carries a record, `film` writes films."""

from .convert import to_pil, to_signed, to_unit
from .pictures import (
           Box,
           box_pixels,
           check_box,
           crop_box,
           fit_picture,
           load_mask,
           load_picture,
           open_rgba,
           stack_pictures,
)
from .sheets import contact_sheet, picture_list, save_pictures

__all__ = ["Box", "box_pixels", "check_box", "contact_sheet", "crop_box", "fit_picture", "load_mask", "load_picture",
           "open_rgba", "picture_list", "save_pictures", "stack_pictures", "to_pil", "to_signed", "to_unit"]
