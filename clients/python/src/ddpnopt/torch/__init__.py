"""The service as a PyTorch optimizer."""

from ddpnopt.torch.optimizer import DDPNOpt, StepLosses
from ddpnopt.torch.stages import UnsupportedLayerError

__all__ = ["DDPNOpt", "StepLosses", "UnsupportedLayerError"]
