"""Options: what a value means, of what type it is and in what range, said once and checked in one place."""

from .definition import Option, check_fields, check_option_names, is_plain, option, options_of
from .values import convert

__all__ = ["Option", "check_fields", "check_option_names", "convert", "is_plain", "option", "options_of"]
