"""Random numbers that are the same each time."""

import torch


def seed(number: int) -> None:
    """Seed torch, for less than ``torch.manual_seed`` takes where there is no GPU.

    That writes down the stack for each kind of device which is not there, and takes a millisecond for it.
    """
    if torch.cuda.is_available():
        torch.manual_seed(number)
    else:
        torch.default_generator.manual_seed(number)
