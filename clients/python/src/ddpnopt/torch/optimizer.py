"""DDPNOpt as a PyTorch optimizer."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ddpnopt.client import Client, Session
from ddpnopt.parameters import split, stacked
from ddpnopt.policy import Inverses, read_policy
from ddpnopt.progress import progress
from ddpnopt.steps import StepReply, history_arrays
from ddpnopt.torch.kernel import KernelMetric, factor_statistics, upper_triangle
from ddpnopt.torch.randomness import Randomness, kept_buffers
from ddpnopt.torch.recorder import Calls, applying, check_gradients, differentiate, plan, recording
from ddpnopt.torch.stages import GenericStage, Stage, UnsupportedLayerError
from ddpnopt.wire import NarrowType

Item = TypeVar("Item")
Closure = Callable[[], Tensor]
Options = Mapping[str, Any]
Coupling = Literal["feedback", "value", "layerwise", "gauss-newton-step"]

# The service takes numbers above 0 alone; schedulers end at 0.
_SMALLEST_RATE = 1e-12


class StepLosses(NamedTuple):
    """The losses of a step's batch."""

    before: Tensor
    """[B], under the parameters before the step."""
    after: Tensor | None
    """[B], after it; None where no second forward pass is taken."""


class DDPNOpt(torch.optim.Optimizer):
    """Trains a model by differential dynamic programming, with a DDPNOpt service.

    `step` takes a closure that runs the model and returns the loss of every sample:

        optimizer = DDPNOpt(model, url="http://127.0.0.1:8787")
        for x, y in loader:
            losses = optimizer.step(lambda: F.cross_entropy(model(x), y, reduction="none"))

    The closure is called once with gradients, and once more without, in which each layer changes its parameters when the pass
    reaches it, knowing what the layers before it have just changed.

    Args:
        model: whose layers are trained. Linear, Conv2d, Conv1d, Embedding, LayerNorm, GroupNorm and BatchNorm are sent as such;
            other modules with parameters through per-sample gradients, up to 1,048,576 parameters each.
        params: as for every optimizer: parameters, or groups of them with an `lr` of their own. All that need gradients unless
            given. The parameters of one layer belong to one group.
        url: where the service is; see `ddpnopt.Client`.
        api_key: see `ddpnopt.Client`.
        client: in place of both, a client of your own.
        lr: c of the leverage rule, η = c / mean leverage of the batches: without a unit, and not the small number of other
            optimizers. 1 to 10 suits most networks.
        weight_decay: the share of every weight that a step takes away; or the service's own form of it, a mapping.
        coupling: `feedback` is the method itself; the others take no second forward pass.
        metric: `kronecker`, `identity`, `rmsprop`, `adam` or `ekfac`, or a mapping with options. In mode `kernel` the first two.
        mode: `layers`: activations and gradients of every layer are sent. `kernel`: only one B×B matrix per layer, and with
            metric `kronecker` its factor statistics now and then.
        statistics_every: steps between two that carry factor statistics, in mode `kernel`.
        optimizer: further options of the service's optimizer, see docs/options.md. A `learningRate` without a value takes its value
            from lr: `{"kind": "constant"}` makes lr η itself. One with a value is a schedule that the service follows, which
            schedulers of PyTorch cannot change then.
        send_as: element type in which large tensors are sent: `f16`, `bf16` or `int8`; None for their own.
        reply_as: the same for replies, in mode `layers`.
        evaluate_after: whether couplings without a second forward pass call the closure again for the losses after the step.
        ttl_seconds: seconds without a step after which the service ends the session; it keeps a checkpoint.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | None = None,
        *,
        url: str | None = None,
        api_key: str | None = None,
        client: Client | None = None,
        lr: float = 10.0,
        weight_decay: float | Options = 0.0,
        coupling: Coupling = "feedback",
        metric: str | Options = "kronecker",
        mode: Literal["layers", "kernel"] = "layers",
        statistics_every: int = 10,
        optimizer: Options | None = None,
        send_as: NarrowType | None = None,
        reply_as: NarrowType | None = None,
        evaluate_after: bool = False,
        ttl_seconds: int | None = None,
    ) -> None:
        if lr < 0:
            raise ValueError(f"lr is {lr}; a number of at least 0 was expected")
        if mode not in ("layers", "kernel"):
            raise ValueError(f"mode is {mode!r}; 'layers' or 'kernel' was expected: the client for mode 'hosted' is ddpnopt.Client")
        if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules()):
            raise UnsupportedLayerError(
                "DistributedDataParallel averages gradients that this optimizer does not make: each process would train a model of "
                "its own. Give the plain model in one process; several clients share a step through ddpnopt.Client's parts"
            )
        self._model = model
        self._client = client or Client(url, api_key=api_key)
        self._owns_client = client is None
        self._mode = mode
        self._statistics_every = statistics_every
        self._send_as: NarrowType | None = send_as
        self._evaluate_after = evaluate_after
        self._weight_decay = weight_decay
        self._metric: dict[str, Any] = {"kind": metric} if isinstance(metric, str) else dict(metric)
        self._options = dict(optimizer or {})
        if mode == "kernel" and self._metric["kind"] not in ("kronecker", "identity"):
            raise ValueError(f"metric is {self._metric['kind']!r}; in mode 'kernel' it is 'kronecker' or 'identity'")
        if mode == "kernel" and reply_as is not None:
            raise ValueError("reply_as is for mode 'layers': what replies carry in mode 'kernel' is solved with, and stays in full")
        if mode == "kernel" and isinstance(weight_decay, Mapping):
            raise ValueError("in mode 'kernel' weight_decay is a number: the service does not see the parameters")
        curvature = self._options.get("terminalCurvature", {"kind": "gradient"})
        if curvature.get("kind", "gradient") != "gradient":
            raise ValueError(
                "terminalCurvature takes 'gradient' here: the closure returns losses, of which other columns do not follow"
            )
        self._order: dict[str, Any] = {"mode": mode}
        if ttl_seconds is not None:
            self._order["ttlSeconds"] = ttl_seconds
        transport: dict[str, Any] = {} if reply_as is None else {"reply": reply_as}
        if send_as == "int8":
            transport["int8"] = True
        if transport:
            self._order["transport"] = transport
        self._coupling = coupling
        self._stages: dict[nn.Module, Stage] = {}
        self._trained: list[Tensor] = []
        self._session: Session | None = None
        self._is_in_doubt = False
        # Metrics of the request that goes ahead of the first step in mode kernel, until that step counts its traffic.
        self._ahead: dict[str, Any] | None = None
        self._checkpoint: str | None = None
        self._rates: tuple[float, dict[str, float]] | None = None
        self._kernel_metrics: dict[str, KernelMetric] = {}
        self._saved_metrics: dict[str, Any] = {}
        self._converted: dict[str, Inverses] = {}
        given = [parameter for parameter in model.parameters() if parameter.requires_grad] if params is None else params
        super().__init__(cast(Any, given), {"lr": lr})

    @property
    def session(self) -> Session | None:
        """The session at the service; None before the first step, which makes it."""
        return self._session

    @property
    def history(self) -> list[dict[str, Any]]:
        """Metrics of every step: `loss`, `lossAfter`, `learningRate`, `bytesSent`, `bytesReceived`, `seconds` and more."""
        return [] if self._session is None else self._session.history

    def history_arrays(self) -> dict[str, NDArray[np.float64]]:
        """The history as one array per metric, ready to plot; NaN where a step has none."""
        return history_arrays(self.history)

    def progress(self, batches: Iterable[Item], description: str | None = None) -> Iterator[Item]:
        """Goes through the batches, with a bar that shows the loss where tqdm is installed."""
        return progress(batches, lambda: self.history, description)

    def step(self, closure: Closure | None = None) -> StepLosses:  # type: ignore[override]
        """Takes one step.

        Args:
            closure: runs the model on a batch and returns the loss of every sample, [B], with gradients. It is called a second
                time without, with the same random numbers, and must then do the same. It neither calls `backward` nor needs
                `zero_grad`.

        Raises:
            UnsupportedLayerError: a layer is used in a way that cannot be taken, before anything is sent.
            ddpnopt.DdpnoptError: what a client raises; the parameters are as they were.
        """
        if closure is None:
            raise ValueError("step needs a closure that returns the loss of every sample: step(lambda: loss(model(x), y))")
        randomness = Randomness()
        losses = self._record(closure)
        try:
            reply = self._send(losses)
            policies = self._kernel_policies(reply) if self._mode == "kernel" else self._policies(reply)
            after: Tensor | None = None
            if self._coupling == "feedback":
                with torch.no_grad(), kept_buffers(self._model), self._repeated(randomness), applying(self._stages, policies):
                    after = closure()
            else:
                with torch.no_grad():
                    for stage in self._stages.values():
                        policies(stage, ())
                if self._evaluate_after:
                    with torch.no_grad(), kept_buffers(self._model), self._repeated(randomness):
                        after = closure()
            # This step's kernels and changes are in the factors that were there before its reply.
            if self._mode == "kernel":
                self._keep_inverses(reply)
        finally:
            for stage in self._stages.values():
                stage.forget()
        if after is not None:
            self.history[-1]["lossAfter"] = float(after.float().mean())
        return StepLosses(losses.detach(), after)

    @staticmethod
    @contextlib.contextmanager
    def _repeated(randomness: Randomness) -> Iterator[None]:
        """Draws the numbers of the first pass again; the generators end where the first pass left them."""
        end = Randomness()
        randomness.restore()
        try:
            yield
        finally:
            end.restore()

    def _record(self, closure: Closure) -> Tensor:
        """The first forward pass, and the backward pass: leaves activations and gradients in the stages."""
        is_first = not self._stages
        chosen = [parameter for group in self.param_groups for parameter in group["params"] if parameter.requires_grad]
        if not is_first:
            self._check_trained(chosen)
        modules = list(self._model.modules() if is_first else self._stages)
        wants_inputs = (lambda _: True) if is_first else (lambda module: isinstance(self._stages[module], GenericStage))
        with torch.enable_grad(), recording(modules, wants_inputs) as calls:
            losses = closure()
        if not isinstance(losses, Tensor) or losses.dim() != 1 or len(losses) == 0:
            shape = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            remedy = "average what a sample has, losses.flatten(1).mean(1)" if _has_more_axes(losses) else "reduction='none'"
            raise ValueError(f"the closure returned {shape}; the loss of every sample, [B], was expected: {remedy}")
        device = losses.device.type
        with torch.autocast(device, enabled=False):
            if is_first:
                gradients = differentiate(losses, calls, chosen)
                stages = {stage.module: stage for stage in plan(self._model, gradients, calls, len(losses))}
                self._take(stages, calls, len(losses))
                check_gradients(stages.values(), gradients, len(losses))
                self._stages, self._trained = stages, chosen
                self._warn_of_batch_norms()
            else:
                differentiate(losses, calls)
                self._take(self._stages, calls, len(losses))
        return losses

    def _check_trained(self, chosen: list[Tensor]) -> None:
        """The session's layers are those of the first step."""
        names = {parameter: name for name, parameter in self._model.named_parameters()}
        for known, others, what in (
            (self._trained, chosen, "was trained in the first step, and is not now"),
            (chosen, self._trained, "is trained now, and was not in the first step"),
        ):
            kept = {id(parameter) for parameter in others}
            changed = [names.get(cast(nn.Parameter, parameter), "a parameter") for parameter in known if id(parameter) not in kept]
            if changed:
                raise UnsupportedLayerError(
                    f"{changed[0]} {what}: the session at the service has the layers of the first step. Make a new optimizer for "
                    "what is trained from now on"
                )

    @staticmethod
    def _take(stages: Mapping[nn.Module, Stage], calls: Calls, batch: int) -> None:
        for module, stage in stages.items():
            if module not in calls:
                raise UnsupportedLayerError(f"layer {stage.name} was not called; every step must use the layers of the first one")
            stage.record(calls[module], batch)

    def _warn_of_batch_norms(self) -> None:
        kinds = (nn.modules.batchnorm._BatchNorm,)
        names = [name for name, module in self._model.named_modules() if isinstance(module, kinds) and module.training]
        if names:
            warnings.warn(
                f"batch normalisation in training mode ({', '.join(names)}) makes each sample's loss depend on all others: the "
                "gradients that are sent as a sample's own contain what it does to the others' losses. Use LayerNorm or GroupNorm, "
                "or model.eval() for these layers, where that matters",
                stacklevel=5,
            )

    def _send(self, losses: Tensor) -> StepReply:
        tensors: dict[str, Tensor] = {"losses": losses.detach().float() if losses.dtype != torch.float64 else losses.detach()}
        if self._session is None:
            self._session = self._create_session()
        session = self._session
        self._send_changed_rates(session)
        if self._is_in_doubt:
            # The service may have taken the last step, whose reply never came; this batch is another one.
            session.resynchronise()
        self._is_in_doubt = True
        with torch.no_grad(), torch.autocast(losses.device.type, enabled=False):
            if self._mode == "kernel":
                self._add_kernels(tensors, session)
            else:
                for stage in self._stages.values():
                    for name, tensor in stage.tensors().items():
                        tensors[f"layers.{stage.name}.{name}"] = tensor
                    self._add_decaying(tensors, stage, session)
        reply = session.step(tensors, send_as=self._send_as)
        self._is_in_doubt = False
        if self._ahead is not None:
            for name in ("bytesSent", "bytesReceived", "seconds"):
                session.history[-1][name] += self._ahead[name]
            self._ahead = None
        return reply

    def _add_decaying(self, tensors: dict[str, Tensor], stage: Stage, session: Session) -> None:
        decay = session.description["optimizer"]["weightDecay"]
        if decay is None or decay["rate"] == 0:
            return
        layer = next(layer for layer in session.description["layers"] if layer["name"] == stage.name)
        for name, value in split(layer, stage.parameter_matrix().detach()).items():
            if name in ("weight", "parameters") or decay["biases"]:
                tensors[f"layers.{stage.name}.parameter.{name}"] = value

    def _add_kernels(self, tensors: dict[str, Tensor], session: Session) -> None:
        optimizer = session.description["optimizer"]
        weights = _terminal_weights(tensors["losses"], optimizer["terminalCurvature"]["lossScale"])
        is_judged = optimizer["learningRate"]["kind"] == "levenberg-marquardt"
        if session.next_step == 0 and self._has_statistics() and not is_judged:
            # Without inverses the first step would be one in the identity, for which lr was not chosen. So it only brings
            # statistics: what it says of the parameters is not done.
            first = {"losses": tensors["losses"], **self._statistics(weights)}
            for stage in self._stages.values():
                first |= self._kernel(stage, torch.zeros(len(weights), len(weights)))
            self._keep_inverses(session.step(first))
            self._ahead = session.history.pop()
        elif session.next_step % self._statistics_every == 0 and self._has_statistics():
            tensors |= self._statistics(weights)
        for stage in self._stages.values():
            tensors |= self._kernel(stage, self._kernel_metrics[stage.name].gram(stage))

    def _has_statistics(self) -> bool:
        return bool(self._metric["kind"] == "kronecker")

    def _statistics(self, weights: Tensor) -> dict[str, Tensor]:
        """Those of factors, by the names of a step's tensors; the others are averaged here."""
        tensors: dict[str, Tensor] = {}
        for stage in self._stages.values():
            metric = self._kernel_metrics[stage.name]
            metric.observe(stage, weights)
            if metric.is_factored:
                tensors |= {f"layers.{stage.name}.{name}": factor for name, factor in factor_statistics(stage, weights).items()}
        return tensors

    def _kernel(self, stage: Stage, kernel: Tensor) -> dict[str, Tensor]:
        if self._options.get("batchCoupling") == "diagonal":
            return {f"layers.{stage.name}.gram_diagonal": kernel.diagonal()}
        return {f"layers.{stage.name}.gram": upper_triangle(kernel)}

    def _keep_inverses(self, reply: StepReply) -> None:
        for stage in self._stages.values():
            if stage.name in reply.inverses:
                self._kernel_metrics[stage.name].inverses = self._on_device(stage, reply.inverses[stage.name])

    def _policies(self, reply: StepReply) -> Callable[[Stage, tuple[Any, ...]], None]:
        """What changes a stage's parameters, given its inputs in the second forward pass."""

        def apply(stage: Stage, args: tuple[Any, ...]) -> None:
            def convert(array: NDArray[Any]) -> Tensor:
                return _tensor(array, stage)

            def gradient(kappa: NDArray[np.float64]) -> Tensor:
                return stage.weighted_gradient(_tensor(kappa, stage))

            if self._coupling != "feedback":
                change = stacked(reply.layers[stage.name], reply.update(stage.name))
                assert change is not None  # `update` refuses replies without
                stage.add(convert(change))
                return
            kept = reply.inverses.get(stage.name)
            inverses = None if kept is None else self._on_device(stage, kept)
            policy = read_policy(reply.tensors, reply.layers[stage.name], inverses, convert, gradient)
            s = stage.predicted_change(args)
            stage.add(policy.change_matrix(None if s is None else s.cpu().double().numpy()))

        return apply

    def _kernel_policies(self, reply: StepReply) -> Callable[[Stage, tuple[Any, ...]], None]:
        rate = self._weight_decay if isinstance(self._weight_decay, float | int) else 0.0

        def apply(stage: Stage, args: tuple[Any, ...]) -> None:
            learning_rate, coefficients = reply.coefficients(stage.name)
            s = stage.predicted_change(args) if self._coupling == "feedback" else None
            kappa = coefficients.solve(None if s is None else s.cpu().double().numpy())
            metric = self._kernel_metrics[stage.name]
            change = -learning_rate * metric.precondition(stage.weighted_gradient(_tensor(kappa, stage)))
            if rate > 0:
                change = change - rate * stage.decaying_matrix().detach().to(change.dtype)
            stage.add(change)

        return apply

    def _on_device(self, stage: Stage, inverses: Inverses) -> Inverses:
        """A stage's inverses as tensors where its parameters are, converted once per version."""
        held = self._converted.get(stage.name)
        if held is None or held.version != inverses.version:
            parts = (_tensor(part, stage) for part in (inverses.input, inverses.output_grad))
            held = self._converted[stage.name] = Inverses(inverses.version, *parts)
        return held

    def _create_session(self) -> Session:
        if self._mode == "kernel":
            self._kernel_metrics = {stage.name: self._kernel_metric(stage) for stage in self._stages.values()}
        if self._checkpoint is not None:
            session = self._client.resume_session(self._checkpoint)
            # Those that the next kernels are made with.
            session.keep_inverses(
                {name: _as_arrays(metric.inverses) for name, metric in self._kernel_metrics.items() if metric.inverses is not None}
            )
            return session
        learning_rate, factors = self._current_rates()
        optimizer: dict[str, Any] = {"coupling": self._coupling, **self._options}
        if self._has_lr_as_value():
            optimizer["learningRate"] = {"kind": "leverage", **optimizer.get("learningRate", {}), "value": learning_rate}
        if factors:
            optimizer["groups"] = _groups(factors)
        definition = {**self._order, "optimizer": optimizer}
        if self._mode == "layers":
            optimizer["metric"] = self._metric
            if isinstance(self._weight_decay, Mapping):
                optimizer["weightDecay"] = dict(self._weight_decay)
            elif self._weight_decay > 0:
                optimizer["weightDecay"] = {"kind": "decoupled", "rate": self._weight_decay}
            definition["layers"] = [{"name": stage.name, **stage.definition()} for stage in self._stages.values()]
        else:
            has_factors = any(metric.is_factored for metric in self._kernel_metrics.values())
            optimizer["metric"] = self._metric if has_factors else {"kind": "client"}
            definition["layers"] = [{"name": stage.name, "factors": self._factor_sizes(stage)} for stage in self._stages.values()]
        self._rates = (learning_rate, factors)
        return self._client.create_session(definition)

    def _kernel_metric(self, stage: Stage) -> KernelMetric:
        is_factored = self._metric["kind"] == "kronecker" and stage.blocks() is not None
        metric = KernelMetric(self._metric, is_factored=is_factored)
        if stage.name in self._saved_metrics:
            metric.load(self._saved_metrics[stage.name], stage)
        return metric

    def _factor_sizes(self, stage: Stage) -> dict[str, int] | None:
        blocks = stage.blocks() if self._kernel_metrics[stage.name].is_factored else None
        if blocks is None:
            return None
        a, g = blocks[0]
        return {"inputs": a.shape[-1], "outputs": g.shape[-1], "groups": len(blocks)}

    def _current_rates(self) -> tuple[float, dict[str, float]]:
        """lr, and what η is multiplied by for layers whose group has another lr, by layer name."""
        group_of = {parameter: position for position, group in enumerate(self.param_groups) for parameter in group["params"]}
        rates = [max(float(group["lr"]), _SMALLEST_RATE) for group in self.param_groups]
        base = max(rates)
        factors: dict[str, float] = {}
        for stage in self._stages.values():
            positions = {group_of[parameter] for parameter in stage.parameters}
            if len({rates[position] for position in positions}) > 1:
                raise UnsupportedLayerError(
                    f"the parameters of layer {stage.name} are in groups with different lr; put them into one"
                )
            rate = rates[min(positions)]
            if rate != base:
                factors[stage.name] = rate / base
        return base, factors

    def _has_lr_as_value(self) -> bool:
        """Whether lr is the value of the service's rule for η; else the one given in `optimizer` has a value of its own."""
        rule = self._options.get("learningRate", {})
        return "value" not in rule and rule.get("kind") != "levenberg-marquardt"

    def _send_changed_rates(self, session: Session) -> None:
        """What schedulers have made of lr."""
        rates = self._current_rates()
        if rates == self._rates:
            return
        if not self._has_lr_as_value():
            raise ValueError(
                "lr was changed, but the service follows the learningRate that was given in `optimizer`; leave one out"
            )
        learning_rate, factors = rates
        changes: dict[str, Any] = {"learningRate": {"value": learning_rate}}
        if factors or (self._rates is not None and self._rates[1]):
            changes["groups"] = _groups(factors)
        session.change_hyper_parameters({"optimizer": changes})
        self._rates = rates

    def state_dict(self) -> dict[str, Any]:
        """As of every optimizer, with the name of a checkpoint that this call makes at the service."""
        state = super().state_dict()
        checkpoint = self._checkpoint if self._session is None else self._session.make_checkpoint()["id"]
        # Before the first step after `load_state_dict` there is nothing newer than what was loaded.
        kernel = {name: metric.state() for name, metric in self._kernel_metrics.items()} or self._saved_metrics
        state["ddpnopt"] = {"checkpoint": checkpoint, "rates": self._rates, "kernelMetrics": kernel}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from a state: the next step makes a session of its checkpoint. Load the model's parameters yourself."""
        state = dict(state_dict)
        own = state.pop("ddpnopt", None)
        if own is None:
            raise ValueError("the state is of another optimizer: it has no 'ddpnopt'")
        super().load_state_dict(state)
        self._checkpoint = own["checkpoint"]
        self._rates = None if own["rates"] is None else (own["rates"][0], dict(own["rates"][1]))
        self._saved_metrics = dict(own["kernelMetrics"])
        self._session = None
        self._stages = {}
        self._converted = {}
        self._kernel_metrics = {}

    def close(self) -> None:
        """Deletes the session at the service, with its state, and closes the optimizer's own client; checkpoints stay."""
        if self._session is not None:
            self._session.delete()
            self._session = None
        if self._owns_client:
            self._client.close()


def _has_more_axes(losses: Any) -> bool:
    return isinstance(losses, Tensor) and losses.dim() > 1


def _as_arrays(inverses: Inverses) -> Inverses:
    return Inverses(inverses.version, inverses.input.cpu().numpy(), inverses.output_grad.cpu().numpy())


def _groups(factors: Mapping[str, float]) -> list[dict[str, Any]]:
    return [{"pattern": name, "learningRateFactor": factor} for name, factor in factors.items()]


def _terminal_weights(losses: Tensor, scale: Mapping[str, float] | None) -> Tensor:
    """h = clamp(1/(2·loss), floor, ceiling), [B]."""
    if scale is None:
        return torch.ones_like(losses)
    return (0.5 / losses.clamp(min=0.5 / scale["ceiling"])).clamp(scale["floor"], scale["ceiling"])


def _tensor(array: NDArray[Any], stage: Stage) -> Tensor:
    """An array where the stage's parameters are, in what it computes with."""
    parameter = stage.parameters[0]
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    return torch.from_numpy(np.array(array)).to(parameter.device, dtype)
