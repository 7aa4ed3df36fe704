"""Helpers around a training loop that stays visible: Fabric, batches, averages, rates, resuming, trackers, losses."""

from .averaging import EMA, recalibrate_batch_norm
from .batches import Batches
from .fabric import average_gradients, make_fabric
from .history import History
from .schedule import Every, cosine_lr, set_lr
from .state import load_training, save_training
from .trackers import make_tracker

__all__ = ["EMA", "Batches", "Every", "History", "average_gradients", "cosine_lr", "load_training", "make_fabric",
           "make_tracker", "recalibrate_batch_norm", "save_training", "set_lr"]
