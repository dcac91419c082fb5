"""Client of the DDPNOpt optimizer service.

`Client` and `AsyncClient` hold sessions in every mode. `ddpnopt.torch.DDPNOpt` is a PyTorch optimizer on top of them.
"""

from ddpnopt.asynchronous import AsyncClient, AsyncSession
from ddpnopt.client import Client, Session
from ddpnopt.errors import (
    AuthenticationError,
    DdpnoptError,
    NoAnswerError,
    ProblemError,
    RateLimitedError,
    RunError,
    SessionExpiredError,
    SessionNotFoundError,
    SessionRewoundError,
    StepOutOfOrderError,
    UnexpectedAnswerError,
)
from ddpnopt.events import Event
from ddpnopt.policy import Coefficients, Inverses, LayerPolicy
from ddpnopt.retries import Retries
from ddpnopt.steps import Prediction, ReplayLimits, StepReply, history_arrays
from ddpnopt.wire import pack_symmetric

__all__ = [
    "AsyncClient",
    "AsyncSession",
    "AuthenticationError",
    "Client",
    "Coefficients",
    "DdpnoptError",
    "Event",
    "Inverses",
    "LayerPolicy",
    "NoAnswerError",
    "Prediction",
    "ProblemError",
    "RateLimitedError",
    "ReplayLimits",
    "Retries",
    "RunError",
    "Session",
    "SessionExpiredError",
    "SessionNotFoundError",
    "SessionRewoundError",
    "StepOutOfOrderError",
    "StepReply",
    "UnexpectedAnswerError",
    "history_arrays",
    "pack_symmetric",
]
