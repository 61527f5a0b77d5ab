"""A device that is none: how code for a GPU is checked where there is no GPU.

Tensors say that they are elsewhere and compute on the CPU. What a GPU would refuse is refused: operands on two devices,
and float64, which Apple's has not. What makes the host wait for it is counted by the line of the package that asks: a
value that is read, and an operation whose result's size depends on values. So are operations, of which each that is
no view is a kernel launched, and what is moved there.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretend"
# The size of what they return depends on values.
_BY_VALUE = (
    "aten.nonzero",
    "aten.masked_select",
    "aten._unique",
    "aten.unique",
    "aten.bincount",
    "aten.repeat_interleave.Tensor",
    "aten.equal",
    "aten.is_nonzero",
    "aten._local_scalar_dense",
)
_MOVES = ("aten._to_copy", "aten.copy_")
_INDEXES = ("aten.index.", "aten.index_put", "aten._index_put_impl_")


class PretendTensor(Tensor):
    """A tensor that says it is on the pretend device, and computes on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "PretendTensor":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
            requires_grad=inner.requires_grad,
        )
        made.held = inner
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"PretendTensor({[*self.shape]}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _current().run(func, args, kwargs or {})


_active: list["PretendDevice"] = []


def _current() -> "PretendDevice":
    if not _active:
        raise RuntimeError("a pretend tensor computes within its device's context only")
    return _active[-1]


@cache
def _register() -> None:
    _setup_privateuseone_for_python_backend(NAME)


class PretendDevice:
    """Counts of what was done on the pretend device. Used as a context: within it ``device="pretend"`` works."""

    def __init__(self) -> None:
        _register()
        self.reads: Counter[str] = Counter()
        """Times the host waited for a value, by the line of the package that asked."""
        self.uploads: Counter[str] = Counter()
        """Tensors moved to the device, likewise."""
        self.launches: Counter[str] = Counter()
        """Operations that are no views, by name."""

    def forget(self) -> None:
        """Count from 0."""
        self.reads.clear()
        self.uploads.clear()
        self.launches.clear()

    @contextmanager
    def active(self) -> Iterator["PretendDevice"]:
        """Let the device be there."""
        inference = torch.inference_mode
        kept = inference.__enter__, inference.__exit__
        _active.append(self)
        # Wrapped tensors cannot be inference tensors.
        inference.__enter__, inference.__exit__ = _enter_no_grad, _exit_no_grad  # type: ignore[method-assign]
        try:
            with _Functions(self), _Dispatches(self):
                yield self
        finally:
            inference.__enter__, inference.__exit__ = kept  # type: ignore[method-assign]
            _active.pop()

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute an operation on the CPU, as the device would have it."""
        name = str(func)
        flat = [*_flat(args), *kwargs.values()]
        own = [value for value in flat if isinstance(value, PretendTensor)]
        others = [value for value in flat if isinstance(value, Tensor) and not isinstance(value, PretendTensor)]
        target = kwargs.get("device")
        onto = bool(own) if target is None else _is_pretend(target)
        if name.startswith("aten.copy_"):
            onto = isinstance(args[0], PretendTensor)
        self._check(name, own, others, onto, args)
        found = func(*_inner(args), **_inner({**kwargs, "device": "cpu"} if target is not None else kwargs))
        if onto and not _is_view(func):
            self.launches[name] += 1
        return self._outer(func, found, args) if onto else found

    def _check(self, name: str, own: list[PretendTensor], others: list[Tensor], onto: bool, args: Any) -> None:
        if name.startswith(_MOVES):
            if own and not onto:
                self.read(name)
            elif others and onto:
                self.uploads[_line(name)] += 1
            elif name.startswith("aten.copy_") and others and not onto and own:
                self.read(name)
            return
        if own and any(value.dim() for value in others):
            sizes = [[*value.shape] for value in others]
            raise RuntimeError(f"{name}: operands on two devices: {sizes} on the CPU, at {_line(name)}")
        if not own:
            return
        by_mask = name.startswith(_INDEXES) and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if by_mask or name.startswith(_BY_VALUE):
            self.read(name)

    def read(self, name: str) -> None:
        """Count a wait of the host."""
        self.reads[_line(name)] += 1

    def _outer(self, func: Any, found: Any, args: Any) -> Any:
        first = func._schema.arguments[:1]
        if first and first[0].alias_info is not None and first[0].alias_info.is_write:
            return args[0]

        def wrap(value: Any) -> Any:
            if isinstance(value, tuple | list):
                return type(value)(wrap(one) for one in value)
            if not isinstance(value, Tensor):
                return value
            if value.dtype == torch.float64:
                raise RuntimeError(f"{func}: float64, which not every device has, at {_line(str(func))}")
            return PretendTensor(value)

        return wrap(found)


class _Dispatches(TorchDispatchMode):
    """Sends what makes tensors on the device, and moves them there, where it belongs."""

    def __init__(self, device: PretendDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat = [*_flat(args), *kwargs.values()]
        here = any(isinstance(value, PretendTensor) for value in flat)
        if here or (kwargs.get("device") is not None and _is_pretend(kwargs["device"])):
            return self._device.run(func, args, kwargs)
        return func(*args, **kwargs)


class _Functions(TorchFunctionMode):
    """Sees what never becomes an operation: values that leave as Python's numbers, and tensors made of those."""

    def __init__(self, device: PretendDevice) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor) and _is_pretend(kwargs.get("device")):
            return func(*args, **{**kwargs, "device": "cpu"}).to(NAME)
        if func in (Tensor.tolist, Tensor.numpy, Tensor.__array__) and isinstance(args[0], PretendTensor):
            if func is not Tensor.tolist:
                raise TypeError("can't convert a tensor of the pretend device to numpy; use .cpu() first")
            self._device.read("tolist")
            return args[0].held.tolist()
        return func(*args, **kwargs)


def _is_pretend(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _is_view(func: Any) -> bool:
    returned = func._schema.returns
    return bool(returned) and returned[0].alias_info is not None and not returned[0].alias_info.is_write


def _inner(values: Any) -> Any:
    """Take the wraps off; much faster than a walk of pytrees."""
    if isinstance(values, PretendTensor):
        return values.held
    if isinstance(values, tuple | list):
        return type(values)(_inner(value) for value in values)
    if isinstance(values, dict):
        return {key: _inner(value) for key, value in values.items()}
    return values


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple | list):
            yield from _flat(value)
        else:
            yield value


def _line(name: str) -> str:
    """Return the innermost line of the package that is at work."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if "/src/redraft/" in path:
            return f"{path.split('/src/redraft/')[1]}:{frame.f_lineno} {name}"
        frame = frame.f_back  # type: ignore[assignment]
    return name


_entered: list[Any] = []


def _enter_no_grad(self: Any) -> None:
    context: Any = torch.no_grad() if self.mode else torch.enable_grad()
    context.__enter__()
    _entered.append(context)


def _exit_no_grad(self: Any, *raised: Any) -> None:
    _entered.pop().__exit__(*raised)
